//! The log of changes of one shard, and reading all of them from a place.

use std::{collections::VecDeque, sync::Arc};

use crate::queue::{EventCursor, Events, QueueError, TaskId, TaskRecord, UnixMs, events::KEPT};

/// Changes that a shard remembers.
pub(super) const REMEMBERED: usize = 4096;
/// Changes that one reading of a shard gives at most.
const READ: usize = 1000;

/// A text that is not a cursor of this queue.
#[derive(Debug, thiserror::Error)]
#[error("not a cursor of this queue")]
struct InvalidCursor;

/// What has changed in a shard. A place in it is how many changes there were before.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<(Arc<str>, TaskId)>,
    /// Changes that are forgotten.
    forgotten: u64,
    /// Until then changes are kept.
    kept_until: UnixMs,
}

impl Log {
    /// Notes a change.
    pub(super) fn append(&mut self, record: &TaskRecord) {
        if self.entries.len() == REMEMBERED {
            self.entries.pop_front();
            self.forgotten += 1;
        }
        self.entries.push_back((record.spec.tenant.as_str().into(), record.id.clone()));
    }

    fn end(&self) -> u64 {
        self.forgotten + self.entries.len() as u64
    }

    /// What was changed after `place`, bounded; `None` when not all of it is known any more.
    fn after(&self, place: u64) -> Option<Vec<(Arc<str>, TaskId)>> {
        let known = usize::try_from(place.checked_sub(self.forgotten)?).ok()?;
        (known <= self.entries.len()).then(|| self.entries.iter().skip(known).take(READ).cloned().collect())
    }

    /// What was noted while nobody read counts as never noted.
    fn keep(&mut self, now: UnixMs) {
        if self.kept_until <= now {
            self.forgotten = self.end() + 1;
            self.entries.clear();
        }
        self.kept_until = now.plus(KEPT);
    }
}

/// [`super::TaskQueue::events`].
pub(super) fn read(
    mut logs: Vec<&mut Log>,
    now: UnixMs,
    cursor: Option<&EventCursor>,
) -> Result<Events, QueueError> {
    for log in &mut logs {
        log.keep(now);
    }
    let ends: Vec<u64> = logs.iter().map(|log| log.end()).collect();
    let next = format(&ends);
    let mut events = Events { changed: Vec::new(), next, missed: false, more: false, incomplete: false };
    let Some(cursor) = cursor else { return Ok(events) };
    let places = parse(&cursor.0, logs.len()).ok_or_else(|| QueueError::Rejected(Box::new(InvalidCursor)))?;
    let mut next = Vec::new();
    for ((log, place), end) in logs.iter().zip(places).zip(ends) {
        let Some(changed) = log.after(place) else {
            events.missed = true;
            continue;
        };
        next.push(place + changed.len() as u64);
        events.more |= next.last() != Some(&end);
        events.changed.extend(changed);
    }
    if events.missed {
        // Where the log ends now: everything before has to be read anew.
        return Ok(Events { changed: Vec::new(), more: false, ..events });
    }
    events.next = format(&next);
    Ok(events)
}

fn format(places: &[u64]) -> EventCursor {
    EventCursor(places.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
}

fn parse(text: &str, shards: usize) -> Option<Vec<u64>> {
    let places: Option<Vec<u64>> = text.split(',').map(|place| place.parse().ok()).collect();
    places.filter(|places| places.len() == shards)
}
