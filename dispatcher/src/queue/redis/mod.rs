//! The queue in Redis: [`RedisQueue`].
//!
//! One Lua script for each move (`lua/`), so that every move is atomic; policy decides in Rust what the end of a lease means, the
//! scripts check and move. Where to look:
//!
//! - `keys` and `codec`: what lies where, and how a record is packed. `scripts`: how a script is called.
//! - `routing`, `writer`: submits, cancels and requeues, behind a durability barrier. `lease`, `ends`, `sweep`, `list`, `stats`, `events`: the
//!   other calls. `snapshot`: the look at all tasks together. `walks`: what is kept of backups of prefixes.
//! - `fsck`: the audit of all that. `reshard`: another number of shards. `aside`: what is kept beside it.
//! - `hints`: where tasks are believed to be. `clocks`: whether the servers' clocks go as ours. `check`, `options`: may we use a server at all.
//! - `scout` finds the servers (one, Sentinels, a cluster) and draws the `map`; `nodes` sends each call to the `primary` that has its
//!   key; `link` keeps a connection, which `endpoint` makes and `access` logs in; `trouble` is what calls the scout.
//!
//! Every call may be repeated after a lost answer: the scripts recognise what they have done.

mod access;
mod aside;
mod batch;
mod check;
mod clocks;
mod codec;
mod counts;
mod endpoint;
mod ends;
mod error;
mod events;
mod failures;
pub mod fsck;
#[cfg(any(test, feature = "test-util"))]
pub mod fuzzing;
mod hints;
pub(crate) mod keys;
mod lease;
mod link;
mod list;
mod map;
mod nodes;
mod options;
mod primary;
mod proof;
mod redrive;
pub mod reshard;
mod routing;
mod scout;
mod scripts;
mod snapshot;
mod stats;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod trouble;
mod value;
mod walk_codec;
mod walks;
mod writer;

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use redis::{Cmd, RedisResult, Value};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    aside::Aside,
    clocks::Clocks,
    hints::Hints,
    lease::Sessions,
    map::Map,
    nodes::{Maker, Nodes},
    primary::{Primary, WriterSettings},
    scout::Scout,
    trouble::Trouble,
    writer::{Context, Write, Written},
};
pub use self::{
    aside::KeptBody,
    check::Unfit,
    clocks::ClockStats,
    endpoint::{connect_to, is_server},
    options::{ConnectError, Durability, Layout, Login, RedisOptions, Timeouts, TlsFiles},
    writer::BarrierStats,
};
use super::{
    CancelOutcome, Depths, EventCursor, Events, LeaseRequest, LeaseToken, LeasedTask, ListPage, ListQuery,
    NewTask, QueueClock, QueueError, QueueSettings, QueueStats, RenewOutcome, Renewal, Requeue,
    RequeueOutcome, SettleOutcome, Settlement, StatsQuery, SubmitOutcome, Submitted, SweepReport, TaskId,
    TaskQueue, TaskRecord, TaskState,
};

/// How long the servers of a cluster are given at the start to agree on who has what.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// The queue in Redis. Owns its connections and tasks; [`RedisQueue::shutdown`] ends them in order.
pub struct RedisQueue {
    shared: Arc<Shared>,
    writing: WriterSettings,
    sessions: Sessions,
    aside: Aside,
    /// Why nothing may be written, as the last check of a cluster found: its data was made for other dispatchers meanwhile.
    outdated: Mutex<Option<Arc<Unfit>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What the parts of one queue have in common.
#[derive(Debug)]
struct Shared {
    context: Arc<Context>,
    nodes: Arc<Nodes>,
}

impl RedisQueue {
    /// Finds the servers, looks whether they are fit for tasks, and makes the data's first entry if there is none.
    ///
    /// Of several primaries one that is fit is enough: what belongs to the others is refused until they are fit too.
    ///
    /// # Errors
    /// [`ConnectError`], which says whether the settings, the servers' reachability or their configuration is at fault.
    pub async fn connect(
        options: RedisOptions,
        settings: QueueSettings,
        clock: QueueClock,
    ) -> Result<Self, ConnectError> {
        settings.validate().map_err(ConnectError::Settings)?;
        let (seeds, asking, data) = options.servers().map_err(ConnectError::Url)?;
        let data = Arc::new(data);
        let mut scout = Scout::new(options.layout.clone(), asking, seeds);
        let settle = options.timeouts.connect.min(SETTLE_WITHIN);
        let map = first_map(&mut scout, settings.shards, settle)
            .await
            .map_err(|error| ConnectError::Server(error::from_redis(error)))?;
        let writing = WriterSettings {
            count: options.writers,
            endpoint: Arc::clone(&data),
            durability: options.durability,
            patience: options.durability_timeout,
            in_cluster: options.layout == Layout::Cluster,
            shards: settings.shards,
        };
        let hints = Hints::new(settings.shards);
        let (barriers, clocks) = (Arc::default(), Clocks::default());
        let context = Arc::new(Context { settings, clock, hints, barriers, clocks });
        let trouble = Arc::new(Trouble::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        // From here on, whatever ends this ends the tasks.
        let guard = stop.clone().drop_guard();
        let nodes = Arc::new(Nodes::new(
            map,
            Maker {
                endpoint: Arc::clone(&data),
                trouble: Arc::clone(&trouble),
                tasks: tasks.clone(),
                stop: stop.clone(),
                writers: Some((Arc::clone(&context), writing.clone())),
            },
        ));
        first_look(&nodes, &writing).await?;
        tasks.spawn(scout.run(Arc::clone(&nodes), trouble, options.look_every, stop.clone()));
        let shared = Arc::new(Shared { context, nodes });
        tasks.spawn({
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            async move { shared.hints.listen(&shared.nodes, &data, &stop).await }
        });
        guard.disarm();
        let (sessions, aside, outdated) = (Sessions::default(), Aside::default(), Mutex::default());
        Ok(Self { shared, writing, sessions, aside, outdated, stop, tasks })
    }

    /// Ends the queue's own tasks: writes that are waiting are finished, new ones answer [`QueueError::Unavailable`].
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// What is known of the servers' clocks.
    #[must_use]
    pub fn clocks(&self) -> Arc<ClockStats> {
        Arc::clone(self.shared.clocks.stats())
    }

    /// How long barriers take, and how many were missed.
    #[must_use]
    pub fn barriers(&self) -> Arc<BarrierStats> {
        Arc::clone(&self.shared.barriers)
    }
}

/// Who has what, once every shard has somebody, or after that long: the nodes of a cluster need a moment to hear of each other.
async fn first_map(scout: &mut Scout, shards: u16, settle: Duration) -> RedisResult<Map> {
    const LOOK_AGAIN: Duration = Duration::from_millis(50);
    let until = Instant::now() + settle;
    loop {
        let map = scout.look(&[]).await?;
        let has_owner = |shard| map.owner(keys::slot(keys::meta(shard).as_bytes())).is_some();
        if (0..shards).all(has_owner) || Instant::now() >= until {
            return Ok(map);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Looks at all primaries for the first time.
async fn first_look(nodes: &Nodes, settings: &WriterSettings) -> Result<(), ConnectError> {
    let primaries = nodes.primaries();
    let mut fit = false;
    let (mut unfit, mut unreachable) = (None, None);
    for found in look_at(&primaries, settings).await {
        match found {
            Ok(Ok(_)) => fit = true,
            Ok(Err(reason)) => unfit = Some(reason),
            Err(error) => unreachable = Some(error),
        }
    }
    match (fit, unfit, unreachable) {
        (false, Some(unfit), _) => return Err(ConnectError::Unfit(unfit)),
        (false, None, Some(error)) => return Err(ConnectError::Server(error)),
        (..) => {}
    }
    if settings.in_cluster {
        let created = check::created_as(nodes, settings.shards).await;
        created.map_err(ConnectError::Server)?.map_err(ConnectError::Unfit)?;
    }
    Ok(())
}

async fn look_at(
    primaries: &[Arc<Primary>],
    settings: &WriterSettings,
) -> Vec<Result<Result<check::Barrier, Unfit>, QueueError>> {
    join_all(primaries.iter().map(|primary| primary.check(settings))).await
}

impl Drop for RedisQueue {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for RedisQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQueue")
            .field("settings", &self.shared.settings)
            .field("writing", &self.writing)
            .finish_non_exhaustive()
    }
}

impl Deref for Shared {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl Shared {
    /// The shard that keeps a task.
    fn shard_of(&self, id: &TaskId) -> u16 {
        id.shard(self.settings.shards)
    }

    /// The key of its record.
    fn record_of(&self, id: &TaskId) -> String {
        keys::record(self.shard_of(id), id)
    }

    /// Sends calls, each to the primary that has its key, in one go for each; each has its own answer.
    async fn send(&self, calls: Vec<Cmd>) -> Vec<Result<Value, QueueError>> {
        let answers = self.nodes.send(calls).await;
        answers.into_iter().map(|answer| answer.map_err(error::from_redis)).collect()
    }

    /// Sends one command.
    async fn ask(&self, command: Cmd) -> Result<Value, QueueError> {
        let answer = self.send(vec![command]).await.pop();
        answer.unwrap_or_else(|| Err(error::unexpected("a command was not answered")))
    }
}

/// Whole milliseconds, at most what a script can count.
fn millis(duration: Duration) -> u64 {
    codec::exact_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[async_trait]
impl TaskQueue for RedisQueue {
    async fn submit(&self, tasks: Vec<NewTask>) -> Vec<Result<Submitted, QueueError>> {
        let mut answers: Vec<Option<Result<Submitted, QueueError>>> = Vec::with_capacity(tasks.len());
        let (mut writes, mut positions) = (Vec::with_capacity(tasks.len()), Vec::with_capacity(tasks.len()));
        for task in &tasks {
            let id = TaskId::derive(&task.spec.tenant, &task.spec.object);
            match codec::encode_new(task) {
                Ok(record) => {
                    positions.push((answers.len(), id.clone()));
                    writes.push(Write::Submit(id, record));
                    answers.push(None);
                }
                Err(unstorable) => answers.push(Some(Err(QueueError::Rejected(Box::new(unstorable))))),
            }
        }
        let written = self.write(writes).await;
        for ((at, id), outcome) in positions.into_iter().zip(written) {
            answers[at] = Some(outcome.and_then(|written| submitted(id, &written)));
        }
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(error::unexpected("no answer"))))
            .collect()
    }

    async fn get(&self, id: &TaskId) -> Result<TaskRecord, QueueError> {
        let mut command = redis::cmd("GET");
        command.arg(self.shared.record_of(id));
        match self.shared.ask(command).await {
            Ok(answer) => {
                let raw = value::bytes(answer).ok_or_else(|| QueueError::NotFound(id.clone()))?;
                codec::decode(id, &raw)
            }
            Err(failure) if error::is_wrong_type(&failure) => Err(QueueError::Corrupt {
                task: id.to_string(),
                what: "its key holds something else than a record",
            }),
            Err(failure) => Err(failure),
        }
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError> {
        self.shared.list(query).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<CancelOutcome, QueueError> {
        let outcome = self.write(vec![Write::Cancel(id.clone())]).await.pop();
        match outcome.unwrap_or_else(|| Err(error::unexpected("no answer")))? {
            Written::Cancel(code, token, session) => cancelled(id, code, &token, session),
            Written::Submit(_) | Written::Requeue(_) | Written::Walk(_) => {
                Err(error::unexpected("a cancel was answered as another write"))
            }
        }
    }

    async fn requeue(&self, tasks: Vec<Requeue>) -> Vec<Result<RequeueOutcome, QueueError>> {
        redrive::requeue(self, &tasks).await
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        self.shared.lease(&self.sessions, request).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        self.shared.renew(renewals).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<SettleOutcome, QueueError>> {
        self.shared.settle(&settlements).await
    }

    async fn sweep(&self) -> Result<SweepReport, QueueError> {
        self.shared.sweep().await
    }

    async fn depths(&self) -> Result<Depths, QueueError> {
        self.shared.depths().await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError> {
        self.shared.stats(query).await
    }

    async fn events(&self, cursor: Option<&EventCursor>) -> Result<Events, QueueError> {
        self.shared.events(cursor).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        let primaries = self.shared.nodes.primaries();
        let found = look_at(&primaries, &self.writing).await;
        let mut failure = None;
        let mut fit = 0;
        for found in found {
            match found {
                Ok(Ok(_)) => fit += 1,
                Ok(Err(unfit)) => failure = Some(QueueError::Rejected(Box::new(unfit))),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        // What belongs to the others is refused, with the reason; what belongs to this one goes on.
        if fit == 0 {
            return Err(failure.unwrap_or_else(|| error::unexpected("no server is known")));
        }
        if self.writing.in_cluster {
            // Where the one server that could say is away, nothing is said.
            let created = check::created_as(&self.shared.nodes, self.writing.shards).await;
            if let Ok(created) = created {
                let unfit = created.err();
                *self.outdated.lock().unwrap_or_else(PoisonError::into_inner) = unfit.clone().map(Arc::new);
                if let Some(unfit) = unfit {
                    return Err(QueueError::Rejected(Box::new(unfit)));
                }
            }
        }
        Ok(())
    }

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(self.shared.hints.ready())
    }
}

fn submitted(id: TaskId, written: &Written) -> Result<Submitted, QueueError> {
    let Written::Submit([code, state, run]) = *written else {
        return Err(error::unexpected("a submit was answered as another write"));
    };
    let outcome = match code {
        1 => SubmitOutcome::Created,
        2 => SubmitOutcome::Duplicate,
        3 => SubmitOutcome::Coalesced,
        4 => SubmitOutcome::RunsAgain,
        -1 => return Err(QueueError::Full),
        -2 => return Err(QueueError::TenantFull),
        -3 => return Err(damaged(&id)),
        _ => return Err(error::unexpected("submit.lua gave an unknown answer")),
    };
    let state =
        codec::state_of(state).ok_or_else(|| error::unexpected("submit.lua gave an unknown state"))?;
    let run = u32::try_from(run).map_err(|_| error::unexpected("submit.lua gave an unknown run"))?;
    Ok(Submitted { id, run, state, outcome })
}

fn cancelled(id: &TaskId, code: i64, token: &[u8], session: Vec<u8>) -> Result<CancelOutcome, QueueError> {
    match code {
        3 => match (LeaseToken::from_slice(token), String::from_utf8(session)) {
            (Some(lease), Ok(session)) => Ok(CancelOutcome::Stopping { lease, session }),
            (Some(_) | None, _) => Err(damaged(id)),
        },
        5 => Ok(CancelOutcome::Finished(TaskState::Done)),
        6 => Ok(CancelOutcome::Finished(TaskState::Dead)),
        7 => Ok(CancelOutcome::Cancelled),
        15 => Err(QueueError::NotFound(id.clone())),
        -3 => Err(damaged(id)),
        _ => Err(error::unexpected("cancel.lua gave an unknown answer")),
    }
}

/// A script found a record that it cannot decode.
fn damaged(id: &TaskId) -> QueueError {
    QueueError::Corrupt { task: id.to_string(), what: "its record cannot be decoded" }
}
