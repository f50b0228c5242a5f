//! The audit: clean where nothing is wrong, also while tasks move; each corruption found, mended where promised, and the queue works on.

use std::{cell::Cell, collections::BTreeMap, sync::Arc, time::Duration};

use redis::AsyncCommands as _;

use super::{Server, done, options, queue, request, settings, task};
use crate::queue::{
    NewTask, QueueClock, QueueSettings, TaskId, TaskQueue, UnixMs,
    conformance::{Factory, random_history},
    redis::{
        RedisOptions, RedisQueue,
        fsck::{FsckOptions, Problem, Report, fsck},
        keys,
    },
};

const UNKNOWN: &str = "0123456789abcdef0123456789abcdef";

async fn audit_of(options: &RedisOptions, repair: bool) -> Report {
    fsck(options, FsckOptions { repair, orphan_grace: Duration::ZERO, examples: 5 }).await.unwrap()
}

async fn audit(server: &Server, repair: bool) -> Report {
    audit_of(&options(server, 0), repair).await
}

fn kinds(report: &Report) -> Vec<Problem> {
    report.problems.keys().copied().collect()
}

/// A server with a queue of one shard: four waiting tasks of `t`, one of `u`, one leased, one for later.
struct Scene {
    server: Server,
    queue: RedisQueue,
    client: redis::aio::MultiplexedConnection,
    ids: Vec<TaskId>,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::start(&[]);
        let queue = queue(&server, QueueSettings { shards: 1, ..settings() }, &QueueClock::Server).await;
        let mut later = task("t", 5);
        later.process_at = Some(UnixMs(4_000_000_000_000));
        let first: Vec<NewTask> = vec![task("v", 9)];
        assert!(queue.submit(first).await[0].is_ok());
        assert_eq!(queue.lease(&request("s", 1, 1)).await.unwrap().len(), 1);
        let mut tasks: Vec<NewTask> = (0..4).map(|n| task("t", n)).collect();
        tasks.extend([task("u", 4), later]);
        let ids = queue.submit(tasks).await.into_iter().map(|answer| answer.unwrap().id).collect();
        let client = server.client().await;
        Self { server, queue, client, ids }
    }

    fn hash(&self, task: usize) -> String {
        self.ids[task].hash().to_owned()
    }

    /// Finds exactly this, says so again, mends it, and is clean; then every waiting task is leased and finished.
    async fn is_mended(&mut self, expected: &[Problem]) {
        for _ in 0..2 {
            let report = audit(&self.server, false).await;
            assert_eq!(kinds(&report), expected, "{report}");
            assert!(!report.is_clean());
        }
        let report = audit(&self.server, true).await;
        assert!(report.is_clean() && !report.problems.is_empty(), "{report}");
        let report = audit(&self.server, false).await;
        assert!(report.problems.is_empty(), "{report}");
        self.works_on(5).await;
        let report = audit(&self.server, false).await;
        assert!(report.problems.is_empty(), "after work: {report}");
    }

    async fn works_on(&self, waiting: usize) {
        let leased = self.queue.lease(&request("s", 2, 50)).await.unwrap();
        assert_eq!(leased.len(), waiting);
        let settled = self.queue.settle(leased.iter().map(done).collect()).await;
        assert!(settled.iter().all(Result::is_ok), "{settled:?}");
    }
}

#[tokio::test]
async fn nothing_is_found_after_any_history() {
    let server = Arc::new(Server::start(&[]));
    for seed in 301..309 {
        let mut options = options(&server, u32::try_from(seed).unwrap());
        options.repeats = seed % 4 == 0;
        let of_history = options.clone();
        let factory = Factory::new(move |settings: QueueSettings, clock: QueueClock| {
            let options = of_history.clone();
            async move {
                let queue: Arc<dyn TaskQueue> =
                    Arc::new(RedisQueue::connect(options, settings, clock).await.unwrap());
                queue
            }
        });
        random_history(&factory, seed).await;
        let report = audit_of(&options, false).await;
        assert!(report.problems.is_empty() && report.unchecked_counters.is_empty(), "seed {seed}: {report}");
        assert!(report.records > 0);
    }
}

#[tokio::test]
async fn a_task_that_its_index_lost_is_put_back() {
    for (index, task) in [("pending:1:uploads:t", 0), ("pending:1:uploads:u", 4), ("working:scheduled", 5)] {
        let mut scene = Scene::new().await;
        let hash = scene.hash(task);
        let (): () = scene.client.zrem(format!("{{bh:000}}:{index}"), hash).await.unwrap();
        let mut expected = vec![Problem::NotIndexed, Problem::WrongCounter, Problem::WrongFlow];
        if task == 4 {
            // Its line was empty then, which makes its turn stale.
            expected.insert(1, Problem::StaleTurn);
        }
        scene.is_mended(&expected).await;
    }
}

#[tokio::test]
async fn a_lease_that_is_not_indexed_is_indexed_again_and_stays_the_same_lease() {
    let mut scene = Scene::new().await;
    let key = "{bh:000}:working";
    let before: Vec<(String, u64)> = scene.client.zrange_withscores(key, 0, -1).await.unwrap();
    let (): () = scene.client.del(key).await.unwrap();
    let report = audit(&scene.server, true).await;
    assert!(report.is_clean() && report.problems.contains_key(&Problem::NotIndexed), "{report}");
    let after: Vec<(String, u64)> = scene.client.zrange_withscores(key, 0, -1).await.unwrap();
    assert_eq!(before, after);
    scene.works_on(5).await;
}

#[tokio::test]
async fn entries_that_no_record_confirms_are_taken_out() {
    let mut scene = Scene::new().await;
    for index in ["working", "delay", "done", "dead", "cancelled", "damaged", "pending:1:uploads:other"] {
        let entries = [(1, scene.hash(0)), (2, UNKNOWN.into()), (3, "no task".into())];
        let (): () = scene.client.zadd_multiple(format!("{{bh:000}}:{index}"), &entries).await.unwrap();
    }
    // The line of a tenant that has none is in no ring.
    let counted = [Problem::WrongCounter, Problem::WrongFlow];
    scene.is_mended(&[&[Problem::Misplaced, Problem::Orphan, Problem::Starved], &counted[..]].concat()).await;
}

#[tokio::test]
async fn a_wrong_time_or_place_in_an_index_is_set_to_the_records() {
    for (index, task) in [("pending:1:uploads:t", 0), ("working:scheduled", 5)] {
        let mut scene = Scene::new().await;
        let hash = scene.hash(task);
        let (): () = scene.client.zadd(format!("{{bh:000}}:{index}"), hash, 9e14).await.unwrap();
        scene.is_mended(&[Problem::WrongScore]).await;
    }
}

#[tokio::test]
async fn a_starved_tenant_is_served_again() {
    for (key, members) in [
        ("pending:ring:1:uploads", vec!["t"]),
        ("pending:ring:1:uploads", vec!["t", "u"]),
        ("pending:turns:1", vec!["t"]),
        ("locations", vec!["uploads"]),
    ] {
        let mut scene = Scene::new().await;
        let command = if key == "locations" { "SREM" } else { "ZREM" };
        let key = format!("{{bh:000}}:{key}");
        let (): () = redis::cmd(command).arg(key).arg(members).query_async(&mut scene.client).await.unwrap();
        scene.is_mended(&[Problem::Starved]).await;
    }
}

#[tokio::test]
async fn a_turn_for_nothing_is_taken_away() {
    let mut scene = Scene::new().await;
    for key in ["pending:ring:1:uploads", "pending:ring:2:elsewhere", "pending:turns:0"] {
        let (): () = scene.client.zadd(format!("{{bh:000}}:{key}"), "nobody", 1).await.unwrap();
    }
    scene.is_mended(&[Problem::StaleTurn]).await;
}

#[tokio::test]
async fn counters_are_set_to_the_recount() {
    let mut scene = Scene::new().await;
    let (): () = scene.client.hset("{bh:000}:tenants", "t", vec![9_u8; 41]).await.unwrap();
    let (): () = scene.client.hset("{bh:000}:tenants", "nobody", vec![0_u8; 3]).await.unwrap();
    let mut meta: Vec<u8> = scene.client.get("{bh:000}:meta").await.unwrap();
    for at in (25..53).chain(74..81) {
        meta[at] ^= 3;
    }
    let (): () = scene.client.set("{bh:000}:meta", meta).await.unwrap();
    scene.is_mended(&[Problem::WrongCounter]).await;
    assert_eq!(scene.queue.depths().await.unwrap().pending, 0);
}

#[tokio::test]
async fn what_is_damaged_or_unknown_is_named_and_left() {
    let mut scene = Scene::new().await;
    let record = keys::record(0, &scene.ids[0]);
    let (): () = scene.client.set(&record, "garbage").await.unwrap();
    let other = keys::record(0, &scene.ids[5]);
    let (): () = scene.client.del(&other).await.unwrap();
    let (): () = scene.client.lpush(&other, "x").await.unwrap();
    for key in ["{bh:000}:worked", "{bh:7ff}:meta", "bh:other", "{bh:000}:t:short"] {
        let (): () = scene.client.set(key, "x").await.unwrap();
    }
    let (): () = scene.client.set("somebody:else", "x").await.unwrap();
    for repair in [false, true, true] {
        let report = audit(&scene.server, repair).await;
        assert!(!report.is_clean());
        assert_eq!(report.problems[&Problem::UnknownKey].found, 4, "{report}");
        let damaged = &report.problems[&Problem::DamagedRecord];
        assert_eq!((damaged.found, damaged.repaired), (2, 0));
        assert!(damaged.examples.contains(&record), "{damaged:?}");
    }
    assert_eq!(scene.client.get::<_, String>(&record).await.unwrap(), "garbage");
    scene.works_on(4).await;
}

#[tokio::test]
async fn a_shard_that_cannot_be_read_is_named_and_the_others_are_audited() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { shards: 2, ..settings() }, &QueueClock::Server).await;
    let submitted = queue.submit((0..20).map(|n| task("t", n)).collect()).await;
    let id = submitted.into_iter().map(|answer| answer.unwrap().id).find(|id| id.shard(2) == 1).unwrap();
    let mut client = server.client().await;
    let (): () = client.set("{bh:000}:meta", "x").await.unwrap();
    let (): () = client.zrem("{bh:001}:pending:1:uploads:t", id.hash()).await.unwrap();
    let report = audit(&server, true).await;
    // The entry was back before the recount, which therefore finds nothing wrong.
    assert_eq!(kinds(&report), [Problem::NotIndexed, Problem::Unreadable], "{report}");
    assert_eq!(report.problems[&Problem::Unreadable].examples, ["{bh:000}:meta"]);
}

#[tokio::test]
async fn what_would_never_be_forgotten_is_found() {
    let mut scene = Scene::new().await;
    scene.works_on(5).await;
    let hash = scene.hash(0);
    let key = keys::record(0, &scene.ids[0]);
    let mut record: Vec<u8> = scene.client.get(&key).await.unwrap();
    record[5..11].copy_from_slice(&8_000_000_000_000_u64.to_be_bytes()[2..]);
    let (): () = scene.client.set(&key, record).await.unwrap();
    let (): () = scene.client.zadd("{bh:000}:done", hash, 8_000_000_000_000_u64).await.unwrap();
    let (): () = scene.client.persist("{bh:000}:memo:s").await.unwrap();
    let report = audit(&scene.server, true).await;
    let found = &report.problems[&Problem::NeverEnds];
    assert_eq!((report.problems.len(), found.found, found.repaired), (1, 2, 1), "{report}");
    let left: i64 = scene.client.pttl("{bh:000}:memo:s").await.unwrap();
    assert!(left > 0);
}

#[tokio::test]
async fn nothing_false_is_reported_while_tasks_move() {
    let server = Server::start(&[]);
    let shards = QueueSettings { shards: 2, tenant_in_flight_cap: 5, ..settings() };
    let queue = queue(&server, shards, &QueueClock::Server).await;
    // The load goes on until enough audits have run beside it, however fast either is.
    let audits = Cell::new(0_u32);
    let load = async {
        for round in (1..=5_000_u32).take_while(|round| *round <= 150 || audits.get() < 4) {
            let tasks = (0..20).map(|n| task(["t", "u", "v"][n as usize % 3], round * 20 + n));
            assert!(queue.submit(tasks.collect()).await.iter().all(Result::is_ok));
            let leased = queue.lease(&request("s", u64::from(round), 17)).await.unwrap();
            // Some leases are kept, so that tenants leave their rings and return.
            let settled: Vec<_> = leased.iter().skip(usize::from(round % 4 == 0)).map(done).collect();
            assert!(queue.settle(settled).await.iter().all(Result::is_ok));
        }
    };
    tokio::pin!(load);
    loop {
        let report = tokio::select! {
            () = &mut load => break,
            report = audit(&server, audits.get() % 2 == 1) => report,
        };
        assert!(report.problems.is_empty(), "{report}");
        audits.set(audits.get() + 1);
    }
    assert!(audits.get() >= 4, "{} audits ran beside the load", audits.get());
    let report = audit(&server, false).await;
    assert!(report.problems.is_empty() && report.unchecked_counters.is_empty(), "{report}");
}

#[tokio::test]
async fn a_large_shard_is_audited_in_small_steps() {
    const TASKS: u32 = 20_000;
    let server = Server::start(&["--slowlog-log-slower-than", "0", "--slowlog-max-len", "1"]);
    let queue = queue(&server, QueueSettings { shards: 1, ..settings() }, &QueueClock::Server).await;
    for first in (0..TASKS).step_by(2_000) {
        let batch = (first..first + 2_000).map(|n| task(&format!("t{}", n % 7), n));
        assert!(queue.submit(batch.collect()).await.iter().all(Result::is_ok));
    }
    let mut client = server.client().await;
    let (): () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut client).await.unwrap();
    let report = audit(&server, false).await;
    assert!(report.problems.is_empty(), "{report}");
    assert_eq!(report.records, u64::from(TASKS));
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut client).await.unwrap();
    let calls: BTreeMap<&str, u64> = info
        .lines()
        .filter_map(|line| {
            let (name, fields) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name, fields.split(',').next()?.parse().ok()?))
        })
        .collect();
    // At most a hundred tasks a call: once by their records, once by their entries.
    assert!(calls["evalsha"] >= u64::from(TASKS) / 50, "{calls:?}");
    assert!(!calls.contains_key("keys") && !calls.contains_key("smembers") && !calls.contains_key("hgetall"));
}
