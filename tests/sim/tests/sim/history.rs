//! What happened, in the order in which it happened, and what of it must not have happened.
//!
//! Everybody writes here: callers, queue, workers, the plan. Two runs of one seed must write the same, so nothing that differs
//! between runs (addresses, real time) may be written.

use std::{
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

/// The history of one run. Clones are the same history.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    lines: Vec<String>,
    violations: Vec<String>,
}

impl History {
    /// Sets the time for those who are on no host.
    pub(crate) fn set_now(&self, now: Duration) {
        self.state().now = now;
    }

    /// The virtual time since the start.
    pub(crate) fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_else(|| self.state().now)
    }

    /// Writes down what somebody did.
    pub(crate) fn note(&self, who: impl Display, what: impl Display) {
        let line = format!("{:>9.3} {who}: {what}", self.now().as_secs_f64());
        self.state().lines.push(line);
    }

    /// Writes down that an invariant does not hold.
    pub(crate) fn violation(&self, what: impl Display) {
        let line = format!("{:>9.3} VIOLATION {what}", self.now().as_secs_f64());
        let mut state = self.state();
        state.lines.push(line.clone());
        state.violations.push(line);
    }

    /// The invariants that did not hold.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Everything.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.state().lines.clone()
    }

    /// A hash over everything.
    pub(crate) fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for line in &self.state().lines {
            hash.update(line.as_bytes());
            hash.update(b"\n");
        }
        hex::encode(&hash.finalize()[..16])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
