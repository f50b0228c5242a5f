//! Counts who is here, in all and from each origin, against a bound on both. Places are given back by being dropped.
//!
//! Knows nothing of what is counted: connections by address, streams by identity.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Who is here.
#[derive(Debug)]
pub(crate) struct Census<K> {
    most: usize,
    most_of_each: usize,
    present: Mutex<Present<K>>,
}

#[derive(Debug)]
struct Present<K> {
    count: usize,
    of_each: HashMap<K, usize>,
}

/// A place that is taken as long as this lives.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    census: Arc<Census<K>>,
    key: K,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    /// Everything is taken.
    #[error("as many as there may be in all")]
    InAll,
    /// This origin has its share.
    #[error("as many as there may be from one origin")]
    OfOrigin,
}

impl<K: Eq + Hash + Clone> Census<K> {
    /// At most `most` in all, and `most_of_each` from each origin.
    pub(crate) fn new(most: usize, most_of_each: usize) -> Arc<Self> {
        let present = Mutex::new(Present { count: 0, of_each: HashMap::new() });
        Arc::new(Self { most, most_of_each, present })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`NoPlace`]; nothing was taken.
    pub(crate) fn enter(self: &Arc<Self>, key: K) -> Result<Place<K>, NoPlace> {
        let mut present = self.present();
        if present.count >= self.most {
            return Err(NoPlace::InAll);
        }
        let of_this = present.of_each.get(&key).copied().unwrap_or(0);
        if of_this >= self.most_of_each {
            return Err(NoPlace::OfOrigin);
        }
        present.count += 1;
        present.of_each.insert(key.clone(), of_this + 1);
        Ok(Place { census: Arc::clone(self), key })
    }

    /// How many are here.
    pub(crate) fn count(&self) -> usize {
        self.present().count
    }
}

impl<K> Census<K> {
    fn present(&self) -> MutexGuard<'_, Present<K>> {
        // Plain counts, changed in sections that cannot panic half way.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut present = self.census.present();
        present.count = present.count.saturating_sub(1);
        if let Some(of_this) = present.of_each.get_mut(&self.key) {
            *of_this = of_this.saturating_sub(1);
            // Origins are chosen by peers: those that have gone must not be remembered.
            if *of_this == 0 {
                present.of_each.remove(&self.key);
            }
        }
    }
}

/// The origin that an address belongs to: itself, or its network of 64 bits, all of which one machine can use.
pub(crate) fn origin_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_a_place_that_is_left_can_be_taken() {
        let census = Census::new(3, 2);
        let first = census.enter("a").unwrap();
        let _second = census.enter("a").unwrap();
        assert_eq!(census.enter("a").err(), Some(NoPlace::OfOrigin));
        let _third = census.enter("b").unwrap();
        assert_eq!(census.enter("c").err(), Some(NoPlace::InAll));
        drop(first);
        let _again = census.enter("a").unwrap();
        assert_eq!(census.count(), 3);
    }

    #[test]
    fn origins_that_have_gone_are_forgotten() {
        let census = Census::new(10, 1);
        for origin in 0..1_000 {
            drop(census.enter(origin).unwrap());
        }
        assert!(census.present().of_each.is_empty());
    }

    #[test]
    fn a_peer_cannot_multiply_itself_with_the_addresses_of_its_network() {
        let origin = |text: &str| origin_of(text.parse().unwrap());
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:2"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
    }
}
