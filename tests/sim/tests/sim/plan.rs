//! What a seed stands for: how many of everything, and what happens to them when. Pure: a seed is all that it depends on.

use std::{fmt, time::Duration};

/// The plan of one run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) mood: Mood,
    pub(crate) dispatchers: usize,
    pub(crate) workers: usize,
    /// Objects that callers have backed up.
    pub(crate) objects: usize,
    pub(crate) tick: Duration,
    /// In the order of time.
    pub(crate) acts: Vec<(Duration, Act)>,
    /// How long a worker that is asked to end may take.
    pub(crate) worker_drains_within: Duration,
    /// From here on nothing goes wrong any more.
    pub(crate) heals_at: Duration,
}

/// What kind of run it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Everything is restarted in order, again and again, and nothing else happens: it must cost nothing at all.
    Graceful,
    /// Processes are killed and cut off from each other.
    Rough,
    /// And the queue and the stores fail and lose answers, too.
    Wild,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    Dispatcher(usize),
    Worker(usize),
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Ends at once.
    Kill(Host),
    /// Is asked to end.
    Stop(Host),
    /// Starts again, as soon as it has ended.
    Start(Host),
    /// Nothing passes between them.
    Cut(Host, Host),
    /// Nothing passes from the first to the second.
    CutOneWay(Host, Host),
    /// Everything passes again; what was lost is lost.
    Mend(Host, Host),
    /// Everything between them waits.
    Hold(Host, Host),
    /// And arrives.
    Release(Host, Host),
    /// Messages take up to so long.
    Latency(Duration),
    /// These dispatchers do not reach the queue.
    CutOffQueue(Vec<usize>),
    /// Calls of queue and stores in a thousand that go wrong.
    Faults(u32, u32),
    /// Longest times of calls of queue and stores, in milliseconds.
    Delays(u64, u64),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatcher(number) => write!(f, "dispatcher-{number}"),
            Self::Worker(number) => write!(f, "worker-{number}"),
        }
    }
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mood = [Mood::Graceful, Mood::Rough, Mood::Rough, Mood::Wild, Mood::Wild][rng.usize(..5)];
        let mut plan = Self {
            seed,
            mood,
            dispatchers: rng.usize(2..=3),
            workers: rng.usize(1..=4),
            objects: rng.usize(5..=40),
            tick: Duration::from_millis([10, 20, 25, 25][rng.usize(..4)]),
            acts: Vec::new(),
            worker_drains_within: Duration::from_secs(if mood == Mood::Graceful {
                60
            } else {
                rng.u64(1..=6)
            }),
            heals_at: Duration::from_secs(rng.u64(12..=25)),
        };
        match mood {
            Mood::Graceful => plan.restart_everything(&mut rng),
            Mood::Rough => plan.hurt(&mut rng, 7),
            Mood::Wild => plan.hurt(&mut rng, 11),
        }
        plan.acts.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Restarts in order, one process at a time of each kind, so that there is always somewhere to go.
    fn restart_everything(&mut self, rng: &mut fastrand::Rng) {
        let mut at = Duration::from_millis(rng.u64(500..4_000));
        let (mut dispatcher, mut worker) = (0, 0);
        while at < self.heals_at {
            let host = if rng.bool() {
                dispatcher = (dispatcher + 1) % self.dispatchers;
                Host::Dispatcher(dispatcher)
            } else {
                worker = (worker + 1) % self.workers;
                Host::Worker(worker)
            };
            self.acts.push((at, Act::Stop(host)));
            self.acts.push((at + Duration::from_millis(rng.u64(..2_000)), Act::Start(host)));
            at += Duration::from_millis(rng.u64(6_000..9_000));
        }
        if rng.bool() {
            self.acts.push((Duration::ZERO, Act::Latency(Duration::from_millis(rng.u64(5..200)))));
        }
        if rng.bool() {
            // Copies that outlast leases, and with them the streams that they came on.
            self.acts.push((Duration::ZERO, Act::Delays(2, rng.u64(200..1_500))));
        }
    }

    /// Adds faults, each with its end.
    fn hurt(&mut self, rng: &mut fastrand::Rng, kinds: usize) {
        let end_ms = u64::try_from(self.heals_at.as_millis()).unwrap_or(u64::MAX);
        if rng.u32(..3) > 0 {
            // Copies that take so long that what happens happens to them.
            self.acts.push((Duration::ZERO, Act::Delays(2, rng.u64(100..2_500))));
        }
        if kinds > 7 && rng.bool() {
            // Bad enough for attempts to fail, not only requests.
            self.acts.push((Duration::ZERO, Act::Faults(rng.u32(..150), rng.u32(300..900))));
        }
        for _ in 0..rng.usize(3..=12) {
            let from = rng.u64(..end_ms);
            let to = from + if rng.bool() { rng.u64(50..3_000) } else { rng.u64(3_000..12_000) };
            let (worker, dispatcher) = (self.some_worker(rng), self.some_dispatcher(rng));
            let (one, other) = if rng.bool() { (worker, dispatcher) } else { (dispatcher, worker) };
            let (begin, end) = match rng.usize(..kinds) {
                0 => (Act::Kill(worker), Act::Start(worker)),
                1 => (Act::Kill(dispatcher), Act::Start(dispatcher)),
                2 => (Act::Stop(one), Act::Start(one)),
                3 => (Act::Cut(one, other), Act::Mend(one, other)),
                4 => (Act::CutOneWay(one, other), Act::Mend(one, other)),
                5 => (Act::Hold(one, other), Act::Release(one, other)),
                6 => {
                    let slow = Duration::from_millis(rng.u64(100..2_000));
                    (Act::Latency(slow), Act::Latency(USUAL_LATENCY))
                }
                7 | 8 => {
                    let all = (0..self.dispatchers).filter(|_| rng.bool()).collect();
                    (Act::CutOffQueue(all), Act::CutOffQueue(Vec::new()))
                }
                9 => (Act::Faults(rng.u32(10..300), rng.u32(10..800)), Act::Faults(0, 0)),
                _ => (Act::Delays(rng.u64(10..1_500), rng.u64(10..4_000)), Act::Delays(2, 20)),
            };
            self.acts.push((Duration::from_millis(from), begin));
            self.acts.push((Duration::from_millis(to.min(end_ms)), end));
        }
    }

    fn some_worker(&self, rng: &mut fastrand::Rng) -> Host {
        Host::Worker(rng.usize(..self.workers))
    }

    fn some_dispatcher(&self, rng: &mut fastrand::Rng) -> Host {
        Host::Dispatcher(rng.usize(..self.dispatchers))
    }
}

/// Longest time that a message takes when nothing is wrong.
pub(crate) const USUAL_LATENCY: Duration = Duration::from_millis(20);
