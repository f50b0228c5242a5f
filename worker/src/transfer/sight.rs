//! Whether an origin tells of an object's tags. Pure.
//!
//! Stores say with an object how many tags it has, but only to those who may read tags, and some never do. Silence may therefore mean no
//! tags, or tags that would be lost unseen. To ask for each object would double the requests, so a bucket's silence is tried out on its
//! first objects and on a few later ones, and believed from then on.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Silent objects of a bucket that are asked about at once.
const FIRST: u64 = 8;
/// Of later ones, one in so many.
const SAMPLE: u64 = 64;
/// Buckets remembered.
const MOST_BUCKETS: usize = 1_000;

/// What silence means, by bucket.
#[derive(Debug, Default)]
pub(super) struct TagSight {
    buckets: Mutex<HashMap<String, Sight>>,
}

/// What an object without a count needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing: the bucket would have told.
    Believed,
    /// To be asked about.
    Doubted,
    /// To be named: the tags may not be read.
    Hidden,
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It has tags that nobody had told of.
    Untold,
    /// It has none.
    None,
    /// Not allowed to know.
    Denied,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sight {
    silent: u64,
    means: Means,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Means {
    #[default]
    NoTags,
    AnyTags,
    Hidden,
}

impl TagSight {
    /// What to do about an object whose tags were not counted.
    pub(super) fn silence(&self, bucket: &str) -> Silence {
        self.with(bucket, |sight| {
            let sampled = sight.silent < FIRST || sight.silent.is_multiple_of(SAMPLE);
            sight.silent += 1;
            match sight.means {
                Means::AnyTags => Silence::Doubted,
                Means::NoTags | Means::Hidden if sampled => Silence::Doubted,
                Means::NoTags => Silence::Believed,
                Means::Hidden => Silence::Hidden,
            }
        })
    }

    /// Takes note of what came of asking.
    pub(super) fn asked(&self, bucket: &str, asked: Asked) {
        self.with(bucket, |sight| {
            sight.means = match (asked, sight.means) {
                (Asked::Untold, _) | (Asked::None, Means::AnyTags) => Means::AnyTags,
                (Asked::None, Means::NoTags | Means::Hidden) => Means::NoTags,
                (Asked::Denied, _) => Means::Hidden,
            };
        });
    }

    fn with<T>(&self, bucket: &str, change: impl FnOnce(&mut Sight) -> T) -> T {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sight) = buckets.get_mut(bucket) {
            return change(sight);
        }
        if buckets.len() >= MOST_BUCKETS {
            buckets.clear();
        }
        change(buckets.entry(bucket.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubted(sight: &TagSight, objects: usize) -> usize {
        (0..objects).filter(|_| sight.silence("b") == Silence::Doubted).count()
    }

    #[test]
    fn silence_is_tried_out_and_then_believed_but_for_samples() {
        let sight = TagSight::default();
        for _ in 0..FIRST {
            assert_eq!(sight.silence("b"), Silence::Doubted);
            sight.asked("b", Asked::None);
        }
        assert_eq!(sight.silence("b"), Silence::Believed);
        let later = doubted(&sight, 6_400);
        assert!((90..=110).contains(&later), "{later}");
        assert_eq!(sight.silence("another"), Silence::Doubted);
    }

    #[test]
    fn one_untold_tag_makes_every_silence_doubtful() {
        let sight = TagSight::default();
        sight.asked("b", Asked::None);
        sight.asked("b", Asked::Untold);
        sight.asked("b", Asked::None);
        assert_eq!(doubted(&sight, 1_000), 1_000);
    }

    #[test]
    fn what_may_not_be_read_is_named_until_it_may() {
        let sight = TagSight::default();
        sight.asked("b", Asked::Denied);
        for _ in 0..FIRST {
            sight.silence("b");
        }
        assert_eq!(sight.silence("b"), Silence::Hidden);
        sight.asked("b", Asked::None);
        assert_eq!(sight.silence("b"), Silence::Believed);
    }
}
