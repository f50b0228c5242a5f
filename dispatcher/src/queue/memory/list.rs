//! Listings: filter, order, page.
//!
//! It looks at every task, which a reference may and a store must not.

use std::cmp::Reverse;

use super::shard::Shard;
use crate::queue::{ListCursor, ListPage, ListQuery, QueueError, TaskId, TaskRecord, TaskState, UnixMs};

/// A text that is not a cursor of this queue.
#[derive(Debug, thiserror::Error)]
#[error("not a cursor of this queue")]
struct InvalidCursor;

/// Where a task stands in every listing: by state, newest first.
type Position = (TaskState, Reverse<UnixMs>, TaskId);

/// [`super::TaskQueue::list`].
pub(super) fn page(shards: &[Shard], query: &ListQuery) -> Result<ListPage, QueueError> {
    let after = match &query.cursor {
        None => None,
        Some(cursor) => Some(parse(&cursor.0).ok_or_else(|| QueueError::Rejected(Box::new(InvalidCursor)))?),
    };
    let records = shards.iter().flat_map(Shard::tasks).map(|task| &task.record);
    let mut found: Vec<_> = records
        .filter(|record| query.matches(record))
        .map(|record| (position(record), record))
        .filter(|(position, _)| after.as_ref().is_none_or(|after| position > after))
        .collect();
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let limit = usize::try_from(query.limit.max(1)).unwrap_or(usize::MAX);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(position, _)| format(position));
    let tasks = found.into_iter().map(|(_, record)| record.clone()).collect();
    Ok(ListPage { tasks, next, incomplete: false })
}

fn position(record: &TaskRecord) -> Position {
    (record.state, Reverse(record.created_at), record.id.clone())
}

fn format((state, Reverse(created_at), id): &Position) -> ListCursor {
    let ordinal = TaskState::ALL.iter().position(|other| other == state).unwrap_or_default();
    ListCursor(format!("{ordinal}:{created_at}:{id}"))
}

fn parse(text: &str) -> Option<Position> {
    let mut parts = text.splitn(3, ':');
    let state = *TaskState::ALL.get(parts.next()?.parse::<usize>().ok()?)?;
    let created_at = UnixMs(parts.next()?.parse().ok()?);
    Some((state, Reverse(created_at), TaskId::parse(parts.next()?).ok()?))
}
