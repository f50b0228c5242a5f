//! What goes to one location, and how much of it: fewer requests while it asks for less load or does not answer in time, more again when
//! it does; none while it asked to be left alone; never faster than configured.
//!
//! Additive increase, multiplicative decrease, as in TCP: half on the first refusal of a round trip, one more for each full round of
//! successes. All copies of the worker share the gate of a location, so one busy bucket slows everything that goes there, which is what
//! the store asked for. What the gate sees of answers also moves the location's [`Breaker`].

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backhaul_runtime::{locations::RateLimits, metrics::Counter};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    breaker::{Breaker, StoreState},
    rate::Rate,
};
use crate::store::{StoreError, StoreErrorKind};

/// Longest time that requests wait because the store asked for it. What is longer is the breaker's affair: copies that run must come to
/// an end of their own.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// The gate of one location.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    opened: Notify,
    /// Requests that were sent again.
    pub(super) repeated: Counter,
    requests: Option<Rate>,
    bytes: Option<Rate>,
    /// Told when the breaker opens or closes.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    window: Window,
    breaker: Breaker,
    /// Nothing passes until then.
    held_until: Option<Instant>,
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
    /// As asked.
    Done,
    /// With a refusal that says nothing about load.
    Refused,
    /// The store wants less load, and this long none.
    Throttled(Duration),
    /// Not in time.
    Late,
    /// The store failed, or was not reached.
    Failed,
    /// Given up by us.
    Dropped,
}

impl Gate {
    /// Open for `most` requests at once, within the limits. `changed` is told when the breaker opens or closes.
    #[must_use]
    pub(super) fn new(most: u32, limits: RateLimits, changed: Arc<Notify>) -> Self {
        let state = State { window: Window::new(most), breaker: Breaker::default(), held_until: None };
        Self {
            state: Mutex::new(state),
            opened: Notify::new(),
            requests: limits.requests_per_second.map(|n| Rate::new(u64::from(n))),
            bytes: limits.bytes_per_second.map(Rate::new),
            changed,
            repeated: Counter::default(),
        }
    }

    /// Waits until so many bytes may be moved from or to the location.
    pub(super) async fn take_bytes(&self, bytes: u64) {
        if let Some(rate) = &self.bytes {
            rate.take(bytes).await;
        }
    }

    /// Takes note that the bytes of an answer stopped coming.
    pub(super) fn stalled(&self) {
        self.state().window.decrease();
    }

    /// Until when the location is left alone, if it is.
    pub(super) fn closed_until(&self) -> Option<Instant> {
        self.state().breaker.until()
    }

    /// Asks whether the store is back, past everything that holds other requests up.
    pub(super) async fn pulse<T>(&self, request: impl Future<Output = Result<T, StoreError>>) {
        let outcome = Outcome::of(&request.await);
        let now = Instant::now();
        {
            let mut state = self.state();
            match outcome {
                Outcome::Done | Outcome::Refused => {
                    let _closed = state.breaker.answered(now);
                }
                Outcome::Throttled(asked) => state.breaker.still_away(now, asked),
                Outcome::Late | Outcome::Failed | Outcome::Dropped => {
                    state.breaker.still_away(now, Duration::ZERO);
                }
            }
        }
        self.changed.notify_one();
    }

    /// Runs a request when there is room for it.
    ///
    /// # Errors
    /// Those of the request.
    pub(super) async fn pass<T>(
        &self,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if let Some(rate) = &self.requests {
            rate.take(1).await;
        }
        let mut passing = self.enter().await;
        let result = request.await;
        passing.outcome = Outcome::of(&result);
        result
    }

    /// How the store stands.
    pub(super) fn store_state(&self) -> StoreState {
        self.state().breaker.state()
    }

    /// How many requests may be under way now, and how many are.
    pub(super) fn load(&self) -> (u32, u32) {
        let state = self.state();
        (state.window.room(), state.window.in_flight)
    }

    async fn enter(&self) -> Passing<'_> {
        loop {
            let opened = self.opened.notified();
            let held = {
                let mut state = self.state();
                let held = state.held_until.filter(|until| *until > Instant::now());
                if held.is_none() && state.window.enter() {
                    return Passing { gate: self, outcome: Outcome::Dropped };
                }
                held
            };
            match held {
                Some(until) => sleep_until(until).await,
                None => opened.await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        let changed = state.leave(self.outcome, Instant::now());
        let free = state.window.room().saturating_sub(state.window.in_flight);
        drop(state);
        if changed {
            self.gate.changed.notify_one();
        }
        // Two may fit where one has left after an increase.
        for _ in 0..free.min(2) {
            self.gate.opened.notify_one();
        }
    }
}

impl State {
    /// True when the breaker opened or closed.
    fn leave(&mut self, outcome: Outcome, now: Instant) -> bool {
        self.window.leave(outcome);
        match outcome {
            Outcome::Done | Outcome::Refused => self.breaker.answered(now),
            Outcome::Throttled(asked) => {
                let until = now + asked.min(LONGEST_HOLD);
                self.held_until = Some(self.held_until.map_or(until, |held| held.max(until)));
                self.breaker.failed(now, asked)
            }
            Outcome::Late | Outcome::Failed => self.breaker.failed(now, Duration::ZERO),
            Outcome::Dropped => false,
        }
    }
}

impl Outcome {
    fn of<T>(result: &Result<T, StoreError>) -> Self {
        use StoreErrorKind as Kind;
        let Err(error) = result else { return Self::Done };
        match error.kind {
            Kind::Throttled { retry_after } => Self::Throttled(retry_after),
            Kind::Timeout => Self::Late,
            Kind::Server | Kind::Connection | Kind::BadAnswer | Kind::CredentialsExpired => Self::Failed,
            Kind::NotFound
            | Kind::NoSuchKey
            | Kind::NoSuchVersion
            | Kind::NoSuchBucket
            | Kind::NoSuchUpload
            | Kind::InvalidPart
            | Kind::PreconditionFailed
            | Kind::Conflict
            | Kind::InvalidRange
            | Kind::Denied
            | Kind::Misdirected
            | Kind::ClockSkew
            | Kind::BadDigest
            | Kind::Archived
            | Kind::TooLarge
            | Kind::NotImplemented
            | Kind::Rejected => Self::Refused,
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
            Outcome::Done => self.allowed = (self.allowed + 1.0 / self.allowed).min(self.most),
            Outcome::Throttled(_) | Outcome::Late if !forgiven => self.decrease(),
            Outcome::Throttled(_) | Outcome::Late | Outcome::Refused | Outcome::Failed | Outcome::Dropped => {
            }
        }
    }

    fn decrease(&mut self) {
        self.allowed = (self.allowed / 2.0).max(1.0);
        self.forgiven = self.in_flight;
    }
}

#[cfg(test)]
mod tests {
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
        round(&mut window, Outcome::Throttled(Duration::ZERO));
        assert_eq!(window.room(), 32);
        round(&mut window, Outcome::Throttled(Duration::ZERO));
        assert_eq!(window.room(), 16);
        for _ in 0..100 {
            round(&mut window, Outcome::Done);
        }
        assert_eq!(window.room(), 64);
    }

    #[test]
    fn at_least_one_request_always_passes() {
        let mut window = Window::new(4);
        for _ in 0..20 {
            round(&mut window, Outcome::Throttled(Duration::ZERO));
        }
        assert_eq!(window.room(), 1);
        assert!(window.enter());
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_makes_room_for_another() {
        let gate = Arc::new(Gate::new(1, RateLimits::default(), Arc::default()));
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
        assert_eq!(gate.state().window.room(), 1);
    }

    async fn refused(gate: &Gate, kind: StoreErrorKind) {
        let refused = gate.pass(async { Err::<(), _>(StoreError::new(Operation::Get, kind, "")) }).await;
        assert!(refused.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_asks_for_a_pause_gets_it_from_everybody() {
        let gate = Gate::new(8, RateLimits::default(), Arc::default());
        let begun = Instant::now();
        refused(&gate, StoreErrorKind::Throttled { retry_after: Duration::from_secs(3) }).await;
        gate.pass(async { Ok(()) }).await.expect("passes");
        assert_eq!(begun.elapsed().as_secs(), 3);
        refused(&gate, StoreErrorKind::Throttled { retry_after: Duration::from_secs(600) }).await;
        assert_eq!(gate.closed_until(), Some(Instant::now() + Duration::from_secs(600)));
        let begun = Instant::now();
        gate.pass(async { Ok(()) }).await.expect("passes");
        assert_eq!(begun.elapsed(), LONGEST_HOLD, "a copy that runs is not kept for minutes");
        assert!(gate.closed_until().is_some(), "but nothing new is begun");
    }

    #[tokio::test(start_paused = true)]
    async fn late_answers_are_a_sign_of_load_and_refusals_are_not() {
        for (kind, room) in
            [(StoreErrorKind::Timeout, 4), (StoreErrorKind::NoSuchKey, 8), (StoreErrorKind::Server, 8)]
        {
            let gate = Gate::new(8, RateLimits::default(), Arc::default());
            refused(&gate, kind).await;
            assert_eq!(gate.state().window.room(), room, "{kind}");
        }
        let gate = Gate::new(8, RateLimits::default(), Arc::default());
        gate.stalled();
        assert_eq!(gate.state().window.room(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn configured_rates_hold() {
        let limits = RateLimits { requests_per_second: Some(10), bytes_per_second: Some(1_000) };
        let gate = Gate::new(64, limits, Arc::default());
        let begun = Instant::now();
        for _ in 0..31 {
            gate.pass(async { Ok(()) }).await.expect("passes");
        }
        assert_eq!(begun.elapsed().as_secs(), 2);
        let begun = Instant::now();
        gate.take_bytes(5_000).await;
        gate.take_bytes(1).await;
        assert_eq!(begun.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_breaker_is_told_of_and_a_pulse_closes_it() {
        let changed = Arc::new(Notify::new());
        let gate = Gate::new(8, RateLimits::default(), Arc::clone(&changed));
        for _ in 0..10 {
            refused(&gate, StoreErrorKind::Connection).await;
        }
        assert!(changed.notified().now_or_never().is_some());
        assert!(gate.closed_until().is_some());
        gate.pulse(async { Err::<(), _>(StoreError::new(Operation::Head, StoreErrorKind::Connection, "")) })
            .await;
        assert!(gate.closed_until().is_some());
        // A refusal is an answer.
        gate.pulse(async { Err::<(), _>(StoreError::new(Operation::Head, StoreErrorKind::NotFound, "")) })
            .await;
        assert_eq!(gate.closed_until(), None);
    }
}
