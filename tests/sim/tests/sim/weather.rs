//! What goes wrong at the moment, and how often: set by the plan, asked by queue and stores before each call.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The weather of one run. Clones are the same weather.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    /// Calls in a thousand that go wrong.
    queue_faults: u32,
    store_faults: u32,
    /// Longest time of one call.
    queue_delay_ms: u64,
    store_delay_ms: u64,
    /// Dispatchers that cannot reach the queue.
    cut_off: Vec<usize>,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Executed and answered.
    Fine,
    /// Never arrives.
    NotExecuted,
    /// Executed; the answer is lost.
    AnswerLost,
    /// Executed twice, as by a client library that repeats a call whose answer did not come.
    Repeated,
}

/// A call's fate, and the time that it takes before and after it is executed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    pub(crate) fate: Fate,
    pub(crate) before: Duration,
    pub(crate) after: Duration,
}

impl Weather {
    /// Fine weather.
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            rng: fastrand::Rng::with_seed(seed),
            queue_faults: 0,
            store_faults: 0,
            queue_delay_ms: 2,
            store_delay_ms: 20,
            cut_off: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// From now on so many calls in a thousand go wrong.
    pub(crate) fn set_faults(&self, queue: u32, store: u32) {
        let mut state = self.state();
        (state.queue_faults, state.store_faults) = (queue, store);
    }

    /// From now on calls take up to so long.
    pub(crate) fn set_delays(&self, queue_ms: u64, store_ms: u64) {
        let mut state = self.state();
        (state.queue_delay_ms, state.store_delay_ms) = (queue_ms, store_ms);
    }

    /// Dispatchers that cannot reach the queue from now on.
    pub(crate) fn cut_off(&self, dispatchers: Vec<usize>) {
        self.state().cut_off = dispatchers;
    }

    /// The course of a dispatcher's call of the queue.
    pub(crate) fn queue_call(&self, dispatcher: usize) -> Course {
        let mut state = self.state();
        let (faults, delay) = (state.queue_faults, state.queue_delay_ms);
        let mut course = state.course(faults, delay);
        if state.cut_off.contains(&dispatcher) {
            course.fate = Fate::NotExecuted;
        }
        course
    }

    /// The course of a request to a store.
    pub(crate) fn store_call(&self) -> Course {
        let mut state = self.state();
        let (faults, delay) = (state.store_faults, state.store_delay_ms);
        state.course(faults, delay)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn course(&mut self, faults: u32, delay_ms: u64) -> Course {
        let fate = if self.rng.u32(..1000) >= faults {
            Fate::Fine
        } else {
            [Fate::NotExecuted, Fate::AnswerLost, Fate::Repeated][self.rng.usize(..3)]
        };
        let mut delay = || Duration::from_millis(self.rng.u64(..=delay_ms) / 2);
        let (before, after) = (delay(), delay());
        Course { fate, before, after }
    }
}
