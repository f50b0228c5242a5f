//! How everything that goes wrong in a call is told: the only mapping from errors to `tonic::Status`.
//!
//! Codes, and no others: INVALID_ARGUMENT (the request can never work), NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED,
//! FAILED_PRECONDITION, RESOURCE_EXHAUSTED (not processed, repeat later), UNAVAILABLE and DEADLINE_EXCEEDED (perhaps
//! processed, repeat), INTERNAL, UNIMPLEMENTED (no such call). Programs go by the `reason` of the ErrorInfo, which never changes its meaning; texts may change.
//! What went wrong inside is logged here and never sent: a caller can do nothing with it, and an attacker can. Only what an operator
//! has to change about the store is told, because callers are whom it keeps waiting.

use std::{borrow::Cow, collections::HashMap, error::Error as _, time::Duration};

use backhaul_proto::v1 as pb;
use backhaul_runtime::locations::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::{event_service::EventRefusal, identity::Denied, validate::Violations};
use crate::{
    queue::{QueueError, TaskId, TaskState},
    watch::WatchRefusal,
};

/// `ErrorInfo.domain` of every error.
pub(crate) const DOMAIN: &str = "backhaul";

/// How soon to repeat when the store of the queue cannot be reached or has not confirmed.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(1);
/// How soon to repeat when the store must be changed first, or a replica has to come back.
const RETRY_UNFIT: Duration = Duration::from_secs(5);
/// How soon to repeat when a queue is full: tasks take seconds to leave it.
const RETRY_FULL: Duration = Duration::from_secs(5);
/// How soon to repeat when too many calls are in progress here.
const RETRY_OVERLOADED: Duration = Duration::from_millis(250);

/// Why a call, or one request of a batch, did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Fields are wrong. Nothing was stored.
    #[error("invalid request")]
    Invalid(Violations),
    /// What arrived is not the message of the contract. Nothing was stored.
    #[error("the message cannot be decoded")]
    Malformed,
    /// The message is above the limit of its size. Nothing was stored.
    #[error("the message is too large")]
    TooLarge,
    /// The caller is nobody known, or nobody who may call.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The tenant may not name that object. Nothing was stored.
    #[error("{refusal}")]
    Refused { refusal: Refusal, location: String },
    /// There is no such task, or it is another tenant's: told alike.
    #[error("no such task")]
    NoSuchTask(String),
    /// There is no such prefix backup, or it is another tenant's: told alike.
    #[error("no such prefix backup")]
    NoSuchPrefixBackup(String),
    /// The prefix backup is finished, so it cannot be changed.
    #[error("the prefix backup is finished")]
    PrefixBackupFinished(String),
    /// There is no such rule.
    #[error("no such rule")]
    NoSuchRule(String),
    /// The task is finished, so it cannot be cancelled.
    #[error("the task is finished")]
    Finished { task: TaskId, state: TaskState },
    /// The caller asked for what only an operator may see.
    #[error("only operators may see all tenants")]
    NotOperator,
    /// What an event left cannot be used as was asked.
    #[error(transparent)]
    EventRefused(#[from] EventRefusal),
    /// Nobody may begin to watch now.
    #[error(transparent)]
    WatchRefused(#[from] WatchRefusal),
    /// The queue did not do it.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Too many calls are in progress. Nothing was looked at.
    #[error("too many calls in progress")]
    Overloaded(Whose),
    /// Too many calls a second. Nothing was looked at.
    #[error("too many calls a second")]
    RateLimited { retry_after: Duration, whose: Whose },
    /// What proved who called is about to end, and so does the stream.
    #[error("the caller has to prove anew who it is")]
    Reauthenticate,
    /// The time for the call is over. The change may or may not have been made.
    #[error("the deadline of the call is over")]
    DeadlineExceeded,
    /// A receipt in the store cannot be read.
    #[error("the stored receipt of task {0} is damaged")]
    DamagedReceipt(TaskId),
    /// A promise inside the dispatcher was broken.
    #[error("broken promise: {0}")]
    Bug(&'static str),
}

/// Whose calls there are too many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// All callers' together.
    All,
    /// The one's who calls.
    Identity,
}

impl Whose {
    const fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Identity => "identity",
        }
    }
}

/// What a caller is told.
struct Answer {
    code: Code,
    reason: &'static str,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    resource: Option<(&'static str, String)>,
    metadata: Vec<(&'static str, String)>,
}

impl ApiError {
    /// The status of a call that failed with this error. Logs it when a person has to look.
    pub(crate) fn into_status(self) -> Status {
        self.log();
        let answer = self.answer();
        let metadata: HashMap<String, String> =
            answer.metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let mut details = ErrorDetails::with_error_info(answer.reason, DOMAIN, metadata);
        if let Some(after) = answer.retry_after {
            details.set_retry_info(Some(after));
        }
        if let Some((kind, name)) = answer.resource {
            details.set_resource_info(kind, name, "", "");
        }
        if let Self::Invalid(violations) = self {
            let fields: Vec<_> =
                violations.into_iter().map(|v| FieldViolation::new(v.field, v.description)).collect();
            details.set_bad_request(fields);
        }
        Status::with_error_details(answer.code, answer.message, details)
    }

    /// The same as one answer of a batch.
    pub(crate) fn into_submit_error(self) -> pb::SubmitError {
        self.log();
        let answer = self.answer();
        let violations = match self {
            Self::Invalid(violations) => violations
                .into_iter()
                .map(|v| pb::FieldViolation { field: v.field, description: v.description })
                .collect(),
            Self::Malformed
            | Self::TooLarge
            | Self::Denied(_)
            | Self::Refused { .. }
            | Self::NoSuchTask(_)
            | Self::NoSuchPrefixBackup(_)
            | Self::PrefixBackupFinished(_)
            | Self::NoSuchRule(_)
            | Self::Finished { .. }
            | Self::NotOperator
            | Self::EventRefused(_)
            | Self::WatchRefused(_)
            | Self::Queue(_)
            | Self::Overloaded(_)
            | Self::RateLimited { .. }
            | Self::Reauthenticate
            | Self::DeadlineExceeded
            | Self::DamagedReceipt(_)
            | Self::Bug(_) => Vec::new(),
        };
        pb::SubmitError {
            code: answer.code.into(),
            message: answer.message.into_owned(),
            violations,
            retry_after_ms: answer
                .retry_after
                .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX).max(1)),
        }
    }

    fn answer(&self) -> Answer {
        match self {
            Self::Invalid(violations) => {
                Answer::new(Code::InvalidArgument, "INVALID_FIELDS", violations.summary())
            }
            Self::Malformed => Answer::new(
                Code::InvalidArgument,
                "MALFORMED_MESSAGE",
                "the message cannot be decoded as the contract has it",
            ),
            Self::TooLarge => Answer::new(
                Code::InvalidArgument,
                "MESSAGE_TOO_LARGE",
                "the message is larger than this call allows",
            ),
            Self::Denied(Denied::Unidentified(why)) => {
                Answer::new(Code::Unauthenticated, "UNAUTHENTICATED", *why)
            }
            Self::Denied(Denied::NoSuchCall) => {
                Answer::new(Code::Unimplemented, "NO_SUCH_CALL", "there is no such call")
            }
            Self::Denied(Denied::NotNow(why)) => {
                Answer::new(Code::Unavailable, "IDENTITY_UNAVAILABLE", *why).retry(RETRY_UNAVAILABLE)
            }
            Self::Denied(Denied::NotRecorded) => Answer::new(
                Code::Unavailable,
                "AUDIT_UNAVAILABLE",
                "the audit log cannot be written; not processed, safe to retry",
            )
            .retry(RETRY_UNFIT),
            Self::Denied(Denied::Role(why)) => Answer::new(Code::PermissionDenied, "ROLE_NOT_ALLOWED", *why),
            Self::Refused { refusal, location } => Self::refused(*refusal, location),
            Self::NoSuchTask(task) => Answer::new(Code::NotFound, "TASK_NOT_FOUND", "no such task")
                .resource("backhaul.v1.Backup", task.clone()),
            Self::NoSuchPrefixBackup(id) => {
                Answer::new(Code::NotFound, "PREFIX_BACKUP_NOT_FOUND", "no such prefix backup")
                    .resource("backhaul.v1.PrefixBackup", id.clone())
            }
            Self::PrefixBackupFinished(id) => Answer::new(
                Code::FailedPrecondition,
                "PREFIX_BACKUP_FINISHED",
                "the prefix backup is already finished",
            )
            .resource("backhaul.v1.PrefixBackup", id.clone()),
            Self::NoSuchRule(name) => Answer::new(Code::NotFound, "RULE_NOT_FOUND", "no such rule")
                .resource("backhaul.v1.Rule", name.clone()),
            Self::Finished { task, state } => {
                Answer::new(Code::FailedPrecondition, "TASK_FINISHED", "the task is already finished")
                    .resource("backhaul.v1.Backup", task.to_string())
                    .metadata("state", super::present::state(*state).as_str_name())
            }
            Self::NotOperator => Answer::new(
                Code::PermissionDenied,
                "OPERATORS_ONLY",
                "only an operator may see what all tenants have",
            ),
            Self::EventRefused(refusal) => Self::event_refused(*refusal),
            Self::WatchRefused(WatchRefusal::TooMany) => Answer::new(
                Code::ResourceExhausted,
                "TOO_MANY_WATCHERS",
                "this dispatcher has as many watchers as it takes",
            )
            .retry(RETRY_FULL),
            Self::WatchRefused(WatchRefusal::TooManyOfIdentity) => Answer::new(
                Code::ResourceExhausted,
                "TOO_MANY_WATCHERS",
                "this caller has as many watches on this dispatcher as it may",
            )
            .retry(RETRY_FULL)
            .metadata("of", Whose::Identity.word()),
            Self::WatchRefused(WatchRefusal::Stopping) => Answer::new(
                Code::Unavailable,
                "STOPPING",
                "the dispatcher is stopping; go on with the newest cursor at another",
            )
            .retry(RETRY_OVERLOADED),
            Self::Queue(error) => Self::queue(error),
            Self::Overloaded(whose) => Answer::new(
                Code::ResourceExhausted,
                "OVERLOADED",
                "too many calls in progress; not processed, safe to retry",
            )
            .retry(RETRY_OVERLOADED)
            .metadata("of", whose.word()),
            Self::RateLimited { retry_after, whose } => Answer::new(
                Code::ResourceExhausted,
                "RATE_LIMITED",
                "too many calls a second; not processed, safe to retry",
            )
            .retry(*retry_after)
            .metadata("of", whose.word()),
            Self::Reauthenticate => Answer::new(
                Code::Unavailable,
                "REAUTHENTICATE",
                "the certificate or token that let this call in ends; go on with a new one",
            )
            .retry(RETRY_OVERLOADED),
            Self::DeadlineExceeded => Answer::new(
                Code::DeadlineExceeded,
                "DEADLINE_EXCEEDED",
                "the time for this call is over; it may have been processed, safe to retry",
            )
            .retry(RETRY_UNAVAILABLE),
            Self::DamagedReceipt(_) | Self::Bug(_) => Answer::internal(),
        }
    }

    fn refused(refusal: Refusal, location: &str) -> Answer {
        match refusal {
            // One text for a location that does not exist and for one that grants this tenant nothing.
            Refusal::Location => Answer::new(Code::NotFound, "LOCATION_NOT_FOUND", "no such location")
                .resource("location", location.to_owned()),
            Refusal::Bucket => Answer::new(
                Code::PermissionDenied,
                "BUCKET_NOT_ALLOWED",
                "the location does not allow this bucket",
            )
            .metadata("field", "object.bucket"),
            Refusal::Key => {
                Answer::new(Code::PermissionDenied, "KEY_NOT_ALLOWED", "the location does not allow this key")
                    .metadata("field", "object.key")
            }
        }
    }

    fn event_refused(refusal: EventRefusal) -> Answer {
        let (code, reason) = match refusal {
            EventRefusal::Unknown => (Code::NotFound, "EVENT_NOT_FOUND"),
            EventRefusal::Partial => (Code::FailedPrecondition, "EVENT_PARTIAL"),
            EventRefusal::NoSource => (Code::FailedPrecondition, "EVENT_SOURCE_NOT_FOUND"),
            EventRefusal::ForeignBucket => (Code::FailedPrecondition, "BUCKET_NOT_ALLOWED"),
        };
        Answer::new(code, reason, refusal.to_string())
    }

    fn queue(error: &QueueError) -> Answer {
        match error {
            QueueError::Full => Answer::new(
                Code::ResourceExhausted,
                "QUEUE_FULL",
                "the queue is full; not stored, safe to retry",
            )
            .retry(RETRY_FULL),
            QueueError::TenantFull => Answer::new(
                Code::ResourceExhausted,
                "TENANT_QUEUE_FULL",
                "the tenant has too many unfinished tasks; not stored, safe to retry",
            )
            .retry(RETRY_FULL),
            QueueError::NotFound(task) => Answer::new(Code::NotFound, "TASK_NOT_FOUND", "no such task")
                .resource("backhaul.v1.Backup", task.to_string()),
            QueueError::Unavailable(_) => Answer::new(
                Code::Unavailable,
                "QUEUE_UNAVAILABLE",
                "the queue cannot be reached; it may have been processed, safe to retry",
            )
            .retry(RETRY_UNAVAILABLE),
            QueueError::NotDurable { .. } => Answer::new(
                Code::Unavailable,
                "NOT_DURABLE",
                "stored, but not confirmed as durable; repeat until it is",
            )
            .retry(RETRY_UNAVAILABLE),
            // The one thing inside that a caller is told: nothing will be accepted until an operator has changed it.
            QueueError::Unfit(why) => Answer::new(
                Code::Unavailable,
                "QUEUE_UNFIT",
                format!("the queue's store is not fit for tasks: {why}; not stored, safe to retry"),
            )
            .retry(RETRY_UNFIT),
            QueueError::Corrupt { .. } | QueueError::Rejected(_) => Answer::internal(),
        }
    }

    /// Only what a person has to look at; a store that is away is told by readiness, once, and not by each call.
    fn log(&self) {
        match self {
            Self::Queue(QueueError::Corrupt { task, what }) => {
                tracing::error!(%task, what, "stored task is damaged");
            }
            Self::Queue(error @ QueueError::Rejected(source)) => {
                tracing::error!(%error, source = %source, cause = ?source.source(), "queue store refused a request");
            }
            Self::Queue(
                error @ (QueueError::Unavailable(_) | QueueError::NotDurable { .. } | QueueError::Unfit(_)),
            ) => {
                tracing::debug!(%error, source = ?error.source(), "queue store did not answer as needed");
            }
            Self::DamagedReceipt(task) => tracing::error!(%task, "stored receipt is damaged"),
            Self::Bug(what) => tracing::error!(what, "broken promise inside the dispatcher"),
            Self::Queue(QueueError::Full | QueueError::TenantFull | QueueError::NotFound(_))
            | Self::Invalid(_)
            | Self::Malformed
            | Self::TooLarge
            | Self::Denied(_)
            | Self::Refused { .. }
            | Self::NoSuchTask(_)
            | Self::NoSuchPrefixBackup(_)
            | Self::PrefixBackupFinished(_)
            | Self::NoSuchRule(_)
            | Self::Finished { .. }
            | Self::NotOperator
            | Self::EventRefused(_)
            | Self::WatchRefused(_)
            | Self::Overloaded(_)
            | Self::RateLimited { .. }
            | Self::Reauthenticate
            | Self::DeadlineExceeded => {}
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        error.into_status()
    }
}

impl Answer {
    fn new(code: Code, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            retry_after: None,
            resource: None,
            metadata: Vec::new(),
        }
    }

    fn internal() -> Self {
        Self::new(Code::Internal, "INTERNAL", "internal error")
    }

    fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    fn resource(mut self, kind: &'static str, name: String) -> Self {
        self.resource = Some((kind, name));
        self
    }

    fn metadata(mut self, key: &'static str, value: &str) -> Self {
        self.metadata.push((key, value.to_owned()));
        self
    }
}

#[cfg(test)]
mod tests;
