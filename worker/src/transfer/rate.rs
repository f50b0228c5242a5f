//! How fast a location may be asked: so many requests or bytes a second, by this worker.
//!
//! What is taken beyond the rate is a debt that those who come next wait off. So a part may be larger than what one second allows, the
//! average holds, and whoever comes after a quiet time need not wait.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// A limit on something that is counted.
#[derive(Debug)]
pub(super) struct Rate {
    bucket: Mutex<Bucket>,
}

/// The pure part.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    per_second: f64,
    /// What may be taken at once; negative while in debt.
    level: f64,
    at: Instant,
}

impl Rate {
    /// So many a second, and as many at once after a second of rest.
    pub(super) fn new(per_second: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "nobody limits to more than 2^52 bytes a second")]
        let per_second = (per_second as f64).max(1.0);
        Self { bucket: Mutex::new(Bucket { per_second, level: per_second, at: Instant::now() }) }
    }

    /// Takes `amount`, after the debts of those before are waited off.
    pub(super) async fn take(&self, amount: u64) {
        let until = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), amount);
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }
}

impl Bucket {
    /// When the amount may be used; `None` for at once.
    fn take(&mut self, now: Instant, amount: u64) -> Option<Instant> {
        let rested = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.level = (self.level + rested * self.per_second).min(self.per_second);
        let debt = (-self.level).max(0.0);
        #[expect(clippy::cast_precision_loss, reason = "an estimate of a time")]
        let amount = amount as f64;
        self.level -= amount;
        (debt > 0.0).then(|| now + Duration::from_secs_f64((debt / self.per_second).min(86_400.0)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn over_time_the_rate_holds_and_rest_is_not_saved_up() {
        let rate = Rate::new(100);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let begun = Instant::now();
        join_all((0..1_001).map(|_| rate.take(1))).await;
        let took = begun.elapsed().as_secs_f64();
        assert!((8.9..9.1).contains(&took), "{took}: a second's worth at once, the rest in order");
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_a_second_allows_passes_and_is_waited_off_by_the_next() {
        let rate = Rate::new(1_000);
        let begun = Instant::now();
        rate.take(11_000).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        rate.take(1).await;
        assert_eq!(begun.elapsed().as_secs(), 10);
    }
}
