//! How long to wait before connecting again: exponential growth with full jitter between two bounds.
//!
//! It exists so that a fleet that lost its dispatcher at one instant does not come back at one instant. It holds no clock and no
//! randomness of its own.

use std::time::Duration;

/// Delays that grow.
#[derive(Debug, Clone)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    failures: u32,
}

/// Bounds that make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BackoffError {
    /// Without a shortest delay a dead dispatcher would be dialled in a hot loop.
    #[error("the shortest delay must be longer than zero")]
    Zero,
    /// The bounds are the wrong way round.
    #[error("the longest delay must not be shorter than the shortest")]
    Reversed,
}

impl Backoff {
    /// Delays from `shortest` to `longest`.
    ///
    /// # Errors
    /// [`BackoffError`] when the bounds make no sense.
    pub const fn try_new(shortest: Duration, longest: Duration) -> Result<Self, BackoffError> {
        if shortest.is_zero() {
            return Err(BackoffError::Zero);
        }
        if longest.as_nanos() < shortest.as_nanos() {
            return Err(BackoffError::Reversed);
        }
        Ok(Self { shortest, longest, failures: 0 })
    }

    /// The next delay: uniform between the shortest and a ceiling that doubles with each call. `random` is uniform in `[0, 1)`.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let ceiling = self.shortest.saturating_mul(factor).min(self.longest);
        self.shortest + (ceiling - self.shortest).mul_f64(random.clamp(0.0, 1.0))
    }

    /// Starts from the shortest again; for a connection that proved stable.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(10);

    #[test]
    fn bounds_that_make_no_sense_are_refused() {
        assert_eq!(Backoff::try_new(Duration::ZERO, LONGEST).err(), Some(BackoffError::Zero));
        assert_eq!(Backoff::try_new(LONGEST, SHORTEST).err(), Some(BackoffError::Reversed));
        assert!(Backoff::try_new(SHORTEST, SHORTEST).is_ok());
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_longest_delay() {
        let mut backoff = Backoff::try_new(SHORTEST, LONGEST).expect("the bounds make sense");
        let ceilings: Vec<_> = (0..9).map(|_| backoff.next_delay(1.0).as_millis()).collect();
        assert_eq!(ceilings, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(1.0).as_millis(), 200);
    }

    #[test]
    fn every_delay_lies_between_the_bounds_however_many_failures() {
        let mut backoff = Backoff::try_new(SHORTEST, LONGEST).expect("the bounds make sense");
        for n in 0..100 {
            let delay = backoff.next_delay(f64::from(n) / 100.0);
            assert!((SHORTEST..=LONGEST).contains(&delay), "{delay:?} after {n}");
        }
        assert_eq!(backoff.next_delay(0.0), SHORTEST);
    }
}
