//! The leases a worker holds and until when it may use them.
//!
//! Times are the worker's own: a lease is counted from when the message that won it was sent or received, never from a timestamp of
//! another machine, and less a margin, so that a copy is told to stop while its lease still lasts. Holds no copies.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::task::{LeaseKey, StopReason, Token};

/// Longer leases are cut to this: no renewal needs more, and sums with it cannot overflow.
const LONGEST_LEASE: Duration = Duration::from_secs(24 * 3600);

/// All leases held.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: BTreeMap<LeaseKey, Lease>,
    bytes: u64,
    /// No lease ends before this. May be too early after a renewal; never too late.
    earliest: Option<Instant>,
}

#[derive(Debug)]
struct Lease {
    ends: Instant,
    cost: u64,
    stopping: Option<StopReason>,
}

impl Leases {
    /// Takes a lease of `lease_for` from `since`.
    pub(crate) fn insert(&mut self, key: LeaseKey, since: Instant, lease_for: Duration, cost: u64) {
        let ends = usable_until(since, lease_for);
        self.earliest = Some(self.earliest.map_or(ends, |e| e.min(ends)));
        self.bytes = self.bytes.saturating_add(cost);
        if let Some(old) = self.held.insert(key, Lease { ends, cost, stopping: None }) {
            self.bytes = self.bytes.saturating_sub(old.cost);
        }
    }

    /// Gives a lease up; whether it was held.
    pub(crate) fn remove(&mut self, key: &LeaseKey) -> bool {
        let removed = self.held.remove(key);
        if let Some(lease) = &removed {
            self.bytes = self.bytes.saturating_sub(lease.cost);
        }
        removed.is_some()
    }

    /// The end of a lease is now `lease_for` after `since`.
    pub(crate) fn renew(&mut self, key: &LeaseKey, since: Instant, lease_for: Duration) {
        if let Some(lease) = self.held.get_mut(key) {
            lease.ends = usable_until(since, lease_for);
            self.earliest = Some(self.earliest.map_or(lease.ends, |e| e.min(lease.ends)));
        }
    }

    /// The end of a lease is now at least `lease_for` after `since`.
    pub(crate) fn extend(&mut self, key: &LeaseKey, since: Instant, lease_for: Duration) {
        if let Some(lease) = self.held.get_mut(key) {
            lease.ends = lease.ends.max(usable_until(since, lease_for));
        }
    }

    /// Notes that a copy is told to stop; false when it has been told so before or nothing is held. `Lost` is not noted but
    /// [removed](Self::remove).
    pub(crate) fn mark_stopping(&mut self, key: &LeaseKey, reason: StopReason) -> bool {
        match self.held.get_mut(key) {
            // A cancel that follows a hand-back still matters: the upload must go.
            Some(lease)
                if lease.stopping != Some(reason) && lease.stopping != Some(StopReason::Cancelled) =>
            {
                lease.stopping = Some(reason);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Removes and returns the leases that are over.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<LeaseKey> {
        if self.earliest.is_none_or(|e| e > now) {
            return Vec::new();
        }
        let over: Vec<_> = self.held.iter().filter(|(_, l)| l.ends <= now).map(|(k, _)| k.clone()).collect();
        for key in &over {
            self.remove(key);
        }
        self.earliest = self.held.values().map(|l| l.ends).min();
        over
    }

    /// Other leases on the same task: there is at most one, and a newer one makes it void.
    pub(crate) fn other_on_task(&self, key: &LeaseKey) -> Option<LeaseKey> {
        let first =
            LeaseKey { task_id: std::sync::Arc::clone(&key.task_id), token: Token::new([0; Token::LEN]) };
        self.held
            .range(first..)
            .map(|(k, _)| k)
            .take_while(|k| k.task_id == key.task_id)
            .find(|k| k.token != key.token)
            .cloned()
    }

    pub(crate) fn contains(&self, key: &LeaseKey) -> bool {
        self.held.contains_key(key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &LeaseKey> {
        self.held.keys()
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// What the held tasks count as, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When to call [`Self::expire`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.earliest
    }
}

/// When to stop using a lease: a tenth of it before its end, for the stopping and for clocks that differ in speed.
fn usable_until(since: Instant, lease_for: Duration) -> Instant {
    let lease_for = lease_for.min(LONGEST_LEASE);
    since + (lease_for - lease_for / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn key(task: &str, token: u8) -> LeaseKey {
        LeaseKey::from_wire(task, &[token; 16]).expect("it is well formed")
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an arbitrary instant to count from")]
    fn a_lease_is_over_a_tenth_before_its_end() {
        let t0 = Instant::now();
        let mut leases = Leases::default();
        leases.insert(key("a", 1), t0, LEASE, 5);
        assert_eq!(leases.poll_timeout(), Some(t0 + Duration::from_secs(27)));
        assert_eq!(leases.expire(t0 + Duration::from_millis(26_999)), []);
        assert_eq!(leases.expire(t0 + Duration::from_secs(27)), [key("a", 1)]);
        assert_eq!((leases.len(), leases.bytes(), leases.poll_timeout()), (0, 0, None));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an arbitrary instant to count from")]
    fn a_renewal_may_shorten_a_lease_and_cannot_overflow() {
        let t0 = Instant::now();
        let mut leases = Leases::default();
        leases.insert(key("a", 1), t0, LEASE, 5);
        leases.renew(&key("a", 1), t0, Duration::MAX);
        assert_eq!(leases.expire(t0 + LEASE), []);
        leases.renew(&key("a", 1), t0 + LEASE, Duration::from_secs(1));
        assert_eq!(leases.expire(t0 + LEASE + Duration::from_secs(1)), [key("a", 1)]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an arbitrary instant to count from")]
    fn only_another_token_on_the_same_task_is_another_lease() {
        let t0 = Instant::now();
        let mut leases = Leases::default();
        leases.insert(key("a", 0), t0, LEASE, 1);
        leases.insert(key("ab", 3), t0, LEASE, 1);
        assert_eq!(leases.other_on_task(&key("a", 0)), None);
        assert_eq!(leases.other_on_task(&key("a", 2)), Some(key("a", 0)));
        assert_eq!(leases.other_on_task(&key("b", 2)), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an arbitrary instant to count from")]
    fn a_copy_is_told_once_to_stop_for_one_reason_and_a_cancel_wins() {
        let t0 = Instant::now();
        let mut leases = Leases::default();
        leases.insert(key("a", 1), t0, LEASE, 1);
        assert!(leases.mark_stopping(&key("a", 1), StopReason::HandBack));
        assert!(!leases.mark_stopping(&key("a", 1), StopReason::HandBack));
        assert!(leases.mark_stopping(&key("a", 1), StopReason::Cancelled));
        assert!(!leases.mark_stopping(&key("a", 1), StopReason::Cancelled));
        assert!(!leases.mark_stopping(&key("a", 1), StopReason::HandBack));
        assert!(!leases.mark_stopping(&key("b", 1), StopReason::Cancelled));
    }
}
