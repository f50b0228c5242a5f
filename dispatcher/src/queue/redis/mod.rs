//! The queue in Redis: [`RedisQueue`].
//!
//! One Lua script for each move (`lua/`), so that every move is atomic; policy decides in Rust what the end of a lease means, the
//! scripts check and move. Where to look:
//!
//! - `keys` and `codec`: what lies where, and how a record is packed. `scripts`: how a script is called.
//! - `writer`: submits and cancels, behind a durability barrier. `lease`, `ends`, `sweep`, `list`: the other calls. `snapshot`: the
//!   look at all tasks together.
//! - `fsck`: the audit of all that.
//! - `hints`: where tasks are believed to be. `connection`: the seam to the server. `check`, `options`: may we use it at all.
//!
//! Every call may be repeated after a lost answer: the scripts recognise what they have done.

mod batch;
mod check;
mod codec;
mod connection;
mod ends;
mod error;
pub mod fsck;
mod hints;
mod keys;
mod lease;
mod list;
mod options;
mod scripts;
mod snapshot;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod value;
mod writer;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use redis::{Cmd, Value};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    check::Barrier,
    connection::{Endpoint, Link},
    hints::Hints,
    lease::Sessions,
    writer::{Write, Writer, Written, writer},
};
pub use self::{
    check::Unfit,
    connection::Timeouts,
    options::{ConnectError, Durability, RedisOptions},
    writer::BarrierStats,
};
use super::{
    CancelOutcome, Depths, LeaseRequest, LeaseToken, LeasedTask, ListPage, ListQuery, NewTask, QueueClock,
    QueueError, QueueSettings, RenewOutcome, Renewal, SettleOutcome, Settlement, SubmitOutcome, Submitted,
    SweepReport, TaskId, TaskQueue, TaskRecord, TaskState,
};

/// Writes that one submit gives to a writer at a time.
const JOB_WRITES: usize = 500;

/// The queue in Redis. Owns its connections and tasks; [`RedisQueue::shutdown`] ends them in order.
pub struct RedisQueue {
    shared: Arc<Shared>,
    writers: Vec<Writer>,
    next_writer: AtomicUsize,
    durability: Durability,
    sessions: Sessions,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What the parts of one queue have in common.
#[derive(Debug)]
struct Shared {
    settings: QueueSettings,
    clock: QueueClock,
    link: Link,
    hints: Hints,
    barriers: Arc<BarrierStats>,
    /// `None` since the server was found unfit: nothing is accepted until it is fit again.
    barrier: Mutex<Option<Barrier>>,
}

impl RedisQueue {
    /// Connects, looks whether the server is fit for tasks, and makes the data's first entry if there is none.
    ///
    /// # Errors
    /// [`ConnectError`], which says whether the settings, the server's reachability or its configuration is at fault.
    pub async fn connect(
        options: RedisOptions,
        settings: QueueSettings,
        clock: QueueClock,
    ) -> Result<Self, ConnectError> {
        settings.validate().map_err(ConnectError::Settings)?;
        let open = |timeouts| Endpoint::new(&options, timeouts).map(Arc::new).map_err(ConnectError::Url);
        let endpoint = open(options.timeouts)?;
        // A barrier is waited for on top of everything else.
        let patient = connection::Timeouts {
            response: options.timeouts.response + options.durability_timeout,
            ..options.timeouts
        };
        let writing = open(patient)?;
        let link = Link::new(Arc::clone(&endpoint));
        let barrier = check::inspect(&link, options.durability, settings.shards)
            .await
            .map_err(ConnectError::Server)?
            .map_err(ConnectError::Unfit)?;
        let hints = Hints::new(settings.shards);
        let barriers = Arc::default();
        let barrier = Mutex::new(Some(barrier));
        let shared = Arc::new(Shared { settings, clock, link, hints, barriers, barrier });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let writers = (0..options.writers.max(1))
            .map(|_| {
                let link = Link::new(Arc::clone(&writing));
                let (writer, work) = writer(link, Arc::clone(&shared), options.durability_timeout);
                tasks.spawn(work.run(stop.clone()));
                writer
            })
            .collect();
        tasks.spawn({
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            async move { shared.hints.listen(&endpoint, &stop).await }
        });
        Ok(Self {
            shared,
            writers,
            next_writer: AtomicUsize::new(0),
            durability: options.durability,
            sessions: Sessions::default(),
            stop,
            tasks,
        })
    }

    /// Ends the queue's own tasks: writes that are waiting are finished, new ones answer [`QueueError::Unavailable`].
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How long barriers take, and how many were missed.
    #[must_use]
    pub fn barriers(&self) -> Arc<BarrierStats> {
        Arc::clone(&self.shared.barriers)
    }

    fn writer(&self) -> &Writer {
        let next = self.next_writer.fetch_add(1, Ordering::Relaxed);
        &self.writers[next % self.writers.len()]
    }
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
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The time to give to a script: 0 for the server's own.
    fn now(&self) -> u64 {
        self.clock.virtual_now().map_or(0, |now| codec::exact_ms(now.0).max(1))
    }

    fn barrier(&self) -> Option<Barrier> {
        *self.barrier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the id names a shard of this queue; another deployment's may not.
    const fn has_shard_of(&self, shard: u16) -> bool {
        shard < self.settings.shards
    }

    /// Sends calls in one go; each has its own answer.
    async fn send(&self, calls: Vec<Cmd>) -> Result<Vec<Result<Value, QueueError>>, QueueError> {
        let answers = self.link.send(calls).await.map_err(error::from_redis)?;
        Ok(answers.into_iter().map(|answer| answer.map_err(error::from_redis)).collect())
    }

    /// Sends one command.
    async fn ask(&self, command: Cmd) -> Result<Value, QueueError> {
        let answer = self.send(vec![command]).await?.pop();
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
        let shards = self.shared.settings.shards;
        let mut answers: Vec<Option<Result<Submitted, QueueError>>> = Vec::with_capacity(tasks.len());
        let (mut writes, mut positions) = (Vec::with_capacity(tasks.len()), Vec::with_capacity(tasks.len()));
        for task in &tasks {
            let id = TaskId::derive(&task.spec.tenant, &task.spec.object, shards);
            match codec::encode_new(task) {
                Ok(record) => {
                    positions.push((answers.len(), id.clone()));
                    writes.push(Write::Submit(id, record));
                    answers.push(None);
                }
                Err(unstorable) => answers.push(Some(Err(QueueError::Rejected(Box::new(unstorable))))),
            }
        }
        // One writer for all of them, or they would not join their lines in order.
        let writer = self.writer();
        let mut writes = writes.into_iter();
        let mut written = Vec::with_capacity(positions.len());
        loop {
            let job: Vec<Write> = writes.by_ref().take(JOB_WRITES).collect();
            if job.is_empty() {
                break;
            }
            written.extend(writer.write(job).await);
        }
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
        command.arg(keys::record(id));
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
        if !self.shared.has_shard_of(id.shard()) {
            return Err(QueueError::NotFound(id.clone()));
        }
        let outcome = self.writer().write(vec![Write::Cancel(id.clone())]).await.pop();
        match outcome.unwrap_or_else(|| Err(error::unexpected("no answer")))? {
            Written::Cancel(code, token, session) => cancelled(id, code, &token, session),
            Written::Submit(_) => Err(error::unexpected("a cancel was answered as a submit")),
        }
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedTask>, QueueError> {
        self.shared.lease(&self.sessions, request).await
    }

    async fn renew(&self, renewals: Vec<Renewal>) -> Vec<Result<RenewOutcome, QueueError>> {
        self.shared.renew(&renewals).await
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

    async fn check(&self) -> Result<(), QueueError> {
        let fit = check::inspect(&self.shared.link, self.durability, self.shared.settings.shards).await?;
        let (barrier, answer) = match fit {
            Ok(barrier) => (Some(barrier), Ok(())),
            Err(unfit) => (None, Err(QueueError::Rejected(Box::new(unfit)))),
        };
        *self.shared.barrier.lock().unwrap_or_else(PoisonError::into_inner) = barrier;
        answer
    }

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(self.shared.hints.ready())
    }
}

fn submitted(id: TaskId, written: &Written) -> Result<Submitted, QueueError> {
    let Written::Submit([code, state, run]) = *written else {
        return Err(error::unexpected("a submit was answered as a cancel"));
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
