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
//!  DEAD --requeue--> PENDING, as a new run
//! ```
//!
//! [`TaskQueue`] is the contract. Two implementations keep it: `redis::RedisQueue`, one Lua script per move, and
//! `memory::MemoryQueue`, plain Rust, against which the scripts are proven by one conformance suite. Decisions (how long to
//! wait, dead or not) are `policy`, pure; stores only check and move.
//!
//! Invariants, named in tests: **Q-1** a task is in exactly one place; **Q-2** it has a current lease iff it is Working;
//! **Q-3** a report with a stale token changes nothing; **Q-4** attempts never exceed the spec's bound, crashes never the policy's;
//! **Q-5** finished tasks are left only by a new submit, a requeue, a late success or the end of retention; **Q-6** nothing is lost when a
//! process dies between two calls; **Q-7** every call is bounded, and every call may be repeated after a lost answer.
//!
//! Nothing here may know protobuf, tonic or sessions.

pub mod clock;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
pub mod error;
pub mod events;
pub mod id;
pub mod listing;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
pub mod policy;
pub mod redis;
pub mod redrive;
pub mod snapshot;
pub mod state;
pub mod stats;
pub mod task;
pub mod walk;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

pub use self::{
    clock::QueueClock,
    error::QueueError,
    events::{EventCursor, Events},
    id::{InvalidTaskId, LeaseToken, TaskId},
    listing::{ListCursor, ListPage, ListQuery},
    redrive::{Requeue, RequeueOutcome},
    stats::{Amount, Backlog, Depths, QueueStats, StatsQuery},
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
    /// The id is derived from tenant and object. What is there already decides:
    /// - *Waiting* (Scheduled, Pending, Delayed): exact versions answer [`SubmitOutcome::Duplicate`], "latest" answers
    ///   [`SubmitOutcome::Coalesced`]. The first request's spec stays; a Scheduled task is pulled forward when the new time is
    ///   earlier, never back. "Latest" also marks the task dirty while its newest lease, which ran out, could still report success:
    ///   that copy is older than the request.
    /// - *Working*: "latest" marks it dirty and answers [`SubmitOutcome::RunsAgain`], so does an exact version whose cancel has been
    ///   asked for; otherwise an exact version is a [`SubmitOutcome::Duplicate`].
    /// - *Done*, an exact version, for less than the dedup window: [`SubmitOutcome::Duplicate`].
    /// - *Done* otherwise, *Dead*, *Cancelled*: a new run. It has the new spec, counters and failure at zero, and no lease, so that
    ///   every older lease is fenced; only `upload_id` is kept, for the next attempt to resume or abort.
    ///
    /// Caps apply to new tasks and new runs, [`QueueError::Full`] before [`QueueError::TenantFull`]; a new run of a dead task takes
    /// the place of the dead one in the tenant's count.
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>>;

    /// Reads one task.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::Unavailable`], [`QueueError::Corrupt`].
    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError>;

    /// Reads a page of tasks. Bounded in work, so a page may be short or empty before the last one. Following the cursor shows each
    /// task that matches all the while exactly once. Within a state they come by `created_at`, newest first, as long as the state has
    /// few tasks (about 2,000 in all); with more, shard by shard, in each by the time that the state has (processing or retry time,
    /// end of the lease, end of the task; of Pending: place in line), latest first.
    ///
    /// A page leaves out tasks of shards that cannot be asked, and says so.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when no shard can be asked, [`QueueError::Rejected`] when the cursor is none of this queue.
    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError>;

    /// Cancels a waiting task, or asks its running copy to stop. Repeating is harmless. It withdraws every request accepted before
    /// it (clears dirty); a request that comes after it makes the task run again.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::Unavailable`].
    async fn cancel(&self, id: &TaskId) -> Result<CancelOutcome, QueueError>;

    /// Runs dead tasks again, each as a new run of the spec that it has, as durably as a submit: counters and failure at zero, at the end
    /// of its tenant's line, every older lease fenced; only `upload_id` is kept. It needs room in the shard
    /// ([`QueueError::Full`]) and takes the dead one's place in the tenant's count.
    ///
    /// Only the run that is named is followed by a new one, so a repeat, or a request that a submit was faster than, changes nothing and
    /// is told so. [`QueueError::NotFound`] for an item whose task does not exist.
    async fn requeue(&self, tasks: Vec<Requeue>) -> Vec<Result<RequeueOutcome, QueueError>>;

    /// Takes the best pending tasks under new leases that end after [`QueueSettings::accept_within`]; the first
    /// [`TaskQueue::renew`] of a lease accepts it.
    ///
    /// The same `(session, request)` asked again within a minute gives those of its leases that still hold, with the time they have left; a
    /// lower request number than the session's newest gives none. An answer without leases is not remembered.
    ///
    /// Order, within a shard: band by band; in a band the tenant with the lowest turn, then name. Serving it sets the band's time to
    /// `start = max(band's time, its turn)` and its turn to `start + 1`. A tenant that begins to wait has the turn `max(band's time,
    /// its last turn)`. Of the tenant's tasks the first in line goes: a submit, a promotion and a new run join at the end, a
    /// hand-back without delay and a lease that was never accepted return to their old place. Tenants at their in-flight cap and
    /// tasks of other locations are passed over. The request ends at the first task that no longer fits its bytes.
    ///
    /// A lease clears dirty: its copy serves the request. Shards that cannot be asked give nothing and hold up no others.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when no shard can be asked.
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError>;

    /// Accepts leases, and keeps them while they make progress.
    ///
    /// An accept, and every renewal in which bytes or steps exceed all that this lease has shown before, starts the spec's processing
    /// timeout anew; real growth also sets `returns` to zero. The lease lasts [`QueueSettings::lease`], at most to the end of that
    /// timeout, and is [`RenewOutcome::Lost`] after it. A lease that ran out but has not been swept is kept. [`RenewOutcome::Cancel`]
    /// changes nothing but the session. An empty `upload_id` leaves what is known.
    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>>;

    /// Ends leases with what came of them. The lease that reports is, in this order:
    /// - the one whose report started the present run: [`SettleOutcome::RunsAgain`] for the same kind of outcome, else `Fenced`;
    /// - not the newest: `Superseded` when the task is Done, `Cancelled` when it is Cancelled, else `Fenced`;
    /// - the newest, which has reported before: `Duplicate` for the same kind of outcome, else `Fenced`;
    /// - the newest, which ran out: success counts in Pending, Delayed and Dead, anything else is `Fenced`; `Cancelled` when the
    ///   task is Cancelled;
    /// - the newest, at work: it counts, as `policy` decides.
    ///
    /// The kind of an outcome is its variant, whatever it holds. A report accepts its lease. [`Outcome::Cancelled`] of a task that
    /// nobody cancelled is a hand-back. Success and a stopped copy clear `upload_id`; a hand-back without one leaves what is known.
    ///
    /// When dirty, success and every end that would finish the task, or that a cancel older than the request had asked for, begins
    /// a new run with the old spec; a retry or a hand-back serves the request by itself and clears dirty.
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>>;

    /// One bounded pass over what is due, each list in the order of its time, then id: leases that ran out, scheduled tasks, delayed
    /// tasks, finished tasks whose retention is over (done ones stay for the dedup window too). Done and cancelled tasks above
    /// [`QueueSettings::retain_bytes`] go before their time, the oldest first; dead ones never. Safe to run on any number of
    /// dispatchers at once; a pass sooner than [`QueueSettings::sweep_every`] after the last complete one answers an empty report.
    ///
    /// The first pass ever, and one later than [`QueueSettings::outage`] after the last, grants an amnesty of one lease from then on,
    /// in which no lease ends. Jitter of an expiry is `policy::spread` of the counters before it. An expiry leaves dirty set unless
    /// it began a new run, because a late success of that lease must not swallow the request.
    ///
    /// A shard that cannot be asked now is counted in the report.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when no shard can be asked, [`QueueError::Rejected`] when one refuses; all others were swept.
    async fn sweep(&self) -> Result<SweepReport, QueueError>;

    /// How much is in each queue.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn depths(&self) -> Result<Depths, QueueError>;

    /// How much there is, and how old the oldest of it is, in all and by tenant. Bounded in work whatever the queue holds: where not all
    /// was looked at, the answer says so. Shards that cannot be asked are left out, and the answer says that too.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when no shard can be asked.
    async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError>;

    /// Which tasks have changed since a place in the log of changes; without one, where the log ends now. Every change of a record but
    /// its end of retention is told, once or more often. The log is kept only while somebody reads it, and for
    /// [`events::KEPT`] after, and is bounded: what can no longer be told in full is told as missed, with a place to go on at.
    /// Bounded in work; the places of one queue serve every process that uses it. A shard that cannot be asked keeps its place, and the
    /// answer says so.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when no shard can be asked, [`QueueError::Rejected`] when the cursor is none of this queue.
    async fn events(&self, cursor: Option<&EventCursor>) -> Result<Events, QueueError>;

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
    /// How long done and cancelled tasks stay visible; done ones at least for the dedup window.
    pub retain_finished: Duration,
    /// How long dead tasks stay visible.
    pub retain_dead: Duration,
    /// Most bytes of done and cancelled tasks per shard, as they are stored, receipts included.
    pub retain_bytes: u64,
    /// Most unfinished tasks per shard.
    pub shard_cap: u64,
    /// Most unfinished and dead tasks per tenant and shard.
    pub tenant_cap: u64,
    /// Most leases of one tenant per shard at a time.
    pub tenant_in_flight_cap: u64,
    /// A gap between sweeps above this means that nobody could renew: for one lease afterwards nothing expires.
    pub outage: Duration,
    /// Least time between two sweeps of a shard, whoever makes them, unless the earlier one had more to do.
    pub sweep_every: Duration,
}

/// Exponential backoff with full jitter: a random time between `floor` and `min(max, base * 2^n)`. `floor <= base <= max`.
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
    /// Only tasks of these locations; none when empty.
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
    /// It was never sent to a worker. Costs nothing, however often.
    NotSent {
        /// Wait at least this long before the next lease; zero puts it back at its old place in pending.
        delay: Duration,
    },
    /// The worker gives it back unfinished, or did not take it. Costs nothing, within `max_returns`.
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
    /// Until the next lease end (not in an amnesty), processing or retry time, if sooner than the sweep interval; zero is never said.
    pub next_due: Option<Duration>,
    /// Leases are spared, because nobody could renew for a while.
    pub amnesty: bool,
    /// Shards that could not be swept. The others were.
    pub unswept: u64,
}

/// Bytes that a task without a size hint counts for: one part.
pub const DEFAULT_COST_BYTES: u64 = 16 * 1024 * 1024;
