//! Queues with one fault each: a random history that does not notice them proves nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::sync::Notify;

use super::*;
use crate::queue::{
    CancelOutcome, Depths, EventCursor, Events, LeasedTask, ListPage, ListQuery, NewTask, QueueStats,
    RenewOutcome, Renewal, Requeue, RequeueOutcome, SettleOutcome, Settlement, StatsQuery, Submitted,
    SweepReport,
};

#[derive(Debug, Clone, Copy)]
enum Fault {
    LosesSubmits,
    LosesReports,
    LeasesAgainWhenRepeated,
    KeepsLostLeases,
    SaysStoredTwice,
    MissesSweeps,
    MiscountsDepths,
    HidesReturns,
    ListsShort,
    ForgetsTheCursor,
    RequeuesWhatIsNotDead,
    ForgetsAges,
    LosesEvents,
}

const FAULTS: [Fault; 13] = [
    Fault::LosesSubmits,
    Fault::LosesReports,
    Fault::LeasesAgainWhenRepeated,
    Fault::KeepsLostLeases,
    Fault::SaysStoredTwice,
    Fault::MissesSweeps,
    Fault::MiscountsDepths,
    Fault::HidesReturns,
    Fault::ListsShort,
    Fault::ForgetsTheCursor,
    Fault::RequeuesWhatIsNotDead,
    Fault::ForgetsAges,
    Fault::LosesEvents,
];

#[derive(Debug)]
struct FaultyQueue {
    inner: MemoryQueue,
    fault: Fault,
    calls: AtomicU64,
}

impl FaultyQueue {
    /// True now and then.
    fn strikes(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed) % 7 == 6
    }
}

#[async_trait]
impl TaskQueue for FaultyQueue {
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>> {
        if matches!(self.fault, Fault::LosesSubmits) && self.strikes() {
            let elsewhere = MemoryQueue::new(test_settings(), QueueClock::starting_at(START));
            return elsewhere.submit(tasks).await;
        }
        self.inner.submit(tasks).await
    }

    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError> {
        let mut record = self.inner.get(id).await?;
        if matches!(self.fault, Fault::HidesReturns) {
            record.returns = 0;
        }
        Ok(record)
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError> {
        let mut page = self.inner.list(query).await?;
        match self.fault {
            Fault::ListsShort => page.tasks.truncate(4),
            Fault::ForgetsTheCursor => page.next = None,
            Fault::LosesSubmits
            | Fault::LosesReports
            | Fault::LeasesAgainWhenRepeated
            | Fault::KeepsLostLeases
            | Fault::SaysStoredTwice
            | Fault::MissesSweeps
            | Fault::MiscountsDepths
            | Fault::HidesReturns
            | Fault::RequeuesWhatIsNotDead
            | Fault::ForgetsAges
            | Fault::LosesEvents => {}
        }
        Ok(page)
    }

    async fn cancel(&self, id: &TaskId) -> Result<CancelOutcome, QueueError> {
        self.inner.cancel(id).await
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        let mut request = request.clone();
        if matches!(self.fault, Fault::LeasesAgainWhenRepeated) {
            request.request = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        }
        self.inner.lease(&request).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        let mut answers = self.inner.renew(renewals).await;
        if matches!(self.fault, Fault::KeepsLostLeases) {
            for answer in answers.iter_mut().filter(|answer| matches!(answer, Ok(RenewOutcome::Lost))) {
                *answer = Ok(RenewOutcome::Keep(Duration::from_secs(1)));
            }
        }
        answers
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>> {
        if matches!(self.fault, Fault::LosesReports) && self.strikes() {
            return settlements.iter().map(|_| Ok(SettleOutcome::Stored(TaskState::Done))).collect();
        }
        let mut answers = self.inner.settle(settlements).await;
        if matches!(self.fault, Fault::SaysStoredTwice) {
            for answer in answers.iter_mut().filter(|answer| matches!(answer, Ok(SettleOutcome::Duplicate))) {
                *answer = Ok(SettleOutcome::Stored(TaskState::Done));
            }
        }
        answers
    }

    async fn sweep(&self) -> Result<SweepReport, QueueError> {
        if matches!(self.fault, Fault::MissesSweeps) && self.strikes() {
            return Ok(SweepReport::default());
        }
        self.inner.sweep().await
    }

    async fn depths(&self) -> Result<Depths, QueueError> {
        let mut depths = self.inner.depths().await?;
        if matches!(self.fault, Fault::MiscountsDepths) && self.strikes() {
            depths.delayed += 1;
        }
        Ok(depths)
    }

    async fn requeue(&self, tasks: Vec<Requeue>) -> Vec<Result<RequeueOutcome, QueueError>> {
        let mut answers = self.inner.requeue(tasks).await;
        if matches!(self.fault, Fault::RequeuesWhatIsNotDead) {
            for answer in &mut answers {
                if let Ok(RequeueOutcome::OtherRun { run, .. }) = *answer {
                    *answer = Ok(RequeueOutcome::Requeued { run });
                }
            }
        }
        answers
    }

    async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError> {
        let mut stats = self.inner.stats(query).await?;
        if matches!(self.fault, Fault::ForgetsAges) {
            stats.total.delayed.oldest = None;
        }
        Ok(stats)
    }

    async fn events(&self, cursor: Option<&EventCursor>) -> Result<Events, QueueError> {
        let mut events = self.inner.events(cursor).await?;
        if matches!(self.fault, Fault::LosesEvents) && self.strikes() {
            events.changed.pop();
        }
        Ok(events)
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.inner.check().await
    }

    fn ready(&self) -> Arc<Notify> {
        self.inner.ready()
    }
}

#[tokio::test]
async fn every_faulty_queue_is_found_out_and_the_seed_is_named() {
    for fault in FAULTS {
        let factory = Factory::new(move |settings, clock| async move {
            let inner = MemoryQueue::new(settings, clock);
            let queue: Arc<dyn TaskQueue> = Arc::new(FaultyQueue { inner, fault, calls: AtomicU64::new(0) });
            queue
        });
        let mut found = None;
        // Not every setting of a history gives every fault a chance.
        for seed in 1..5 {
            let history = std::panic::AssertUnwindSafe(random_history(&factory, seed)).catch_unwind().await;
            found = found.or(history.err().map(|said| (seed, said)));
        }
        let (seed, said) = found.unwrap_or_else(|| panic!("{fault:?} was not noticed"));
        let said = said.downcast_ref::<String>().unwrap();
        assert!(said.contains(&format!("BACKHAUL_QUEUE_SEED={seed}")), "{said}");
    }
}
