//! The transfer engine's contract: what a copy is asked for, what it reports while it runs, and what it ends in.
//!
//! A copy is atomic at its completion, verified before it is called done, and leaves no multipart upload behind unless the next
//! attempt can go on with it. The engine speaks only object-store verbs: nothing here may know protobuf, tonic or leases.
//!
//! # The way of a copy
//!
//! `engine` finds the route and begins again where the source changed; `source` finds out what is to be copied and pins it. Then one of
//! three strategies: `whole` (one GET, one PUT), `large` (ranges and parts side by side, over an `upload`), `server_side` (the store copies
//! by itself). All read through `read`, look at taken keys through `existing`, and prove what they wrote through `verify`.
//!
//! What can be decided without I/O is decided apart from it: `plan` (parts), [`key`] (names), [`metadata`] (what a restore needs),
//! `checksum`, `retry`, `failure` (what a refusal means), the arithmetic of `gate` (requests at once) and `permits` (memory),
//! `breaker` (whether to ask a store at all), `rate` (how fast) and `sight` (whether an origin tells of tags).
//! `listing` finds what is below a prefix and not backed up yet. `capability` finds out what a backup store can do, once. `tend` and `janitor` do what is to be done besides copying.
//!
//! # What the buckets need
//!
//! Uploads that nobody goes on with are found and aborted after a week, where the worker may list them (`ListMultipartUploads`). The
//! backup bucket should have a lifecycle rule `AbortIncompleteMultipartUpload` all the same: it needs no worker to run. Under
//! `<prefix>/.backhaul/probe/` lie some objects of a few bytes by which `capability` knows what was found out before; without them it
//! only begins again.

mod breaker;
mod buffers;
mod capability;
mod checksum;
mod clock;
mod engine;
mod existing;
mod failure;
mod gate;
mod janitor;
mod job;
pub mod key;
mod large;
mod length;
mod listing;
mod manifest;
pub mod metadata;
mod permits;
mod plan;
mod put;
mod rate;
mod read;
mod receipt;
mod retry;
mod route;
mod server_side;
mod settings;
mod sight;
mod source;
mod tend;
#[cfg(test)]
mod tests;
mod upload;
mod verify;
mod whole;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use breaker::StoreState;
pub use capability::{Capabilities, PROBE_FOLDER, probe_root};
pub use engine::{Engine, Probe, SetupError, SiteLoad};
pub use listing::{PageFilter, PageFound, PageRequest};
pub use plan::{Limits, PartPlan, PlanError};
pub use retry::RetryPolicy;
pub use settings::{EngineSettings, SettingsError};

/// Copies one object. The engine is the implementation; tests of the runner use others.
#[async_trait]
pub trait Copier: Send + Sync + fmt::Debug + 'static {
    /// Copies one object to its backup and verifies it.
    ///
    /// When `stop` is cancelled it ends soon with [`TransferErrorKind::Cancelled`], leaving nothing behind except an upload that it
    /// has named in `progress` (only when `stop` asks to keep it).
    ///
    /// # Errors
    /// [`TransferError`]: its kind decides what happens to the task.
    async fn copy(
        &self,
        request: &CopyRequest,
        progress: Arc<ProgressCell>,
        stop: Stop,
    ) -> Result<CopyReceipt, TransferError>;
}

/// One copy to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRequest {
    /// For logs and the backup's metadata.
    pub task_id: String,
    /// For the backup's metadata.
    pub tenant: String,
    /// Name of a configured location.
    pub location: String,
    /// Bucket at that location.
    pub bucket: String,
    /// Key exactly as the store has it.
    pub key: String,
    /// Version id; `None` means the latest now.
    pub version: Option<String>,
    /// Proof wanted; `None` means the location's level.
    pub verify: Option<VerifyLevel>,
    /// Multipart upload that an earlier attempt left; empty when none.
    pub resume_upload_id: String,
    /// Retention class of the copy; `None` for the retention that all others have.
    pub retention_class: Option<String>,
}

/// Proof wanted before a copy is called done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerifyLevel {
    /// The worker's checksum agrees with the store's answer to the write.
    Receipt,
    /// And a HEAD agrees.
    Head,
    /// And the backup, read back, agrees.
    Readback,
}

/// How a copy is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Stop and abort the multipart upload: the task is cancelled, so nobody goes on with it.
    pub abort: CancellationToken,
    /// Stop and leave the multipart upload to the next attempt: the worker drains, or has lost the lease.
    pub hand_back: CancellationToken,
}

/// How far a copy is; written by the engine, read by heartbeats.
#[derive(Debug, Default)]
pub struct ProgressCell {
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    steps_done: AtomicU64,
    upload_id: Mutex<String>,
}

/// The proof that a copy leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyReceipt {
    /// Version id that was read; empty when the bucket keeps none.
    pub source_version: String,
    /// ETag of the source without quotes.
    pub source_etag: String,
    /// Last-Modified of the source, seconds since the epoch and nanoseconds.
    pub source_modified: Option<(i64, u32)>,
    /// Name of the backup location.
    pub backup_location: String,
    /// Bucket of the backup.
    pub backup_bucket: String,
    /// Key of the backup.
    pub backup_key: String,
    /// Version id of the backup; empty when the store keeps none.
    pub backup_version: String,
    /// ETag of the backup without quotes.
    pub backup_etag: String,
    /// Length in bytes, counted.
    pub size_bytes: u64,
    /// CRC-64/NVME over the whole object: computed from the bytes read, or reported by a store that copied by itself. 0 where such a store
    /// reports none and an equal ETag is the proof.
    pub crc64nvme: u64,
    /// SHA-256 over the whole object, where it was asked for.
    pub sha256: Option<[u8; 32]>,
    /// Level reached.
    pub verified: VerifyLevel,
    /// An equal backup was already there; nothing was written.
    pub already_present: bool,
    /// What the backup store could not keep.
    pub not_kept: Vec<String>,
    /// Parts of the multipart upload; 0 for one request.
    pub parts: u32,
    /// The store copied by itself. The worker read bytes at most to compare them.
    pub server_side: bool,
    /// From the start of the copy to its verification.
    pub elapsed: Duration,
}

/// Where in a copy something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Finding out what the source is.
    Discover,
    /// Reading the source.
    Read,
    /// Writing the backup.
    Write,
    /// Comparing.
    Verify,
    /// Making the written parts one object.
    Complete,
}

/// What went wrong; decides whether and when the task is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransferErrorKind {
    /// The object or the version does not exist (any more).
    SourceGone,
    /// The object kept changing while it was copied. Try again.
    SourceChanged,
    /// A store refused the credentials or the action. Somebody must change something, here or at the store: rights that were just
    /// given take a while to spread, and it may be only this worker's credentials or clock.
    Denied,
    /// A location's endpoint leads elsewhere, to where nothing is sent: a redirect, or an address that no store may have. Somebody must
    /// change its endpoint or region; or the network, if it is only this worker's.
    Misdirected,
    /// A store has no such bucket.
    NoSuchBucket,
    /// A store asked for less load.
    Throttled {
        /// How long it asked to wait; zero when it did not say.
        retry_after: Duration,
    },
    /// Bytes were not what they should be. Nothing wrong was kept. Try again.
    Integrity,
    /// Another object is stored under the backup's key. It was not touched.
    DestinationConflict,
    /// The request can never work: unknown location, object too large, archived source.
    Unsupported,
    /// A store did not answer in time, or the connection broke. Try again.
    Io,
    /// Told to stop.
    Cancelled,
}

impl TransferErrorKind {
    /// Of a failure that may pass without anybody's doing: how long the store asked to be left alone, zero when it did not say.
    #[must_use]
    pub const fn passing(self) -> Option<Duration> {
        match self {
            Self::Io => Some(Duration::ZERO),
            Self::Throttled { retry_after } => Some(retry_after),
            Self::SourceGone
            | Self::SourceChanged
            | Self::Denied
            | Self::Misdirected
            | Self::NoSuchBucket
            | Self::Integrity
            | Self::DestinationConflict
            | Self::Unsupported
            | Self::Cancelled => None,
        }
    }
}

/// How a copy failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {message}")]
pub struct TransferError {
    /// Where.
    pub step: Step,
    /// What.
    pub kind: TransferErrorKind,
    /// For people; at most 512 bytes; holds no secret.
    pub message: String,
    /// What the store's client said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ProgressCell {
    /// Adds bytes that the backup store has acknowledged.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds a finished step where no bytes pass through the worker.
    pub fn add_step(&self) {
        self.steps_done.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the size of the object, once it is known.
    pub fn set_total(&self, bytes: u64) {
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    /// Names the multipart upload in progress; empty when there is none any more.
    pub fn set_upload_id(&self, id: &str) {
        let mut held = self.upload_id.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.clear();
        held.push_str(id);
    }

    /// Bytes done, bytes in all, steps done.
    #[must_use]
    pub fn read(&self) -> (u64, u64, u64) {
        (
            self.bytes_done.load(Ordering::Relaxed),
            self.bytes_total.load(Ordering::Relaxed),
            self.steps_done.load(Ordering::Relaxed),
        )
    }

    /// The multipart upload in progress; empty when there is none.
    #[must_use]
    pub fn upload_id(&self) -> String {
        self.upload_id.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl TransferErrorKind {
    /// Stable word for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::SourceGone => "source_gone",
            Self::SourceChanged => "source_changed",
            Self::Denied => "denied",
            Self::Misdirected => "misdirected",
            Self::NoSuchBucket => "no_such_bucket",
            Self::Throttled { .. } => "throttled",
            Self::Integrity => "integrity",
            Self::DestinationConflict => "destination_conflict",
            Self::Unsupported => "unsupported",
            Self::Io => "io",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discover => "discover",
            Self::Read => "read",
            Self::Write => "write",
            Self::Verify => "verify",
            Self::Complete => "complete",
        })
    }
}
