//! Primaries that die or fall silent while several dispatchers write, and slots that move: nothing accepted is lost, nothing is there
//! twice, and what is not concerned goes on.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use super::{
    cluster::{Cluster, Watched, until},
    done, hopeless, renewal, request, settings, task,
};
use crate::queue::{
    EventCursor, Events, QueueClock, QueueSettings, RenewOutcome, Requeue, RequeueOutcome, SettleOutcome,
    StatsQuery, TaskId, TaskQueue as _, TaskState,
    redis::{
        Durability, RedisOptions, RedisQueue,
        fsck::{FsckOptions, fsck},
    },
};

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "everysec"];
/// Long enough that no busy machine takes a node for dead.
const NEVER: Duration = Duration::from_secs(600);
/// Batches that each dispatcher has accepted before a fault, and again after it.
const BATCHES: usize = 15;

fn shards() -> QueueSettings {
    QueueSettings { shards: 16, ..settings() }
}

async fn dispatchers(options: &RedisOptions, count: usize) -> Vec<Arc<RedisQueue>> {
    let mut queues = Vec::new();
    for _ in 0..count {
        queues.push(Arc::new(
            RedisQueue::connect(options.clone(), shards(), QueueClock::Server).await.unwrap(),
        ));
    }
    queues
}

/// Dispatchers that submit as fast as they can, each task again until it is accepted.
struct Load {
    submitters: JoinSet<BTreeSet<TaskId>>,
    accepted: Vec<Arc<AtomicUsize>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(queues: &[Arc<RedisQueue>]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut submitters, mut accepted) = (JoinSet::new(), Vec::new());
        for (n, queue) in queues.iter().enumerate() {
            let batches = Arc::new(AtomicUsize::new(0));
            accepted.push(Arc::clone(&batches));
            submitters.spawn(submit(Arc::clone(queue), format!("tenant-{n}"), batches, Arc::clone(&stop)));
        }
        Self { submitters, accepted, stop }
    }

    /// Waits until every dispatcher has had this many more batches accepted.
    async fn goes_on(&self) {
        let before: Vec<usize> = self.accepted.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        until("every dispatcher is accepted again", async || {
            let now = self.accepted.iter().zip(&before);
            now.into_iter().all(|(now, before)| now.load(Ordering::Relaxed) >= before + BATCHES)
        })
        .await;
    }

    /// All tasks that were accepted, which are all that were tried.
    async fn end(self) -> BTreeSet<TaskId> {
        self.stop.store(true, Ordering::Relaxed);
        self.submitters.join_all().await.into_iter().flatten().collect()
    }
}

async fn submit(
    queue: Arc<RedisQueue>,
    tenant: String,
    batches: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> BTreeSet<TaskId> {
    let mut accepted = BTreeSet::new();
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        // More tasks than shards, so that most batches concern every primary.
        let mut batch: Vec<u32> = (next..next + 48).collect();
        next += 48;
        while !batch.is_empty() {
            let answers = queue.submit(batch.iter().map(|&n| task(&tenant, n)).collect()).await;
            let mut again = Vec::new();
            for (n, answer) in batch.into_iter().zip(answers) {
                match answer {
                    Ok(submitted) => drop(accepted.insert(submitted.id)),
                    Err(error) => {
                        assert!(error.is_retryable(), "{error:?}");
                        again.push(n);
                    }
                }
            }
            batch = again;
            if !batch.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        batches.fetch_add(1, Ordering::Relaxed);
    }
    accepted
}

/// Dead tasks of tenant `buried`, in their first run. Nothing else may wait.
async fn bury(queue: &RedisQueue, count: u32) -> Vec<TaskId> {
    let submitted = queue.submit((0..count).map(|n| task("buried", n)).collect()).await;
    assert!(submitted.iter().all(Result::is_ok), "{submitted:?}");
    let mut dead = Vec::new();
    for number in 1.. {
        let leased = queue.lease(&request("burier", number, 100)).await.unwrap();
        if leased.is_empty() {
            break;
        }
        assert!(queue.settle(leased.iter().map(hopeless).collect()).await.iter().all(Result::is_ok));
        dead.extend(leased.into_iter().map(|leased| leased.id));
    }
    assert_eq!(dead.len(), count as usize);
    dead
}

fn first_run(id: &TaskId) -> Requeue {
    Requeue { id: id.clone(), run: 1 }
}

/// Leases everything, on any dispatcher, and reports it done.
async fn drain(queues: &[Arc<RedisQueue>]) -> BTreeSet<TaskId> {
    let mut seen = BTreeSet::new();
    for (n, queue) in (1..).zip(queues.iter().cycle()) {
        let leased = queue.lease(&request(&format!("session-{n}"), n, 500)).await.unwrap();
        if leased.is_empty() && queue.depths().await.unwrap().pending == 0 {
            return seen;
        }
        for one in &leased {
            assert!(seen.insert(one.id.clone()), "leased twice: {}", one.id);
        }
        for settled in queue.settle(leased.iter().map(done).collect()).await {
            assert_eq!(settled.unwrap(), SettleOutcome::Stored(TaskState::Done));
        }
    }
    unreachable!("dispatchers never end")
}

async fn nothing_is_damaged(options: &RedisOptions) {
    let audit = FsckOptions { repair: false, orphan_grace: Duration::ZERO, examples: 5 };
    let report = fsck(options, audit).await.unwrap();
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_a_primary_under_load_loses_no_accepted_task() {
    let mut cluster = Cluster::start(Duration::from_secs(5), &DURABLE).await;
    let options = RedisOptions { durability: Durability::Replicas(1), ..cluster.options() };
    let queues = dispatchers(&options, 3).await;
    let load = Load::start(&queues);
    load.goes_on().await;
    cluster.nodes[1].kill();
    until("the replica has taken over", async || {
        cluster.nodes[4].ask::<String>("INFO replication").await.unwrap().contains("role:master")
    })
    .await;
    // Until it has a replica itself, it cannot keep what it is given; then it goes on by itself.
    cluster.nodes[1].restart();
    load.goes_on().await;
    let accepted = load.end().await;
    for queue in &queues {
        queue.check().await.unwrap();
        assert_eq!(queue.depths().await.unwrap().pending, accepted.len() as u64);
    }
    assert_eq!(drain(&queues).await, accepted);
    nothing_is_damaged(&options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_replace_a_dead_primary_under_load_lose_no_accepted_task() {
    let mut watched = Watched::start(Duration::from_secs(5), &DURABLE).await;
    let options = RedisOptions { durability: Durability::Replicas(2), ..watched.options() };
    let queues = dispatchers(&options, 3).await;
    // Before the load, or each of its tasks would be leased at once: leases go on across the failover.
    queues[0].submit(vec![task("leased", 1)]).await.remove(0).unwrap();
    let leased = queues[0].lease(&request("holder", 1, 1)).await.unwrap();
    assert_eq!(
        queues[0].renew(&leased.iter().map(renewal).collect::<Vec<_>>()).await.remove(0).unwrap(),
        RenewOutcome::Keep(settings().lease)
    );
    let load = Load::start(&queues);
    load.goes_on().await;
    watched.servers[0].kill();
    let mut primary = 0;
    until("a replica has taken over", async || {
        for n in [1, 2] {
            // A server whose role changes closes its connections, this one too.
            let info: redis::RedisResult<String> = watched.servers[n].ask("INFO replication").await;
            if info.is_ok_and(|info| info.contains("role:master")) {
                primary = n;
            }
        }
        primary > 0
    })
    .await;
    let port = watched.servers[primary].port().to_string();
    watched.servers[0].restart_with(&["--replicaof", "127.0.0.1", &port]);
    load.goes_on().await;
    let accepted = load.end().await;
    let depths = queues[1].depths().await.unwrap();
    assert_eq!((depths.pending, depths.working), (accepted.len() as u64, 1));
    assert!(matches!(
        queues[2].renew(&leased.iter().map(renewal).collect::<Vec<_>>()).await.remove(0).unwrap(),
        RenewOutcome::Keep(_)
    ));
    assert_eq!(drain(&queues).await, accepted);
    nothing_is_damaged(&options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_under_load_takes_its_tasks_along_whole() {
    let cluster = Cluster::start(NEVER, &DURABLE).await;
    let options = RedisOptions { durability: Durability::Replicas(1), ..cluster.options() };
    let queues = dispatchers(&options, 2).await;
    let load = Load::start(&queues);
    let stop = Arc::new(AtomicBool::new(false));
    // Tasks in every queue while the slot moves: leased, done and swept by both dispatchers.
    let mut others = JoinSet::new();
    for (n, queue) in queues.iter().cloned().enumerate() {
        let stop = Arc::clone(&stop);
        others.spawn(async move {
            let mut settled = 0;
            for number in 1.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let leased =
                    queue.lease(&request(&format!("mover-{n}"), number, 20)).await.unwrap_or_default();
                for answer in queue.renew(&leased.iter().map(renewal).collect::<Vec<_>>()).await {
                    assert!(!matches!(answer, Ok(RenewOutcome::Lost)), "a missing record is no missing task");
                }
                let mut reports: Vec<_> = leased.iter().map(done).collect();
                while !reports.is_empty() {
                    let answers = queue.settle(reports.clone()).await;
                    let mut rest = Vec::new();
                    for (report, answer) in reports.into_iter().zip(answers) {
                        match answer {
                            Ok(SettleOutcome::Stored(_) | SettleOutcome::Duplicate) => settled += 1,
                            Ok(other) => panic!("{other:?}: a missing record is no missing task"),
                            Err(error) => {
                                assert!(error.is_retryable(), "{error:?}");
                                rest.push(report);
                            }
                        }
                    }
                    reports = rest;
                }
                queue.sweep().await.unwrap();
            }
            settled
        });
    }
    load.goes_on().await;
    for shard in [0, 1, 2] {
        let from = Cluster::home(shard);
        cluster.move_shard(shard, from, (from + 1) % 3).await;
    }
    load.goes_on().await;
    let accepted = load.end().await;
    stop.store(true, Ordering::Relaxed);
    let settled: usize = others.join_all().await.into_iter().sum();
    let depths = queues[0].depths().await.unwrap();
    // A lease whose answer was lost runs out by itself; nothing else may be in working.
    let waiting = depths.pending + depths.working;
    assert_eq!((depths.done, waiting), (settled as u64, (accepted.len() - settled) as u64));
    for id in &accepted {
        queues[1].get(id).await.unwrap();
    }
    nothing_is_damaged(&options).await;
}

#[tokio::test]
async fn leases_sweeps_and_listings_of_other_shards_go_on_while_a_primary_is_away() {
    let cluster = Cluster::without_replicas(&[]).await;
    let mut options = RedisOptions { durability: Durability::None, ..cluster.options() };
    options.timeouts.response = Duration::from_secs(5);
    let queue = RedisQueue::connect(options, shards(), QueueClock::Server).await.unwrap();
    let submitted = queue.submit((0..400).map(|n| task("t", n)).collect()).await;
    let ids: Vec<TaskId> = submitted.into_iter().map(|one| one.unwrap().id).collect();
    let lost = ids.iter().filter(|id| Cluster::home(id.shard(16)) == 0).count();
    assert!(lost > 0 && lost < 400);
    cluster.nodes[0].freeze();
    let query = crate::queue::ListQuery { tenant: "t".into(), limit: 1_000, ..Default::default() };
    let page = queue.list(&query).await.unwrap();
    assert_eq!((page.tasks.len(), page.incomplete), (400 - lost, true));
    let report = queue.sweep().await.unwrap();
    assert_eq!(report.unswept, (0..16).filter(|&shard| Cluster::home(shard) == 0).count() as u64);
    let leased = queue.lease(&request("s", 1, 1_000)).await.unwrap();
    assert_eq!(leased.len(), 400 - lost);
    let answers = queue.submit((400..500).map(|n| task("t", n)).collect()).await;
    for (n, answer) in (400..).zip(answers) {
        let id = TaskId::derive("t", &task("t", n).spec.object);
        assert_eq!(answer.is_ok(), Cluster::home(id.shard(16)) != 0, "{answer:?}");
    }
    queue.check().await.unwrap();
    cluster.nodes[0].thaw();
    until("the primary is used again", async || queue.list(&query).await.is_ok_and(|page| !page.incomplete))
        .await;
    let mut rest = 0;
    for n in 2.. {
        let leased = queue.lease(&request("s", n, 1_000)).await.unwrap().len();
        if leased == 0 {
            break;
        }
        rest += leased;
    }
    assert!(rest >= lost, "{rest} of {lost}");
}

#[tokio::test]
async fn retries_statistics_and_the_log_of_other_shards_go_on_while_a_primary_is_away() {
    let cluster = Cluster::without_replicas(&[]).await;
    let mut options = RedisOptions { durability: Durability::None, ..cluster.options() };
    options.timeouts.response = Duration::from_secs(5);
    let queue = RedisQueue::connect(options, shards(), QueueClock::Server).await.unwrap();
    let dead = bury(&queue, 200).await;
    let (lost, here): (BTreeSet<_>, BTreeSet<_>) =
        dead.iter().cloned().partition(|id| Cluster::home(id.shard(16)) == 0);
    assert!(!lost.is_empty() && !here.is_empty());
    let everything = StatsQuery::All { tenants: 10 };
    let whole = queue.stats(&everything).await.unwrap();
    assert_eq!((whole.total.dead.tasks, whole.incomplete), (200, false));
    let begin = queue.events(None).await.unwrap();
    assert!(!begin.incomplete);

    cluster.nodes[0].freeze();
    for query in [everything.clone(), StatsQuery::Tenant("buried".into())] {
        let stats = queue.stats(&query).await.unwrap();
        assert_eq!((stats.total.dead.tasks, stats.incomplete), (here.len() as u64, true), "{query:?}");
    }
    let answers = queue.requeue(dead.iter().map(first_run).collect()).await;
    for (id, answer) in dead.iter().zip(answers) {
        match answer {
            Ok(RequeueOutcome::Requeued { run: 2 }) => assert!(here.contains(id)),
            Err(error) => assert!(error.is_retryable() && lost.contains(id), "{error:?}"),
            other => panic!("{other:?}"),
        }
    }
    // Those who read the log go on; who begins now is told later what was missing.
    let events = read_log(&queue, begin.next.clone()).await;
    assert_eq!((events.0, events.1.incomplete, events.1.missed), (here.clone(), true, false));
    let late = queue.events(None).await.unwrap();
    assert!(late.incomplete && !late.missed);
    assert!(!queue.events(Some(&late.next)).await.unwrap().missed, "not before it can be asked");

    cluster.nodes[0].thaw();
    until("the primary is used again", async || {
        queue.stats(&everything).await.is_ok_and(|stats| !stats.incomplete)
    })
    .await;
    // Of what was sent while it stood still, nobody knows: the same request again is right either way.
    let again: Vec<Requeue> = lost.iter().map(first_run).collect();
    until("all of them run again", async || {
        let answers = queue.requeue(again.clone()).await;
        answers.iter().all(|answer| {
            matches!(
                answer,
                Ok(RequeueOutcome::Requeued { run: 2 } | RequeueOutcome::OtherRun { run: 2, .. })
            )
        })
    })
    .await;
    let stats = queue.stats(&everything).await.unwrap();
    assert_eq!((stats.total.dead.tasks, stats.total.pending[1].tasks), (0, 200));
    let (told, end) = read_log(&queue, events.1.next).await;
    assert_eq!((told, end.incomplete, end.missed), (lost, false, false));
    assert!(queue.events(Some(&late.next)).await.unwrap().missed);
}

/// What the log names from a place on, as far as it can be asked, and the last answer.
async fn read_log(queue: &RedisQueue, mut at: EventCursor) -> (BTreeSet<TaskId>, Events) {
    let mut told = BTreeSet::new();
    loop {
        let events = queue.events(Some(&at)).await.unwrap();
        told.extend(events.changed.iter().map(|(_, id)| id.clone()));
        if !events.more {
            return (told, events);
        }
        at = events.next;
    }
}

#[tokio::test]
async fn a_primary_without_its_replica_is_given_nothing_and_the_others_are() {
    let mut cluster = Cluster::start(NEVER, &DURABLE).await;
    let options = RedisOptions {
        durability: Durability::Replicas(1),
        durability_timeout: Duration::from_secs(60),
        ..cluster.options()
    };
    let queue = RedisQueue::connect(options, shards(), QueueClock::Server).await.unwrap();
    let dead = bury(&queue, 60).await;
    cluster.nodes[5].kill();
    // The primary notices at once that the connection of its replica is gone, the queue when it looks.
    until("the primary misses its replica", async || {
        cluster.nodes[2].ask::<String>("INFO replication").await.unwrap().contains("connected_slaves:0")
    })
    .await;
    queue.check().await.unwrap();
    let answers = queue.submit((0..100).map(|n| task("t", n)).collect()).await;
    let mut refused = 0;
    for (n, answer) in (0..).zip(answers) {
        let id = TaskId::derive("t", &task("t", n).spec.object);
        match answer {
            Ok(_) => assert_ne!(Cluster::home(id.shard(16)), 2),
            Err(crate::queue::QueueError::Unfit(why)) => {
                assert_eq!(Cluster::home(id.shard(16)), 2);
                assert!(why.to_string().contains("0 replicas are connected, 1 must confirm"), "{why}");
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 0);
    // A retry is behind the same barrier, and nothing is done where it cannot be met.
    let answers = queue.requeue(dead.iter().map(first_run).collect()).await;
    for (id, answer) in dead.iter().zip(answers) {
        let state = queue.get(id).await.unwrap().state;
        if Cluster::home(id.shard(16)) == 2 {
            assert!(matches!(answer, Err(crate::queue::QueueError::Unfit(_))), "{answer:?}");
            assert_eq!(state, TaskState::Dead);
        } else {
            assert!(matches!(answer, Ok(RequeueOutcome::Requeued { run: 2 })), "{answer:?}");
            assert_eq!(state, TaskState::Pending);
        }
    }
    cluster.nodes[5].restart();
    until("it is given tasks again without another check", async || {
        queue.submit((0..100).map(|n| task("t", n)).collect()).await.iter().all(Result::is_ok)
    })
    .await;
}
