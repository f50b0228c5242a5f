//! A request for a page of tasks: checked and turned into the queue's query, always limited to the caller's tenant.
//!
//! A location is checked in form only: tasks stay visible when their location has left the configuration.

use std::collections::BTreeSet;

use backhaul_proto::v1 as pb;
use backhaul_runtime::locations::is_location_name;

use super::{MAX_KEY_BYTES, Violations, labels};
use crate::{
    grpc::{page_token, status::ApiError},
    queue::{ListQuery, TaskState},
};

const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1000;

/// The query that `request` asks for; its `limit` is the size of the page.
///
/// # Errors
/// [`ApiError::Invalid`] with all violations.
pub(crate) fn query(tenant: &str, request: pb::ListBackupsRequest) -> Result<ListQuery, ApiError> {
    let mut violations = Violations::default();
    violations.require(
        request.location.is_empty() || is_location_name(&request.location),
        "location",
        "must be 1 to 63 bytes of a-z, 0-9 and -, starting with a letter",
    );
    violations.require(request.key_prefix.len() <= MAX_KEY_BYTES, "key_prefix", "must be at most 1024 bytes");
    violations.require(
        request.page_size <= MAX_PAGE_SIZE,
        "page_size",
        "must be 1 to 1000, or 0 for the default",
    );
    let mut query = ListQuery {
        tenant: tenant.to_owned(),
        states: states(&request.states, &mut violations),
        location: (!request.location.is_empty()).then_some(request.location),
        key_prefix: request.key_prefix,
        labels: labels("labels", request.labels, &mut violations),
        limit: if request.page_size == 0 { DEFAULT_PAGE_SIZE } else { request.page_size },
        ..ListQuery::default()
    };
    if !request.page_token.is_empty() {
        query.cursor = page_token::decode(&query, &request.page_token);
        violations.require(
            query.cursor.is_some(),
            "page_token",
            "must be the token of the previous page, with the same filter",
        );
    }
    violations.finish(query)
}

/// Each state once and in order, however often it was named: a message can hold a million numbers.
fn states(asked: &[i32], violations: &mut Violations) -> Vec<TaskState> {
    let mut states = BTreeSet::new();
    for &state in asked {
        match pb::TaskState::try_from(state) {
            Ok(pb::TaskState::Scheduled) => states.insert(TaskState::Scheduled),
            Ok(pb::TaskState::Pending) => states.insert(TaskState::Pending),
            Ok(pb::TaskState::Working) => states.insert(TaskState::Working),
            Ok(pb::TaskState::Delayed) => states.insert(TaskState::Delayed),
            Ok(pb::TaskState::Done) => states.insert(TaskState::Done),
            Ok(pb::TaskState::Dead) => states.insert(TaskState::Dead),
            Ok(pb::TaskState::Cancelled) => states.insert(TaskState::Cancelled),
            Ok(pb::TaskState::Unspecified) | Err(_) => {
                violations.add("states", "must be known states, without TASK_STATE_UNSPECIFIED");
                break;
            }
        };
    }
    states.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(request: pb::ListBackupsRequest) -> Vec<String> {
        match query("web", request) {
            Err(ApiError::Invalid(violations)) => violations.into_iter().map(|v| v.field).collect(),
            other => panic!("expected violations, got {other:?}"),
        }
    }

    #[test]
    fn nothing_asked_for_means_the_first_hundred_tasks_of_the_tenant() {
        let query = query("web", pb::ListBackupsRequest::default()).unwrap();
        assert_eq!(query, ListQuery { tenant: "web".into(), limit: 100, ..Default::default() });
    }

    #[test]
    fn every_bound_of_a_filter_is_kept() {
        let base = pb::ListBackupsRequest::default;
        let many = |n: usize| (0..n).map(|i| (format!("l{i}"), String::new())).collect();
        for (bad, field) in [
            (pb::ListBackupsRequest { states: vec![0], ..base() }, "states"),
            (pb::ListBackupsRequest { states: vec![5, 8], ..base() }, "states"),
            (pb::ListBackupsRequest { states: vec![-1; 100_000], ..base() }, "states"),
            (pb::ListBackupsRequest { location: "Up".into(), ..base() }, "location"),
            (pb::ListBackupsRequest { location: "a".repeat(64), ..base() }, "location"),
            (pb::ListBackupsRequest { key_prefix: "k".repeat(1025), ..base() }, "key_prefix"),
            (pb::ListBackupsRequest { labels: many(17), ..base() }, "labels"),
            (pb::ListBackupsRequest { page_size: 1001, ..base() }, "page_size"),
            (pb::ListBackupsRequest { page_size: u32::MAX, ..base() }, "page_size"),
            (pb::ListBackupsRequest { page_token: "00".into(), ..base() }, "page_token"),
        ] {
            assert_eq!(fields(bad), [field]);
        }
        let good = pb::ListBackupsRequest {
            states: vec![5; 100_000],
            location: "a".repeat(63),
            key_prefix: "k".repeat(1024),
            labels: many(16),
            page_size: 1000,
            ..base()
        };
        assert_eq!(query("web", good).unwrap().states, [TaskState::Done]);
    }
}
