//! What a store in memory can do, so that one model stands for strong and weak stores. Decides nothing by itself.

use std::time::Duration;

use crate::store::{Operation, StoreError, StoreErrorKind as Kind};

/// What the store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Keeps every version of a key, in buckets whose names begin with `versioned`.
    pub versioning: bool,
    /// Honours `If-None-Match: *`; otherwise it overwrites and says nothing, like some real stores.
    pub create_only: bool,
    /// Honours `If-Match` on reads; otherwise it sends what is there, like some real stores.
    pub pins: bool,
    /// ETags are MD5s; otherwise they only differ from each other.
    pub md5_etags: bool,
    /// Checks, keeps and reports CRC-64/NVME.
    pub crc64nvme: bool,
    /// Checks an MD5; otherwise it takes any, like some real stores.
    pub checks_md5: bool,
    /// Has tags; otherwise a write with tags is refused.
    pub tagging: bool,
    /// Has server-side copies.
    pub copying: bool,
    /// Says with each object how many tags it has; otherwise only those who ask for the tags see them.
    pub counts_tags: bool,
    /// Keeps retentions; otherwise it takes them and says nothing, like some real stores.
    pub locking: bool,
    /// Also those that copies inside it ask for; otherwise these have what their source has, like on some real stores.
    pub locks_copies: bool,
    /// Most bytes of a key.
    pub key_max_bytes: usize,
    /// Says of a longer key that it is too busy; otherwise that it is too long.
    pub chokes_on_keys: bool,
    /// Without versions it tells one of what it writes, and reads what is there whichever is asked for, like some real stores.
    pub false_versions: bool,
    /// Uploads on one page of a listing.
    pub page: usize,
    /// Smallest part but for the last.
    pub min_part_bytes: u64,
    /// Bytes of a piece of a body.
    pub piece_bytes: usize,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            versioning: true,
            create_only: true,
            pins: true,
            md5_etags: true,
            crc64nvme: true,
            checks_md5: true,
            tagging: true,
            copying: true,
            counts_tags: true,
            locking: true,
            locks_copies: true,
            key_max_bytes: 1024,
            chokes_on_keys: false,
            false_versions: false,
            page: 1_000,
            min_part_bytes: 1,
            piece_bytes: 64 * 1024,
        }
    }
}

impl MemoryOptions {
    pub(super) fn takes_key(&self, operation: Operation, key: &str) -> Result<(), StoreError> {
        match (key.len() > self.key_max_bytes, self.chokes_on_keys) {
            (false, _) => Ok(()),
            (true, false) => Err(StoreError::new(operation, Kind::Rejected, "KeyTooLongError")),
            (true, true) => {
                let busy = Kind::Throttled { retry_after: Duration::ZERO };
                Err(StoreError::new(operation, busy, "could not reach quorum"))
            }
        }
    }
}
