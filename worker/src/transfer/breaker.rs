//! Whether a location is worth asking at all: a store that fails every request is left alone for a while. Pure; time is an argument.
//!
//! Copies that run go on trying by their own rules; what stops while the breaker is open is the taking of new tasks, so that a store that
//! is away for an hour costs no attempts. After the pause one cheap request finds out whether it is back.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row, of all copies together, that mean the store and not the request.
const TRIP: u32 = 10;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause that nobody asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// The longest pause that a store may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// A store that asks for more than this is left alone at its first word.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers in a row after which old troubles are forgotten.
const FORGET: u32 = 100;

/// The breaker of one location.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Breaker {
    failures: u32,
    answers: u32,
    /// How often it opened since the store was last well.
    opened: u32,
    open: Option<Open>,
}

/// How a location's store stands, as far as anybody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreState {
    /// It answers, or nobody has asked.
    Answers,
    /// It failed too often in a row; tasks that need it are not taken.
    Away,
    /// It asked to be left alone; tasks that need it are not taken.
    Rests,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    until: Instant,
    /// The store named the time itself: an answer to something else does not shorten it.
    asked: bool,
}

impl Breaker {
    /// The store answered something, be it a refusal. True when that closed the breaker.
    pub(super) fn answered(&mut self, now: Instant) -> bool {
        self.failures = 0;
        self.answers = self.answers.saturating_add(1);
        if self.open.is_none() && self.answers >= FORGET {
            self.opened = 0;
        }
        if self.open.is_some_and(|open| !open.asked || open.until <= now) {
            self.open = None;
            return true;
        }
        false
    }

    /// The store did not answer, failed, or asked for `asked` of rest. True when that opened the breaker.
    pub(super) fn failed(&mut self, now: Instant, asked: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.answers = 0;
        if self.open.is_some() || (self.failures < TRIP && asked <= PATIENCE) {
            return false;
        }
        self.open_for(now, asked);
        true
    }

    /// Nothing came of the request that was to find out whether the store is back.
    pub(super) fn still_away(&mut self, now: Instant, asked: Duration) {
        self.open_for(now, asked);
    }

    /// Until when the location is left alone; `None` when it is not.
    pub(super) fn until(&self) -> Option<Instant> {
        self.open.map(|open| open.until)
    }

    /// How the store stands.
    pub(super) const fn state(&self) -> StoreState {
        match self.open {
            None => StoreState::Answers,
            Some(Open { asked: false, .. }) => StoreState::Away,
            Some(Open { asked: true, .. }) => StoreState::Rests,
        }
    }

    fn open_for(&mut self, now: Instant, asked: Duration) {
        let own = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.opened)).min(LONGEST_PAUSE);
        self.opened = self.opened.saturating_add(1);
        let pause = own.max(asked.min(LONGEST_ASKED));
        self.open = Some(Open { until: now + pause, asked: asked > PATIENCE });
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    fn tripped(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for n in 1..=TRIP {
            assert_eq!(breaker.failed(now, NO_TIME), n == TRIP);
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn only_failures_in_a_row_open_it_and_any_answer_closes_it() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            for _ in 1..TRIP {
                assert!(!breaker.failed(now, NO_TIME));
            }
            assert!(!breaker.answered(now));
        }
        let mut breaker = tripped(now);
        assert_eq!((breaker.until(), breaker.state()), (Some(now + FIRST_PAUSE), StoreState::Away));
        assert!(!breaker.failed(now, NO_TIME), "it is open already");
        assert!(breaker.answered(now));
        assert_eq!((breaker.until(), breaker.state()), (None, StoreState::Answers));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_bound_and_are_forgotten_when_the_store_is_well() {
        let now = Instant::now();
        let mut breaker = tripped(now);
        for seconds in [10, 20, 40, 80, 120, 120] {
            breaker.still_away(now, NO_TIME);
            assert_eq!(breaker.until(), Some(now + Duration::from_secs(seconds)));
        }
        assert!(breaker.answered(now));
        for _ in 1..FORGET {
            assert!(!breaker.answered(now));
        }
        for _ in 0..TRIP {
            breaker.failed(now, NO_TIME);
        }
        assert_eq!(breaker.until(), Some(now + FIRST_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_names_a_time_is_left_alone_for_it_whatever_else_it_answers() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        assert!(!breaker.failed(now, PATIENCE), "a copy waits that long by itself");
        let asked = Duration::from_secs(300);
        assert!(breaker.failed(now, asked));
        assert!(!breaker.answered(now));
        assert_eq!((breaker.until(), breaker.state()), (Some(now + asked), StoreState::Rests));
        assert!(breaker.answered(now + asked));
        assert!(breaker.failed(now, Duration::from_secs(1_000_000)));
        assert_eq!(breaker.until(), Some(now + LONGEST_ASKED));
    }
}
