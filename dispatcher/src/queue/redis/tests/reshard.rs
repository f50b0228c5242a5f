//! Another number of shards: everything is there afterwards as it was, wherever the change was killed, and nobody works meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use redis::AsyncCommands as _;

use super::{Server, cluster::Cluster, done, hopeless, options, renewal, request, settings, task};
use crate::queue::{
    Depths, FailureClass, ListQuery, NewTask, Outcome, Priority, Progress, QueueClock, QueueSettings,
    QueueStats, Renewal, StatsQuery, SubmitOutcome, TaskId, TaskQueue as _, TaskRecord, TaskState, UnixMs,
    redis::{
        ConnectError, RedisOptions, RedisQueue, Unfit,
        fsck::{FsckOptions, fsck},
        keys,
        reshard::{ReshardError, ReshardOptions, Resharded, reshard},
    },
    walk::{Change, FailedObject, Look, Walk, WalkId, WalkStore, conformance as walks},
};

/// Ahead of the servers' clocks, which the audit goes by: so time stands still, and ages can be compared.
const START: UnixMs = UnixMs(4_000_000_000_000);
const TENANTS: [&str; 3] = ["t", "u", "v"];

fn of(shards: u16) -> QueueSettings {
    QueueSettings { shards, tenant_in_flight_cap: 7, retain_dead: walks::RETAIN, ..settings() }
}

async fn connect(options: &RedisOptions, shards: u16) -> Result<RedisQueue, ConnectError> {
    RedisQueue::connect(options.clone(), of(shards), QueueClock::starting_at(START)).await
}

async fn change(options: &RedisOptions, shards: u16) -> Result<Resharded, ReshardError> {
    reshard(options, &ReshardOptions { shards, quiet_for: Duration::ZERO }).await
}

/// Everything that a caller can see.
#[derive(Debug, PartialEq)]
struct Seen {
    tasks: BTreeMap<TaskId, TaskRecord>,
    listed: BTreeMap<TaskId, TaskRecord>,
    depths: Depths,
    stats: QueueStats,
    walks: Vec<(WalkId, Walk, u64, u64)>,
    open: Vec<Vec<TaskId>>,
    failed: Vec<Vec<FailedObject>>,
    bodies: Vec<Option<Vec<u8>>>,
}

async fn look(queue: &RedisQueue, ids: &[TaskId]) -> Seen {
    let mut tasks = BTreeMap::new();
    for id in ids {
        tasks.insert(id.clone(), queue.get(id).await.unwrap());
    }
    let mut listed = BTreeMap::new();
    for tenant in TENANTS {
        let mut query = ListQuery { tenant: tenant.into(), limit: 50, ..ListQuery::default() };
        loop {
            let page = queue.list(&query).await.unwrap();
            listed.extend(page.tasks.into_iter().map(|record| (record.id.clone(), record)));
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
    }
    let Look { walks, .. } = queue.look(true).await.unwrap();
    let mut walks: Vec<_> =
        walks.into_iter().map(|found| (found.id, found.walk, found.revision, found.open)).collect();
    walks.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut open, mut failed) = (Vec::new(), Vec::new());
    for (id, ..) in &walks {
        open.push(queue.open_tasks(id, 0, 10_000).await.unwrap());
        failed.push(queue.failures(id, 0, 10_000).await.unwrap());
    }
    let mut bodies = Vec::new();
    for kept in queue.kept_bodies().await.unwrap() {
        bodies.push(queue.kept_body(&kept.digest).await.unwrap());
    }
    let stats = queue.stats(&StatsQuery::All { tenants: 9 }).await.unwrap();
    let depths = queue.depths().await.unwrap();
    Seen { tasks, listed, depths, stats, walks, open, failed, bodies }
}

/// Tasks in every state, of three tenants, bands and two locations; walks with all that belongs to them; a body in quarantine.
async fn fill(queue: &RedisQueue) -> Vec<TaskId> {
    let new = |n: u32| {
        let mut new: NewTask = task(TENANTS[n as usize % 3], n);
        new.spec.priority = Priority::ALL[n as usize / 3 % 3];
        new.spec.object.location = ["uploads", "archive"][n as usize / 9 % 2].into();
        if n % 7 == 0 {
            new.spec.object.version = None;
        }
        if n % 11 == 0 {
            new.process_at = Some(START.plus(Duration::from_secs(u64::from(n) + 60)));
        }
        new
    };
    let submitted = queue.submit((0..60).map(new).collect()).await;
    let ids: Vec<TaskId> = submitted.into_iter().map(|answer| answer.unwrap().id).collect();
    let mut wanted = request("s", 1, 18);
    wanted.locations = Arc::new(["uploads".into(), "archive".into()]);
    let leased = queue.lease(&wanted).await.unwrap();
    assert_eq!(leased.len(), 18);
    let (mut reports, mut kept) = (Vec::new(), Vec::new());
    for (n, leased) in leased.iter().enumerate() {
        match n % 5 {
            0 => reports.push(done(leased)),
            1 => reports.push(hopeless(leased)),
            2 => {
                let mut report = hopeless(leased);
                if let Outcome::Failed { failure, .. } = &mut report.outcome {
                    failure.class = FailureClass::Retry;
                }
                reports.push(report);
            }
            3 => {
                let progress = Progress { bytes_done: 5, bytes_total: 9, steps_done: 1 };
                kept.push(Renewal { progress, upload_id: "upload".into(), ..renewal(leased) });
            }
            _ => {}
        }
    }
    assert!(queue.renew(kept).await.iter().all(Result::is_ok));
    assert!(queue.settle(reports).await.iter().all(Result::is_ok));
    // Asked for again while it is copied, cancelled, and cancelled and asked for again.
    assert!(queue.submit((0..60).filter(|n| n % 7 == 0).map(new).collect()).await.iter().all(Result::is_ok));
    let mut cancelled = 0;
    for (n, id) in (0..).zip(&ids) {
        if cancelled < 6 && queue.get(id).await.unwrap().state == TaskState::Pending {
            queue.cancel(id).await.unwrap();
            if cancelled % 2 == 0 {
                assert_eq!(
                    queue.submit(vec![new(n)]).await.remove(0).unwrap().outcome,
                    SubmitOutcome::Created
                );
            }
            cancelled += 1;
        }
    }
    for name in ["a", "b", "c", "d"] {
        let id = queue.id("web", name);
        let mut change = Change {
            id: id.clone(),
            expected: None,
            walk: Walk::new(walks::spec(name), START),
            opened: vec![],
            closed: vec![],
            failures: vec![],
        };
        queue.save(&change).await.unwrap();
        change.expected = Some(1);
        change.opened = ids[..9].to_vec();
        change.failures = (0..3).map(walks::failed).collect();
        queue.save(&change).await.unwrap();
        if name == "d" {
            assert!(change.walk.cancel(START));
            (change.expected, change.opened, change.failures) = (Some(2), vec![], vec![]);
            queue.save(&change).await.unwrap();
        }
    }
    queue.keep_body("digest", b"odd\0", "about", 9).await.unwrap();
    ids
}

/// Waits until nobody listens any more: the servers hear of the end of a connection a moment later.
async fn end(queue: RedisQueue) {
    queue.shutdown().await;
    drop(queue);
}

async fn is_clean(options: &RedisOptions) {
    let audit = FsckOptions { repair: false, orphan_grace: Duration::ZERO, examples: 5 };
    let report = fsck(options, audit).await.unwrap();
    assert!(report.problems.is_empty() && report.unchecked_counters.is_empty(), "{report}");
}

/// All that waits is leased and done, tenant by tenant and in the order of each.
async fn works_on(queue: &RedisQueue) {
    let waiting = queue.depths().await.unwrap().pending;
    let mut finished = 0;
    for round in 0..200 {
        let mut wanted = request("after", round, 10);
        wanted.locations = Arc::new(["uploads".into(), "archive".into()]);
        let leased = queue.lease(&wanted).await.unwrap();
        finished += leased.len() as u64;
        assert!(queue.settle(leased.iter().map(done).collect()).await.iter().all(Result::is_ok));
        if queue.depths().await.unwrap().pending == 0 {
            break;
        }
    }
    // A copy that was asked for again meanwhile runs once more.
    assert!(finished >= waiting, "{finished} of {waiting}");
}

#[tokio::test]
async fn more_and_fewer_shards_keep_everything_as_it_was() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let queue = connect(&options, 4).await.unwrap();
    let ids = fill(&queue).await;
    let before = look(&queue, &ids).await;
    for state in TaskState::ALL {
        assert!(before.tasks.values().any(|record| record.state == state), "{state:?} is not tried");
    }
    is_clean(&options).await;
    end(queue).await;
    for (from, to) in [(4, 7), (7, 1), (1, 16), (16, 16)] {
        let done = change(&options, to).await.unwrap();
        assert_eq!((done.from, done.to, done.records), (from, to, ids.len() as u64));
        assert_eq!(done.moved > 0, from != to);
        is_clean(&options).await;
        let refused = connect(&options, from + 1).await;
        assert!(matches!(refused, Err(ConnectError::Unfit(Unfit::OtherShards { .. }))), "{refused:?}");
        let queue = connect(&options, to).await.unwrap();
        assert_eq!(look(&queue, &ids).await, before);
        end(queue).await;
    }
    let queue = connect(&options, 16).await.unwrap();
    // A worker that held a task all the while reports it.
    let working = before.tasks.values().find(|record| record.state == TaskState::Working && !record.dirty);
    let working = working.unwrap();
    let outcome = Outcome::Done { receipt: bytes::Bytes::from_static(b"receipt") };
    let report = crate::queue::Settlement { id: working.id.clone(), lease: working.lease.unwrap(), outcome };
    assert!(queue.settle(vec![report]).await.remove(0).is_ok());
    assert_eq!(queue.get(&working.id).await.unwrap().state, TaskState::Done);
    works_on(&queue).await;
    is_clean(&options).await;
}

/// Kills a change after every so many rounds from `first` on in steps, goes on with it, and compares.
async fn killed_at(first: i64, step: usize) {
    let server = Server::start(&[]);
    let mut killed = 0_u32;
    for (db, rounds) in (0..).zip((first..2_000).step_by(step)) {
        let options = options(&server, db);
        let queue = connect(&options, 3).await.unwrap();
        let ids = fill(&queue).await;
        let before = look(&queue, &ids).await;
        end(queue).await;
        let mortal = RedisOptions { rounds: Some(Arc::new(AtomicI64::new(rounds))), ..options.clone() };
        let first = change(&mortal, 5).await;
        let survived = first.is_ok();
        if !survived {
            killed += 1;
            let (begun, shards): (Option<String>, u16) = redis::cmd("HMGET")
                .arg(keys::CONFIG)
                .arg("reshard")
                .arg("shards")
                .query_async(&mut client(&server, db).await)
                .await
                .unwrap();
            for shards_tried in [3, 5] {
                let started = connect(&options, shards_tried).await;
                match &begun {
                    Some(_) => assert!(
                        matches!(&started, Err(ConnectError::Unfit(Unfit::Resharding(to))) if to == "5"),
                        "{started:?}"
                    ),
                    None => assert_eq!(started.is_ok(), shards == shards_tried, "{rounds}: {started:?}"),
                }
                if let Ok(queue) = started {
                    end(queue).await;
                }
            }
            if begun.is_some() {
                let other = change(&options, 4).await;
                assert!(matches!(other, Err(ReshardError::Begun { to: 5 })), "{other:?}");
            }
            change(&options, 5).await.unwrap_or_else(|error| panic!("after {rounds} rounds: {error}"));
        }
        let queue = connect(&options, 5).await.unwrap();
        assert_eq!(look(&queue, &ids).await, before, "killed after {rounds} rounds");
        end(queue).await;
        is_clean(&options).await;
        if survived {
            assert!(killed > 3, "killed at {killed} places only");
            return;
        }
    }
    panic!("it never ends");
}

async fn client(server: &Server, db: u32) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url(db)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

macro_rules! killed_at_every_step {
    ($($name:ident: $first:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            killed_at($first, 4).await;
        }
    )*};
}

killed_at_every_step! {
    a_change_that_is_killed_is_gone_on_with_1: 0;
    a_change_that_is_killed_is_gone_on_with_2: 1;
    a_change_that_is_killed_is_gone_on_with_3: 2;
    a_change_that_is_killed_is_gone_on_with_4: 3;
}

#[tokio::test]
async fn nothing_is_changed_while_a_dispatcher_is_there() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let queue = connect(&options, 3).await.unwrap();
    let ids = fill(&queue).await;
    let before = look(&queue, &ids).await;
    let mut client = server.client().await;
    loop {
        let listeners: Vec<(String, u32)> =
            redis::cmd("PUBSUB").arg("NUMSUB").arg("bh:ready").query_async(&mut client).await.unwrap();
        if listeners[0].1 == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = change(&options, 5).await;
    assert!(matches!(refused, Err(ReshardError::Alive)), "{refused:?}");
    queue.check().await.unwrap();
    assert_eq!(look(&queue, &ids).await, before);
}

#[tokio::test]
async fn a_damaged_record_moves_with_the_others_and_stays_what_it_is() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let queue = connect(&options, 3).await.unwrap();
    let ids = fill(&queue).await;
    end(queue).await;
    let mut client = server.client().await;
    let damaged = &ids[5];
    let (): () = client.set(keys::record(damaged.shard(3), damaged), "garbage").await.unwrap();
    change(&options, 8).await.unwrap();
    let there: String = client.get(keys::record(damaged.shard(8), damaged)).await.unwrap();
    assert_eq!(there, "garbage");
    let queue = connect(&options, 8).await.unwrap();
    for id in ids.iter().filter(|id| *id != damaged) {
        assert!(queue.get(id).await.is_ok());
    }
}

#[tokio::test]
async fn the_shards_of_a_cluster_are_changed_too() {
    let cluster = Cluster::without_replicas(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let options = cluster.options();
    let queue = connect(&options, 2).await.unwrap();
    let ids = fill(&queue).await;
    let before = look(&queue, &ids).await;
    end(queue).await;
    for to in [16, 3] {
        let done = change(&options, to).await.unwrap();
        assert!(done.moved > 0);
        is_clean(&options).await;
        let queue = connect(&options, to).await.unwrap();
        assert_eq!(look(&queue, &ids).await, before);
        end(queue).await;
    }
    let queue = connect(&options, 3).await.unwrap();
    works_on(&queue).await;
    is_clean(&options).await;
}
