//! A request to follow tasks: checked, always limited to the caller's tenant.

use backhaul_proto::v1 as pb;

use super::{Violations, labels, task_ids};
use crate::{
    grpc::status::ApiError,
    queue::{EventCursor, events::MAX_CURSOR_BYTES},
    watch::WatchFilter,
};

/// What `request` asks for, and where it goes on.
///
/// # Errors
/// [`ApiError::Invalid`] with all violations.
pub(crate) fn filter(
    tenant: &str,
    request: pb::WatchBackupsRequest,
) -> Result<(WatchFilter, Option<EventCursor>), ApiError> {
    let mut violations = Violations::default();
    let is_text = request.cursor.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    violations.require(
        request.cursor.len() <= MAX_CURSOR_BYTES && is_text,
        "cursor",
        "must be the cursor of an earlier message",
    );
    let filter = WatchFilter {
        tenant: tenant.to_owned(),
        ids: task_ids(&request.task_ids, &mut violations),
        labels: labels("labels", request.labels, &mut violations),
        only_changes: request.only_changes,
    };
    let cursor = (!request.cursor.is_empty()).then_some(EventCursor(request.cursor));
    violations.finish((filter, cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_of_a_watch_is_kept() {
        let base = pb::WatchBackupsRequest::default;
        for (bad, field) in [
            (pb::WatchBackupsRequest { task_ids: vec!["x".into()], ..base() }, "task_ids[0]"),
            (pb::WatchBackupsRequest { task_ids: vec![String::new(); 1001], ..base() }, "task_ids"),
            (pb::WatchBackupsRequest { cursor: "x".repeat(MAX_CURSOR_BYTES + 1), ..base() }, "cursor"),
            (pb::WatchBackupsRequest { cursor: "\u{1b}".into(), ..base() }, "cursor"),
        ] {
            let Err(ApiError::Invalid(violations)) = filter("web", bad) else { panic!("{field} is taken") };
            assert_eq!(violations.into_iter().map(|v| v.field).collect::<Vec<_>>(), [field]);
        }
        let id = "def-0123456789abcdef0123456789abcdef".to_owned();
        let twice = pb::WatchBackupsRequest { task_ids: vec![id; 2], cursor: "1-1".into(), ..base() };
        let (filter, cursor) = filter("web", twice).unwrap();
        assert_eq!((filter.tenant.as_str(), filter.ids.len()), ("web", 1));
        assert_eq!(cursor, Some(EventCursor("1-1".into())));
    }
}
