//! The state of a running store: index, journal and bodies, and the one way to change them.
//!
//! A change is decided and carried out under one lock ([`Store::commit`]), which is what makes conditional writes
//! atomic. Nothing slow happens under it: bodies are written before and read after.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use s3s::{S3Result, s3_error};

use crate::blobs::{Blobs, Hold};
use crate::index::{BucketEntry, Index, Record, References};
use crate::journal::Journal;
use crate::model::{BlobId, BucketState, Content, Versioning};
use crate::options::{Bucket, StartError, Storage};

/// The region that this store claims to be in. Requests may be signed for any.
pub(crate) const REGION: &str = "us-east-1";

/// The account that owns everything.
pub(crate) const OWNER_ID: &str = "000000000000";

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
    pub(crate) blobs: Arc<Blobs>,
    last_id: AtomicU64,
}

#[derive(Debug)]
struct State {
    index: Index,
    /// `None` in memory.
    journal: Option<Journal>,
}

impl Store {
    /// Opens or creates the storage and makes sure that `buckets` exist.
    ///
    /// # Errors
    /// When the storage cannot be used or a bucket's name is not valid.
    pub(crate) fn open(storage: &Storage, buckets: &[Bucket]) -> Result<Self, StartError> {
        let store = match storage {
            Storage::Memory => Self::new(Index::default(), None, Blobs::in_memory(), 0),
            Storage::Directory(directory) => Self::open_directory(directory)?,
        };
        for bucket in buckets {
            if !s3s::path::check_bucket_name(&bucket.name) {
                return Err(StartError::BucketName { name: bucket.name.clone() });
            }
            store.ensure_bucket(bucket).map_err(|error| StartError::Storage {
                path: Path::new(&bucket.name).to_owned(),
                source: std::io::Error::other(error),
            })?;
        }
        Ok(store)
    }

    /// Looks at the index.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.lock().index)
    }

    /// Decides on a change and carries it out, with nothing in between.
    ///
    /// # Errors
    /// Those of `decide`, and `InternalError` when the journal cannot be written; nothing has changed then.
    pub(crate) fn commit<T>(&self, decide: impl FnOnce(&Index) -> S3Result<(Vec<Record>, T)>) -> S3Result<T> {
        let mut state = self.lock();
        let State { index, journal } = &mut *state;
        let (records, outcome) = decide(index)?;
        if records.is_empty() {
            return Ok(outcome);
        }
        if let Some(journal) = journal.as_mut() {
            journal
                .append(&records)
                .map_err(|error| s3_error!(error, InternalError, "cannot write the journal"))?;
        }
        let mut references = References::default();
        records.into_iter().for_each(|record| index.apply(record, &mut references));
        if let Some(journal) = journal
            && let Err(error) = journal.compact(index)
        {
            tracing::warn!(%error, "cannot rewrite the journal, it keeps growing");
        }
        // Counted under the lock, so that a later change cannot overtake this one; the files can wait.
        let unreferenced = self.blobs.adjust(&references.added, &references.dropped);
        drop(state);
        self.blobs.delete(&unreferenced);
        Ok(outcome)
    }

    /// Looks at the index and keeps the bodies of what was found.
    ///
    /// # Errors
    /// Those of `find`.
    pub(crate) fn find_and_hold<T>(
        &self,
        find: impl FnOnce(&Index) -> S3Result<(T, Content)>,
    ) -> S3Result<(T, Hold)> {
        let state = self.lock();
        let (found, content) = find(&state.index)?;
        let hold = self.blobs.hold(&content).ok_or_else(|| s3_error!(InternalError, "a body is missing"))?;
        Ok((found, hold))
    }

    /// A number never used before, not even before a restart: for blobs, versions and uploads. Grows with time.
    pub(crate) fn next_id(&self) -> u64 {
        let now = u64::try_from(since_epoch().as_micros()).unwrap_or(u64::MAX);
        let next = |last: u64| Some(now.max(last + 1));
        let last = self.last_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        last.map_or(now, |last| now.max(last + 1))
    }

    fn new(index: Index, journal: Option<Journal>, blobs: Blobs, last_id: u64) -> Self {
        let state = Mutex::new(State { index, journal });
        Self { state, blobs: Arc::new(blobs), last_id: AtomicU64::new(last_id) }
    }

    fn open_directory(directory: &Path) -> Result<Self, StartError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| StartError::Storage { path: directory.to_owned(), source })?;
        let (journal, index) = Journal::open(directory)?;
        let (blobs, last_id) = in_use(&index);
        let blobs = Blobs::open(&directory.join("bodies"), blobs.into_iter())?;
        Ok(Self::new(index, Some(journal), blobs, last_id))
    }

    fn ensure_bucket(&self, bucket: &Bucket) -> S3Result<()> {
        let created_ms = now_ms();
        self.commit(|index| {
            let known = index.bucket(&bucket.name).map(|entry| entry.state.clone());
            let mut state = known.clone().unwrap_or(BucketState {
                created_ms,
                versioning: Versioning::Off,
                object_lock: false,
            });
            if bucket.versioned {
                state.versioning = Versioning::Enabled;
            }
            let changed = known.as_ref() != Some(&state);
            let record = Record::Bucket { name: bucket.name.clone(), state };
            Ok((changed.then_some(record).into_iter().collect(), ()))
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave a change half done: records are applied after the journal has them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bucket, or the error that S3 gives.
///
/// # Errors
/// `NoSuchBucket`.
pub(crate) fn bucket_of<'a>(index: &'a Index, name: &str) -> S3Result<&'a BucketEntry> {
    index.bucket(name).ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))
}

/// Milliseconds since 1970: the store's only clock.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the edge: an object's times are wall-clock times, as in S3")]
fn since_epoch() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The blobs that an index refers to, once for each reference, and the highest number in use: a clock that was set back
/// must not bring a number twice.
fn in_use(index: &Index) -> (Vec<BlobId>, u64) {
    let mut references = References::default();
    let mut scratch = Index::default();
    let mut last_id = 0;
    for record in index.snapshot() {
        let id = match &record {
            Record::Put { version, .. } => u64::from_str_radix(&version.id, 16).ok(),
            Record::Upload { id, .. } | Record::UploadGone { id, .. } => u64::from_str_radix(id, 16).ok(),
            Record::Bucket { .. }
            | Record::BucketGone { .. }
            | Record::Gone { .. }
            | Record::Tagged { .. }
            | Record::Locked { .. }
            | Record::Part { .. } => None,
        };
        last_id = last_id.max(id.unwrap_or(0));
        scratch.apply(record, &mut references);
    }
    last_id = references.added.iter().copied().fold(last_id, u64::max);
    (references.added, last_id)
}
