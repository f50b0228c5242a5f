//! A token bucket that says whether a worker sends too many messages. Pure: the time is an argument.

use std::time::Instant;

/// Seconds of the sustained rate that may come at once.
const BURST_SECONDS: f64 = 10.0;

/// Refills steadily, up to a burst.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: f64,
    tokens: f64,
    filled_at: Instant,
}

impl RateLimit {
    /// A full bucket.
    pub(crate) fn new(now: Instant, per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, tokens: per_second * BURST_SECONDS, filled_at: now }
    }

    /// Takes one token; false when there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = self.filled_at.max(now);
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second * BURST_SECONDS);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant as Clock;

    use super::*;

    #[test]
    fn the_sustained_rate_passes_for_ever() {
        let start = Clock::now().into_std();
        let mut limit = RateLimit::new(start, 100);
        for i in 0..10_000_u64 {
            assert!(limit.take(start + Duration::from_millis(10 * i)), "message {i}");
        }
    }

    #[test]
    fn a_burst_passes_and_the_message_after_it_does_not() {
        let start = Clock::now().into_std();
        let mut limit = RateLimit::new(start, 100);
        assert!((0..1_000).all(|_| limit.take(start)));
        assert!(!limit.take(start));
        assert!(limit.take(start + Duration::from_millis(20)));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_away() {
        let start = Clock::now().into_std() + Duration::from_secs(60);
        let mut limit = RateLimit::new(start, 1);
        assert!((0..10).all(|_| limit.take(start)));
        assert!(!limit.take(start - Duration::from_secs(30)));
        assert!(!limit.take(start));
    }
}
