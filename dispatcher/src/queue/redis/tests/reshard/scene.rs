//! Data to change the number of shards of: tasks in every state, listings, and what lies beside them; and everything that a caller can see of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::super::{Server, cluster::until, done, hopeless, renewal, request, settings, task};
use crate::queue::{
    Depths, FailureClass, LeaseRequest, ListQuery, NewTask, Outcome, Priority, Progress, QueueClock,
    QueueSettings, QueueStats, Renewal, StatsQuery, SubmitOutcome, TaskId, TaskQueue as _, TaskRecord,
    TaskState, UnixMs,
    redis::{
        ConnectError, KeptBody, RedisOptions, RedisQueue,
        fsck::{FsckOptions, fsck},
        reshard::{ReshardError, ReshardOptions, Resharded, reshard},
    },
    snapshot::Observe as _,
    walk::{Change, FailedObject, Look, Walk, WalkId, WalkStore, conformance as walks},
};

/// Ahead of the servers' clocks, which the audit goes by: so time stands still, and ages can be compared.
pub(super) const START: UnixMs = UnixMs(4_000_000_000_000);
const TENANTS: [&str; 3] = ["t", "u", "v"];
/// Tasks of the scene.
pub(super) const TASKS: u32 = 60;

pub(super) fn of(shards: u16) -> QueueSettings {
    QueueSettings { shards, tenant_in_flight_cap: 7, retain_dead: walks::RETAIN, ..settings() }
}

pub(super) async fn connect(options: &RedisOptions, shards: u16) -> Result<RedisQueue, ConnectError> {
    RedisQueue::connect(options.clone(), of(shards), QueueClock::starting_at(START)).await
}

pub(super) async fn change(options: &RedisOptions, shards: u16) -> Result<Resharded, ReshardError> {
    reshard(options, &asked(shards), &mut |_| {}).await
}

/// A change that does not wait for whoever may come.
pub(super) fn asked(shards: u16) -> ReshardOptions {
    ReshardOptions { shards, quiet_for: Duration::ZERO, patience: Duration::from_secs(60), repair: false }
}

/// Waits until nobody listens any more: servers hear of the end of a connection a moment later.
pub(super) async fn nobody_listens(servers: &[Server]) {
    until("nobody listens", async || {
        let mut listeners = 0;
        for server in servers {
            let counts: BTreeMap<String, u32> =
                server.ask("PUBSUB NUMSUB bh:ready bh:reshard").await.unwrap();
            listeners += counts.values().sum::<u32>();
        }
        listeners == 0
    })
    .await;
}

pub(super) async fn end(queue: RedisQueue) {
    queue.shutdown().await;
    drop(queue);
}

pub(super) async fn is_clean(options: &RedisOptions) {
    let audit = FsckOptions { repair: false, orphan_grace: Duration::ZERO, examples: 5 };
    let report = fsck(options, audit).await.unwrap();
    assert!(report.problems.is_empty() && report.unchecked_counters.is_empty(), "{report}");
}

/// Everything that a caller can see.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) tasks: BTreeMap<TaskId, TaskRecord>,
    listed: BTreeMap<TaskId, TaskRecord>,
    depths: Depths,
    stats: QueueStats,
    moves: BTreeMap<String, u64>,
    walks: Vec<(WalkId, Walk, u64, u64)>,
    open: Vec<Vec<TaskId>>,
    failed: Vec<Vec<FailedObject>>,
    bodies: Vec<(KeptBody, Option<Vec<u8>>)>,
    removals: Vec<(String, UnixMs)>,
    rules: Vec<(String, String)>,
}

pub(super) async fn look(queue: &RedisQueue, ids: &[TaskId]) -> Seen {
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
    walks.sort_by(|a, b| a.0.as_task().cmp(b.0.as_task()));
    let (mut open, mut failed) = (Vec::new(), Vec::new());
    for (id, ..) in &walks {
        open.push(queue.open_tasks(id, 0, 10_000).await.unwrap());
        failed.push(queue.failures(id, 0, 10_000).await.unwrap());
    }
    let mut bodies = Vec::new();
    for kept in queue.kept_bodies().await.unwrap() {
        let body = queue.kept_body(&kept.digest).await.unwrap();
        bodies.push((kept, body));
    }
    let mut moves = queue.snapshot().await.unwrap().moves;
    // Not of callers: how often something went from shard to shard.
    moves.retain(|name, _| !name.starts_with("moved_"));
    Seen {
        tasks,
        listed,
        depths: queue.depths().await.unwrap(),
        stats: queue.stats(&StatsQuery::All { tenants: 9 }).await.unwrap(),
        moves,
        walks,
        open,
        failed,
        bodies,
        removals: queue.noted_removals(0, 9).await.unwrap(),
        rules: queue.rule_marks().await.unwrap().1,
    }
}

pub(super) fn new(n: u32) -> NewTask {
    let mut new: NewTask = task(TENANTS[n as usize % 3], n);
    new.spec.priority = Priority::ALL[n as usize / 3 % 3];
    new.spec.object.location = ["uploads", "archive"][n as usize / 9 % 2].into();
    if n.is_multiple_of(7) {
        new.spec.object.version = None;
    }
    if n.is_multiple_of(11) {
        new.process_at = Some(START.plus(Duration::from_secs(u64::from(n) + 60)));
    }
    new
}

pub(super) fn from_everywhere(session: &str, number: u64, most: u32) -> LeaseRequest {
    LeaseRequest {
        locations: Arc::new(["uploads".into(), "archive".into()]),
        ..request(session, number, most)
    }
}

/// Makes a queue of so many shards, fills it and leaves it; gives its tasks, and what they were.
pub(super) async fn filled(options: &RedisOptions, shards: u16) -> (Vec<TaskId>, Seen) {
    let queue = connect(options, shards).await.unwrap();
    let ids = fill(&queue).await;
    let before = look(&queue, &ids).await;
    end(queue).await;
    (ids, before)
}

/// Tasks in every state, of three tenants, all bands and two locations; listings with all that belongs to them; and what lies beside.
pub(super) async fn fill(queue: &RedisQueue) -> Vec<TaskId> {
    // Somebody watches, so the logs are kept.
    queue.events(None).await.unwrap();
    let submitted = queue.submit((0..TASKS).map(new).collect()).await;
    let ids: Vec<TaskId> = submitted.into_iter().map(|answer| answer.unwrap().id).collect();
    let leased = queue.lease(&from_everywhere("s", 1, 18)).await.unwrap();
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
    assert!(queue.renew(&kept).await.iter().all(Result::is_ok));
    assert!(queue.settle(reports).await.iter().all(Result::is_ok));
    // Asked for again while it is copied, cancelled, and cancelled and asked for again.
    assert!(
        queue.submit((0..TASKS).filter(|n| n % 7 == 0).map(new).collect()).await.iter().all(Result::is_ok)
    );
    let mut cancelled = 0;
    for (n, id) in (0..).zip(&ids) {
        if cancelled < 6 && queue.get(id).await.unwrap().state == TaskState::Pending {
            queue.cancel(id).await.unwrap();
            if cancelled % 2 == 0 {
                let again = queue.submit(vec![new(n)]).await.remove(0).unwrap();
                assert_eq!(again.outcome, SubmitOutcome::Created);
            }
            cancelled += 1;
        }
    }
    for name in ["a", "b", "c", "d", "e"] {
        walk(queue, name, &ids[..9]).await;
    }
    queue.keep_body("digest", b"odd\0", "about", 9, 1_024).await.unwrap();
    queue.note_removals(&["removed".into()], 9).await.unwrap();
    assert!(queue.save_rule_mark("rule", "", "1 {}").await.unwrap());
    ids
}

/// A listing with open tasks and failures; `d` and `e` are finished.
async fn walk(queue: &RedisQueue, name: &str, opened: &[TaskId]) {
    let mut change = Change {
        id: queue.id("web", name),
        expected: None,
        walk: Walk::new(walks::spec(name), START),
        opened: vec![],
        closed: vec![],
        failures: vec![],
    };
    queue.save(&change).await.unwrap();
    (change.expected, change.opened) = (Some(1), opened.to_vec());
    change.failures = (0..3).map(walks::failed).collect();
    queue.save(&change).await.unwrap();
    if ["d", "e"].contains(&name) {
        assert!(change.walk.cancel(START));
        (change.expected, change.opened, change.failures) = (Some(2), vec![], vec![]);
        queue.save(&change).await.unwrap();
    }
}

/// Everything can go on: all that waits is leased and done, and what is asked for again is the same task.
pub(super) async fn works_on(queue: &RedisQueue, ids: &[TaskId]) {
    let waiting = queue.depths().await.unwrap().pending;
    let mut finished = 0;
    for round in 0..200 {
        let leased = queue.lease(&from_everywhere("after", round, 10)).await.unwrap();
        finished += leased.len() as u64;
        assert!(queue.settle(leased.iter().map(done).collect()).await.iter().all(Result::is_ok));
        if queue.depths().await.unwrap().pending == 0 {
            break;
        }
    }
    // A copy that was asked for again meanwhile runs once more.
    assert!(finished >= waiting, "{finished} of {waiting}");
    for (n, id) in (0..).zip(ids) {
        assert_eq!(&queue.submit(vec![new(n)]).await.remove(0).unwrap().id, id);
    }
}
