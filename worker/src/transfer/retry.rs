//! When a request to a store is repeated inside a copy. Pure: the caller sleeps.
//!
//! These retries bridge hiccups of seconds. What lasts longer ends the attempt, and the queue's backoff takes over: a worker must not
//! sit on a lease and its memory while a store is down.

use std::time::Duration;

use crate::store::StoreErrorKind;

/// How often, and with which pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries of one request, the first included.
    pub attempts: u32,
    /// Upper bound of the first pause.
    pub first: Duration,
    /// Upper bound of any pause. A store that asks for a longer one ends the attempt.
    pub longest: Duration,
}

impl RetryPolicy {
    /// The pause before the next try, or `None` when there is none: `tries` were made, `chance` is uniform in 0..1.
    ///
    /// The pause is uniform between nothing and twice the last bound (full jitter), and never shorter than what the store asked for.
    #[must_use]
    pub fn pause(&self, tries: u32, kind: StoreErrorKind, chance: f64) -> Option<Duration> {
        if !kind.is_transient() || tries >= self.attempts {
            return None;
        }
        let asked =
            if let StoreErrorKind::Throttled { retry_after } = kind { retry_after } else { Duration::ZERO };
        if asked > self.longest {
            return None;
        }
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1)));
        Some(doubled.min(self.longest).mul_f64(chance.clamp(0.0, 1.0)).max(asked))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 5, first: Duration::from_millis(200), longest: Duration::from_secs(5) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { attempts: 4, first: Duration::from_millis(100), longest: Duration::from_secs(1) };

    #[test]
    fn pauses_double_up_to_a_bound_and_tries_end() {
        let pauses: Vec<_> = (1..=4).map(|n| POLICY.pause(n, StoreErrorKind::Server, 1.0)).collect();
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(pauses, [ms(100), ms(200), ms(400), None]);
        assert_eq!(POLICY.pause(1, StoreErrorKind::Server, 0.0), ms(0));
    }

    #[test]
    fn what_cannot_pass_is_not_tried_again() {
        for kind in [StoreErrorKind::Denied, StoreErrorKind::NoSuchKey, StoreErrorKind::PreconditionFailed] {
            assert_eq!(POLICY.pause(1, kind, 0.5), None);
        }
    }

    #[test]
    fn a_store_that_asks_for_a_pause_gets_it_or_loses_the_attempt() {
        let asks = |s| StoreErrorKind::Throttled { retry_after: Duration::from_secs(s) };
        assert_eq!(POLICY.pause(1, asks(1), 0.0), Some(Duration::from_secs(1)));
        assert_eq!(POLICY.pause(1, asks(2), 0.0), None);
    }
}
