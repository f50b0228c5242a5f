//! How a task looks to callers: the queue's records in the contract's words.
//!
//! Pure; must not show what callers have no use for (lease tokens, upload ids).

use backhaul_proto::v1 as pb;
use prost::Message as _;
use prost_types::Timestamp;

use super::status::ApiError;
use crate::queue::{
    Failure, FailureClass, ObjectRef, Priority, SubmitOutcome, Submitted, TaskReason, TaskRecord, TaskState,
    UnixMs, VerifyLevel,
};

/// The last millisecond that a Timestamp may hold: the end of the year 9999.
const MAX_TIMESTAMP_MS: u64 = 253_402_300_799_999;

/// One task, receipt included.
///
/// # Errors
/// [`ApiError::DamagedReceipt`]: it is done and its receipt cannot be read, so the caller must not take it for proven.
pub(crate) fn backup(record: TaskRecord) -> Result<pb::Backup, ApiError> {
    let receipt = match record.state {
        TaskState::Done => Some(receipt(&record).ok_or_else(|| ApiError::DamagedReceipt(record.id.clone()))?),
        TaskState::Scheduled
        | TaskState::Pending
        | TaskState::Working
        | TaskState::Delayed
        | TaskState::Dead
        | TaskState::Cancelled => None,
    };
    Ok(without_receipt(record, receipt))
}

/// One task of a page. A damaged receipt leaves a gap in its own task only: one bad record must not hide all others.
pub(crate) fn listed(record: TaskRecord) -> pb::Backup {
    let receipt = if record.state == TaskState::Done { receipt(&record) } else { None };
    if record.state == TaskState::Done && receipt.is_none() {
        tracing::error!(task_id = %record.id, "stored receipt is damaged");
    }
    without_receipt(record, receipt)
}

/// The answer to an accepted submit.
pub(crate) fn submitted(submitted: Submitted) -> pb::SubmitBackupResponse {
    let outcome = match submitted.outcome {
        SubmitOutcome::Created => pb::SubmitOutcome::Created,
        SubmitOutcome::Duplicate => pb::SubmitOutcome::Duplicate,
        SubmitOutcome::Coalesced => pb::SubmitOutcome::Coalesced,
        SubmitOutcome::RunsAgain => pb::SubmitOutcome::RunsAgain,
    };
    pb::SubmitBackupResponse {
        task_id: submitted.id.to_string(),
        run: submitted.run,
        state: state(submitted.state).into(),
        outcome: outcome.into(),
    }
}

/// A state.
pub(crate) const fn state(state: TaskState) -> pb::TaskState {
    match state {
        TaskState::Scheduled => pb::TaskState::Scheduled,
        TaskState::Pending => pb::TaskState::Pending,
        TaskState::Working => pb::TaskState::Working,
        TaskState::Delayed => pb::TaskState::Delayed,
        TaskState::Done => pb::TaskState::Done,
        TaskState::Dead => pb::TaskState::Dead,
        TaskState::Cancelled => pb::TaskState::Cancelled,
    }
}

/// An instant; the end of the year 9999 stands for everything later, which a Timestamp cannot hold.
pub(crate) fn timestamp(at: UnixMs) -> Timestamp {
    let ms = at.0.min(MAX_TIMESTAMP_MS);
    Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1000).unwrap_or_default() * 1_000_000,
    }
}

fn without_receipt(record: TaskRecord, receipt: Option<pb::Receipt>) -> pb::Backup {
    let is_running = record.state == TaskState::Working && record.accepted;
    let progress = is_running.then_some(pb::Progress {
        bytes_done: record.progress.bytes_done,
        bytes_total: record.progress.bytes_total,
    });
    pb::Backup {
        task_id: record.id.to_string(),
        run: record.run,
        object: Some(object(record.spec.object)),
        state: state(record.state).into(),
        reason: reason(record.reason).into(),
        priority: priority(record.spec.priority).into(),
        labels: record.spec.labels.into_iter().collect(),
        attempts: record.attempts,
        max_attempts: record.spec.max_attempts,
        crashes: record.crashes,
        created_at: Some(timestamp(record.created_at)),
        process_at: record.process_at.map(timestamp),
        finished_at: record.finished_at.map(timestamp),
        progress,
        last_failure: record.last_failure.map(failure),
        receipt,
        worker: record.worker,
        runs_again: record.dirty,
        retention_class: record.spec.retention_class,
    }
}

/// The receipt, if it says at least where the copy is: an empty one proves nothing.
fn receipt(record: &TaskRecord) -> Option<pb::Receipt> {
    pb::Receipt::decode(record.receipt.clone()).ok().filter(|r| r.backup.is_some())
}

pub(crate) fn object(object: ObjectRef) -> pb::ObjectRef {
    pb::ObjectRef {
        location: object.location,
        bucket: object.bucket,
        key: object.key,
        version: object.version.unwrap_or_default(),
    }
}

pub(crate) fn failure(failure: Failure) -> pb::Failure {
    let class = match failure.class {
        FailureClass::Retry => pb::FailureClass::Retry,
        FailureClass::Throttled => pb::FailureClass::Throttled,
        FailureClass::Permanent => pb::FailureClass::Permanent,
        FailureClass::SourceGone => pb::FailureClass::SourceGone,
    };
    pb::Failure {
        class: class.into(),
        code: failure.code,
        message: failure.message,
        retry_after_ms: u64::try_from(failure.retry_after.as_millis()).unwrap_or(u64::MAX),
    }
}

pub(crate) const fn priority(priority: Priority) -> pb::Priority {
    match priority {
        Priority::High => pb::Priority::High,
        Priority::Normal => pb::Priority::Normal,
        Priority::Low => pb::Priority::Low,
    }
}

pub(crate) const fn verify(level: VerifyLevel) -> pb::VerifyLevel {
    match level {
        VerifyLevel::Receipt => pb::VerifyLevel::Receipt,
        VerifyLevel::Head => pb::VerifyLevel::Head,
        VerifyLevel::Readback => pb::VerifyLevel::Readback,
    }
}

pub(crate) const fn reason(reason: TaskReason) -> pb::TaskReason {
    match reason {
        TaskReason::None => pb::TaskReason::Unspecified,
        TaskReason::BackingOff => pb::TaskReason::BackingOff,
        TaskReason::Throttled => pb::TaskReason::Throttled,
        TaskReason::HandedBack => pb::TaskReason::HandedBack,
        TaskReason::LeaseExpired => pb::TaskReason::LeaseExpired,
        TaskReason::PermanentFailure => pb::TaskReason::PermanentFailure,
        TaskReason::AttemptsUsedUp => pb::TaskReason::AttemptsUsedUp,
        TaskReason::CrashedTooOften => pb::TaskReason::CrashedTooOften,
        TaskReason::CancelledByCaller => pb::TaskReason::CancelledByCaller,
        TaskReason::SourceGone => pb::TaskReason::SourceGone,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::grpc::testing::record;

    fn done(receipt: Bytes) -> TaskRecord {
        TaskRecord { state: TaskState::Done, receipt, finished_at: Some(UnixMs(5)), ..record("k") }
    }

    fn good_receipt() -> pb::Receipt {
        pb::Receipt {
            backup: Some(pb::BackupObject { bucket: "backups".into(), ..Default::default() }),
            size_bytes: 7,
            ..Default::default()
        }
    }

    #[test]
    fn a_finished_task_shows_its_receipt_and_no_progress() {
        let shown = backup(done(good_receipt().encode_to_vec().into())).unwrap();
        assert_eq!(shown.receipt, Some(good_receipt()));
        assert_eq!(shown.state(), pb::TaskState::Done);
        assert_eq!(shown.progress, None);
        assert_eq!(shown.finished_at, Some(Timestamp { seconds: 0, nanos: 5_000_000 }));
    }

    #[test]
    fn a_damaged_or_empty_receipt_is_never_shown_as_proof() {
        for damaged in [&b"\xff\xff\xff"[..], b""] {
            let record = done(Bytes::from_static(damaged));
            assert!(matches!(backup(record.clone()), Err(ApiError::DamagedReceipt(_))));
            assert_eq!(listed(record).receipt, None);
        }
    }

    #[test]
    fn progress_is_shown_only_while_a_copy_runs() {
        let mut working = TaskRecord { state: TaskState::Working, ..record("k") };
        working.progress.bytes_done = 3;
        assert_eq!(backup(working.clone()).unwrap().progress, None, "nobody has accepted it");
        working.accepted = true;
        assert_eq!(backup(working).unwrap().progress.unwrap().bytes_done, 3);
        assert_eq!(backup(record("k")).unwrap().progress, None);
    }

    #[test]
    fn instants_beyond_what_a_timestamp_holds_are_its_last_one() {
        let last = timestamp(UnixMs(u64::MAX));
        assert_eq!((last.seconds, last.nanos), (253_402_300_799, 999_000_000));
    }
}
