//! A request to run dead tasks again: checked and turned into a query for them, always limited to the caller's tenant.

use std::time::Duration;

use backhaul_proto::v1 as pb;
use backhaul_runtime::locations::is_location_name;
use prost_types::Timestamp;

use super::{MAX_KEY_BYTES, Violations, labels, task_ids};
use crate::{
    grpc::{page_token, status::ApiError},
    queue::{ListQuery, TaskId, TaskReason, TaskState, UnixMs},
};

const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1000;
const MAX_BUCKET_BYTES: usize = 63;

/// Which tasks to run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retry {
    /// These only, if there are any.
    pub(crate) ids: Vec<TaskId>,
    /// Dead tasks that match; `limit` is the size of the page.
    pub(crate) dead: ListQuery,
    /// Change nothing.
    pub(crate) dry_run: bool,
}

/// What `request` asks for.
///
/// # Errors
/// [`ApiError::Invalid`] with all violations.
pub(crate) fn retry(tenant: &str, request: pb::RetryBackupsRequest) -> Result<Retry, ApiError> {
    let mut violations = Violations::default();
    violations.require(
        request.location.is_empty() || is_location_name(&request.location),
        "location",
        "must be 1 to 63 bytes of a-z, 0-9 and -, starting with a letter",
    );
    violations.require(request.bucket.len() <= MAX_BUCKET_BYTES, "bucket", "must be at most 63 bytes");
    violations.require(request.key_prefix.len() <= MAX_KEY_BYTES, "key_prefix", "must be at most 1024 bytes");
    violations.require(
        request.page_size <= MAX_PAGE_SIZE,
        "page_size",
        "must be 1 to 1000, or 0 for the default",
    );
    violations.require(
        request.task_ids.is_empty() || request.page_token.is_empty(),
        "page_token",
        "does not go with task_ids",
    );
    let ids = task_ids(&request.task_ids, &mut violations);
    let mut dead = ListQuery {
        tenant: tenant.to_owned(),
        states: vec![TaskState::Dead],
        reasons: reasons(&request.reasons, &mut violations),
        location: (!request.location.is_empty()).then_some(request.location),
        bucket: (!request.bucket.is_empty()).then_some(request.bucket),
        key_prefix: request.key_prefix,
        labels: labels("labels", request.labels, &mut violations),
        finished_from: instant("died_from", request.died_from, &mut violations),
        finished_until: instant("died_before", request.died_before, &mut violations),
        limit: if request.page_size == 0 { DEFAULT_PAGE_SIZE } else { request.page_size },
        cursor: None,
    };
    if !request.page_token.is_empty() {
        dead.cursor = page_token::decode(&dead, &request.page_token);
        violations.require(
            dead.cursor.is_some(),
            "page_token",
            "must be the token of the previous answer, with the same filter",
        );
    }
    violations.finish(Retry { ids, dead, dry_run: request.dry_run })
}

/// Each reason once, however often it was named: a message can hold a million numbers.
fn reasons(asked: &[i32], violations: &mut Violations) -> Vec<TaskReason> {
    let mut reasons = Vec::new();
    for &reason in asked {
        let reason = match pb::TaskReason::try_from(reason) {
            Ok(pb::TaskReason::PermanentFailure) => TaskReason::PermanentFailure,
            Ok(pb::TaskReason::AttemptsUsedUp) => TaskReason::AttemptsUsedUp,
            Ok(pb::TaskReason::CrashedTooOften) => TaskReason::CrashedTooOften,
            Ok(_) | Err(_) => {
                violations.add("reasons", "must be reasons for which tasks die");
                break;
            }
        };
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons
}

fn instant(field: &str, at: Option<Timestamp>, violations: &mut Violations) -> Option<UnixMs> {
    let at = at?;
    let seconds = u64::try_from(at.seconds).ok().filter(|seconds| *seconds < 1 << 40);
    let nanos = u32::try_from(at.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Some(UnixMs(0).plus(Duration::new(seconds, nanos))),
        (_, _) => {
            violations.add(field, "must be an instant of our era");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_of_a_filter_is_kept() {
        let base = pb::RetryBackupsRequest::default;
        let id = || "def-0123456789abcdef0123456789abcdef".to_owned();
        for (bad, field) in [
            (pb::RetryBackupsRequest { task_ids: vec!["x".into()], ..base() }, "task_ids[0]"),
            (pb::RetryBackupsRequest { task_ids: vec![id(); 1001], ..base() }, "task_ids"),
            (pb::RetryBackupsRequest { location: "Up".into(), ..base() }, "location"),
            (pb::RetryBackupsRequest { bucket: "b".repeat(64), ..base() }, "bucket"),
            (pb::RetryBackupsRequest { key_prefix: "k".repeat(1025), ..base() }, "key_prefix"),
            (pb::RetryBackupsRequest { reasons: vec![1; 100_000], ..base() }, "reasons"),
            (pb::RetryBackupsRequest { reasons: vec![99], ..base() }, "reasons"),
            (pb::RetryBackupsRequest { page_size: 1001, ..base() }, "page_size"),
            (pb::RetryBackupsRequest { page_token: "00".into(), ..base() }, "page_token"),
            (
                pb::RetryBackupsRequest { died_from: Some(Timestamp { seconds: -1, nanos: 0 }), ..base() },
                "died_from",
            ),
            (
                pb::RetryBackupsRequest { died_before: Some(Timestamp { seconds: 1, nanos: -1 }), ..base() },
                "died_before",
            ),
        ] {
            let Err(ApiError::Invalid(violations)) = retry("web", bad) else { panic!("{field} is taken") };
            assert_eq!(violations.into_iter().map(|v| v.field).collect::<Vec<_>>(), [field]);
        }
    }

    #[test]
    fn a_filter_means_dead_tasks_of_the_caller() {
        let request = pb::RetryBackupsRequest {
            bucket: "photos".into(),
            reasons: vec![5, 5, 7],
            died_from: Some(Timestamp { seconds: 2, nanos: 5_000_000 }),
            ..Default::default()
        };
        let retry = retry("web", request).unwrap();
        let expected = ListQuery {
            tenant: "web".into(),
            states: vec![TaskState::Dead],
            reasons: vec![TaskReason::PermanentFailure, TaskReason::CrashedTooOften],
            bucket: Some("photos".into()),
            finished_from: Some(UnixMs(2_005)),
            limit: 100,
            ..ListQuery::default()
        };
        assert_eq!(retry, Retry { ids: vec![], dead: expected, dry_run: false });
    }
}
