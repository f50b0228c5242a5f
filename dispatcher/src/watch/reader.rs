//! What one watcher is told next: everything that matches at its begin, then what has changed, in bounded pieces.
//!
//! The log only names tasks. They are read when they are told, so a watcher never sees an older state after a newer one, and two
//! changes in short order may be told as one.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;

use super::{Update, Watch, WatchEnd};
use crate::queue::{EventCursor, Events, ListQuery, QueueError, TaskId, TaskRecord};

/// Most tasks of one update.
const TASKS: u32 = 100;
/// Tasks that are read at a time.
const READS: usize = 32;
/// A watcher that has nothing to be told hears its place after this, so that it does not grow old. The queue is asked for it.
const STILL_HERE: Duration = Duration::from_secs(15);

/// How far a watch is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing has been told.
    Begin,
    /// Shows everything that matches, page by page; then follows from where the log ended before.
    Showing { query: Box<ListQuery>, then: EventCursor, missed: bool },
    /// Tells these tasks, then goes on.
    Telling(Telling),
    /// Waits for changes.
    Following(EventCursor),
}

/// Not everything that matches could be shown, and the watch promises that.
#[derive(Debug, thiserror::Error)]
#[error("a part of the queue cannot be asked for its tasks")]
struct PartAway;

/// Tasks to tell.
#[derive(Debug)]
pub(super) struct Telling {
    tasks: VecDeque<TaskId>,
    then: EventCursor,
    missed: bool,
    /// They were asked for by name, not because they have changed.
    named: bool,
}

impl Watch {
    /// What is to be told next. Waits for it.
    ///
    /// # Errors
    /// [`WatchEnd`]: there is nothing after it.
    pub async fn next(&mut self) -> Result<Update, WatchEnd> {
        let ending = self.shared.ending.clone();
        match ending.run_until_cancelled(self.advance()).await {
            Some(update) => Ok(update?),
            None => Err(WatchEnd::Stopping),
        }
    }

    async fn advance(&mut self) -> Result<Update, QueueError> {
        loop {
            let stage = std::mem::replace(&mut self.stage, Stage::Begin);
            let update = match stage {
                Stage::Begin => self.begin().await?,
                Stage::Showing { query, then, missed } => self.show(*query, then, missed).await?,
                Stage::Telling(telling) => self.tell(telling).await?,
                Stage::Following(at) => self.follow(at).await?,
            };
            if let Some(mut update) = update {
                update.incomplete = self.incomplete;
                self.told_incomplete = self.incomplete;
                return Ok(update);
            }
        }
    }

    async fn begin(&mut self) -> Result<Option<Update>, QueueError> {
        let events = self.shared.queue.events(None).await?;
        self.incomplete = events.incomplete;
        let at = events.next;
        if self.filter.only_changes {
            self.stage = Stage::Following(at.clone());
            return Ok(Some(Update { cursor: Some(at), ..Update::default() }));
        }
        self.stage = self.everything(at, false);
        Ok(None)
    }

    /// Shows all that matches, and goes on from `then`, which was read before.
    fn everything(&self, then: EventCursor, missed: bool) -> Stage {
        if self.filter.ids.is_empty() {
            let query = ListQuery {
                tenant: self.filter.tenant.clone(),
                labels: self.filter.labels.clone(),
                limit: TASKS,
                ..ListQuery::default()
            };
            return Stage::Showing { query: Box::new(query), then, missed };
        }
        let tasks = self.filter.ids.iter().cloned().collect();
        Stage::Telling(Telling { tasks, then, missed, named: true })
    }

    async fn show(
        &mut self,
        mut query: ListQuery,
        then: EventCursor,
        missed: bool,
    ) -> Result<Option<Update>, QueueError> {
        let page = match self.shared.queue.list(&query).await {
            Ok(page) => page,
            // A listing can outgrow the way in which it began. From the start it goes the other way.
            Err(QueueError::Rejected(_)) if query.cursor.is_some() => {
                query.cursor = None;
                self.stage = Stage::Showing { query: Box::new(query), then, missed };
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if page.incomplete {
            // What follows are changes only: a task that is left out here might never be shown.
            return Err(QueueError::Unavailable(Box::new(PartAway)));
        }
        query.cursor = page.next;
        let is_last = query.cursor.is_none();
        let update = Update {
            records: page.tasks,
            cursor: is_last.then(|| then.clone()),
            missed,
            ..Update::default()
        };
        self.stage = if is_last {
            Stage::Following(then)
        } else {
            let missed = missed && update.records.is_empty();
            Stage::Showing { query: Box::new(query), then, missed }
        };
        Ok((is_last || !update.records.is_empty()).then_some(update))
    }

    async fn tell(&mut self, mut telling: Telling) -> Result<Option<Update>, QueueError> {
        let tasks: Vec<TaskId> = telling.tasks.drain(..telling.tasks.len().min(TASKS as usize)).collect();
        let mut update = Update { missed: telling.missed, ..Update::default() };
        let queue = &self.shared.queue;
        let mut reads = stream::iter(tasks)
            .map(|id| async move {
                let read = queue.get(&id).await;
                (id, read)
            })
            .buffered(READS);
        while let Some((id, read)) = reads.next().await {
            match read {
                Ok(record) if self.matches(&record) => update.records.push(record),
                Ok(record) if record.spec.tenant == self.filter.tenant => {}
                Ok(_) | Err(QueueError::NotFound(_)) if telling.named => update.gone.push(id),
                Ok(_) | Err(QueueError::NotFound(_)) => {}
                // One that cannot be read hides no other; reading it by itself tells what is wrong.
                Err(QueueError::Corrupt { task, what }) => {
                    tracing::warn!(%task, what, "left a damaged record out of a watch");
                }
                Err(error) => return Err(error),
            }
        }
        drop(reads);
        let is_last = telling.tasks.is_empty();
        update.cursor = is_last.then(|| telling.then.clone());
        let is_due = is_last && (telling.named || self.has_to_say_how_whole()) || update.missed;
        let is_something = !update.records.is_empty() || !update.gone.is_empty();
        self.stage = if is_last {
            Stage::Following(telling.then)
        } else {
            Stage::Telling(Telling { missed: false, ..telling })
        };
        Ok((is_something || is_due).then_some(update))
    }

    async fn follow(&mut self, at: EventCursor) -> Result<Option<Update>, QueueError> {
        let part = self.newest.borrow_and_update().clone();
        let shared = part.events.as_ref().filter(|_| part.from.as_ref() == Some(&at));
        if let Some(events) = shared {
            return Ok(self.heard(events));
        }
        let events = self.shared.queue.events(Some(&at)).await?;
        if self.is_news(&events) {
            return Ok(self.heard(&events));
        }
        let is_new = timeout(STILL_HERE, self.newest.changed()).await.is_ok();
        if !is_new {
            // A queue that is away must not look like one in which nothing happens.
            let events = self.shared.queue.events(Some(&events.next)).await?;
            if self.is_news(&events) {
                return Ok(self.heard(&events));
            }
        }
        self.stage = Stage::Following(events.next.clone());
        Ok((!is_new).then(|| Update { cursor: Some(events.next), ..Update::default() }))
    }

    /// Goes on with what a part of the log says.
    fn heard(&mut self, events: &Events) -> Option<Update> {
        let then = events.next.clone();
        self.incomplete = events.incomplete;
        if events.missed {
            if self.filter.only_changes {
                self.stage = Stage::Following(then.clone());
                return Some(Update { cursor: Some(then), missed: true, ..Update::default() });
            }
            self.stage = self.everything(then, true);
            return None;
        }
        let mut seen = HashSet::new();
        let wanted = |id: &TaskId| self.filter.ids.is_empty() || self.filter.ids.contains(id);
        let changed = events.changed.iter().filter(|(tenant, _)| **tenant == *self.filter.tenant);
        let tasks: VecDeque<TaskId> =
            changed.map(|(_, id)| id).filter(|id| wanted(id) && seen.insert(*id)).cloned().collect();
        if tasks.is_empty() {
            self.stage = Stage::Following(then.clone());
            return self.has_to_say_how_whole().then(|| Update { cursor: Some(then), ..Update::default() });
        }
        self.stage = Stage::Telling(Telling { tasks, then, missed: false, named: false });
        None
    }

    fn is_news(&self, events: &Events) -> bool {
        events.missed || events.more || !events.changed.is_empty() || events.incomplete != self.incomplete
    }

    /// Whether what was last told of parts that cannot be asked is not so any more.
    const fn has_to_say_how_whole(&self) -> bool {
        self.incomplete != self.told_incomplete
    }

    fn matches(&self, record: &TaskRecord) -> bool {
        record.spec.tenant == self.filter.tenant
            && self.filter.labels.iter().all(|(name, value)| record.spec.labels.get(name) == Some(value))
    }
}
