//! What the tests of this module share: a queue that answers as it is told, a configuration, and a served API.
//!
//! The queue's own behaviour is not imitated here: tests of whole journeys use the reference queue.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use backhaul_proto::v1::{
    self as pb, backup_service_client::BackupServiceClient, backup_service_server::BackupServiceServer,
};
use backhaul_runtime::locations::Locations;
use bytes::Bytes;
use http::{Extensions, HeaderMap};
use tokio::sync::Notify;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::StatusExt as _;
use tower::Layer as _;

use super::{
    backup_service::{Backups, MAX_MESSAGE_BYTES, StopCopies, SubmitDefaults},
    ending::Ends,
    gate::{Gate, GateLayer},
    identity::{Caller, Denied, Identify, Principal},
    layers::{CallLimits, Guard, GuardLayer},
};
use crate::queue::{
    CancelOutcome, Depths, EventCursor, Events, LeaseRequest, LeaseToken, LeasedTask, ListPage, ListQuery,
    NewTask, ObjectRef, Priority, Progress, QueueClock, QueueError, QueueStats, RenewOutcome, Renewal,
    Requeue, RequeueOutcome, SettleOutcome, Settlement, StatsQuery, SubmitOutcome, Submitted, SweepReport,
    TaskId, TaskQueue, TaskReason, TaskRecord, TaskSpec, TaskState, UnixMs,
};
use crate::watch::Watches;

/// `web` may read users/ in photos; `vault` is only a backup target.
pub(crate) const LOCATIONS: &str = r#"
    [location.uploads]
    endpoint = "http://127.0.0.1:1"
    credentials = "anonymous"

    [[location.uploads.read]]
    bucket = "photos"
    prefixes = ["users/"]
    tenants = ["web"]

    [location.uploads.backup]
    location = "vault"
    bucket = "backups"

    [location.vault]
    endpoint = "http://127.0.0.1:1"
    credentials = "anonymous"
"#;

/// What the clock of the tests says.
pub(crate) const NOW: UnixMs = UnixMs(1_800_000_000_000);

/// Limits that no test reaches.
pub(crate) const WIDE: CallLimits = CallLimits {
    max_calls: 1000,
    calls_per_second: 1_000_000,
    max_calls_of_each: 1000,
    calls_per_second_of_each: 1_000_000,
    deadline: Duration::from_secs(60),
};

/// Answers each call with the next scripted answer, and remembers what it was asked.
#[derive(Debug, Default)]
pub(crate) struct ScriptedQueue {
    /// Answers to submitted tasks, one per task; "created" when none is left.
    pub(crate) submits: Mutex<VecDeque<Result<Submitted, QueueError>>>,
    /// Tasks handed to `submit`.
    pub(crate) submitted: Mutex<Vec<NewTask>>,
    /// What `get` finds.
    pub(crate) records: Mutex<Vec<TaskRecord>>,
    /// Tasks that `get` cannot ask for: their part of the queue is away.
    pub(crate) away: Mutex<Vec<TaskId>>,
    /// Pages of `list`; an empty last page when none is left.
    pub(crate) pages: Mutex<VecDeque<Result<ListPage, QueueError>>>,
    /// Queries handed to `list`.
    pub(crate) queries: Mutex<Vec<ListQuery>>,
    /// Answers of `cancel`; "unavailable" when none is left.
    pub(crate) cancels: Mutex<VecDeque<Result<CancelOutcome, QueueError>>>,
    /// Answers of `requeue`, one per task; "requeued" when none is left.
    pub(crate) requeues: Mutex<VecDeque<Result<RequeueOutcome, QueueError>>>,
    /// Tasks handed to `requeue`.
    pub(crate) requeued: Mutex<Vec<Requeue>>,
    /// What `stats` answers.
    pub(crate) stats: Mutex<QueueStats>,
    /// What `stats` was asked for.
    pub(crate) stats_asked: Mutex<Vec<StatsQuery>>,
    /// Answers of `check`; `Ok` when none is left.
    pub(crate) checks: Mutex<VecDeque<Result<(), QueueError>>>,
    /// Calls that never end: dropped calls are counted in `dropped`.
    pub(crate) hang: bool,
    /// `submit` panics.
    pub(crate) panic: bool,
    /// `submit` gives no answers at all.
    pub(crate) mute: bool,
    /// A hanging call has begun.
    pub(crate) hanging: Notify,
    /// Hanging calls that were dropped.
    pub(crate) dropped: Arc<Notify>,
}

/// Remembers which copies it was told to stop.
#[derive(Debug, Default)]
pub(crate) struct StoppedCopies(pub(crate) Mutex<Vec<(String, TaskId, LeaseToken)>>);

pub(crate) fn unavailable() -> QueueError {
    QueueError::Unavailable("redis://secret@10.0.0.1 is away".into())
}

pub(crate) fn locations() -> Arc<Locations> {
    Arc::new(Locations::parse(LOCATIONS, Path::new("locations.toml")).unwrap())
}

/// The API over any queue, for tenants as the request says.
pub(crate) fn backups(queue: Arc<dyn TaskQueue>, copies: Arc<dyn StopCopies>) -> Backups {
    Backups {
        watches: Watches::new(Arc::clone(&queue)),
        queue,
        copies,
        locations: locations(),
        defaults: SubmitDefaults { max_attempts: 5, processing_timeout: Duration::from_secs(600) },
        rules: crate::rules::LiveRules::default(),
        clock: QueueClock::starting_at(NOW),
    }
}

/// Tenant from the header `x-tenant`, `web` without one; `nobody` is not identified.
#[derive(Debug)]
pub(crate) struct TenantFromHeader;

/// A client of the whole unary stack, without a network.
pub(crate) type Client = BackupServiceClient<Served>;

/// The whole unary stack.
pub(crate) type Served = Gate<Guard<BackupServiceServer<Backups>>>;

/// The whole unary stack over `queue`, with these limits.
pub(crate) fn server(queue: &Arc<ScriptedQueue>, limits: CallLimits) -> Served {
    let queue: Arc<dyn TaskQueue> = Arc::<ScriptedQueue>::clone(queue);
    let server = BackupServiceServer::new(backups(queue, Arc::new(StoppedCopies::default())));
    let server = server.max_decoding_message_size(MAX_MESSAGE_BYTES);
    let guarded = GuardLayer::new(limits, Arc::default()).layer(server);
    GateLayer::new(Arc::new(TenantFromHeader), Arc::default()).layer(guarded)
}

/// A client of an API over `queue`, with these limits.
pub(crate) fn client_with(queue: &Arc<ScriptedQueue>, limits: CallLimits) -> Client {
    BackupServiceClient::new(server(queue, limits))
}

/// A client of an API over `queue`, with limits that no test reaches.
pub(crate) fn client(queue: &Arc<ScriptedQueue>) -> Client {
    client_with(queue, WIDE)
}

/// A request made as `tenant`.
pub(crate) fn made_by<T>(tenant: &'static str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("x-tenant", MetadataValue::from_static(tenant));
    request
}

/// What a program goes by: code and reason.
pub(crate) fn told(status: &Status) -> (Code, String) {
    let info = status.get_error_details().error_info().cloned().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, "backhaul");
    (status.code(), info.reason)
}

/// The smallest good request.
pub(crate) fn submit(key: &str) -> pb::SubmitBackupRequest {
    pb::SubmitBackupRequest {
        object: Some(pb::ObjectRef {
            location: "uploads".into(),
            bucket: "photos".into(),
            key: key.into(),
            version: String::new(),
        }),
        options: None,
    }
}

/// A pending task of tenant `web`.
pub(crate) fn record(key: &str) -> TaskRecord {
    let object =
        ObjectRef { location: "uploads".into(), bucket: "photos".into(), key: key.into(), version: None };
    TaskRecord {
        id: TaskId::derive("web", &object),
        run: 1,
        spec: TaskSpec {
            tenant: "web".into(),
            object,
            priority: Priority::Normal,
            max_attempts: 5,
            labels: [].into(),
            size_hint_bytes: 0,
            verify: None,
            processing_timeout: Duration::from_secs(600),
            traceparent: String::new(),
            retention_class: String::new(),
        },
        state: TaskState::Pending,
        reason: TaskReason::None,
        attempts: 0,
        crashes: 0,
        returns: 0,
        created_at: NOW,
        process_at: None,
        finished_at: None,
        progress: Progress::default(),
        last_failure: None,
        receipt: Bytes::new(),
        worker: String::new(),
        lease: None,
        accepted: false,
        dirty: false,
        cancel_requested: false,
        upload_id: String::new(),
    }
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Identify for TenantFromHeader {
    async fn identify(&self, headers: &HeaderMap, _: &Extensions) -> Result<Principal, Denied> {
        let tenant = headers.get("x-tenant").map_or("web", |t| t.to_str().unwrap());
        if tenant == "nobody" {
            return Err(Denied::Unidentified("no credentials"));
        }
        let caller = Some(Caller::new(tenant).unwrap());
        Ok(Principal { name: tenant.into(), caller, worker: None, ends: Ends::default() })
    }
}

impl StopCopies for StoppedCopies {
    fn stop_copy(&self, session: &str, task: &TaskId, lease: LeaseToken) {
        self.0.lock().unwrap().push((session.to_owned(), task.clone(), lease));
    }
}

#[async_trait]
impl TaskQueue for ScriptedQueue {
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>> {
        assert!(!self.panic, "told to panic");
        if self.hang {
            let _dropped = NotifyOnDrop(Arc::clone(&self.dropped));
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        if self.mute {
            return Vec::new();
        }
        let mut answers = Vec::new();
        for task in tasks {
            let created = Submitted {
                id: TaskId::derive(&task.spec.tenant, &task.spec.object),
                run: 1,
                state: TaskState::Pending,
                outcome: SubmitOutcome::Created,
            };
            answers.push(self.submits.lock().unwrap().pop_front().unwrap_or(Ok(created)));
            self.submitted.lock().unwrap().push(task);
        }
        answers
    }

    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError> {
        if self.away.lock().unwrap().contains(id) {
            return Err(unavailable());
        }
        let found = self.records.lock().unwrap().iter().find(|r| r.id == *id).cloned();
        found.ok_or_else(|| QueueError::NotFound(id.clone()))
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError> {
        self.queries.lock().unwrap().push(query.clone());
        self.pages.lock().unwrap().pop_front().unwrap_or(Ok(ListPage::default()))
    }

    async fn cancel(&self, _: &TaskId) -> Result<CancelOutcome, QueueError> {
        self.cancels.lock().unwrap().pop_front().unwrap_or_else(|| Err(unavailable()))
    }

    async fn lease(&self, _: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        Ok(Vec::new())
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        renewals.iter().map(|_| Ok(RenewOutcome::Lost)).collect()
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>> {
        settlements.iter().map(|_| Ok(SettleOutcome::Gone)).collect()
    }

    async fn sweep(&self) -> Result<SweepReport, QueueError> {
        Ok(SweepReport::default())
    }

    async fn depths(&self) -> Result<Depths, QueueError> {
        Ok(Depths::default())
    }

    async fn requeue(&self, tasks: Vec<Requeue>) -> Vec<Result<RequeueOutcome, QueueError>> {
        let mut answers = self.requeues.lock().unwrap();
        let answer = |task: &Requeue| {
            let requeued = RequeueOutcome::Requeued { run: task.run + 1 };
            answers.pop_front().unwrap_or(Ok(requeued))
        };
        let answered = tasks.iter().map(answer).collect();
        self.requeued.lock().unwrap().extend(tasks);
        answered
    }

    async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError> {
        self.stats_asked.lock().unwrap().push(query.clone());
        Ok(self.stats.lock().unwrap().clone())
    }

    async fn events(&self, _: Option<&EventCursor>) -> Result<Events, QueueError> {
        Err(unavailable())
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.checks.lock().unwrap().pop_front().unwrap_or(Ok(()))
    }

    fn ready(&self) -> Arc<Notify> {
        Arc::new(Notify::new())
    }
}
