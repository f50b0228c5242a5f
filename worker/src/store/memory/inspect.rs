//! What tests do to a store in memory behind the back of the engine: put things in, spoil them, look.

use bytes::Bytes;

use super::{MemoryStore, Stored, flipped};
use crate::store::{Attributes, ObjectInfo, ObjectPath, Tag, Terms};

impl MemoryStore {
    /// Stores an object without conditions.
    ///
    /// # Panics
    /// When there is no such bucket.
    pub fn seed(
        &self,
        bucket: &str,
        key: &str,
        bytes: impl Into<Bytes>,
        attributes: Attributes,
        tags: &[Tag],
    ) {
        let crc = self.options.crc64nvme;
        let mut state = self.state();
        assert!(state.buckets.contains_key(bucket), "no bucket {bucket}");
        self.store(
            &mut state,
            ObjectPath { bucket, key },
            bytes.into(),
            attributes,
            tags.to_vec(),
            Terms::default(),
            crc,
            None,
        );
    }

    /// Changes what the store says about the latest version of an object.
    pub fn describe(&self, bucket: &str, key: &str, change: impl FnOnce(&mut ObjectInfo)) {
        let mut state = self.state();
        let latest = state.buckets.get_mut(bucket).and_then(|b| b.get_mut(key)).and_then(|v| v.last_mut());
        if let Some(stored) = latest {
            change(&mut stored.info);
        }
    }

    /// Gives somebody rights on the objects of that key.
    pub fn grant(&self, key: &str) {
        self.state().granted.insert(key.to_owned());
    }

    /// Lets time pass, in seconds.
    pub fn pass_time(&self, seconds: i64) {
        self.state().clock += seconds;
    }

    /// The store's time, in seconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.state().clock
    }

    /// Removes all versions of an object, as its owner could.
    pub fn remove(&self, bucket: &str, key: &str) {
        if let Some(objects) = self.state().buckets.get_mut(bucket) {
            objects.remove(key);
        }
    }

    /// Flips a bit of the latest version at rest; what the store says about it stays as it was.
    pub fn rot(&self, bucket: &str, key: &str) {
        let mut state = self.state();
        let latest = state.buckets.get_mut(bucket).and_then(|b| b.get_mut(key)).and_then(|v| v.last_mut());
        if let Some(stored) = latest {
            stored.bytes = flipped(&stored.bytes, 0);
        }
    }

    /// All versions of an object, oldest first.
    #[must_use]
    pub fn versions(&self, bucket: &str, key: &str) -> Vec<Stored> {
        self.state().buckets.get(bucket).and_then(|b| b.get(key)).cloned().unwrap_or_default()
    }

    /// All keys of a bucket.
    #[must_use]
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.state().buckets.get(bucket).map(|b| b.keys().cloned().collect()).unwrap_or_default()
    }

    /// Multipart uploads that were neither completed nor aborted.
    #[must_use]
    pub fn open_uploads(&self) -> Vec<String> {
        self.state().uploads.keys().cloned().collect()
    }
}
