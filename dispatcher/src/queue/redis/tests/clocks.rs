//! Servers whose clocks jump: what is told, and that nothing is lost, burnt or forgotten.

use std::time::Duration;

use redis::AsyncCommands as _;

use super::{Server, done, hopeless, queue, renewal, request, settings, task};
use crate::queue::{
    LeasedTask, Outcome, Progress, QueueClock, QueueSettings, RenewOutcome, Renewal, SweepReport, TaskId,
    TaskQueue as _, TaskState, UnixMs,
    redis::{
        RedisQueue,
        fsck::{FsckOptions, fsck},
        keys,
    },
    snapshot::Observe as _,
};

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;
/// Shorter than what is taken for an outage, longer than the least time between two sweeps.
const STEP: i64 = 8 * SECOND;

/// A queue on a server whose clock can be set, past its first amnesty, with a copy under way and a task in each other state.
struct Scene {
    server: Server,
    queue: RedisQueue,
    ahead_ms: i64,
    copied: u64,
    leased: LeasedTask,
    retried: TaskId,
    later: TaskId,
    done: TaskId,
    dead: TaskId,
}

impl Scene {
    async fn new() -> Self {
        let s = Duration::from_secs;
        let settings = QueueSettings {
            shards: 1,
            lease: s(60),
            outage: s(20),
            sweep_every: s(1),
            dedup_window: s(24 * 3600),
            retain_finished: s(24 * 3600),
            retain_dead: s(90 * 24 * 3600),
            ..settings()
        };
        let server = Server::start_with_clock(&[]);
        let queue = queue(&server, settings, &QueueClock::Server).await;
        let mut tasks: Vec<_> = (0..5).map(|n| task("t", n)).collect();
        tasks[4].process_at = Some(QueueClock::Server.local_now().plus(s(30 * 24 * 3600)));
        let ids: Vec<TaskId> =
            queue.submit(tasks).await.into_iter().map(|answer| answer.unwrap().id).collect();
        let mut leased = queue.lease(&request("s", 1, 4)).await.unwrap();
        let mut retry = hopeless(&leased[1]);
        if let Outcome::Failed { failure, .. } = &mut retry.outcome {
            failure.class = crate::queue::FailureClass::Retry;
            failure.retry_after = s(1800);
        }
        let reports = vec![retry, done(&leased[2]), hopeless(&leased[3])];
        assert!(queue.settle(reports).await.iter().all(Result::is_ok));
        let [retried, done, dead, later] = [1, 2, 3, 4].map(|n| ids[n].clone());
        let leased = leased.remove(0);
        let mut scene = Self { server, queue, ahead_ms: 0, copied: 0, leased, retried, later, done, dead };
        scene.keep().await;
        for _ in 0..9 {
            scene.pass(STEP).await;
        }
        assert!(!scene.pass(STEP).await.amnesty, "the first amnesty is over");
        assert_eq!(scene.jumps(), (0, 0));
        scene
    }

    /// The server's clock moves by that much; a sweep follows, then a heartbeat.
    async fn pass(&mut self, by_ms: i64) -> SweepReport {
        self.ahead_ms += by_ms;
        self.server.set_clock(self.ahead_ms);
        let report = self.queue.sweep().await.unwrap();
        assert_eq!((report.expired, report.reaped), (0, 0), "{report:?}");
        self.keep().await;
        report
    }

    /// The copy has moved on, and keeps its lease.
    async fn keep(&mut self) {
        self.copied += 1;
        let progress = Progress { bytes_done: self.copied, ..Progress::default() };
        let kept = self.queue.renew(&[Renewal { progress, ..renewal(&self.leased) }]).await.remove(0);
        assert!(matches!(kept, Ok(RenewOutcome::Keep(_))), "{kept:?}");
    }

    fn jumps(&self) -> (u64, u64) {
        let stats = self.queue.clocks();
        (stats.ahead.get(), stats.back.get())
    }

    async fn state(&self, id: &TaskId) -> TaskState {
        self.queue.get(id).await.unwrap().state
    }

    /// The time of the queue, as a task shows it that is made now.
    async fn now(&self, n: u32) -> UnixMs {
        let id = self.queue.submit(vec![task("clock", n)]).await.remove(0).unwrap().id;
        self.queue.get(&id).await.unwrap().created_at
    }

    /// Nothing was lost, no attempt and no crash was charged, and all of it goes on.
    async fn is_whole(&self) {
        let states =
            [self.state(&self.later).await, self.state(&self.done).await, self.state(&self.dead).await];
        assert_eq!(states, [TaskState::Scheduled, TaskState::Done, TaskState::Dead]);
        let copy = self.queue.get(&self.leased.id).await.unwrap();
        assert_eq!((copy.state, copy.attempts, copy.crashes), (TaskState::Working, 0, 0));
        let retried = self.queue.get(&self.retried).await.unwrap();
        assert_eq!((retried.attempts, retried.crashes), (1, 0));
        let audit = FsckOptions { repair: false, orphan_grace: Duration::ZERO, examples: 5 };
        let report = fsck(&super::options(&self.server, 0), audit).await.unwrap();
        assert!(report.problems.is_empty(), "{report}");
    }

    async fn clock_ahead(&self) -> Duration {
        self.queue.snapshot().await.unwrap().clock_ahead.unwrap()
    }
}

#[tokio::test]
async fn an_hour_ahead_for_a_while_loses_and_burns_nothing_and_is_told() {
    let mut scene = Scene::new().await;
    assert_eq!(scene.state(&scene.retried).await, TaskState::Delayed);
    let report = scene.pass(HOUR).await;
    assert!(report.amnesty, "nobody could renew in what looks like an hour");
    assert_eq!(scene.jumps(), (1, 0));
    assert_eq!(scene.state(&scene.retried).await, TaskState::Pending, "early, which costs nothing");
    for _ in 0..3 {
        scene.pass(STEP).await;
    }
    scene.is_whole().await;
    let before = scene.now(1).await;
    scene.pass(-HOUR).await;
    assert_eq!(scene.jumps(), (1, 1));
    assert!(scene.now(2).await >= before, "time never goes back");
    scene.pass(STEP).await;
    scene.is_whole().await;
}

#[tokio::test]
async fn what_a_clock_was_ahead_wears_off_slowly_while_time_goes_on() {
    let mut scene = Scene::new().await;
    scene.pass(300 * SECOND).await;
    scene.pass(-300 * SECOND).await;
    let ahead = scene.clock_ahead().await;
    assert!(ahead > Duration::from_secs(250), "{ahead:?}");
    let mut before = scene.now(0).await;
    let mut passes = 0;
    while scene.clock_ahead().await > Duration::ZERO {
        scene.pass(STEP).await;
        let now = scene.now(passes + 1).await;
        assert!(now >= before, "time never goes back");
        before = now;
        passes += 1;
        assert!(passes < 500, "it never wears off");
    }
    assert!(passes > 60, "all at once, after {passes}");
    scene.is_whole().await;
}

#[tokio::test]
async fn a_year_ahead_and_back_forgets_nothing() {
    let mut scene = Scene::new().await;
    scene.pass(29 * DAY).await;
    scene.pass(-29 * DAY).await;
    assert_eq!(scene.jumps(), (1, 1));
    // The task for a month ahead would be started, so the rest is looked at alone.
    for by_ms in [400 * DAY, STEP, STEP, -400 * DAY, STEP, STEP] {
        scene.pass(by_ms).await;
        for (id, state) in [(&scene.done, TaskState::Done), (&scene.dead, TaskState::Dead)] {
            assert_eq!(scene.state(id).await, state);
        }
    }
    assert_eq!(scene.jumps(), (2, 2));
    assert!(scene.queue.clocks().skew_s() > 0.9 * 400.0 * 86_400.0);
}

#[tokio::test]
async fn a_server_that_begins_decades_behind_and_is_put_right_makes_no_jump_in_time() {
    let mut scene = Scene::new().await;
    let before = scene.now(1).await;
    let decades = 20 * 365 * DAY;
    scene.pass(-decades).await;
    scene.pass(STEP).await;
    let behind = scene.now(2).await;
    assert!(behind >= before);
    scene.pass(decades).await;
    scene.pass(STEP).await;
    let right = scene.now(3).await;
    // As long as the test takes, and no decades.
    assert!(right.since(behind) < Duration::from_secs(24 * 3600), "{:?}", right.since(behind));
    scene.is_whole().await;
    let meta: Vec<u8> = scene.server.client().await.get(keys::meta(0)).await.unwrap();
    let added = meta[6..12].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    assert!(added < 24 * 3_600_000, "{added} ms are still added");
}
