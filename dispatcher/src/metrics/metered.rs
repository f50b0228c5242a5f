//! The queue with a meter around it: [`Metered`] counts every operation and its answers, and changes none.
//!
//! One place for all of them, so that no caller of the queue has to remember to count, and the queue itself counts nothing.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use tokio::{sync::Notify, time::Instant};

use super::{
    Metrics,
    labels::{Check, Fault, Operation, RenewVerdict, Report, SubmitVerdict, Swept, Verdict},
};
use crate::queue::{
    CancelOutcome, Depths, EventCursor, Events, LeaseRequest, LeasedTask, ListPage, ListQuery, NewTask,
    QueueError, QueueStats, RenewOutcome, Renewal, Requeue, RequeueOutcome, SettleOutcome, Settlement,
    StatsQuery, Submitted, SweepReport, TaskId, TaskQueue, TaskRecord,
};

/// A queue whose operations are counted.
#[derive(Debug)]
pub struct Metered {
    queue: Arc<dyn TaskQueue>,
    metrics: Arc<Metrics>,
}

/// What a look at Redis found. Told when it is dropped, because a look that takes too long is dropped before its answer.
struct Found<'m> {
    metrics: &'m Metrics,
    check: Check,
}

impl Drop for Found<'_> {
    fn drop(&mut self) {
        self.metrics.check.set(self.check);
    }
}

impl Metered {
    /// Counts what is asked of `queue`.
    #[must_use]
    pub fn new(queue: Arc<dyn TaskQueue>, metrics: Arc<Metrics>) -> Self {
        Self { queue, metrics }
    }

    /// Times an operation that has one answer, and counts its error.
    async fn one<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        let answer = self.timed(operation, call).await;
        if let Err(error) = &answer {
            self.note(operation, error);
        }
        answer
    }

    async fn timed<T>(&self, operation: Operation, call: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let answer = call.await;
        self.metrics.queue_time.of(operation).observe(started.elapsed());
        answer
    }

    fn note(&self, operation: Operation, error: &QueueError) {
        self.metrics.queue_errors.of(operation, Fault::from(error)).inc();
    }
}

#[async_trait]
impl TaskQueue for Metered {
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>> {
        let answers = self.timed(Operation::Submit, self.queue.submit(tasks)).await;
        for answer in &answers {
            let verdict = SubmitVerdict::of(answer.as_ref().map(|submitted| submitted.outcome));
            self.metrics.submits.of(verdict).inc();
            if let Err(error) = answer {
                self.note(Operation::Submit, error);
            }
        }
        answers
    }

    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError> {
        self.one(Operation::Get, self.queue.get(id)).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError> {
        self.one(Operation::List, self.queue.list(query)).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<CancelOutcome, QueueError> {
        self.one(Operation::Cancel, self.queue.cancel(id)).await
    }

    async fn requeue(&self, tasks: Vec<Requeue>) -> Vec<Result<RequeueOutcome, QueueError>> {
        let answers = self.timed(Operation::Requeue, self.queue.requeue(tasks)).await;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            self.note(Operation::Requeue, error);
        }
        answers
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        let leased = self.one(Operation::Lease, self.queue.lease(request)).await?;
        self.metrics.leases.add(leased.len() as u64);
        Ok(leased)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        let answers = self.timed(Operation::Renew, self.queue.renew(renewals)).await;
        for answer in &answers {
            self.metrics.renewals.of(RenewVerdict::of(answer)).inc();
            if let Err(error) = answer {
                self.note(Operation::Renew, error);
            }
        }
        answers
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>> {
        let reports: Vec<Report> = settlements.iter().map(|s| Report::of(&s.outcome)).collect();
        let answers = self.timed(Operation::Settle, self.queue.settle(settlements)).await;
        for (report, answer) in reports.into_iter().zip(&answers) {
            self.metrics.settlements.of(report, Verdict::of(answer)).inc();
            if let Err(error) = answer {
                self.note(Operation::Settle, error);
            }
        }
        answers
    }

    async fn sweep(&self) -> Result<SweepReport, QueueError> {
        let report = self.one(Operation::Sweep, self.queue.sweep()).await?;
        for (what, count) in [
            (Swept::Expired, report.expired),
            (Swept::Unaccepted, report.unaccepted),
            (Swept::Promoted, report.promoted),
            (Swept::Reaped, report.reaped),
            (Swept::Fixed, report.fixed),
        ] {
            self.metrics.swept.of(what).add(count);
        }
        self.metrics.amnesties.add(u64::from(report.amnesty));
        Ok(report)
    }

    async fn depths(&self) -> Result<Depths, QueueError> {
        self.queue.depths().await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError> {
        self.one(Operation::Stats, self.queue.stats(query)).await
    }

    async fn events(&self, cursor: Option<&EventCursor>) -> Result<Events, QueueError> {
        self.one(Operation::Events, self.queue.events(cursor)).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        let mut found = Found { metrics: &self.metrics, check: Check::Unreachable };
        let answer = self.one(Operation::Check, self.queue.check()).await;
        found.check = match &answer {
            Ok(()) => Check::Safe,
            Err(QueueError::Rejected(_)) => Check::Unsafe,
            Err(_) => Check::Unreachable,
        };
        answer
    }

    fn ready(&self) -> Arc<Notify> {
        self.queue.ready()
    }
}
