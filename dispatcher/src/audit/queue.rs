//! The queue with a witness: [`Audited`] records every task that is submitted, cancelled, run again, leased or reported, and what became of
//! it. It changes no answer; only where nothing may be done unrecorded, it refuses new work while nothing can be recorded.

use std::sync::Arc;

use async_trait::async_trait;
use backhaul_runtime::audit::Fields;
use tokio::sync::Notify;

use super::{Audit, context, entry};
use crate::queue::{
    CancelOutcome, Depths, EventCursor, Events, LeaseRequest, LeasedTask, ListPage, ListQuery, NewTask,
    QueueError, QueueStats, RenewOutcome, Renewal, Requeue, RequeueOutcome, SettleOutcome, Settlement,
    StatsQuery, Submitted, SweepReport, TaskId, TaskQueue, TaskRecord,
};

/// A queue whose decisions are recorded.
#[derive(Debug)]
pub struct Audited {
    queue: Arc<dyn TaskQueue>,
    audit: Audit,
}

/// The audit log cannot be written, and nothing may be done without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written")]
pub(crate) struct NotRecorded;

/// What was asked of tasks. Recorded with the answers, or, when nobody waited for them, without.
struct Asked<'a, T> {
    audit: &'a Audit,
    event: &'static str,
    tasks: Vec<Fields>,
    told: fn(&mut Fields, Option<&T>),
}

impl Audited {
    /// Records what is asked of `queue`. Where nothing is recorded, it is `queue` itself.
    #[must_use]
    pub fn around(queue: Arc<dyn TaskQueue>, audit: &Audit) -> Arc<dyn TaskQueue> {
        if audit.is_on() { Arc::new(Self { queue, audit: audit.clone() }) } else { queue }
    }

    fn recordable(&self) -> Result<(), QueueError> {
        if self.audit.may_go_on() { Ok(()) } else { Err(not_recorded()) }
    }
}

fn not_recorded() -> QueueError {
    QueueError::Unfit(Arc::new(NotRecorded))
}

impl<T> Asked<'_, T> {
    fn answered(mut self, answers: &[T]) {
        let tasks = std::mem::take(&mut self.tasks);
        self.record(tasks, answers);
    }

    fn record(&self, mut tasks: Vec<Fields>, answers: &[T]) {
        let answers = answers.iter().map(Some).chain(std::iter::repeat(None));
        for (task, answer) in tasks.iter_mut().zip(answers) {
            (self.told)(task, answer);
        }
        context::tasks(self.audit, self.event, tasks);
    }
}

impl<T> Drop for Asked<'_, T> {
    fn drop(&mut self) {
        let tasks = std::mem::take(&mut self.tasks);
        self.record(tasks, &[]);
    }
}

#[async_trait]
impl TaskQueue for Audited {
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>> {
        let asked = Asked {
            audit: &self.audit,
            event: "submit",
            tasks: tasks.iter().map(entry::task).collect(),
            told: entry::submitted,
        };
        let answers = match self.recordable() {
            Ok(()) => self.queue.submit(tasks).await,
            Err(_) => tasks.iter().map(|_| Err(not_recorded())).collect(),
        };
        asked.answered(&answers);
        answers
    }

    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError> {
        self.queue.get(id).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError> {
        self.queue.list(query).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<CancelOutcome, QueueError> {
        self.recordable()?;
        let answer = self.queue.cancel(id).await;
        context::tasks(&self.audit, "cancel", vec![entry::cancelled(id, &answer)]);
        answer
    }

    async fn requeue(&self, tasks: Vec<Requeue>) -> Vec<Result<RequeueOutcome, QueueError>> {
        if self.recordable().is_err() {
            return tasks.iter().map(|_| Err(not_recorded())).collect();
        }
        let ids: Vec<TaskId> = tasks.iter().map(|task| task.id.clone()).collect();
        let answers = self.queue.requeue(tasks).await;
        let told = ids.iter().zip(&answers).map(|(id, answer)| entry::requeued(id, answer));
        context::tasks(&self.audit, "requeue", told.collect());
        answers
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        self.recordable()?;
        let leased = self.queue.lease(request).await?;
        if !leased.is_empty() {
            let tasks: Vec<Fields> = leased.iter().map(entry::leased).collect();
            context::leased(&self.audit, request, &tasks);
        }
        Ok(leased)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        let answers = self.queue.renew(renewals).await;
        let answered = renewals.iter().zip(&answers);
        let lost = answered.filter(|(_, answer)| matches!(answer, Ok(RenewOutcome::Lost)));
        context::tasks(&self.audit, "renew", lost.map(|(renewal, _)| entry::lost(&renewal.id)).collect());
        answers
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>> {
        let asked = Asked {
            audit: &self.audit,
            event: "report",
            tasks: settlements.iter().map(|report| entry::report(&report.id, &report.outcome)).collect(),
            told: entry::settled,
        };
        let answers = self.queue.settle(settlements).await;
        asked.answered(&answers);
        answers
    }

    async fn sweep(&self) -> Result<SweepReport, QueueError> {
        self.queue.sweep().await
    }

    async fn depths(&self) -> Result<Depths, QueueError> {
        self.queue.depths().await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError> {
        self.queue.stats(query).await
    }

    async fn events(&self, cursor: Option<&EventCursor>) -> Result<Events, QueueError> {
        self.queue.events(cursor).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.recordable()?;
        self.queue.check().await
    }

    fn ready(&self) -> Arc<Notify> {
        self.queue.ready()
    }
}
