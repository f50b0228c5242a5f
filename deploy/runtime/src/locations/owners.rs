//! Which account each bucket belongs to, as far as it is configured.
//!
//! A bucket that was deleted can be made anew by anybody under the same name. Who says with each request whose bucket is meant neither reads
//! from nor writes into that of a stranger.

use std::collections::BTreeMap;

/// Accounts of the buckets of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    pub(super) all: Option<String>,
    pub(super) by_bucket: BTreeMap<String, String>,
}

impl Owners {
    /// The account that a bucket must belong to; `None` where nobody said.
    #[must_use]
    pub fn of(&self, bucket: &str) -> Option<&str> {
        self.by_bucket.get(bucket).or(self.all.as_ref()).map(String::as_str)
    }

    /// Every bucket belongs to that account.
    #[must_use]
    pub fn all_of(account: &str) -> Self {
        Self { all: Some(account.to_owned()), by_bucket: BTreeMap::new() }
    }

    /// The same, but for one bucket.
    #[must_use]
    pub fn but(mut self, bucket: &str, account: &str) -> Self {
        self.by_bucket.insert(bucket.to_owned(), account.to_owned());
        self
    }
}
