//! What the queue keeps about a task: its spec, its record, and the states it can be in.
//!
//! Plain data, shared by the reference queue and the Redis queue. Nothing here may know Redis, protobuf or a clock.

use std::{collections::BTreeMap, fmt, time::Duration};

use bytes::Bytes;

use super::id::{LeaseToken, TaskId};

/// Milliseconds since the Unix epoch on the queue's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub u64);

/// One object version in an origin; `version: None` means the latest when the copy starts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Name of a configured location.
    pub location: String,
    /// Bucket at that location.
    pub bucket: String,
    /// Key exactly as the store has it.
    pub key: String,
    /// Version id of the store.
    pub version: Option<String>,
}

/// Band a task waits in; a band is served before all lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// What somebody waits for.
    High,
    /// What a user has just uploaded.
    Normal,
    /// Bulk work that may wait.
    Low,
}

/// Proof wanted before a copy is called done. The queue only keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VerifyLevel {
    /// The worker's checksum agrees with the store's answer.
    Receipt,
    /// And a HEAD agrees.
    Head,
    /// And the backup, read back, agrees.
    Readback,
}

/// What was asked for. Fixed for one run of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// Whose task it is; part of the identity.
    pub tenant: String,
    /// What to back up; part of the identity.
    pub object: ObjectRef,
    /// Band.
    pub priority: Priority,
    /// Failed attempts before the task is dead, at least 1.
    pub max_attempts: u32,
    /// For filters and people.
    pub labels: BTreeMap<String, String>,
    /// Size in bytes as the caller gave it; 0 when unknown. Counts against byte credit.
    pub size_hint_bytes: u64,
    /// Proof wanted; `None` means the location's level.
    pub verify: Option<VerifyLevel>,
    /// Longest time without progress before a copy loses its lease.
    pub processing_timeout: Duration,
    /// W3C traceparent of the submit; empty when none.
    pub traceparent: String,
    /// Retention class of the copy; empty when none. The queue only keeps it.
    pub retention_class: String,
}

/// A request to keep a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// What to do.
    pub spec: TaskSpec,
    /// Do not start before this; in the past or `None` means now.
    pub process_at: Option<UnixMs>,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaskState {
    /// In working with a processing time in the future and no lease.
    Scheduled,
    /// In pending.
    Pending,
    /// In working under a lease.
    Working,
    /// In delay until its retry time.
    Delayed,
    /// Finished with a receipt.
    Done,
    /// Given up.
    Dead,
    /// Ended without a backup, on purpose.
    Cancelled,
}

/// Why a task is in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskReason {
    /// Nothing to explain.
    None,
    /// Delayed after a failed attempt.
    BackingOff,
    /// Delayed because a store asked for less load.
    Throttled,
    /// Delayed or pending because a worker gave it back.
    HandedBack,
    /// Delayed because the lease of a worker that had accepted it ran out.
    LeaseExpired,
    /// Dead: retrying cannot help.
    PermanentFailure,
    /// Dead: every allowed attempt failed.
    AttemptsUsedUp,
    /// Dead: too many workers vanished while they held it.
    CrashedTooOften,
    /// Cancelled by a caller.
    CancelledByCaller,
    /// Cancelled: the source no longer exists.
    SourceGone,
}

/// What kind of failure an attempt ended in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// May work next time; costs an attempt.
    Retry,
    /// A store asked for less load; costs no attempt.
    Throttled,
    /// Cannot work without somebody's change.
    Permanent,
    /// The source no longer exists.
    SourceGone,
}

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Decides what happens next.
    pub class: FailureClass,
    /// Stable word for programs, at most 64 bytes.
    pub code: String,
    /// For people, at most 512 bytes.
    pub message: String,
    /// How long the store asked to wait; zero when it did not say.
    pub retry_after: Duration,
}

/// How far a running copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes acknowledged by the backup store.
    pub bytes_done: u64,
    /// Bytes in all; 0 while unknown.
    pub bytes_total: u64,
    /// Steps finished where no bytes pass through the worker.
    pub steps_done: u64,
}

/// Everything the queue knows about a task, as read at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRecord {
    /// Its id.
    pub id: TaskId,
    /// Which run of the task this is, from 1.
    pub run: u32,
    /// What was asked for.
    pub spec: TaskSpec,
    /// Where it is.
    pub state: TaskState,
    /// Why.
    pub reason: TaskReason,
    /// Attempts that ended in a failure report.
    pub attempts: u32,
    /// Accepted leases whose worker vanished.
    pub crashes: u32,
    /// Times it came back at no cost (throttled, handed back, never accepted), since the last progress. Bounded by policy.
    pub returns: u32,
    /// When this run was accepted.
    pub created_at: UnixMs,
    /// Start, end of the lease, or retry time, in the states that have one.
    pub process_at: Option<UnixMs>,
    /// When it finished.
    pub finished_at: Option<UnixMs>,
    /// How far the running copy is; zero unless working.
    pub progress: Progress,
    /// The newest failure.
    pub last_failure: Option<Failure>,
    /// The receipt, as the worker's report had it, opaque here; empty unless done.
    pub receipt: Bytes,
    /// Worker that holds or last held the lease; empty before the first.
    pub worker: String,
    /// The newest lease; `None` before the first.
    pub lease: Option<LeaseToken>,
    /// The worker has accepted the newest lease, by a renewal or a report. Stays when the lease ends.
    pub accepted: bool,
    /// It was asked for again during the copy: it runs again. Also set while that copy, whose lease ran out, could still be reported.
    pub dirty: bool,
    /// Cancel was asked for during the copy; false once the lease has ended.
    pub cancel_requested: bool,
    /// Multipart upload left by the newest attempt, perhaps of an earlier run; empty when none.
    pub upload_id: String,
}

impl Priority {
    /// All bands, the first served first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];
}

impl TaskState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Pending,
        Self::Working,
        Self::Delayed,
        Self::Done,
        Self::Dead,
        Self::Cancelled,
    ];

    /// True in the states that a task never leaves by itself.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        match self {
            Self::Done | Self::Dead | Self::Cancelled => true,
            Self::Scheduled | Self::Pending | Self::Working | Self::Delayed => false,
        }
    }
}

impl UnixMs {
    /// This instant plus `duration`, saturating.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this instant; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
