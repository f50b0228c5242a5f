//! The queue core: three queues, *pending*, *working* and *delay*, and the moves between them.
//!
//! ```text
//!             submit (due now)             lease                    success
//!  (absent) -------------------> PENDING ---------> WORKING ----------------------> DONE
//!     | submit (process_at)       ^  ^  ^  handed back |  | |                          ^
//!     v                       due |  |  +--------------+  | | permanent, attempts      | late success of the
//!  SCHEDULED (in working) --------+  |                    | | or crashes used up       | newest lease
//!                                due |   failure, expiry  | +-----------> DEAD --------+ (from DELAYED, PENDING, DEAD)
//!                          DELAYED --+<-------------------+
//!  SCHEDULED, PENDING, DELAYED --cancel--> CANCELLED;  WORKING --cancel--> flag, then CANCELLED when the copy has stopped
//!  WORKING and dirty --success or final failure--> PENDING again (the object was asked for again while it was copied)
//! ```
//!
//! [`TaskQueue`] is the contract. Two implementations keep it: `redis::RedisQueue`, one Lua script per move, and
//! `memory::MemoryQueue`, plain Rust, against which the scripts are proven by one conformance suite. Decisions (how long to
//! wait, dead or not) are `policy`, pure; stores only check and move.
//!
//! Invariants, named in tests: **Q-1** a task is in exactly one place; **Q-2** it has a current lease iff it is Working;
//! **Q-3** a report with a stale token changes nothing; **Q-4** attempts never exceed the spec's bound, crashes never the policy's;
//! **Q-5** finished tasks are left only by a new submit, a late success or the end of retention; **Q-6** nothing is lost when a
//! process dies between two calls; **Q-7** every call is bounded, and every call may be repeated after a lost answer.
//!
//! Nothing here may know protobuf, tonic or sessions.

pub mod error;
pub mod id;
pub mod task;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

pub use self::{
    error::QueueError,
    id::{InvalidTaskId, LeaseToken, TaskId},
    task::{
        Failure, FailureClass, NewTask, ObjectRef, Priority, Progress, TaskReason, TaskRecord, TaskSpec,
        TaskState, UnixMs, VerifyLevel,
    },
};

/// The contract of the queue store. Batches are the unit: every method does its work in as few round trips as it can, answers
/// item by item in the order of the request, and one bad item never fails the others.
#[async_trait]
pub trait TaskQueue: Send + Sync + std::fmt::Debug + 'static {
    /// Keeps tasks. `Ok` for an item means that it is as durable as configured.
    ///
    /// The id is derived from tenant and object. A task that exists unfinished, or finished with success within the dedup window for
    /// an exact version, answers [`SubmitOutcome::Duplicate`]; requests for the latest version coalesce, or mark a running copy
    /// dirty. Dead and cancelled tasks, and done ones after the window (at once for "latest"), start a new run.
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>>;

    /// Reads one task.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::Unavailable`], [`QueueError::Corrupt`].
    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError>;

    /// Reads a page of tasks. Bounded in work, so a page may be short or empty before the last one.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError>;

    /// Cancels a task, or asks its running copy to stop. Repeating is harmless.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::Unavailable`].
    async fn cancel(&self, id: &TaskId) -> Result<CancelOutcome, QueueError>;

    /// Takes the best pending tasks under new leases that end after [`QueueSettings::accept_within`]; the first
    /// [`TaskQueue::renew`] of a lease accepts it. The same `(session, request)` asked twice gives the same leases.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError>;

    /// Accepts leases, and keeps them while they make progress.
    async fn renew(&self, renewals: Vec<Renewal>) -> Vec<Result<RenewOutcome, QueueError>>;

    /// Ends leases with what came of them.
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>>;

    /// One bounded pass over what is due: leases that ran out, scheduled and delayed tasks whose time has come, finished tasks
    /// whose retention is over. Safe to run on any number of dispatchers at once.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn sweep(&self) -> Result<SweepReport, QueueError>;

    /// How much is in each queue.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn depths(&self) -> Result<Depths, QueueError>;

    /// Whether the store can be trusted with tasks now. Used for readiness.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] or [`QueueError::Rejected`], the latter naming the setting to change.
    async fn check(&self) -> Result<(), QueueError>;

    /// Notified when tasks may have become pending: by a submit or a sweep of this process, or by a hint of another. A hint
    /// only; a slow poll is the safety net.
    fn ready(&self) -> Arc<Notify>;
}

/// What a queue is told when it is made; the same for every implementation.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueSettings {
    /// Shards, fixed when the data is created; 1 to [`id::MAX_SHARDS`].
    pub shards: u16,
    /// How long an accepted lease lasts without a renewal.
    pub lease: Duration,
    /// How long a lease lasts before it is accepted.
    pub accept_within: Duration,
    /// Accepted leases that may end because the worker vanished, before the task is dead.
    pub max_crashes: u32,
    /// Times a task may come back at no cost, without progress in between, before each counts as a failed attempt.
    pub max_returns: u32,
    /// Backoff after a failed attempt, a crash or a throttled one.
    pub retry: RetryPolicy,
    /// How long an exact version that succeeded is recognised.
    pub dedup_window: Duration,
    /// How long done and cancelled tasks stay visible.
    pub retain_finished: Duration,
    /// How long dead tasks stay visible.
    pub retain_dead: Duration,
    /// Most unfinished tasks per shard.
    pub shard_cap: u64,
    /// Most unfinished and dead tasks per tenant and shard.
    pub tenant_cap: u64,
    /// Most leases of one tenant per shard at a time.
    pub tenant_in_flight_cap: u64,
    /// A gap between sweeps above this means that nobody could renew: for one lease afterwards nothing expires.
    pub outage: Duration,
    /// Least time between two sweeps of a shard, whoever makes them.
    pub sweep_every: Duration,
}

/// Exponential backoff with full jitter: a random time between zero and `min(max, base * 2^n)`, never below `floor`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Upper end of the first wait.
    pub base: Duration,
    /// Upper end of any wait.
    pub max: Duration,
    /// Lower end of any wait, so that a failing task never spins.
    pub floor: Duration,
}

/// The answer to one submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Its task.
    pub id: TaskId,
    /// Its run.
    pub run: u32,
    /// Its state now.
    pub state: TaskState,
    /// How the request was met.
    pub outcome: SubmitOutcome,
}

/// How a submit was met. All mean: accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubmitOutcome {
    /// A new task, or a new run.
    Created,
    /// Accepted before.
    Duplicate,
    /// "Latest" rides on a task that still waits.
    Coalesced,
    /// "Latest" of an object that is being copied: it runs again.
    RunsAgain,
}

/// Which tasks to list. Newest first within a state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Only of this tenant.
    pub tenant: String,
    /// Only in these states; all when empty.
    pub states: Vec<TaskState>,
    /// Only of this location.
    pub location: Option<String>,
    /// Only keys that start with this.
    pub key_prefix: String,
    /// Only with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Most tasks to return, at least 1.
    pub limit: u32,
    /// Where to go on; from the previous page.
    pub cursor: Option<ListCursor>,
}

/// A place in a listing: an opaque text of the implementation, at most 256 bytes of printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListCursor(pub String);

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// The tasks.
    pub tasks: Vec<TaskRecord>,
    /// Where the next page starts; `None` on the last one.
    pub next: Option<ListCursor>,
}

/// What a cancel did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It is cancelled now, or was before.
    Cancelled,
    /// The running copy has to be stopped first: the lease that holds it and the session it was leased to.
    Stopping {
        /// Lease to stop.
        lease: LeaseToken,
        /// Session given in the [`LeaseRequest`].
        session: String,
    },
    /// Too late: done or dead.
    Finished(TaskState),
}

/// A request for tasks. `session` and `request` together name it, so that a repeat after a lost answer gets the same leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Stream that asks; 1 to 64 bytes of [0-9a-z-].
    pub session: String,
    /// Counts up by one with each new request of the session.
    pub request: u64,
    /// Worker's name, kept in the record.
    pub worker: String,
    /// Most tasks, at least 1.
    pub max_tasks: u32,
    /// Most bytes by size hint (16 MiB where there is none); the first task is given whatever its size.
    pub max_bytes: u64,
    /// Only tasks of these locations.
    pub locations: Arc<[String]>,
}

/// A task under a new lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedTask {
    /// The task.
    pub id: TaskId,
    /// Token to present with every report.
    pub lease: LeaseToken,
    /// Spec.
    pub spec: TaskSpec,
    /// Failed attempts before this one.
    pub attempts: u32,
    /// The lease ends after this unless it is accepted.
    pub accept_within: Duration,
    /// Multipart upload that an earlier attempt left; empty when none.
    pub upload_id: String,
}

/// A worker's word that it still works on a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The task.
    pub id: TaskId,
    /// Its lease.
    pub lease: LeaseToken,
    /// How far the copy is. The processing time starts anew only when bytes or steps have grown.
    pub progress: Progress,
    /// Multipart upload in progress; empty when none.
    pub upload_id: String,
    /// Session that holds it now.
    pub session: String,
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewOutcome {
    /// The lease lasts this much longer.
    Keep(Duration),
    /// Another lease holds the task, or it is finished or gone.
    Lost,
    /// Stop the copy and report it.
    Cancel,
}

/// What came of a lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// The task.
    pub id: TaskId,
    /// Its lease.
    pub lease: LeaseToken,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The backup exists; the receipt is kept as it is (at most 8 KiB).
    Done {
        /// Opaque receipt.
        receipt: Bytes,
    },
    /// The attempt failed.
    Failed {
        /// How.
        failure: Failure,
        /// Uniform in [0, 1): the jitter of the wait, so that the decision itself stays pure.
        jitter: f64,
    },
    /// The worker gives it back unfinished, or never took it. Costs nothing, within `max_returns`.
    HandedBack {
        /// Multipart upload left behind; empty when none.
        upload_id: String,
        /// Wait at least this long before the next lease; zero puts it back at its old place in pending.
        delay: Duration,
    },
    /// The copy was stopped because of a cancel.
    Cancelled,
}

/// The answer to one settlement. All mean: the worker may forget it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettleOutcome {
    /// It counts; the task is in this state now.
    Stored(TaskState),
    /// The same settlement was stored before.
    Duplicate,
    /// It counts, and the task runs again, because "latest" was asked for meanwhile.
    RunsAgain,
    /// A newer lease exists, or this one has already reported something else; nothing was changed.
    Fenced,
    /// A newer lease has already finished the task; nothing was changed.
    Superseded,
    /// The task was cancelled; nothing was changed.
    Cancelled,
    /// No such task.
    Gone,
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Accepted leases that ran out.
    pub expired: u64,
    /// Leases that ran out before they were accepted.
    pub unaccepted: u64,
    /// Scheduled and delayed tasks that became pending.
    pub promoted: u64,
    /// Tasks whose retention ended.
    pub reaped: u64,
    /// Index entries that disagreed with their task and were put right.
    pub fixed: u64,
    /// The bound of the pass was reached: sweep again at once.
    pub more: bool,
    /// Until the next task is due, as far as known, if sooner than the sweep interval.
    pub next_due: Option<Duration>,
    /// Leases are spared, because nobody could renew for a while.
    pub amnesty: bool,
}

/// How much is in each queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depths {
    /// In pending.
    pub pending: u64,
    /// In working under a lease.
    pub working: u64,
    /// In working until their processing time.
    pub scheduled: u64,
    /// In delay.
    pub delayed: u64,
    /// Done and still visible.
    pub done: u64,
    /// Dead.
    pub dead: u64,
    /// Cancelled and still visible.
    pub cancelled: u64,
}

/// Bytes that a task without a size hint counts for: one part.
pub const DEFAULT_COST_BYTES: u64 = 16 * 1024 * 1024;
