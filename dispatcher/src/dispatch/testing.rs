//! A dispatch with the reference queue, served by tonic over in-memory connections, and workers played by hand.
//!
//! For tests only. Nothing here uses a socket, so tokio's time can be paused: it moves only when everybody waits.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backhaul_proto::v1::{
    self as pb, from_dispatcher::Message as FromDispatcher, from_worker::Message as FromWorker,
    worker_service_client::WorkerServiceClient,
};
use backhaul_runtime::locations::Locations;
use hyper_util::rt::TokioIo;
use tokio::{
    io::DuplexStream,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Server, Uri},
};

use tower::Layer as _;

use super::{Dispatch, DispatchError, StreamSettings};
use crate::{
    grpc::{
        gate::GateLayer,
        identity::{Caller, ConfiguredTenant},
        worker_service::WorkerService,
    },
    queue::{
        CancelOutcome, Depths, EventCursor, Events, LeaseRequest, LeasedTask, ListPage, ListQuery, NewTask,
        ObjectRef, Priority, QueueClock, QueueError, QueueStats, RenewOutcome, Renewal, Requeue,
        RequeueOutcome, SettleOutcome, Settlement, StatsQuery, Submitted, SweepReport, TaskId, TaskQueue,
        TaskRecord, TaskSpec, TaskState, UnixMs, conformance::test_settings, memory::MemoryQueue,
    },
};

/// Longest wait for anything, in paused time.
const PATIENCE: Duration = Duration::from_secs(600);

/// Bytes that a connection holds before it pushes back.
const PIPE_BYTES: usize = 64 * 1024;

/// The reference queue, watched, and out of order when told.
#[derive(Debug)]
pub(crate) struct Probe {
    inner: MemoryQueue,
    clock: QueueClock,
    leases: Mutex<Vec<LeaseRequest>>,
    is_down: AtomicBool,
    /// A part of the queue cannot be asked: logs of changes and listings are not whole.
    is_partly_away: AtomicBool,
    /// Leases are given, and their answer is lost.
    loses_answers: AtomicBool,
    panics_in_sweep: AtomicBool,
    /// Calls are never answered.
    hangs: AtomicBool,
    /// Leases are given, and their answer waits.
    holds_leases: watch::Sender<bool>,
    /// Told of submits and sweeps only: a real queue need not tell of more.
    ready: Arc<Notify>,
}

/// A dispatcher with everything around it but callers.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) queue: Arc<Probe>,
    pub(crate) dispatch: Dispatch,
    pub(crate) stop: CancellationToken,
    running: JoinSet<Result<(), DispatchError>>,
    _server: JoinSet<()>,
    connections: mpsc::Sender<Result<DuplexStream, io::Error>>,
}

/// A worker played by hand.
#[derive(Debug)]
pub(crate) struct Worker {
    out: Option<mpsc::Sender<pb::FromWorker>>,
    inbound: Streaming<pb::FromDispatcher>,
}

impl Probe {
    pub(crate) fn new() -> Self {
        let clock = QueueClock::starting_at(UnixMs(1_000_000));
        Self {
            inner: MemoryQueue::new(test_settings(), clock.clone()),
            clock,
            leases: Mutex::default(),
            is_down: AtomicBool::new(false),
            is_partly_away: AtomicBool::new(false),
            loses_answers: AtomicBool::new(false),
            panics_in_sweep: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            holds_leases: watch::Sender::new(false),
            ready: Arc::new(Notify::new()),
        }
    }

    pub(crate) fn lease_calls(&self) -> Vec<LeaseRequest> {
        self.leases.lock().unwrap().clone()
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    pub(crate) fn set_partly_away(&self, is_away: bool) {
        self.is_partly_away.store(is_away, Ordering::SeqCst);
    }

    pub(crate) fn lose_answers(&self, loses: bool) {
        self.loses_answers.store(loses, Ordering::SeqCst);
    }

    pub(crate) fn set_hanging(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    pub(crate) fn hold_leases(&self, holds: bool) {
        self.holds_leases.send_replace(holds);
    }

    async fn maybe_hang(&self) {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn panic_in_sweep(&self) {
        self.panics_in_sweep.store(true, Ordering::SeqCst);
    }

    /// Moves the queue's own clock.
    pub(crate) fn advance(&self, step: Duration) {
        self.clock.advance(step);
    }

    /// Submits tasks by key, with the size hint in MiB behind a colon.
    pub(crate) async fn put(&self, keys: &[&str]) -> Vec<TaskId> {
        let tasks = keys.iter().map(|key| new_task(key)).collect();
        self.submit(tasks).await.into_iter().map(|submitted| submitted.unwrap().id).collect()
    }

    pub(crate) async fn state(&self, id: &TaskId) -> TaskState {
        self.inner.get(id).await.unwrap().state
    }

    fn down<T>(&self) -> Option<Result<T, QueueError>> {
        self.is_down.load(Ordering::SeqCst).then(|| Err(QueueError::Unavailable("down for a test".into())))
    }
}

pub(crate) fn new_task(text: &str) -> NewTask {
    let (key, mib) = text.split_once(':').map_or((text, 0), |(key, mib)| (key, mib.parse::<u64>().unwrap()));
    let object = ObjectRef {
        location: "uploads".into(),
        bucket: "photos".into(),
        key: key.into(),
        version: Some("v1".into()),
    };
    NewTask {
        spec: TaskSpec {
            tenant: "t".into(),
            object,
            priority: Priority::Normal,
            max_attempts: 3,
            labels: BTreeMap::new(),
            size_hint_bytes: mib * 1024 * 1024,
            verify: None,
            processing_timeout: Duration::from_secs(600),
            traceparent: String::new(),
            retention_class: String::new(),
        },
        process_at: None,
    }
}

#[async_trait]
impl TaskQueue for Probe {
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>> {
        let submitted = self.inner.submit(tasks).await;
        self.ready.notify_one();
        submitted
    }

    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError> {
        self.inner.get(id).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError> {
        let page = self.inner.list(query).await?;
        Ok(ListPage { incomplete: self.is_partly_away.load(Ordering::SeqCst), ..page })
    }

    async fn cancel(&self, id: &TaskId) -> Result<CancelOutcome, QueueError> {
        self.inner.cancel(id).await
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        self.leases.lock().unwrap().push(request.clone());
        self.maybe_hang().await;
        if let Some(error) = self.down() {
            return error;
        }
        let leased = self.inner.lease(request).await;
        self.holds_leases.subscribe().wait_for(|holds| !holds).await.unwrap();
        if self.loses_answers.load(Ordering::SeqCst) {
            return Err(QueueError::Unavailable("answer lost for a test".into()));
        }
        leased
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        self.maybe_hang().await;
        if self.is_down.load(Ordering::SeqCst) {
            return renewals.iter().filter_map(|_| self.down()).collect();
        }
        self.inner.renew(renewals).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>> {
        self.maybe_hang().await;
        if self.is_down.load(Ordering::SeqCst) {
            return settlements.iter().filter_map(|_| self.down()).collect();
        }
        self.inner.settle(settlements).await
    }

    async fn sweep(&self) -> Result<SweepReport, QueueError> {
        self.maybe_hang().await;
        assert!(!self.panics_in_sweep.load(Ordering::SeqCst), "a bug in the queue, for a test");
        let report = self.inner.sweep().await?;
        if report.promoted + report.unaccepted > 0 {
            self.ready.notify_one();
        }
        Ok(report)
    }

    async fn depths(&self) -> Result<Depths, QueueError> {
        self.inner.depths().await
    }

    async fn requeue(&self, tasks: Vec<Requeue>) -> Vec<Result<RequeueOutcome, QueueError>> {
        self.inner.requeue(tasks).await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError> {
        self.inner.stats(query).await
    }

    async fn events(&self, cursor: Option<&EventCursor>) -> Result<Events, QueueError> {
        let events = self.inner.events(cursor).await?;
        Ok(Events { incomplete: self.is_partly_away.load(Ordering::SeqCst), ..events })
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.inner.check().await
    }

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with(StreamSettings::default())
    }

    pub(crate) fn with(settings: StreamSettings) -> Self {
        Self::granted(settings, None)
    }

    pub(crate) fn granted(settings: StreamSettings, grants: Option<Arc<Locations>>) -> Self {
        let queue = Arc::new(Probe::new());
        let dispatch = Dispatch::granted(Arc::clone(&queue) as Arc<dyn TaskQueue>, settings, grants);
        let (connections, incoming) = mpsc::channel(1);
        let mut server = JoinSet::new();
        let service = WorkerService::new(dispatch.clone(), Arc::default()).into_server();
        let anybody = ConfiguredTenant::new(Caller::new("t").unwrap());
        let service = GateLayer::new(Arc::new(anybody), Arc::default()).layer(service);
        server.spawn(async move {
            let served = Server::builder().add_service(service);
            served.serve_with_incoming(ReceiverStream::new(incoming)).await.unwrap();
        });
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        let (runs, until) = (dispatch.clone(), stop.clone());
        running.spawn(async move { runs.run(until).await });
        Self { queue, dispatch, stop, running, _server: server, connections }
    }

    /// How the dispatch ended.
    pub(crate) async fn ended(&mut self) -> Result<(), DispatchError> {
        timeout(PATIENCE, self.running.join_next()).await.unwrap().unwrap().unwrap()
    }

    /// Opens a stream on a connection of its own, and says nothing.
    pub(crate) async fn connect(&self) -> Result<Worker, Status> {
        let mut client = WorkerServiceClient::new(self.channel().await);
        let (out, messages) = mpsc::channel(64);
        let inbound = client.connect(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Worker { out: Some(out), inbound })
    }

    /// A worker that has been welcomed.
    pub(crate) async fn worker(&self, name: &str, tasks: u32) -> Worker {
        let mut worker = self.connect().await.unwrap();
        worker.say(FromWorker::Hello(hello(name, tasks))).await;
        assert!(matches!(worker.hear().await, FromDispatcher::Welcome(_)));
        worker
    }

    async fn channel(&self) -> Channel {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        self.connections.send(Ok(theirs)).await.unwrap();
        let mut ours = Some(TokioIo::new(ours));
        let connect = tower::service_fn(move |_: Uri| {
            let ours = ours.take().ok_or_else(|| io::Error::other("a connection is made once"));
            async move { ours }
        });
        let endpoint = Endpoint::from_static("http://dispatcher.test").initial_stream_window_size(64 * 1024);
        endpoint.connect_with_connector(connect).await.unwrap()
    }
}

impl Worker {
    pub(crate) async fn say(&self, message: FromWorker) {
        let message = pb::FromWorker { message: Some(message) };
        self.out.as_ref().unwrap().send(message).await.unwrap();
    }

    /// The next message.
    pub(crate) async fn hear(&mut self) -> FromDispatcher {
        let heard = timeout(PATIENCE, self.inbound.message()).await.expect("a message within the patience");
        heard.unwrap().expect("a message, not the end").message.unwrap()
    }

    /// How the stream ends, whatever comes before.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        loop {
            match timeout(PATIENCE, self.inbound.message()).await.expect("an end within the patience") {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(status) => return Err(status),
            }
        }
    }

    /// Closes the worker's side.
    pub(crate) fn close(&mut self) {
        self.out = None;
    }

    /// The next assignments, whatever comes before.
    pub(crate) async fn tasks(&mut self) -> Vec<pb::Assignment> {
        loop {
            if let FromDispatcher::Assign(assign) = self.hear().await {
                return assign.assignments;
            }
        }
    }

    /// Takes `count` tasks and accepts them.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<pb::Assignment> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let tasks = self.tasks().await;
            self.accept(&tasks).await;
            taken.extend(tasks);
        }
        taken
    }

    pub(crate) async fn accept(&self, tasks: &[pb::Assignment]) {
        let accepts = tasks
            .iter()
            .map(|task| pb::Accept { task_id: task.task_id.clone(), lease: task.lease.clone(), refusal: 0 })
            .collect();
        self.say(FromWorker::Accepts(pb::Accepts { accepts })).await;
    }

    pub(crate) async fn done(&self, tasks: &[pb::Assignment]) {
        let results = tasks.iter().map(result).collect();
        self.say(FromWorker::Results(pb::Results { results })).await;
    }

    pub(crate) async fn beat(&self, seq: u64, tasks: &[pb::Assignment]) {
        let held = tasks.iter().map(held).collect();
        self.say(FromWorker::Heartbeat(pb::Heartbeat { seq, held })).await;
    }

    /// The next Confirms, whatever comes before.
    pub(crate) async fn confirms(&mut self) -> Vec<pb::ConfirmVerdict> {
        loop {
            if let FromDispatcher::Confirms(confirms) = self.hear().await {
                return confirms.confirms.iter().map(pb::Confirm::verdict).collect();
            }
        }
    }

    /// The verdicts of the next LeaseUpdates, whatever comes before.
    pub(crate) async fn verdicts(&mut self) -> Vec<pb::LeaseVerdict> {
        loop {
            if let FromDispatcher::LeaseUpdates(updates) = self.hear().await {
                return updates.updates.iter().map(pb::LeaseUpdate::verdict).collect();
            }
        }
    }
}

/// The Hello of a worker whose instance is its name.
pub(crate) fn hello(name: &str, tasks: u32) -> pb::Hello {
    let mut instance = [0_u8; 16];
    instance.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    pb::Hello {
        protocol: 1,
        instance: instance.to_vec().into(),
        worker: name.into(),
        credit: Some(pb::Credit { tasks, bytes: 1 << 40 }),
        locations: vec!["uploads".into()],
        ..pb::Hello::default()
    }
}

pub(crate) fn held(task: &pb::Assignment) -> pb::HeldLease {
    pb::HeldLease { task_id: task.task_id.clone(), lease: task.lease.clone(), ..pb::HeldLease::default() }
}

pub(crate) fn result(task: &pb::Assignment) -> pb::TaskResult {
    let backup = pb::BackupObject {
        location: "vault".into(),
        bucket: "b".into(),
        key: "k~1".into(),
        ..pb::BackupObject::default()
    };
    let receipt = pb::Receipt { backup: Some(backup), ..pb::Receipt::default() };
    pb::TaskResult {
        task_id: task.task_id.clone(),
        lease: task.lease.clone(),
        outcome: Some(pb::task_result::Outcome::Receipt(receipt)),
    }
}

/// Waits until something holds; nobody tells when it does, so it looks now and then.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looks = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(PATIENCE, looks).await.is_ok(), "never: {what}");
}
