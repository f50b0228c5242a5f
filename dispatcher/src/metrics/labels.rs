//! The values that labels of the dispatcher's metrics have. All of them are ours: nothing that a caller, a tenant or a worker chose.

use backhaul_runtime::labels;

use crate::events::parse::Form;
use crate::queue::{
    FailureClass, Outcome, QueueError, RenewOutcome, SettleOutcome, SubmitOutcome, TaskState,
};

/// Moves that the scripts count.
pub(super) const MOVES: [&str; 13] = [
    "created",
    "leased",
    "done",
    "late",
    "failed",
    "expired",
    "promoted",
    "run_again",
    "replaced",
    "requeued",
    "reaped",
    "cancelled",
    "fixed",
];

labels! {
    /// Calls of internal services.
    pub enum Rpc {
        /// One object.
        SubmitBackup => "SubmitBackup",
        /// Many objects.
        SubmitBackups => "SubmitBackups",
        /// One task.
        GetBackup => "GetBackup",
        /// Many tasks.
        ListBackups => "ListBackups",
        /// One task is not wanted any more.
        CancelBackup => "CancelBackup",
        /// Dead tasks are to run again.
        RetryBackups => "RetryBackups",
        /// How much there is, and how old.
        GetQueueStats => "GetQueueStats",
        /// Changes as they happen.
        WatchBackups => "WatchBackups",
        /// What origins told to be removed.
        ListRemovals => "ListRemovals",
        /// What was not understood.
        ListQuarantinedEvents => "ListQuarantinedEvents",
        /// One of them.
        GetQuarantinedEvent => "GetQuarantinedEvent",
        /// One is taken again.
        RetryQuarantinedEvent => "RetryQuarantinedEvent",
        /// One is forgotten.
        DiscardQuarantinedEvent => "DiscardQuarantinedEvent",
        /// A prefix.
        SubmitPrefixBackup => "SubmitPrefixBackup",
        /// One prefix backup.
        GetPrefixBackup => "GetPrefixBackup",
        /// Many prefix backups.
        ListPrefixBackups => "ListPrefixBackups",
        /// Nothing further is to be listed for now.
        PausePrefixBackup => "PausePrefixBackup",
        /// It is to be listed on.
        ResumePrefixBackup => "ResumePrefixBackup",
        /// A prefix backup is not wanted any more.
        CancelPrefixBackup => "CancelPrefixBackup",
        /// What could not be backed up.
        ListPrefixBackupFailures => "ListPrefixBackupFailures",
        /// What operators have said, and the runs of that.
        ListRules => "ListRules",
        /// A run is to begin.
        RunRule => "RunRule",
        /// No run is to begin by itself.
        PauseRule => "PauseRule",
        /// They may again.
        ResumeRule => "ResumeRule",
        /// None of these.
        Unknown => "unknown",
    }
}

labels! {
    /// Status codes of gRPC.
    pub enum Code {
        /// 0.
        Ok => "OK",
        /// 1.
        Cancelled => "CANCELLED",
        /// 2.
        Unknown => "UNKNOWN",
        /// 3.
        InvalidArgument => "INVALID_ARGUMENT",
        /// 4.
        DeadlineExceeded => "DEADLINE_EXCEEDED",
        /// 5.
        NotFound => "NOT_FOUND",
        /// 6.
        AlreadyExists => "ALREADY_EXISTS",
        /// 7.
        PermissionDenied => "PERMISSION_DENIED",
        /// 8.
        ResourceExhausted => "RESOURCE_EXHAUSTED",
        /// 9.
        FailedPrecondition => "FAILED_PRECONDITION",
        /// 10.
        Aborted => "ABORTED",
        /// 11.
        OutOfRange => "OUT_OF_RANGE",
        /// 12.
        Unimplemented => "UNIMPLEMENTED",
        /// 13.
        Internal => "INTERNAL",
        /// 14.
        Unavailable => "UNAVAILABLE",
        /// 15.
        DataLoss => "DATA_LOSS",
        /// 16.
        Unauthenticated => "UNAUTHENTICATED",
    }
}

labels! {
    /// What became of a token.
    pub enum TokenOutcome {
        /// It made its sender a caller.
        Accepted => "accepted",
        /// It is good, and no rule of the file is about its subject.
        NoCaller => "no_caller",
        /// It is not good.
        Refused => "refused",
        /// There is another one beside it, or a certificate.
        Ambiguous => "ambiguous",
        /// Nobody could say: keys or the review cannot be had, or not in time.
        Unavailable => "unavailable",
    }
}

labels! {
    /// Forms of event sources.
    pub enum EventForm {
        /// AWS S3.
        S3 => "s3",
        /// Amazon SNS.
        Sns => "sns",
        /// Amazon EventBridge.
        EventBridge => "eventbridge",
        /// MinIO.
        Minio => "minio",
        /// Ceph RGW.
        Ceph => "ceph",
        /// SeaweedFS.
        SeaweedFs => "seaweedfs",
        /// There is no such source.
        Unknown => "unknown",
    }
}

labels! {
    /// What the sender of events was told.
    pub enum EventAnswer {
        /// All of it is durable.
        Taken => "taken",
        /// The body did not arrive whole, or is none.
        Broken => "broken",
        /// Nobody known.
        Unauthorized => "unauthorized",
        /// A wrong signature, or a bucket of somebody else.
        Forbidden => "forbidden",
        /// No such source.
        NoSource => "no_source",
        /// Events are posted.
        Method => "method",
        /// Too large.
        TooLarge => "too_large",
        /// Send it again.
        Unavailable => "unavailable",
    }
}

labels! {
    /// What an event told.
    pub enum EventKind {
        /// An object was written.
        Upload => "upload",
        /// The same body told of it before.
        Repeated => "repeated",
        /// An object was removed.
        Removal => "removal",
        /// A question whether somebody listens.
        Test => "test",
        /// Nothing to back up.
        Nothing => "nothing",
        /// An object that the location does not allow the tenant.
        OutOfScope => "out_of_scope",
        /// Not understood.
        Unknown => "unknown",
    }
}

impl From<Form> for EventForm {
    fn from(form: Form) -> Self {
        match form {
            Form::S3 => Self::S3,
            Form::Sns => Self::Sns,
            Form::EventBridge => Self::EventBridge,
            Form::Minio => Self::Minio,
            Form::Ceph => Self::Ceph,
            Form::SeaweedFs => Self::SeaweedFs,
        }
    }
}

labels! {
    /// Outcomes of the last look at Redis.
    pub(super) enum Check {
        /// It may be trusted with tasks.
        Safe => "safe",
        /// It could lose tasks as it is configured.
        Unsafe => "unsafe",
        /// It does not answer.
        Unreachable => "unreachable",
    }
}

labels! {
    /// What became of a request for a backup.
    pub(super) enum SubmitVerdict {
        /// A new task or run.
        Created => "created",
        /// Known already.
        Duplicate => "duplicate",
        /// Rides on a task that waits.
        Coalesced => "coalesced",
        /// Rides on one that runs, which runs again.
        RunsAgain => "runs_again",
        /// Refused: the queue is full.
        Full => "full",
        /// Refused: the tenant has too many.
        TenantFull => "tenant_full",
        /// Not known whether it is kept; the caller has to repeat it.
        Unconfirmed => "unconfirmed",
        /// Refused for good.
        Refused => "refused",
    }
}

labels! {
    /// What became of a lease that a worker wants to keep.
    pub(super) enum RenewVerdict {
        /// It lasts on.
        Kept => "kept",
        /// It is over.
        Lost => "lost",
        /// The copy is to stop.
        Cancel => "cancel",
        /// Nobody knows.
        Failed => "failed",
    }
}

labels! {
    /// What a lease ended in, as reported.
    pub(super) enum Report {
        /// A proven copy.
        Done => "done",
        /// A failure that may pass.
        Retry => "retry",
        /// A store asked for less load.
        Throttled => "throttled",
        /// A failure that needs somebody.
        Permanent => "permanent",
        /// There is no such object any more.
        SourceGone => "source_gone",
        /// Given back unfinished.
        HandedBack => "handed_back",
        /// Stopped because of a cancel.
        Stopped => "stopped",
    }
}

labels! {
    /// What became of a report.
    pub(super) enum Verdict {
        /// The task is done.
        Done => "done",
        /// The task waits for its next attempt.
        Delayed => "delayed",
        /// The task waits for a worker.
        Pending => "pending",
        /// The task is dead.
        Dead => "dead",
        /// The task is cancelled, by this report or before it.
        Cancelled => "cancelled",
        /// Known already.
        Duplicate => "duplicate",
        /// It counts, and the task runs again.
        RunsAgain => "runs_again",
        /// A newer lease holds the task; nothing was changed.
        Fenced => "fenced",
        /// A newer lease has finished the task; nothing was changed.
        Superseded => "superseded",
        /// There is no such task.
        Gone => "gone",
        /// The queue could not say.
        Failed => "failed",
    }
}

labels! {
    /// What sweeps move.
    pub(super) enum Swept {
        /// Accepted leases that ran out.
        Expired => "expired",
        /// Leases that ran out before they were accepted.
        Unaccepted => "unaccepted",
        /// Tasks that became due.
        Promoted => "promoted",
        /// Finished tasks whose time was over.
        Reaped => "reaped",
        /// Entries that disagreed with their task.
        Fixed => "fixed",
    }
}

labels! {
    /// Operations of the queue.
    pub(super) enum Operation {
        /// Keep tasks.
        Submit => "submit",
        /// Read a task.
        Get => "get",
        /// Read a page of tasks.
        List => "list",
        /// Cancel a task.
        Cancel => "cancel",
        /// Run dead tasks again.
        Requeue => "requeue",
        /// Count tasks.
        Stats => "stats",
        /// Read the log of changes.
        Events => "events",
        /// Take tasks.
        Lease => "lease",
        /// Keep leases.
        Renew => "renew",
        /// End leases.
        Settle => "settle",
        /// Move what is due.
        Sweep => "sweep",
        /// See whether the store can be trusted.
        Check => "check",
    }
}

labels! {
    /// Why an operation of the queue failed.
    pub(super) enum Fault {
        /// The shard is full.
        Full => "full",
        /// The tenant has too many.
        TenantFull => "tenant_full",
        /// No such task.
        NotFound => "not_found",
        /// The store does not answer.
        Unavailable => "unavailable",
        /// Not proved durable in time.
        NotDurable => "not_durable",
        /// The server must not be given tasks as it is.
        Unfit => "unfit",
        /// A damaged record.
        Corrupt => "corrupt",
        /// Refused by the store.
        Rejected => "rejected",
    }
}

impl From<tonic::Code> for Code {
    fn from(code: tonic::Code) -> Self {
        match code {
            tonic::Code::Ok => Self::Ok,
            tonic::Code::Cancelled => Self::Cancelled,
            tonic::Code::Unknown => Self::Unknown,
            tonic::Code::InvalidArgument => Self::InvalidArgument,
            tonic::Code::DeadlineExceeded => Self::DeadlineExceeded,
            tonic::Code::NotFound => Self::NotFound,
            tonic::Code::AlreadyExists => Self::AlreadyExists,
            tonic::Code::PermissionDenied => Self::PermissionDenied,
            tonic::Code::ResourceExhausted => Self::ResourceExhausted,
            tonic::Code::FailedPrecondition => Self::FailedPrecondition,
            tonic::Code::Aborted => Self::Aborted,
            tonic::Code::OutOfRange => Self::OutOfRange,
            tonic::Code::Unimplemented => Self::Unimplemented,
            tonic::Code::Internal => Self::Internal,
            tonic::Code::Unavailable => Self::Unavailable,
            tonic::Code::DataLoss => Self::DataLoss,
            tonic::Code::Unauthenticated => Self::Unauthenticated,
        }
    }
}

impl From<&QueueError> for Fault {
    fn from(error: &QueueError) -> Self {
        match error {
            QueueError::Full => Self::Full,
            QueueError::TenantFull => Self::TenantFull,
            QueueError::NotFound(_) => Self::NotFound,
            QueueError::Unavailable(_) => Self::Unavailable,
            QueueError::NotDurable { .. } => Self::NotDurable,
            QueueError::Unfit(_) => Self::Unfit,
            QueueError::Corrupt { .. } => Self::Corrupt,
            QueueError::Rejected(_) => Self::Rejected,
        }
    }
}

impl SubmitVerdict {
    pub(super) const fn of(answer: Result<SubmitOutcome, &QueueError>) -> Self {
        match answer {
            Ok(SubmitOutcome::Created) => Self::Created,
            Ok(SubmitOutcome::Duplicate) => Self::Duplicate,
            Ok(SubmitOutcome::Coalesced) => Self::Coalesced,
            Ok(SubmitOutcome::RunsAgain) => Self::RunsAgain,
            Err(QueueError::Full) => Self::Full,
            Err(QueueError::TenantFull) => Self::TenantFull,
            Err(QueueError::Unavailable(_) | QueueError::NotDurable { .. } | QueueError::Unfit(_)) => {
                Self::Unconfirmed
            }
            Err(QueueError::NotFound(_) | QueueError::Corrupt { .. } | QueueError::Rejected(_)) => {
                Self::Refused
            }
        }
    }
}

impl RenewVerdict {
    pub(super) const fn of(answer: &Result<RenewOutcome, QueueError>) -> Self {
        match answer {
            Ok(RenewOutcome::Keep(_)) => Self::Kept,
            Ok(RenewOutcome::Lost) | Err(QueueError::NotFound(_)) => Self::Lost,
            Ok(RenewOutcome::Cancel) => Self::Cancel,
            Err(_) => Self::Failed,
        }
    }
}

impl Report {
    pub(super) const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done { .. } => Self::Done,
            Outcome::Failed { failure, .. } => match failure.class {
                FailureClass::Retry => Self::Retry,
                FailureClass::Throttled => Self::Throttled,
                FailureClass::Permanent => Self::Permanent,
                FailureClass::SourceGone => Self::SourceGone,
            },
            Outcome::HandedBack { .. } | Outcome::NotSent { .. } => Self::HandedBack,
            Outcome::Cancelled => Self::Stopped,
        }
    }
}

impl Verdict {
    pub(super) const fn of(answer: &Result<SettleOutcome, QueueError>) -> Self {
        match answer {
            Ok(SettleOutcome::Stored(TaskState::Done)) => Self::Done,
            Ok(SettleOutcome::Stored(TaskState::Delayed | TaskState::Scheduled)) => Self::Delayed,
            Ok(SettleOutcome::Stored(TaskState::Pending | TaskState::Working)) => Self::Pending,
            Ok(SettleOutcome::Stored(TaskState::Dead)) => Self::Dead,
            Ok(SettleOutcome::Stored(TaskState::Cancelled) | SettleOutcome::Cancelled) => Self::Cancelled,
            Ok(SettleOutcome::Duplicate) => Self::Duplicate,
            Ok(SettleOutcome::RunsAgain) => Self::RunsAgain,
            Ok(SettleOutcome::Fenced) => Self::Fenced,
            Ok(SettleOutcome::Superseded) => Self::Superseded,
            Ok(SettleOutcome::Gone) | Err(QueueError::NotFound(_)) => Self::Gone,
            Err(_) => Self::Failed,
        }
    }
}
