//! The conservation of tasks: one that vanished without a move is missed, whatever its state, and told once.

use std::time::Duration;

use redis::AsyncCommands as _;

use super::{Server, done, hopeless, queue, request, settings, task};
use crate::queue::{
    Outcome, QueueClock, QueueSettings, TaskId, TaskQueue as _, TaskState, UnixMs,
    redis::{
        RedisQueue,
        fsck::{FsckOptions, Problem, Report, fsck},
        keys,
    },
};

async fn audit(server: &Server, repair: bool) -> Report {
    let options = FsckOptions { repair, orphan_grace: Duration::ZERO, examples: 9 };
    fsck(&super::options(server, 0), options).await.unwrap()
}

/// A queue of one shard with two tasks in every state.
struct Scene {
    server: Server,
    queue: RedisQueue,
    client: redis::aio::MultiplexedConnection,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::start(&[]);
        let queue = queue(&server, QueueSettings { shards: 1, ..settings() }, &QueueClock::Server).await;
        assert!(queue.submit((0..10).map(|n| task("t", n)).collect()).await.iter().all(Result::is_ok));
        let leased = queue.lease(&request("s", 1, 8)).await.unwrap();
        let mut reports = Vec::new();
        for (n, leased) in leased.iter().enumerate() {
            reports.extend(match n / 2 {
                0 => Some(done(leased)),
                1 => Some(hopeless(leased)),
                2 => {
                    let mut report = hopeless(leased);
                    if let Outcome::Failed { failure, .. } = &mut report.outcome {
                        failure.class = crate::queue::FailureClass::Retry;
                    }
                    Some(report)
                }
                _ => None,
            });
        }
        assert!(queue.settle(reports).await.iter().all(Result::is_ok));
        let mut more: Vec<_> = (10..14).map(|n| task("t", n)).collect();
        for later in &mut more[2..] {
            later.process_at = Some(UnixMs(4_000_000_000_000));
        }
        for submitted in queue.submit(more).await.into_iter().take(2) {
            queue.cancel(&submitted.unwrap().id).await.unwrap();
        }
        let client = server.client().await;
        Self { server, queue, client }
    }

    async fn one_in(&mut self, state: TaskState) -> TaskId {
        let index = keys::index(state).unwrap_or("pending:1:uploads:t");
        let hashes: Vec<Vec<u8>> = self.client.zrange(keys::of_shard(0, index), 0, -1).await.unwrap();
        assert_eq!(hashes.len(), 2, "{state:?}");
        keys::id(&hashes[0]).unwrap()
    }
}

#[tokio::test]
async fn a_task_that_vanished_without_a_move_is_missed_in_every_state() {
    for state in TaskState::ALL {
        let mut scene = Scene::new().await;
        let report = audit(&scene.server, false).await;
        assert!(report.problems.is_empty(), "{report}");
        let victim = scene.one_in(state).await;
        let index = keys::index(state).unwrap_or("pending:1:uploads:t");
        let (): () = scene.client.del(keys::record(0, &victim)).await.unwrap();
        let (): () = scene.client.zrem(keys::of_shard(0, index), victim.hash()).await.unwrap();
        let name = keys::index(state).unwrap_or("pending");
        let told = format!("{{bh:000}}:stats {name}: 2 by its moves, 1 found");
        for repair in [false, false, true] {
            let report = audit(&scene.server, repair).await;
            let missed = &report.problems[&Problem::WrongFlow];
            assert_eq!(missed.examples, [told.as_str()], "{report}");
            assert_eq!((missed.found, missed.repaired), (1, 0), "what is lost is never called mended");
            assert!(!report.is_clean());
        }
        let report = audit(&scene.server, false).await;
        assert!(report.problems.is_empty(), "told once, then written down: {report}");
        let noted: u64 =
            scene.client.hget(keys::of_shard(0, "stats"), format!("missing:{name}")).await.unwrap();
        assert_eq!(noted, 1);
    }
}

#[tokio::test]
async fn lost_or_wrong_counters_of_moves_are_named_and_written_down() {
    let mut scene = Scene::new().await;
    let stats = keys::of_shard(0, "stats");
    let (): () = scene.client.hdel(&stats, "created").await.unwrap();
    let (): () = scene.client.hincr(&stats, "done", 1).await.unwrap();
    for _ in 0..2 {
        let report = audit(&scene.server, false).await;
        assert_eq!(report.problems.keys().copied().collect::<Vec<_>>(), [Problem::WrongFlow]);
        assert_eq!(report.problems[&Problem::WrongFlow].found, 3, "pending, working, done: {report}");
    }
    let report = audit(&scene.server, true).await;
    let wrong = &report.problems[&Problem::WrongFlow];
    assert_eq!((wrong.found, wrong.repaired), (3, 2), "one is missing in done, says its counter: {report}");
    let report = audit(&scene.server, false).await;
    assert!(report.problems.is_empty(), "{report}");
    // It goes on from there.
    let leased = scene.queue.lease(&request("s", 2, 9)).await.unwrap();
    assert!(scene.queue.settle(leased.iter().map(done).collect()).await.iter().all(Result::is_ok));
    let report = audit(&scene.server, false).await;
    assert!(report.problems.is_empty(), "{report}");
}

#[tokio::test]
async fn of_what_state_a_damaged_record_is_nobody_guesses() {
    let mut scene = Scene::new().await;
    let victim = scene.one_in(TaskState::Dead).await;
    let good: Vec<u8> = scene.client.get(keys::record(0, &victim)).await.unwrap();
    let (): () = scene.client.set(keys::record(0, &victim), "garbage").await.unwrap();
    for repair in [false, true] {
        let report = audit(&scene.server, repair).await;
        assert!(report.problems.contains_key(&Problem::DamagedRecord), "{report}");
        assert!(!report.problems.contains_key(&Problem::WrongFlow), "{report}");
    }
    let (): () = scene.client.set(keys::record(0, &victim), good).await.unwrap();
    let report = audit(&scene.server, true).await;
    assert!(!report.problems.contains_key(&Problem::WrongFlow), "nothing was written down: {report}");
}
