//! How often an identity may open what lasts: a worker's stream, a watch. How many may be open at once is bounded elsewhere, but whoever closes
//! and opens again makes work too.
//!
//! `now` is an argument. The rate follows from how many an identity may have open, so that a worker is never the one who is refused.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{access, layers::shares::Shares};

/// Openings a second for each that may be open. A worker waits a tenth of a second before it connects again, and longer each time, so all that may
/// be connected with one name can come back at once, again and again, and stay below it.
const OF_EACH_A_SECOND: usize = 10;

/// What all identities have opened lately.
#[derive(Debug)]
pub(super) struct Openings {
    /// By workers. Apart from the rest: with one name for all nobody's watches may hinder them.
    connects: Shares,
    others: Shares,
}

impl Openings {
    /// Nobody has opened anything yet, and an identity may have that many open.
    pub(super) fn new(most_open: usize, now: Instant) -> Self {
        let a_second = u32::try_from(most_open.saturating_mul(OF_EACH_A_SECOND)).unwrap_or(u32::MAX);
        Self { connects: Shares::new(a_second, now), others: Shares::new(a_second, now) }
    }

    /// `name` opens what lasts, by that call.
    ///
    /// # Errors
    /// The time until it may.
    pub(super) fn take(&self, call: &str, name: &Arc<str>, now: Instant) -> Result<(), Duration> {
        let shares = if call == access::CONNECT { &self.connects } else { &self.others };
        shares.take(name, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCH: &str = "/grpc.health.v1.Health/Watch";

    #[test]
    fn an_identity_opens_so_often_and_takes_nothing_from_others_or_from_workers() {
        let now = Instant::now();
        let openings = Openings::new(3, now);
        let (flood, quiet): (Arc<str>, Arc<str>) = ("flood".into(), "quiet".into());
        assert_eq!((0..1000).filter(|_| openings.take(WATCH, &flood, now).is_ok()).count(), 30);
        assert!(openings.take(WATCH, &flood, now).is_err_and(|wait| wait <= Duration::from_millis(34)));
        assert_eq!(openings.take(WATCH, &quiet, now), Ok(()));
        assert_eq!(openings.take(access::CONNECT, &flood, now), Ok(()));
    }

    /// As hasty as the worker's backoff ever is, and all of them in step.
    #[test]
    fn workers_that_come_back_with_their_backoff_are_never_hindered() {
        let start = Instant::now();
        let fleet = 100;
        let openings = Openings::new(fleet, start);
        let name: Arc<str> = "spiffe://prod/backhaul/worker".into();
        for round in 0..100 {
            let now = start + Duration::from_millis(100) * round;
            for _ in 0..fleet {
                assert_eq!(openings.take(access::CONNECT, &name, now), Ok(()), "{round}");
            }
        }
    }
}
