//! How many calls a second each identity may make, so that a flood of one does not use up what all have.
//!
//! `now` is an argument. An identity whose bucket is full again is as good as new and is forgotten; beyond a bound those that come share one
//! bucket, so that whoever has many names gains nothing and is remembered in little.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::rate::TokenBucket;

/// Most identities with a bucket of their own.
const MOST: usize = 10_000;
/// How often to look for those that can be forgotten, at most, when there is no room.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The buckets of all identities.
#[derive(Debug)]
pub(crate) struct Shares {
    per_second: u32,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    own: HashMap<Arc<str>, TokenBucket>,
    /// Of those for whom there is no room.
    others: TokenBucket,
    looked_at: Instant,
}

impl Shares {
    /// Nobody has called yet.
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        let others = TokenBucket::new(per_second, now);
        Self { per_second, buckets: Mutex::new(Buckets { own: HashMap::new(), others, looked_at: now }) }
    }

    /// Takes a token of that identity.
    ///
    /// # Errors
    /// The time until there is one.
    pub(crate) fn take(&self, name: &Arc<str>, now: Instant) -> Result<(), Duration> {
        // Only this short section holds the lock, and it cannot leave the buckets half changed.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = buckets.own.get_mut(name) {
            return own.take(now);
        }
        if buckets.own.len() >= MOST && now.duration_since(buckets.looked_at) >= LOOK_EVERY {
            buckets.looked_at = now;
            buckets.own.retain(|_, bucket| !bucket.is_full(now));
        }
        if buckets.own.len() >= MOST {
            return buckets.others.take(now);
        }
        let mut own = TokenBucket::new(self.per_second, now);
        let taken = own.take(now);
        buckets.own.insert(Arc::clone(name), own);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn each_identity_has_its_own_rate() {
        let now = Instant::now();
        let shares = Shares::new(2, now);
        let (flood, quiet) = (name("flood"), name("quiet"));
        let taken = (0..1000).filter(|_| shares.take(&flood, now).is_ok()).count();
        assert_eq!(taken, 2);
        assert_eq!(shares.take(&flood, now), Err(Duration::from_millis(500)));
        assert_eq!(shares.take(&quiet, now), Ok(()));
    }

    #[test]
    fn whoever_has_many_names_is_remembered_in_little_and_gains_nothing() {
        let start = Instant::now();
        let shares = Shares::new(1, start);
        let taken = (0..3 * MOST).filter(|n| shares.take(&name(&n.to_string()), start).is_ok()).count();
        assert_eq!(taken, MOST + 1, "those without room share one bucket");
        assert_eq!(shares.buckets.lock().unwrap().own.len(), MOST);
        // A second later all of them are as good as new.
        assert_eq!(shares.take(&name("later"), start + LOOK_EVERY), Ok(()));
        assert_eq!(shares.buckets.lock().unwrap().own.len(), 1);
    }
}
