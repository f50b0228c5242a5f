//! How many requests are under way to one location: fewer while it asks for less load, more again when it does not.
//!
//! Additive increase, multiplicative decrease, as in TCP: half on the first refusal of a round trip, one more for each full round of
//! successes. All copies of the worker share the gate of a location, so one busy bucket slows everything that goes there, which is what
//! the store asked for.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use backhaul_runtime::metrics::Counter;
use tokio::sync::Notify;

use crate::store::{StoreError, StoreErrorKind};

/// The gate of one location.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<Window>,
    opened: Notify,
    /// Requests that were sent again.
    pub(super) repeated: Counter,
}

/// The pure part.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    most: f64,
    allowed: f64,
    in_flight: u32,
    /// Requests that were under way at the last decrease: their refusals belong to the same overload.
    forgiven: u32,
}

struct Passing<'a> {
    gate: &'a Gate,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    Throttled,
    Unknown,
}

impl Gate {
    /// Open for `most` requests.
    #[must_use]
    pub(super) fn new(most: u32) -> Self {
        Self { state: Mutex::new(Window::new(most)), opened: Notify::new(), repeated: Counter::default() }
    }

    /// Runs a request when there is room for it.
    ///
    /// # Errors
    /// Those of the request.
    pub(super) async fn pass<T>(
        &self,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut passing = self.enter().await;
        let result = request.await;
        passing.outcome = match &result {
            Err(StoreError { kind: StoreErrorKind::Throttled { .. }, .. }) => Outcome::Throttled,
            Ok(_) => Outcome::Answered,
            Err(_) => Outcome::Unknown,
        };
        result
    }

    /// How many requests may be under way now, and how many are.
    pub(super) fn load(&self) -> (u32, u32) {
        let state = self.state();
        (state.room(), state.in_flight)
    }

    async fn enter(&self) -> Passing<'_> {
        loop {
            let opened = self.opened.notified();
            if self.state().enter() {
                return Passing { gate: self, outcome: Outcome::Unknown };
            }
            opened.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, Window> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.leave(self.outcome);
        let free = state.room().saturating_sub(state.in_flight);
        drop(state);
        // Two may fit where one has left after an increase.
        for _ in 0..free.min(2) {
            self.gate.opened.notify_one();
        }
    }
}

impl Window {
    fn new(most: u32) -> Self {
        let most = f64::from(most.max(1));
        Self { most, allowed: most, in_flight: 0, forgiven: 0 }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and a u32, by construction"
    )]
    fn room(&self) -> u32 {
        self.allowed as u32
    }

    fn enter(&mut self) -> bool {
        let fits = self.in_flight < self.room();
        self.in_flight += u32::from(fits);
        fits
    }

    fn leave(&mut self, outcome: Outcome) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let forgiven = self.forgiven > 0;
        self.forgiven = self.forgiven.saturating_sub(1);
        match outcome {
            Outcome::Answered => self.allowed = (self.allowed + 1.0 / self.allowed).min(self.most),
            Outcome::Throttled if !forgiven => {
                self.allowed = (self.allowed / 2.0).max(1.0);
                self.forgiven = self.in_flight;
            }
            Outcome::Throttled | Outcome::Unknown => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures_util::{FutureExt, future::pending};

    use super::*;
    use crate::store::Operation;

    fn round(window: &mut Window, outcome: Outcome) {
        while window.enter() {}
        for _ in 0..window.in_flight {
            window.leave(outcome);
        }
    }

    #[test]
    fn a_round_of_refusals_halves_once_and_successes_bring_it_back() {
        let mut window = Window::new(64);
        round(&mut window, Outcome::Throttled);
        assert_eq!(window.room(), 32);
        round(&mut window, Outcome::Throttled);
        assert_eq!(window.room(), 16);
        for _ in 0..100 {
            round(&mut window, Outcome::Answered);
        }
        assert_eq!(window.room(), 64);
    }

    #[test]
    fn at_least_one_request_always_passes() {
        let mut window = Window::new(4);
        for _ in 0..20 {
            round(&mut window, Outcome::Throttled);
        }
        assert_eq!(window.room(), 1);
        assert!(window.enter());
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_makes_room_for_another() {
        let gate = Arc::new(Gate::new(1));
        let hung = gate.pass(pending::<Result<(), StoreError>>());
        let mut hung = Box::pin(hung);
        assert!(hung.as_mut().now_or_never().is_none());
        let mut waiting = Box::pin(gate.pass(async { Ok(1) }));
        assert!(waiting.as_mut().now_or_never().is_none(), "the only place is taken");
        drop(hung);
        let answered =
            tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("room").expect("ok");
        assert_eq!(answered, 1);
        let throttled = StoreErrorKind::Throttled { retry_after: Duration::ZERO };
        let refused = gate.pass(async { Err::<(), _>(StoreError::new(Operation::Get, throttled, "")) }).await;
        assert!(refused.is_err());
        assert_eq!(gate.state().room(), 1);
    }
}
