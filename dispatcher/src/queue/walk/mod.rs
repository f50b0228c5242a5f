//! Walks: what the queue keeps about the backup of a prefix, apart from the tasks that come of it.
//!
//! A walk is listed page by page. Whoever drives it holds its [`Claim`], submits what a page brings, and only then has the page
//! counted and the cursor moved, in one write: so a driver that dies loses nothing and the next one lists at most one page again. The
//! tasks of a walk that are not known to be finished are its *open* tasks, kept beside it; their number is what bounds it.
//!
//! [`WalkStore`] is a store of records that are changed by comparing: all that is decided is decided in `record`, which is pure.
//! Nothing here may know protobuf, Redis or who lists.

#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
mod record;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

pub use self::record::{Claim, Counts, PageResult, Step, Walk, WalkLimits, WalkState};
use super::{
    Failure, InvalidTaskId, NewTask, ObjectRef, Priority, QueueError, TaskId, TaskSpec, UnixMs, VerifyLevel,
};

/// Label that every task of a walk carries, with the walk's id.
pub const LABEL: &str = "prefix-backup";

/// Most walks of a shard that are not finished.
pub const MOST_ACTIVE: u64 = 1_000;

/// Most failed objects that are kept for a walk.
pub const MOST_FAILURES: u64 = 10_000;

/// Names a walk: the same form as a task's id, so that it names its shard.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WalkId(TaskId);

/// What was asked for. Fixed for the life of the walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkSpec {
    /// Whose walk and whose tasks.
    pub tenant: String,
    /// The caller's name for the request; with the tenant it is the identity.
    pub request_id: String,
    /// Name of a configured location.
    pub location: String,
    /// Bucket at that location.
    pub bucket: String,
    /// What keys begin with; may be empty.
    pub prefix: String,
    /// Which objects.
    pub filter: WalkFilter,
    /// Which versions of each.
    pub versions: Versions,
    /// Band of its tasks.
    pub priority: Priority,
    /// Failed attempts before one of its tasks is dead.
    pub max_attempts: u32,
    /// Labels of its tasks, besides [`LABEL`].
    pub labels: BTreeMap<String, String>,
    /// Proof wanted; `None` means the location's level.
    pub verify: Option<VerifyLevel>,
    /// Longest time without progress before a copy loses its lease.
    pub processing_timeout: Duration,
}

/// Which objects. What is not given lets all pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalkFilter {
    /// What keys end with.
    pub suffix: String,
    /// Least size in bytes.
    pub min_size_bytes: u64,
    /// Largest size in bytes.
    pub max_size_bytes: Option<u64>,
    /// Modified at this instant or later.
    pub modified_since: Option<UnixMs>,
}

/// Which versions of each object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// What a reader gets who names none.
    Current,
    /// All that the bucket keeps.
    All,
}

/// A walk as read at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its id.
    pub id: WalkId,
    /// Its record.
    pub walk: Walk,
    /// Changes with every write.
    pub revision: u64,
    /// Open tasks.
    pub open: u64,
}

/// What is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// The store's time.
    pub now: UnixMs,
    /// Walks, in no order.
    pub walks: Vec<Stored>,
    /// A part of the store could not be asked.
    pub incomplete: bool,
}

/// A change of a walk and of what lies beside it, made whole or not at all.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which walk.
    pub id: WalkId,
    /// The revision that it was decided on; `None` to make the walk.
    pub expected: Option<u64>,
    /// The record from now on.
    pub walk: Walk,
    /// Tasks that are open from now on; one that is so already stays.
    pub opened: Vec<TaskId>,
    /// Tasks that are not open any more.
    pub closed: Vec<TaskId>,
    /// Failures to keep, as far as there is room.
    pub failures: Vec<FailedObject>,
}

/// What came of a change. Asking for the same change again gives the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is made, as durably as a submit; open tasks and revision from now on.
    Yes {
        /// Its revision.
        revision: u64,
        /// Open tasks.
        open: u64,
    },
    /// Somebody else was faster, or the walk is not there (any more): nothing was changed.
    Stale,
    /// There are as many unfinished walks as there may be: nothing was made.
    Full,
}

/// An object that could not be backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedObject {
    /// Its key.
    pub key: String,
    /// Its version; `None` for the latest.
    pub version: Option<String>,
    /// Its task; `None` when none could be made.
    pub task: Option<TaskId>,
    /// Why.
    pub failure: Failure,
}

/// An object that a page brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundObject {
    /// Its key.
    pub key: String,
    /// Its version; `None` for the latest.
    pub version: Option<String>,
    /// Its size as listed.
    pub size_bytes: u64,
}

/// What a worker found on a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageFound {
    /// What is to be backed up.
    pub objects: Vec<FoundObject>,
    /// Looked at.
    pub listed: u64,
    /// Left out by the filter.
    pub skipped: u64,
    /// Backed up already.
    pub backed_up: u64,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// A page to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageOrder {
    /// Whose page.
    pub walk: WalkId,
    /// What to list.
    pub spec: Arc<WalkSpec>,
    /// Where the page begins; empty for the first.
    pub cursor: String,
    /// Most entries.
    pub max_entries: u32,
    /// How long somebody waits for the answer.
    pub within: Duration,
}

/// Where walks are kept. All methods may be repeated.
#[async_trait]
pub trait WalkStore: Send + Sync + fmt::Debug + 'static {
    /// The id of the walk that this tenant names so.
    fn id(&self, tenant: &str, request_id: &str) -> WalkId;

    /// All walks that are not finished; with `finished`, also those that are not forgotten yet. At most [`MOST_ACTIVE`] of a shard.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when nothing can be asked.
    async fn look(&self, finished: bool) -> Result<Look, QueueError>;

    /// Reads one walk; `None` when there is none.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`], [`QueueError::Corrupt`].
    async fn load(&self, id: &WalkId) -> Result<Option<Stored>, QueueError>;

    /// Makes a change, unless the walk has changed meanwhile. A finished walk has no open tasks, and is forgotten after
    /// `retain_dead` of the queue.
    ///
    /// # Errors
    /// As a submit: what is not durable is to be repeated.
    async fn save(&self, change: &Change) -> Result<Saved, QueueError>;

    /// Open tasks, those first that were opened first, from place `from` on.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn open_tasks(&self, id: &WalkId, from: u64, limit: u64) -> Result<Vec<TaskId>, QueueError>;

    /// Kept failures in the order in which they were found, from place `from` on.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn failures(&self, id: &WalkId, from: u64, limit: u64) -> Result<Vec<FailedObject>, QueueError>;
}

impl WalkId {
    /// The id of what `tenant` calls `request_id`.
    #[must_use]
    pub fn derive(tenant: &str, request_id: &str) -> Self {
        // A bucket's name cannot be this long, so no task has the same identity.
        let digest = Sha256::digest(request_id);
        let object = ObjectRef {
            location: "walk".into(),
            bucket: "walk".repeat(64),
            key: request_id.to_owned(),
            version: Some(hex::encode(digest)),
        };
        Self(TaskId::derive(tenant, &object))
    }

    /// Reads an id.
    ///
    /// # Errors
    /// [`InvalidTaskId`] unless it has the form of a task's id.
    pub fn parse(text: &str) -> Result<Self, InvalidTaskId> {
        TaskId::parse(text).map(Self)
    }

    /// The id in the form that names a shard.
    #[must_use]
    pub const fn as_task(&self) -> &TaskId {
        &self.0
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl From<TaskId> for WalkId {
    fn from(id: TaskId) -> Self {
        Self(id)
    }
}

impl fmt::Display for WalkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for WalkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl WalkSpec {
    /// The task that backs up an object which the walk has found.
    #[must_use]
    pub fn task(&self, id: &WalkId, object: &FoundObject) -> NewTask {
        let mut labels = self.labels.clone();
        labels.insert(LABEL.to_owned(), id.as_str().to_owned());
        let spec = TaskSpec {
            tenant: self.tenant.clone(),
            object: ObjectRef {
                location: self.location.clone(),
                bucket: self.bucket.clone(),
                key: object.key.clone(),
                version: object.version.clone(),
            },
            priority: self.priority,
            max_attempts: self.max_attempts,
            labels,
            size_hint_bytes: object.size_bytes,
            verify: self.verify,
            processing_timeout: self.processing_timeout,
            traceparent: String::new(),
            retention_class: String::new(),
        };
        NewTask { spec, process_at: None }
    }
}
