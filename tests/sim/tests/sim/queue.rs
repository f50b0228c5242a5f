//! The reference queue as each dispatcher reaches it: over a line that is slow, loses answers and repeats calls.
//!
//! Every call that is executed passes by the [`Ledger`], which judges it. What a sabotaged queue does wrong is here too, so that
//! the ledger and the final check can be tried.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use backhaul_dispatcher::queue::{
    CancelOutcome, Depths, EventCursor, Events, LeaseRequest, LeasedTask, ListPage, ListQuery, NewTask,
    Outcome, QueueClock, QueueError, QueueSettings, QueueStats, RenewOutcome, Renewal, Requeue,
    RequeueOutcome, SettleOutcome, Settlement, StatsQuery, SubmitOutcome, Submitted, SweepReport, TaskId,
    TaskQueue, TaskRecord, TaskState, memory::MemoryQueue,
};
use tokio::{sync::Notify, time::sleep};

use crate::{
    history::History,
    ledger::Ledger,
    sabotage::Sabotage,
    weather::{Fate, Weather},
};

/// The queue itself, with its ledger.
#[derive(Debug)]
pub(crate) struct SharedQueue {
    pub(crate) inner: MemoryQueue,
    ledger: Mutex<Ledger>,
    weather: Weather,
    sabotage: Option<Sabotage>,
    hints: Mutex<Vec<Arc<Notify>>>,
}

/// The queue as one dispatcher reaches it.
#[derive(Debug)]
pub(crate) struct QueueLine {
    shared: Arc<SharedQueue>,
    dispatcher: usize,
    ready: Arc<Notify>,
}

impl SharedQueue {
    /// An empty queue for so many dispatchers.
    pub(crate) fn new(
        settings: QueueSettings,
        clock: QueueClock,
        dispatchers: usize,
        history: History,
        weather: Weather,
        sabotage: Option<Sabotage>,
    ) -> Arc<Self> {
        let ledger = Mutex::new(Ledger::new(settings.clone(), history));
        let settings = match sabotage {
            Some(Sabotage::ShortLeases) => QueueSettings { lease: settings.lease / 4, ..settings },
            _ => settings,
        };
        Arc::new(Self {
            inner: MemoryQueue::new(settings, clock),
            ledger,
            weather,
            sabotage,
            hints: Mutex::new((0..dispatchers).map(|_| Arc::new(Notify::new())).collect()),
        })
    }

    /// The line of a dispatcher that starts now.
    pub(crate) fn line(self: &Arc<Self>, dispatcher: usize) -> QueueLine {
        let ready = Arc::new(Notify::new());
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)[dispatcher] = Arc::clone(&ready);
        QueueLine { shared: Arc::clone(self), dispatcher, ready }
    }

    /// What has been seen.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the ledger see where these tasks are now.
    async fn look(&self, ids: Vec<TaskId>) {
        for id in ids {
            if let Ok(record) = self.inner.get(&id).await {
                self.ledger().observe(&record);
            }
        }
    }

    /// Tells every dispatcher that tasks may have come.
    fn hint(&self) {
        for ready in self.hints.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            ready.notify_one();
        }
    }

    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>> {
        if self.sabotage == Some(Sabotage::ForgetSubmits) && self.ledger().every_nth(7) {
            let forgotten = |task: NewTask| {
                let id = TaskId::derive(&task.spec.tenant, &task.spec.object);
                Ok(Submitted { id, run: 1, state: TaskState::Pending, outcome: SubmitOutcome::Created })
            };
            return tasks.into_iter().map(forgotten).collect();
        }
        let answers = self.inner.submit(tasks).await;
        self.look(answers.iter().flatten().map(|s| s.id.clone()).collect()).await;
        self.hint();
        answers
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        let leased = self.inner.lease(request).await?;
        for task in &leased {
            self.ledger().leased(request, task);
        }
        self.look(leased.iter().map(|t| t.id.clone()).collect()).await;
        Ok(leased)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        let answers = self.inner.renew(renewals).await;
        for (renewal, answer) in renewals.iter().zip(&answers) {
            if let Ok(answer) = answer {
                self.ledger().renewed(renewal, *answer);
            }
        }
        answers
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>> {
        let mut executed = settlements.clone();
        match self.sabotage {
            Some(Sabotage::NoFence) => {
                for settlement in &mut executed {
                    if let Ok(record) = self.inner.get(&settlement.id).await
                        && let Some(newest) = record.lease
                    {
                        settlement.lease = newest;
                    }
                }
            }
            Some(Sabotage::ConfirmUnstored) if self.ledger().every_nth(5) => {
                let stored = |s: &Settlement| match s.outcome {
                    Outcome::Done { .. } => Ok(SettleOutcome::Stored(TaskState::Done)),
                    Outcome::Failed { .. }
                    | Outcome::NotSent { .. }
                    | Outcome::HandedBack { .. }
                    | Outcome::Cancelled => Ok(SettleOutcome::Stored(TaskState::Pending)),
                };
                return settlements.iter().map(stored).collect();
            }
            Some(Sabotage::KeepHandedBack) if settlements.iter().any(is_handed_back) => {
                return settlements.iter().map(|_| Ok(SettleOutcome::Stored(TaskState::Pending))).collect();
            }
            _ => {}
        }
        let answers = self.inner.settle(executed).await;
        for (settlement, answer) in settlements.iter().zip(&answers) {
            if let Ok(answer) = answer {
                self.ledger().settled(settlement, *answer);
            }
        }
        self.look(settlements.into_iter().map(|s| s.id).collect()).await;
        self.hint();
        answers
    }

    async fn sweep(&self) -> Result<SweepReport, QueueError> {
        let report = self.inner.sweep().await?;
        if report.expired + report.unaccepted + report.promoted + report.reaped > 0 {
            let ids = self.ledger().open_tasks();
            self.look(ids).await;
            self.hint();
        }
        Ok(report)
    }
}

impl QueueLine {
    /// Makes a call in today's weather.
    async fn call<T, F>(&self, execute: impl Fn() -> F, lost: impl FnOnce() -> T) -> T
    where
        F: Future<Output = T>,
    {
        let course = self.shared.weather.queue_call(self.dispatcher);
        sleep(course.before).await;
        match course.fate {
            Fate::NotExecuted => lost(),
            Fate::AnswerLost => {
                drop(execute().await);
                sleep(course.after).await;
                lost()
            }
            Fate::Repeated => {
                drop(execute().await);
                sleep(course.after).await;
                execute().await
            }
            Fate::Fine => {
                let answer = execute().await;
                sleep(course.after).await;
                answer
            }
        }
    }

    async fn call_each<T, F>(&self, count: usize, execute: impl Fn() -> F) -> Vec<Result<T, QueueError>>
    where
        F: Future<Output = Vec<Result<T, QueueError>>>,
    {
        self.call(execute, || (0..count).map(|_| Err(unreachable_queue())).collect()).await
    }
}

fn is_handed_back(settlement: &Settlement) -> bool {
    matches!(settlement.outcome, Outcome::HandedBack { .. } | Outcome::NotSent { .. })
}

fn unreachable_queue() -> QueueError {
    QueueError::Unavailable("the line is down".into())
}

#[async_trait]
impl TaskQueue for QueueLine {
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>> {
        self.call_each(tasks.len(), || self.shared.submit(tasks.clone())).await
    }

    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError> {
        self.call(|| self.shared.inner.get(id), || Err(unreachable_queue())).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError> {
        self.call(|| self.shared.inner.list(query), || Err(unreachable_queue())).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<CancelOutcome, QueueError> {
        let cancel = || async {
            let outcome = self.shared.inner.cancel(id).await;
            self.shared.look(vec![id.clone()]).await;
            outcome
        };
        self.call(cancel, || Err(unreachable_queue())).await
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        self.call(|| self.shared.lease(request), || Err(unreachable_queue())).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        self.call_each(renewals.len(), || self.shared.renew(renewals)).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>> {
        self.call_each(settlements.len(), || self.shared.settle(settlements.clone())).await
    }

    async fn sweep(&self) -> Result<SweepReport, QueueError> {
        self.call(|| self.shared.sweep(), || Err(unreachable_queue())).await
    }

    async fn requeue(&self, tasks: Vec<Requeue>) -> Vec<Result<RequeueOutcome, QueueError>> {
        self.call_each(tasks.len(), || self.shared.inner.requeue(tasks.clone())).await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError> {
        self.call(|| self.shared.inner.stats(query), || Err(unreachable_queue())).await
    }

    async fn events(&self, cursor: Option<&EventCursor>) -> Result<Events, QueueError> {
        self.call(|| self.shared.inner.events(cursor), || Err(unreachable_queue())).await
    }

    async fn depths(&self) -> Result<Depths, QueueError> {
        self.call(|| self.shared.inner.depths(), || Err(unreachable_queue())).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.call(|| self.shared.inner.check(), || Err(unreachable_queue())).await
    }

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }
}
