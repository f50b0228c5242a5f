//! What the cases are written with: a queue on a virtual clock, and short words for the calls.
//!
//! Every word panics when the queue answers with an error that the case did not ask for: in a test that is the answer.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::queue::{
    CancelOutcome, Depths, Failure, FailureClass, LeaseRequest, LeasedTask, NewTask, ObjectRef, Outcome,
    Priority, Progress, QueueClock, QueueError, QueueSettings, RenewOutcome, Renewal, RetryPolicy,
    SettleOutcome, Settlement, Submitted, SweepReport, TaskId, TaskQueue, TaskRecord, TaskSpec, TaskState,
    UnixMs, VerifyLevel,
};

/// When every harness begins.
pub const START: UnixMs = UnixMs(1_750_000_000_000);

type Make = dyn Fn(QueueSettings, QueueClock) -> BoxFuture<'static, Arc<dyn TaskQueue>> + Send + Sync;

/// Makes empty queues.
#[derive(Clone)]
pub struct Factory(Arc<Make>);

/// A queue under test.
#[derive(Debug)]
pub struct Harness {
    /// The queue.
    pub queue: Arc<dyn TaskQueue>,
    /// Its clock.
    pub clock: QueueClock,
    /// Its settings.
    pub settings: QueueSettings,
    requests: AtomicU64,
}

/// Seconds.
pub(super) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Settings that most cases need: one shard, roomy caps, no outage within ten minutes.
#[must_use]
pub fn test_settings() -> QueueSettings {
    QueueSettings {
        shards: 1,
        lease: s(30),
        accept_within: s(10),
        max_crashes: 3,
        max_returns: 4,
        retry: RetryPolicy { base: s(5), max: s(300), floor: s(1) },
        dedup_window: s(2 * 3600),
        retain_finished: s(3600),
        retain_dead: s(4 * 3600),
        retain_bytes: 1 << 50,
        shard_cap: 100_000,
        tenant_cap: 100_000,
        tenant_in_flight_cap: 100_000,
        outage: s(600),
        sweep_every: s(1),
    }
}

/// An exact version of an object at location `uploads`.
pub(super) fn exact(tenant: &str, key: &str) -> NewTask {
    let mut task = latest(tenant, key);
    task.spec.object.version = Some("v1".into());
    task
}

/// The latest version of an object at location `uploads`.
pub(super) fn latest(tenant: &str, key: &str) -> NewTask {
    NewTask {
        spec: TaskSpec {
            tenant: tenant.into(),
            object: ObjectRef {
                location: "uploads".into(),
                bucket: "photos".into(),
                key: key.into(),
                version: None,
            },
            priority: Priority::Normal,
            max_attempts: 5,
            labels: BTreeMap::new(),
            size_hint_bytes: 1,
            verify: Some(VerifyLevel::Head),
            processing_timeout: s(120),
            traceparent: String::new(),
            retention_class: "long".into(),
        },
        process_at: None,
    }
}

/// A failure of this class, with the middle of the jitter.
pub(super) fn failed(class: FailureClass) -> Outcome {
    failed_for(class, Duration::ZERO, 0.5)
}

/// A failure of this class.
pub(super) fn failed_for(class: FailureClass, retry_after: Duration, jitter: f64) -> Outcome {
    let failure = Failure { class, code: "some_code".into(), message: "some message".into(), retry_after };
    Outcome::Failed { failure, jitter }
}

/// Success, with a receipt of bytes that are no text.
pub(super) fn done() -> Outcome {
    Outcome::Done { receipt: Bytes::from_static(b"receipt\0\xff\r\n") }
}

/// A hand-back without a wait and without an upload.
pub(super) const fn handed_back() -> Outcome {
    Outcome::HandedBack { upload_id: String::new(), delay: Duration::ZERO }
}

impl Factory {
    /// A factory that calls `make` for each queue. The queues must not see each other.
    pub fn new<F, Fut>(make: F) -> Self
    where
        F: Fn(QueueSettings, QueueClock) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Arc<dyn TaskQueue>> + Send + 'static,
    {
        Self(Arc::new(move |settings, clock| Box::pin(make(settings, clock))))
    }

    /// A factory of reference queues.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(|settings, clock| async move {
            let queue: Arc<dyn TaskQueue> = Arc::new(crate::queue::memory::MemoryQueue::new(settings, clock));
            queue
        })
    }

    /// A queue with these settings on this clock.
    pub async fn make(&self, settings: QueueSettings, clock: QueueClock) -> Arc<dyn TaskQueue> {
        (self.0)(settings, clock).await
    }

    /// A queue with the settings of the suite, past its first amnesty.
    pub async fn start(&self) -> Harness {
        self.start_with(|_| {}).await
    }

    /// A queue with other settings, past its first amnesty.
    pub async fn start_with(&self, change: impl FnOnce(&mut QueueSettings)) -> Harness {
        let harness = self.start_cold(change).await;
        assert!(harness.sweep().await.amnesty, "the first sweep grants an amnesty");
        harness.clock.advance(harness.settings.lease);
        assert!(!harness.sweep().await.amnesty, "the amnesty lasts one lease");
        harness
    }

    /// A queue that has never been swept.
    pub async fn start_cold(&self, change: impl FnOnce(&mut QueueSettings)) -> Harness {
        let mut settings = test_settings();
        change(&mut settings);
        assert_eq!(settings.validate(), Ok(()));
        let clock = QueueClock::starting_at(START);
        let queue = self.make(settings.clone(), clock.clone()).await;
        Harness { queue, clock, settings, requests: AtomicU64::new(0) }
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Factory")
    }
}

impl Harness {
    /// The time now.
    pub fn now(&self) -> UnixMs {
        self.clock.local_now()
    }

    /// This long from now.
    pub fn at(&self, from_now: Duration) -> Option<UnixMs> {
        Some(self.now().plus(from_now))
    }

    /// Submits one task that is accepted.
    pub async fn submit(&self, task: NewTask) -> Submitted {
        self.try_submit(task).await.unwrap_or_else(|error| panic!("submit: {error}"))
    }

    /// Submits one task.
    ///
    /// # Errors
    /// What the queue answers.
    pub async fn try_submit(&self, task: NewTask) -> Result<Submitted, QueueError> {
        let mut answers = self.queue.submit(vec![task]).await;
        assert_eq!(answers.len(), 1, "one answer for one task");
        answers.remove(0)
    }

    /// Cancels a task that exists.
    pub async fn cancel(&self, id: &TaskId) -> CancelOutcome {
        self.queue.cancel(id).await.unwrap_or_else(|error| panic!("cancel: {error}"))
    }

    /// Reads a task that exists.
    pub async fn get(&self, id: &TaskId) -> TaskRecord {
        self.queue.get(id).await.unwrap_or_else(|error| panic!("get: {error}"))
    }

    /// Reads the state of a task that exists.
    pub async fn state(&self, id: &TaskId) -> TaskState {
        self.get(id).await.state
    }

    /// A request that no session has made before, without limits.
    pub fn request(&self, session: &str) -> LeaseRequest {
        LeaseRequest {
            session: session.into(),
            request: self.requests.fetch_add(1, Ordering::Relaxed) + 1,
            worker: format!("worker-of-{session}"),
            max_tasks: 10_000,
            max_bytes: u64::MAX,
            locations: Arc::new(["uploads".into(), "archive".into()]),
        }
    }

    /// Makes a lease request.
    pub async fn lease_as(&self, request: &LeaseRequest) -> Vec<LeasedTask> {
        self.queue.lease(request).await.unwrap_or_else(|error| panic!("lease: {error}"))
    }

    /// Leases up to `max_tasks` tasks for session `a`.
    pub async fn lease(&self, max_tasks: u32) -> Vec<LeasedTask> {
        self.lease_as(&LeaseRequest { max_tasks, ..self.request("a") }).await
    }

    /// Leases the next task.
    pub async fn lease_next(&self) -> LeasedTask {
        self.lease(1).await.pop().unwrap_or_else(|| panic!("nothing to lease"))
    }

    /// Leases the next task and accepts the lease.
    pub async fn work(&self) -> LeasedTask {
        let leased = self.lease_next().await;
        assert_eq!(self.renew(&leased, 0).await, RenewOutcome::Keep(self.settings.lease));
        leased
    }

    /// Submits a task, leases it and accepts the lease.
    pub async fn work_on(&self, task: NewTask) -> LeasedTask {
        let id = self.submit(task).await.id;
        let leased = self.work().await;
        assert_eq!(leased.id, id, "another task was waiting");
        leased
    }

    /// Renews a lease that has written this many bytes.
    pub async fn renew(&self, leased: &LeasedTask, bytes_done: u64) -> RenewOutcome {
        self.renew_as(self.renewal(leased, bytes_done)).await
    }

    /// A renewal of session `a`.
    pub fn renewal(&self, leased: &LeasedTask, bytes_done: u64) -> Renewal {
        Renewal {
            id: leased.id.clone(),
            lease: leased.lease,
            progress: Progress { bytes_done, bytes_total: 1000, steps_done: 0 },
            upload_id: String::new(),
            session: "a".into(),
        }
    }

    /// Makes a renewal.
    pub async fn renew_as(&self, renewal: Renewal) -> RenewOutcome {
        let mut answers = self.queue.renew(&[renewal]).await;
        assert_eq!(answers.len(), 1, "one answer for one renewal");
        answers.remove(0).unwrap_or_else(|error| panic!("renew: {error}"))
    }

    /// Reports what came of a lease.
    pub async fn settle(&self, leased: &LeasedTask, outcome: Outcome) -> SettleOutcome {
        let settlement = Settlement { id: leased.id.clone(), lease: leased.lease, outcome };
        let mut answers = self.queue.settle(vec![settlement]).await;
        assert_eq!(answers.len(), 1, "one answer for one settlement");
        answers.remove(0).unwrap_or_else(|error| panic!("settle: {error}"))
    }

    /// Sweeps until nothing is left to do now, and adds the reports up.
    pub async fn sweep(&self) -> SweepReport {
        let mut all = SweepReport::default();
        for _ in 0..10_000 {
            let one = self.queue.sweep().await.unwrap_or_else(|error| panic!("sweep: {error}"));
            all = SweepReport {
                expired: all.expired + one.expired,
                unaccepted: all.unaccepted + one.unaccepted,
                promoted: all.promoted + one.promoted,
                reaped: all.reaped + one.reaped,
                fixed: all.fixed + one.fixed,
                more: false,
                next_due: one.next_due,
                amnesty: all.amnesty || one.amnesty,
                unswept: all.unswept + one.unswept,
            };
            if !one.more {
                return all;
            }
        }
        panic!("sweeping never comes to an end");
    }

    /// Lets time pass, then sweeps.
    pub async fn sweep_after(&self, time: Duration) -> SweepReport {
        self.clock.advance(time);
        self.sweep().await
    }

    /// Lets a lease run out and sweeps; its task must leave Working.
    pub async fn lose(&self, leased: &LeasedTask) {
        let ends_at = self.get(&leased.id).await.process_at.unwrap_or_else(|| panic!("no lease to lose"));
        self.sweep_after(ends_at.since(self.now()).max(self.settings.sweep_every)).await;
        assert_ne!(self.state(&leased.id).await, TaskState::Working, "the lease has run out");
    }

    /// Lets time pass until a waiting task is due, and sweeps; it must be Pending then.
    pub async fn await_due(&self, id: &TaskId) {
        let due = self.get(id).await.process_at.unwrap_or_else(|| panic!("not waiting for a time"));
        self.sweep_after(due.since(self.now()).max(self.settings.sweep_every)).await;
        assert_eq!(self.state(id).await, TaskState::Pending);
    }

    /// How much is in each queue.
    pub async fn depths(&self) -> Depths {
        self.queue.depths().await.unwrap_or_else(|error| panic!("depths: {error}"))
    }

    /// Leases everything one by one, and gives the keys in that order, joined by blanks.
    pub async fn drain_order(&self) -> String {
        let mut keys = Vec::new();
        while let Some(leased) = self.lease(1).await.pop() {
            keys.push(leased.spec.object.key);
        }
        keys.join(" ")
    }
}
