//! The reference queue: the whole contract of [`TaskQueue`] in plain Rust, in memory, under one lock.
//!
//! It exists to say what is right: the Redis queue is compared with it call by call, and tests of other parts use it instead of a
//! server. So it is written to be read, not to be clever: each task is in exactly the index that its record names, and every
//! change goes through `Shard::change`, which takes it out and puts it back. It must not be used in production: it forgets.

mod lease;
mod lines;
mod list;
mod log;
mod redrive;
mod settle;
mod shard;
mod stats;
mod sweep;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use self::{lease::Memo, shard::Shard};
use super::{
    CancelOutcome, Depths, EventCursor, Events, LeaseRequest, LeasedTask, ListPage, ListQuery, NewTask,
    QueueClock, QueueError, QueueSettings, QueueStats, RenewOutcome, Renewal, Requeue, RequeueOutcome,
    SettleOutcome, Settlement, StatsQuery, Submitted, SweepReport, TaskId, TaskQueue, TaskRecord, UnixMs,
    id::MAX_SHARDS,
};

/// A queue in memory. Clones are the same queue.
#[derive(Debug, Clone)]
pub struct MemoryQueue {
    settings: Arc<QueueSettings>,
    clock: QueueClock,
    state: Arc<Mutex<State>>,
    ready: Arc<Notify>,
}

/// All that the lock guards.
#[derive(Debug)]
struct State {
    /// The highest time seen: the queue's time never runs backwards.
    now: UnixMs,
    shards: Vec<Shard>,
    /// Newest lease request with an answer, by session.
    memos: HashMap<String, Memo>,
    /// Shard at which the next lease request begins, so that none is always last.
    first_shard: usize,
}

impl MemoryQueue {
    /// An empty queue with `settings`, which are taken as they are (see [`QueueSettings::validate`]), on `clock`.
    #[must_use]
    pub fn new(settings: QueueSettings, clock: QueueClock) -> Self {
        let shards = (0..settings.shards.clamp(1, MAX_SHARDS)).map(|_| Shard::default()).collect();
        Self {
            settings: Arc::new(settings),
            clock,
            state: Arc::new(Mutex::new(State {
                now: UnixMs(0),
                shards,
                memos: HashMap::new(),
                first_shard: 0,
            })),
            ready: Arc::new(Notify::new()),
        }
    }

    /// The state with its time brought up to date. No call panics half-way through a change, so a poisoned lock is taken over.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = state.now.max(self.clock.local_now());
        state
    }
}

impl State {
    /// The shard that keeps `id`.
    fn shard(&mut self, id: &TaskId) -> Option<&mut Shard> {
        let shards = u16::try_from(self.shards.len()).ok()?;
        self.shards.get_mut(usize::from(id.shard(shards)))
    }
}

#[async_trait]
impl TaskQueue for MemoryQueue {
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>> {
        let mut state = self.lock();
        let now = state.now;
        let answers: Vec<_> = tasks
            .into_iter()
            .map(|task| {
                let id = TaskId::derive(&task.spec.tenant, &task.spec.object);
                let shard = state.shard(&id).ok_or_else(|| QueueError::NotFound(id.clone()))?;
                shard.submit(&self.settings, now, id, task)
            })
            .collect();
        self.ready.notify_one();
        answers
    }

    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError> {
        let mut state = self.lock();
        let task = state.shard(id).and_then(|shard| shard.task(id));
        task.map(|task| task.record.clone()).ok_or_else(|| QueueError::NotFound(id.clone()))
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError> {
        list::page(&self.lock().shards, query)
    }

    async fn cancel(&self, id: &TaskId) -> Result<CancelOutcome, QueueError> {
        let mut state = self.lock();
        let now = state.now;
        let outcome = state.shard(id).and_then(|shard| shard.cancel(now, id));
        outcome.ok_or_else(|| QueueError::NotFound(id.clone()))
    }

    async fn requeue(&self, tasks: Vec<Requeue>) -> Vec<Result<RequeueOutcome, QueueError>> {
        let mut state = self.lock();
        let now = state.now;
        let requeue = |task: Requeue| match state.shard(&task.id) {
            Some(shard) => shard.requeue(&self.settings, now, &task),
            None => Err(QueueError::NotFound(task.id)),
        };
        let answers = tasks.into_iter().map(requeue).collect();
        self.ready.notify_one();
        answers
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        self.lock().lease(&self.settings, request)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        let mut state = self.lock();
        let now = state.now;
        let renew = |renewal: &Renewal| match state.shard(&renewal.id) {
            Some(shard) => Ok(shard.renew(&self.settings, now, renewal)),
            None => Ok(RenewOutcome::Lost),
        };
        renewals.iter().map(renew).collect()
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>> {
        let mut state = self.lock();
        let now = state.now;
        let settle = |settlement: Settlement| match state.shard(&settlement.id) {
            Some(shard) => Ok(shard.settle(&self.settings, now, settlement)),
            None => Ok(SettleOutcome::Gone),
        };
        let answers = settlements.into_iter().map(settle).collect();
        self.ready.notify_one();
        answers
    }

    async fn sweep(&self) -> Result<SweepReport, QueueError> {
        let report = self.lock().sweep(&self.settings);
        if report.promoted > 0 || report.unaccepted > 0 || report.expired > 0 {
            self.ready.notify_one();
        }
        Ok(report)
    }

    async fn depths(&self) -> Result<Depths, QueueError> {
        let state = self.lock();
        Ok(state.shards.iter().map(Shard::depths).fold(Depths::default(), |all, one| Depths {
            pending: all.pending + one.pending,
            working: all.working + one.working,
            scheduled: all.scheduled + one.scheduled,
            delayed: all.delayed + one.delayed,
            done: all.done + one.done,
            dead: all.dead + one.dead,
            cancelled: all.cancelled + one.cancelled,
        }))
    }

    async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError> {
        let state = self.lock();
        Ok(stats::of(&state.shards, state.now, query))
    }

    async fn events(&self, cursor: Option<&EventCursor>) -> Result<Events, QueueError> {
        let mut state = self.lock();
        let now = state.now;
        log::read(state.shards.iter_mut().map(|shard| &mut shard.log).collect(), now, cursor)
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(())
    }

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }
}
