//! Every error, and exactly what a caller is told of it.

use tonic_types::StatusExt as _;

use super::*;
use crate::grpc::validate::invalid;

fn task() -> TaskId {
    TaskId::parse("def-0123456789abcdef0123456789abcdef").unwrap()
}

fn unfit() -> QueueError {
    QueueError::Unfit(std::sync::Arc::new(crate::queue::redis::Unfit::TooFewReplicas {
        connected: 0,
        wanted: 1,
    }))
}

fn all() -> Vec<(ApiError, Code, &'static str, bool)> {
    let secret = || "redis://user:hunter2@10.0.0.1 said WRONGTYPE".into();
    let refused = |refusal| ApiError::Refused { refusal, location: "uploads".into() };
    vec![
        (invalid("f", "is wrong"), Code::InvalidArgument, "INVALID_FIELDS", false),
        (ApiError::Malformed, Code::InvalidArgument, "MALFORMED_MESSAGE", false),
        (ApiError::TooLarge, Code::InvalidArgument, "MESSAGE_TOO_LARGE", false),
        (Denied::Unidentified("no").into(), Code::Unauthenticated, "UNAUTHENTICATED", false),
        (Denied::Role("no").into(), Code::PermissionDenied, "ROLE_NOT_ALLOWED", false),
        (refused(Refusal::Location), Code::NotFound, "LOCATION_NOT_FOUND", false),
        (refused(Refusal::Bucket), Code::PermissionDenied, "BUCKET_NOT_ALLOWED", false),
        (refused(Refusal::Key), Code::PermissionDenied, "KEY_NOT_ALLOWED", false),
        (ApiError::NoSuchTask("x".into()), Code::NotFound, "TASK_NOT_FOUND", false),
        (
            ApiError::Finished { task: task(), state: TaskState::Done },
            Code::FailedPrecondition,
            "TASK_FINISHED",
            false,
        ),
        (QueueError::Full.into(), Code::ResourceExhausted, "QUEUE_FULL", true),
        (QueueError::TenantFull.into(), Code::ResourceExhausted, "TENANT_QUEUE_FULL", true),
        (QueueError::NotFound(task()).into(), Code::NotFound, "TASK_NOT_FOUND", false),
        (QueueError::Unavailable(secret()).into(), Code::Unavailable, "QUEUE_UNAVAILABLE", true),
        (unfit().into(), Code::Unavailable, "QUEUE_UNFIT", true),
        (QueueError::NotDurable { reached: 1, wanted: 2 }.into(), Code::Unavailable, "NOT_DURABLE", true),
        (
            QueueError::Corrupt { task: "hunter2".into(), what: "hunter2" }.into(),
            Code::Internal,
            "INTERNAL",
            false,
        ),
        (QueueError::Rejected(secret()).into(), Code::Internal, "INTERNAL", false),
        (ApiError::Overloaded(Whose::All), Code::ResourceExhausted, "OVERLOADED", true),
        (
            ApiError::RateLimited { retry_after: Duration::from_millis(3), whose: Whose::Identity },
            Code::ResourceExhausted,
            "RATE_LIMITED",
            true,
        ),
        (ApiError::DeadlineExceeded, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", true),
        (ApiError::DamagedReceipt(task()), Code::Internal, "INTERNAL", false),
        (ApiError::Bug("hunter2"), Code::Internal, "INTERNAL", false),
    ]
}

#[test]
fn every_error_has_its_code_its_reason_and_its_retry_and_shows_nothing_inside() {
    for (error, code, reason, is_retryable) in all() {
        let name = format!("{error:?}");
        let status = error.into_status();
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{name}");
        assert_eq!(info.domain, DOMAIN);
        assert_eq!(details.retry_info().is_some(), is_retryable, "{name}");
        assert_eq!(
            details.resource_info().is_some(),
            code == Code::NotFound || reason == "TASK_FINISHED",
            "{name}"
        );
        assert_eq!(details.bad_request().is_some(), reason == "INVALID_FIELDS", "{name}");
        let everything = format!("{status:?} {details:?}");
        assert!(!everything.contains("hunter2"), "{everything}");
    }
}

#[test]
fn in_a_batch_the_same_error_says_the_same() {
    for ((error, ..), (same, code, _, is_retryable)) in all().into_iter().zip(all()) {
        let message = error.into_status().message().to_owned();
        let told = same.into_submit_error();
        assert_eq!((told.code, &told.message), (i32::from(code), &message));
        assert_eq!(told.retry_after_ms > 0, is_retryable, "{message}");
        assert_eq!(told.violations.is_empty(), message != "invalid request: f is wrong");
        assert!(!told.message.contains("hunter2"));
    }
}

#[test]
fn the_worst_request_has_an_answer_that_fits_into_a_clients_headers() {
    let mut violations = Violations::default();
    for _ in 0..1000 {
        violations.add("x".repeat(80), "must have a name of 1 to 63 bytes of a-z, 0-9, ., _ and -");
    }
    let headers = ApiError::Invalid(violations).into_status().into_http::<()>();
    let size: usize = headers.headers().iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
    assert!(size < 16 * 1024, "{size} bytes");
}

#[test]
fn a_caller_is_told_what_has_to_change_before_its_task_can_be_kept() {
    let status = ApiError::from(unfit()).into_status();
    assert!(status.message().contains("0 replicas are connected, 1 must confirm"), "{status:?}");
}
