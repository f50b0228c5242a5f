//! Random histories: the queue under test and the reference queue do the same, and must always say and hold the same.
//!
//! A history is made from a seed: submits of few objects by few tenants, leases by several sessions, renewals, reports that are
//! late, stale, repeated or foreign, calls that are sent twice because an answer was lost, cancels, sweeps and steps of the clock.
//! After each step all tasks and depths are compared, and what must hold in any history is checked on its own (`check`), so
//! that a mistake in both queues shows too. Only tokens and cursors may differ.

mod check;
mod steps;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use super::harness::{Factory, START, test_settings};
use crate::queue::{
    EventCursor, LeaseRequest, LeaseToken, QueueClock, QueueError, QueueSettings, RetryPolicy, TaskId,
    TaskQueue, TaskRecord, TaskState, UnixMs, memory::MemoryQueue,
};

/// How many random histories to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    first: u64,
    count: u64,
}

/// Steps of a history.
const STEPS: u32 = 400;

/// Steps that are shown when a history fails.
const SHOWN_STEPS: usize = 40;

/// Two queues with one history.
struct World {
    seed: u64,
    step: u32,
    rng: fastrand::Rng,
    subject: Arc<dyn TaskQueue>,
    model: MemoryQueue,
    clock: QueueClock,
    settings: QueueSettings,
    /// Every task ever accepted, as the subject showed it last; `None` when its retention is over.
    known: BTreeMap<TaskId, Option<TaskRecord>>,
    /// Every lease ever given.
    leases: Vec<Lease>,
    /// Leases that a worker still believes it has, by index into `leases`.
    held: Vec<usize>,
    sessions: Vec<Session>,
    /// Tokens whose report was stored.
    stored: HashSet<LeaseToken>,
    /// Tasks whose retention was over at some time.
    reaped: HashSet<TaskId>,
    /// How far the log of changes has been read.
    cursor: Option<EventCursor>,
    log: VecDeque<String>,
}

/// One lease, with the tokens it has in the two queues.
#[derive(Debug, Clone)]
struct Lease {
    id: TaskId,
    subject: LeaseToken,
    model: LeaseToken,
    bytes_done: u64,
}

/// A stream of a worker.
struct Session {
    name: String,
    requests: u64,
    /// Its newest request that was answered with leases, and when.
    newest: Option<(LeaseRequest, UnixMs)>,
}

impl Plan {
    /// The histories of the suite; `BACKHAUL_QUEUE_SEED` names one seed to run instead, `BACKHAUL_QUEUE_HISTORIES` how many to run.
    #[must_use]
    pub fn from_env() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test is asked for one history again by its environment"
        )]
        let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
        match number("BACKHAUL_QUEUE_SEED") {
            Some(seed) => Self { first: seed, count: 1 },
            None => Self { first: 1, count: number("BACKHAUL_QUEUE_HISTORIES").unwrap_or(12) },
        }
    }

    /// The seeds.
    pub fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// Small bounds and short times, so that every limit is met in a short history.
#[must_use]
pub fn random_settings(seed: u64) -> QueueSettings {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5e77);
    let s = Duration::from_secs;
    QueueSettings {
        lease: s(10),
        accept_within: s(4),
        max_crashes: rng.u32(1..4),
        max_returns: rng.u32(0..4),
        retry: RetryPolicy { base: s(2), max: s(20), floor: Duration::from_millis(500) },
        dedup_window: s(rng.u64(20..120)),
        retain_finished: s(rng.u64(20..120)),
        retain_dead: s(rng.u64(100..300)),
        shard_cap: rng.u64(8..30),
        tenant_cap: rng.u64(4..12),
        tenant_in_flight_cap: rng.u64(1..6),
        outage: s(45),
        sweep_every: Duration::from_millis(rng.u64(1..3000)),
        ..test_settings()
    }
}

/// Runs the history of one seed; panics with the seed and the last steps when a queue of `factory` differs from the reference.
pub async fn random_history(factory: &Factory, seed: u64) {
    let settings = random_settings(seed);
    let clock = QueueClock::starting_at(START);
    let mut world = World {
        seed,
        step: 0,
        rng: fastrand::Rng::with_seed(seed),
        subject: factory.make(settings.clone(), clock.clone()).await,
        model: MemoryQueue::new(settings.clone(), clock.clone()),
        clock,
        settings,
        known: BTreeMap::new(),
        leases: Vec::new(),
        held: Vec::new(),
        sessions: (0..3).map(Session::new).collect(),
        stored: HashSet::new(),
        reaped: HashSet::new(),
        cursor: None,
        log: VecDeque::new(),
    };
    for step in 0..STEPS {
        world.step = step;
        world.random_step().await;
        world.check().await;
    }
    world.drain().await;
}

impl World {
    /// What went in must come out: with time, workers and no more trouble every task finishes.
    async fn drain(&mut self) {
        for _ in 0..400 {
            self.step += 1;
            self.clock.advance(Duration::from_secs(5));
            self.sweep().await;
            self.check().await;
            self.lease_and_finish().await;
            self.check().await;
            let mut open = self.known.values().flatten().filter(|record| !record.state.is_finished());
            if open.next().is_none() {
                return;
            }
        }
        self.fail("tasks are left that never finish");
    }

    fn note(&mut self, what: String) {
        if self.log.len() == SHOWN_STEPS {
            self.log.pop_front();
        }
        let since = self.clock.local_now().since(START).as_millis();
        self.log.push_back(format!("{:4} +{since} ms  {what}", self.step));
    }

    /// Panics unless both queues said the same.
    #[track_caller]
    fn same<T: PartialEq + Debug>(&self, what: &str, subject: &T, model: &T) {
        if subject != model {
            self.fail(&format!("{what} differs\n  subject:   {subject:?}\n  reference: {model:?}"));
        }
    }

    /// Panics unless `holds`.
    #[track_caller]
    fn must(&self, holds: bool, what: &str, about: &dyn Debug) {
        if !holds {
            self.fail(&format!("{what}: {about:?}"));
        }
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let log: Vec<_> = self.log.iter().map(String::as_str).collect();
        let Self { seed, step, .. } = self;
        panic!(
            "random history, seed {seed}, step {step}: {what}\nlast steps:\n{}\nagain: BACKHAUL_QUEUE_SEED={seed}",
            log.join("\n")
        );
    }

    /// The subject's token for one of the reference queue.
    fn token(&self, model: LeaseToken) -> Option<LeaseToken> {
        self.leases.iter().rev().find(|lease| lease.model == model).map(|lease| lease.subject)
    }

    fn state(&self, id: &TaskId) -> Option<TaskState> {
        self.known.get(id)?.as_ref().map(|record| record.state)
    }
}

impl Session {
    fn new(n: usize) -> Self {
        Self { name: format!("session-{n}"), requests: 0, newest: None }
    }
}

/// An answer that can be compared: errors by what they say.
fn told<T>(answer: Result<T, QueueError>) -> Result<T, String> {
    answer.map_err(|error| error.to_string())
}
