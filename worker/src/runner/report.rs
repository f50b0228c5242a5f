//! From what the engine says to what the contract says: requests, receipts, failures.
//!
//! The one place where both vocabularies meet. Decides only what a kind of failure means for the task; must do no I/O.

use std::{any::Any, time::Duration};

use backhaul_proto::v1::{self, task_result::Outcome};

use crate::{
    link::Assignment,
    transfer::{CopyReceipt, CopyRequest, TransferError, TransferErrorKind, VerifyLevel},
};

/// Attempts that must be refused before a refusal is believed. One worker with wrong credentials or a wrong clock would otherwise end
/// every task that it touches, and a right that somebody has just given takes a while to spread.
const REFUSALS: u32 = 3;
/// Most bytes of a failure's message, by the contract.
const MOST_MESSAGE: usize = 512;

/// The copy that an assignment asks for.
pub(crate) fn request(assignment: &Assignment) -> CopyRequest {
    let v1::ObjectRef { location, bucket, key, version } = assignment.object.clone();
    CopyRequest {
        task_id: assignment.lease.task_id.to_string(),
        tenant: assignment.tenant.clone(),
        location,
        bucket,
        key,
        version: (!version.is_empty()).then_some(version),
        verify: match assignment.verify {
            v1::VerifyLevel::Unspecified => None,
            v1::VerifyLevel::Receipt => Some(VerifyLevel::Receipt),
            v1::VerifyLevel::Head => Some(VerifyLevel::Head),
            v1::VerifyLevel::Readback => Some(VerifyLevel::Readback),
        },
        resume_upload_id: assignment.resume_upload_id.clone(),
        retention_class: Some(assignment.retention_class.clone()).filter(|class| !class.is_empty()),
    }
}

/// The proof of a copy that `worker` made.
pub(crate) fn receipt(receipt: CopyReceipt, worker: &str) -> Outcome {
    let modified_at = receipt
        .source_modified
        .map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or(0) });
    Outcome::Receipt(v1::Receipt {
        source: Some(v1::SourceVersion {
            version: receipt.source_version,
            etag: receipt.source_etag,
            modified_at,
        }),
        backup: Some(v1::BackupObject {
            location: receipt.backup_location,
            bucket: receipt.backup_bucket,
            key: receipt.backup_key,
            version: receipt.backup_version,
            etag: receipt.backup_etag,
        }),
        size_bytes: receipt.size_bytes,
        crc64nvme: receipt.crc64nvme,
        sha256: receipt.sha256.map_or_else(Default::default, |sha| sha.to_vec().into()),
        verified: match receipt.verified {
            VerifyLevel::Receipt => v1::VerifyLevel::Receipt,
            VerifyLevel::Head => v1::VerifyLevel::Head,
            VerifyLevel::Readback => v1::VerifyLevel::Readback,
        }
        .into(),
        already_present: receipt.already_present,
        not_kept: receipt.not_kept,
        parts: receipt.parts,
        elapsed_ms: millis(receipt.elapsed),
        worker: worker.to_owned(),
        server_side_copy: receipt.server_side,
    })
}

/// How a copy failed on its `attempt`-th attempt.
pub(crate) fn failure(error: &TransferError, attempt: u32) -> Outcome {
    Outcome::Failure(described(error, attempt))
}

/// How something failed that is no copy, and that nobody tries often enough for a refusal to be doubted.
pub(crate) fn hopeless(error: &TransferError) -> v1::Failure {
    described(error, REFUSALS)
}

fn described(error: &TransferError, attempt: u32) -> v1::Failure {
    let (class, retry_after) = match error.kind {
        TransferErrorKind::SourceGone => (v1::FailureClass::SourceGone, Duration::ZERO),
        TransferErrorKind::Throttled { retry_after } => (v1::FailureClass::Throttled, retry_after),
        TransferErrorKind::Denied | TransferErrorKind::Misdirected if attempt < REFUSALS => {
            (v1::FailureClass::Retry, Duration::ZERO)
        }
        // Somebody must change a right, a configuration or a bucket before this can work.
        TransferErrorKind::Denied
        | TransferErrorKind::Misdirected
        | TransferErrorKind::NoSuchBucket
        | TransferErrorKind::DestinationConflict
        | TransferErrorKind::Unsupported => (v1::FailureClass::Permanent, Duration::ZERO),
        // Cancelled without having been asked: nobody wanted it, so it is tried again.
        TransferErrorKind::SourceChanged
        | TransferErrorKind::Integrity
        | TransferErrorKind::Io
        | TransferErrorKind::Cancelled => (v1::FailureClass::Retry, Duration::ZERO),
    };
    v1::Failure {
        class: class.into(),
        code: error.kind.code().to_owned(),
        message: cut(error.to_string()),
        retry_after_ms: millis(retry_after),
    }
}

/// A copy that panicked: a defect of ours, which may not show on another try.
pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Outcome {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Outcome::Failure(v1::Failure {
        class: v1::FailureClass::Retry.into(),
        code: "panic".to_owned(),
        message: cut(text),
        retry_after_ms: 0,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Cuts a text to what the contract allows, between characters.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MOST_MESSAGE));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Step;

    fn error(kind: TransferErrorKind, message: &str) -> TransferError {
        TransferError { step: Step::Read, kind, message: message.to_owned(), source: None }
    }

    fn reported(kind: TransferErrorKind, message: &str) -> v1::Failure {
        let Outcome::Failure(failure) = failure(&error(kind, message), REFUSALS) else {
            panic!("it is a failure")
        };
        failure
    }

    #[test]
    fn each_kind_of_failure_has_its_class() {
        use TransferErrorKind as Kind;
        use v1::FailureClass as Class;
        let waits = Kind::Throttled { retry_after: Duration::from_millis(1500) };
        for (kind, class) in [
            (Kind::SourceGone, Class::SourceGone),
            (Kind::SourceChanged, Class::Retry),
            (Kind::Denied, Class::Permanent),
            (Kind::Misdirected, Class::Permanent),
            (Kind::NoSuchBucket, Class::Permanent),
            (waits, Class::Throttled),
            (Kind::Integrity, Class::Retry),
            (Kind::DestinationConflict, Class::Permanent),
            (Kind::Unsupported, Class::Permanent),
            (Kind::Io, Class::Retry),
            (Kind::Cancelled, Class::Retry),
        ] {
            let failure = reported(kind, "m");
            assert_eq!((failure.class(), failure.code.as_str()), (class, kind.code()), "{kind:?}");
        }
        assert_eq!(reported(waits, "m").retry_after_ms, 1500);
    }

    #[test]
    fn a_refusal_is_believed_only_after_several_attempts() {
        use v1::FailureClass::{Permanent, Retry};
        for kind in [TransferErrorKind::Denied, TransferErrorKind::Misdirected] {
            let refused = error(kind, "m");
            let classes: Vec<_> = (1..=REFUSALS + 1)
                .map(|attempt| {
                    let Outcome::Failure(failure) = failure(&refused, attempt) else {
                        panic!("it is a failure")
                    };
                    failure.class()
                })
                .collect();
            assert_eq!(classes, [Retry, Retry, Permanent, Permanent], "{kind:?}");
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = reported(TransferErrorKind::Io, &"ä".repeat(600)).message;
        assert!(message.len() > 500 && message.len() <= 512, "{}", message.len());
        assert!(message.starts_with("read: ää"));
    }

    #[test]
    fn a_panic_is_retried_with_its_message() {
        let Outcome::Failure(failure) = panicked(&"index out of bounds") else { panic!("it is a failure") };
        assert_eq!((failure.class(), failure.code.as_str()), (v1::FailureClass::Retry, "panic"));
        assert_eq!(failure.message, "index out of bounds");
        let Outcome::Failure(failure) = panicked(&7_u8) else { panic!("it is a failure") };
        assert_eq!(failure.message, "no message");
    }
}
