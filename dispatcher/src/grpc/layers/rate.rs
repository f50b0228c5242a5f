//! A token bucket: how many calls a second are let in, with as many at once after a pause.
//!
//! Pure: `now` is an argument. Keeps the time at which the bucket would be full instead of a count, so that nothing is rounded away
//! between two calls however fast they come.

use std::time::Duration;

use tokio::time::Instant;

/// The bucket. Holds as many tokens as come in a second.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    /// Time for one token to come.
    every: Duration,
    /// When all tokens are back, if none is taken. In the past when the bucket is full.
    full_at: Instant,
}

/// Time in which an empty bucket becomes full.
const FILL: Duration = Duration::from_secs(1);

impl TokenBucket {
    /// A full bucket; `per_second` is at least 1.
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self { every: FILL / per_second.max(1), full_at: now }
    }

    /// True when no token is missing: the bucket is as good as a new one.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Takes a token.
    ///
    /// # Errors
    /// The time until there is one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + self.every;
        let missing = full_at.duration_since(now);
        if missing > FILL {
            return Err(missing - FILL);
        }
        self.full_at = full_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_gives_a_seconds_worth_at_once_and_then_says_when_to_come_back() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, start);
        for _ in 0..10 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        assert_eq!(bucket.take(start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(start + Duration::from_millis(99)), Err(Duration::from_millis(1)));
        assert_eq!(bucket.take(start + Duration::from_millis(100)), Ok(()));
        assert!(bucket.take(start + Duration::from_millis(100)).is_err());
    }

    #[test]
    fn a_long_pause_fills_the_bucket_no_further_than_its_size() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(3, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| bucket.take(later).is_ok()).count(), 3);
    }

    #[test]
    fn refused_calls_cost_nothing() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1, start);
        assert_eq!(bucket.take(start), Ok(()));
        for _ in 0..1000 {
            assert!(bucket.take(start).is_err());
        }
        assert_eq!(bucket.take(start + FILL), Ok(()));
    }

    #[test]
    fn over_a_long_time_the_rate_is_kept_exactly() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(7, start);
        let taken =
            (0..60_000u64).filter(|ms| bucket.take(start + Duration::from_millis(*ms)).is_ok()).count();
        assert!((7 * 60..=7 * 61).contains(&taken), "{taken}");
    }
}
