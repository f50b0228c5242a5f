//! Walks in memory: what is right, in few lines, for tests of those who drive walks. It must not be used in production: it forgets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{Change, FailedObject, Look, MOST_ACTIVE, MOST_FAILURES, Saved, Stored, Walk, WalkId, WalkStore};
use crate::queue::{QueueClock, QueueError, TaskId, UnixMs};

/// Walks in memory. Clones are the same.
#[derive(Debug, Clone)]
pub struct MemoryWalks {
    shards: u16,
    retain: Duration,
    clock: QueueClock,
    walks: Arc<Mutex<BTreeMap<WalkId, Entry>>>,
}

#[derive(Debug, Clone)]
struct Entry {
    walk: Walk,
    revision: u64,
    open: Vec<TaskId>,
    failures: Vec<FailedObject>,
    forget_at: Option<UnixMs>,
}

impl MemoryWalks {
    /// No walks, on `clock`; finished ones are forgotten after `retain`.
    #[must_use]
    pub fn new(shards: u16, retain: Duration, clock: QueueClock) -> Self {
        Self { shards, retain, clock, walks: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WalkId, Entry>> {
        let mut walks = self.walks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.local_now();
        walks.retain(|_, entry| entry.forget_at.is_none_or(|at| at > now));
        walks
    }
}

#[async_trait]
impl WalkStore for MemoryWalks {
    fn id(&self, tenant: &str, request_id: &str) -> WalkId {
        WalkId::derive(tenant, request_id)
    }

    async fn look(&self, finished: bool) -> Result<Look, QueueError> {
        let walks = self.lock();
        let wanted = walks.iter().filter(|(_, entry)| finished || !entry.walk.state.is_finished());
        let walks = wanted.map(|(id, entry)| stored(id, entry)).collect();
        Ok(Look { now: self.clock.local_now(), walks, incomplete: false })
    }

    async fn load(&self, id: &WalkId) -> Result<Option<Stored>, QueueError> {
        Ok(self.lock().get(id).map(|entry| stored(id, entry)))
    }

    async fn save(&self, change: &Change) -> Result<Saved, QueueError> {
        let mut walks = self.lock();
        let revision = change.expected.unwrap_or_default() + 1;
        let made = |entry: &Entry| Saved::Yes { revision, open: entry.open.len() as u64 };
        let before = walks.get(&change.id);
        if let Some(entry) = before.filter(|entry| entry.revision == revision && entry.walk == change.walk) {
            return Ok(made(entry));
        }
        if before.map(|entry| entry.revision) != change.expected {
            return Ok(Saved::Stale);
        }
        let shard = change.id.as_task().shard(self.shards);
        let active = walks
            .iter()
            .filter(|(id, e)| id.as_task().shard(self.shards) == shard && !e.walk.state.is_finished())
            .count();
        if before.is_none() && active as u64 >= MOST_ACTIVE {
            return Ok(Saved::Full);
        }
        let (mut open, mut failures) = match before {
            Some(entry) => (entry.open.clone(), entry.failures.clone()),
            None => (Vec::new(), Vec::new()),
        };
        for task in &change.opened {
            if !open.contains(task) {
                open.push(task.clone());
            }
        }
        open.retain(|task| !change.closed.contains(task));
        failures.extend(change.failures.iter().cloned());
        failures.truncate(usize::try_from(MOST_FAILURES).unwrap_or(usize::MAX));
        let is_finished = change.walk.state.is_finished();
        if is_finished {
            open.clear();
        }
        let forget_at = is_finished.then(|| self.clock.local_now().plus(self.retain));
        let entry = Entry { walk: change.walk.clone(), revision, open, failures, forget_at };
        let saved = made(&entry);
        walks.insert(change.id.clone(), entry);
        Ok(saved)
    }

    async fn open_tasks(&self, id: &WalkId, from: u64, limit: u64) -> Result<Vec<TaskId>, QueueError> {
        Ok(self.lock().get(id).map(|entry| part(&entry.open, from, limit)).unwrap_or_default())
    }

    async fn failures(&self, id: &WalkId, from: u64, limit: u64) -> Result<Vec<FailedObject>, QueueError> {
        Ok(self.lock().get(id).map(|entry| part(&entry.failures, from, limit)).unwrap_or_default())
    }
}

fn stored(id: &WalkId, entry: &Entry) -> Stored {
    Stored {
        id: id.clone(),
        walk: entry.walk.clone(),
        revision: entry.revision,
        open: entry.open.len() as u64,
    }
}

fn part<T: Clone>(all: &[T], from: u64, limit: u64) -> Vec<T> {
    let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    all.iter().skip(place(from)).take(place(limit)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::walk::conformance;

    #[tokio::test]
    async fn walks_in_memory_are_kept_as_the_contract_says() {
        conformance::all(async |clock| {
            Arc::new(MemoryWalks::new(2, conformance::RETAIN, clock)) as Arc<dyn WalkStore>
        })
        .await;
    }
}
