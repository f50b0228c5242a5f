//! What a listing asks for and what it gives.
//!
//! Plain data. Whether a task is meant is decided here, once, for every implementation; how tasks are found is theirs.

use std::collections::BTreeMap;

use super::task::{TaskReason, TaskRecord, TaskState, UnixMs};

/// Which tasks to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Only of this tenant.
    pub tenant: String,
    /// Only in these states; all when empty.
    pub states: Vec<TaskState>,
    /// Only with one of these reasons; any when empty.
    pub reasons: Vec<TaskReason>,
    /// Only of this location.
    pub location: Option<String>,
    /// Only of this bucket.
    pub bucket: Option<String>,
    /// Only keys that start with this.
    pub key_prefix: String,
    /// Only with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only tasks that finished at this instant or later.
    pub finished_from: Option<UnixMs>,
    /// Only tasks that finished before this instant.
    pub finished_until: Option<UnixMs>,
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
    /// Shards could not be asked: tasks of theirs are missing.
    pub incomplete: bool,
}

impl ListQuery {
    /// Whether the listing shows this task.
    #[must_use]
    pub fn matches(&self, record: &TaskRecord) -> bool {
        let TaskRecord { spec, .. } = record;
        let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
        let finished = |holds: &dyn Fn(UnixMs) -> bool| record.finished_at.is_some_and(holds);
        spec.tenant == self.tenant
            && (self.states.is_empty() || self.states.contains(&record.state))
            && (self.reasons.is_empty() || self.reasons.contains(&record.reason))
            && is(&self.location, &spec.object.location)
            && is(&self.bucket, &spec.object.bucket)
            && spec.object.key.starts_with(&self.key_prefix)
            && self.labels.iter().all(|(name, value)| spec.labels.get(name) == Some(value))
            && self.finished_from.is_none_or(|from| finished(&|at| at >= from))
            && self.finished_until.is_none_or(|until| finished(&|at| at < until))
    }
}
