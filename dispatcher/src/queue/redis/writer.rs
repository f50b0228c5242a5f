//! The write path of submits, cancels, requeues and walks: what comes while one batch is on its way makes up the next, and one barrier proves a
//! whole batch durable.
//!
//! A barrier (`WAITAOF`, `WAIT`) covers earlier writes of its own connection and blocks it, so each [`Writer`] owns one. It adds no
//! delay of its own: an idle writer sends at once. Nothing here may answer `Ok` before the barrier has.

use std::{sync::Arc, time::Duration};

use backhaul_runtime::metrics::{Counter, Histogram};
use redis::{Cmd, RedisError, Value};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    batch::{Piece, cut},
    check::{Barrier, Unfit, inspect},
    clocks::Clocks,
    codec::{self, NewRecord},
    error,
    hints::Hints,
    link::{Link, Opened, pipeline},
    primary::{Fitness, WriterSettings},
    proof::{Proof, barrier_command, proven},
    routing::is_elsewhere,
    scripts::{Answer, Call, Script},
    walks::WalkChange,
};
use crate::queue::{QueueClock, QueueError, QueueSettings, TaskId, TaskState};

/// Jobs that may wait for one writer; more make their callers wait.
const WAITING_JOBS: usize = 256;
/// Writes after which a batch takes no further job.
const BATCH_WRITES: usize = 2_000;
/// Bytes after which a batch takes no further job.
const BATCH_BYTES: usize = 1 << 20;

/// How long a server that was found unfit is given nothing before it is looked at again.
const UNFIT_FOR: Duration = Duration::from_millis(500);

/// What all writers and calls of one queue have in common.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: QueueSettings,
    pub(super) clock: QueueClock,
    pub(super) hints: Hints,
    pub(super) barriers: Arc<BarrierStats>,
    pub(super) clocks: Clocks,
}

/// One write.
#[derive(Debug)]
pub(super) enum Write {
    /// A new task, encoded.
    Submit(TaskId, NewRecord),
    /// A cancel.
    Cancel(TaskId),
    /// A new run of the run that died.
    Requeue(TaskId, u32),
    /// A change of a walk: its keys and arguments.
    Walk(TaskId, WalkChange),
}

/// What a script said about one write.
#[derive(Debug)]
pub(super) enum Written {
    /// What came of a submit, the task's state, its run.
    Submit([i64; 3]),
    /// What came of a cancel, the lease's token, its session.
    Cancel(i64, Vec<u8>, Vec<u8>),
    /// What came of a requeue, the task's state, its run.
    Requeue([i64; 3]),
    /// What came of a change of a walk, its open tasks.
    Walk([i64; 2]),
}

/// The script of a write, and its place where it needs a call of its own.
type Kind = (Script, usize);

/// A writer's answer to a job: one entry for each write, in order.
pub(super) type Outcomes = Vec<Result<Written, QueueError>>;

/// The sending side of one writer.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
}

/// The working side of one writer, to be driven by a task.
#[derive(Debug)]
pub(super) struct WriterLoop {
    jobs: mpsc::Receiver<Job>,
    /// Its own, because a barrier covers earlier writes of its connection and blocks it.
    link: Link,
    /// Another one to the same server, to ask whether it is still there.
    main: Arc<Link>,
    fitness: Arc<Fitness>,
    checked: Option<Checked>,
    context: Arc<Context>,
    settings: WriterSettings,
    retired: CancellationToken,
}

/// What the server at the other end of a connection is like.
#[derive(Debug)]
struct Checked {
    generation: u64,
    version: u64,
    at: Instant,
    found: Result<Barrier, Unfit>,
}

/// What barriers have cost.
#[derive(Debug, Default)]
pub struct BarrierStats {
    /// From the sending of a batch to the proof that it is durable.
    pub took: Histogram,
    /// Batches that were not durable in time, or of which nobody knows.
    pub missed: Counter,
}

/// A write that was not made, with itself where another server may take it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: QueueError,
    pub(super) write: Option<Box<Write>>,
}

type Replies = Vec<Result<Written, Refused>>;

#[derive(Debug)]
struct Job {
    writes: Vec<Write>,
    reply: oneshot::Sender<Replies>,
}

/// The writer has ended.
#[derive(Debug, thiserror::Error)]
#[error("the queue is shutting down, or another server has become the primary")]
pub(super) struct Ended;

/// The server was the primary when it was asked, and is not any more.
#[derive(Debug, thiserror::Error)]
#[error("another server has become the primary")]
pub(super) struct Retired;

impl Context {
    /// The time to give to a script: 0 for the server's own.
    pub(super) fn now(&self) -> u64 {
        self.clock.virtual_now().map_or(0, |now| codec::exact_ms(now.0).max(1))
    }
}

impl Writer {
    /// Makes the writes durable, in order, and says what came of each.
    pub(super) async fn write(&self, writes: Vec<Write>) -> Replies {
        let ended = |write| Err(Refused { error: QueueError::Unavailable(Box::new(Ended)), write });
        let count = writes.len();
        let (reply, replies) = oneshot::channel();
        if let Err(mpsc::error::SendError(job)) = self.jobs.send(Job { writes, reply }).await {
            return job.writes.into_iter().map(|write| ended(Some(Box::new(write)))).collect();
        }
        replies.await.unwrap_or_else(|_| (0..count).map(|_| ended(None)).collect())
    }
}

impl WriterLoop {
    pub(super) fn new(
        link: Link,
        main: Arc<Link>,
        fitness: Arc<Fitness>,
        context: Arc<Context>,
        settings: WriterSettings,
        retired: CancellationToken,
    ) -> (Writer, Self) {
        let (sender, jobs) = mpsc::channel(WAITING_JOBS);
        let checked = None;
        (Writer { jobs: sender }, Self { jobs, link, main, fitness, checked, context, settings, retired })
    }

    /// Serves jobs until `stop` or until the server is retired, then those that are waiting already.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let retired = self.retired.clone();
        let ended = async || {
            tokio::select! {
                () = stop.cancelled() => {}
                () = retired.cancelled() => {}
            }
        };
        loop {
            let first = tokio::select! {
                job = self.jobs.recv() => job,
                () = ended() => {
                    self.jobs.close();
                    self.jobs.recv().await
                }
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            let (mut writes, mut bytes) = batch[0].size();
            while writes < BATCH_WRITES && bytes < BATCH_BYTES {
                let Ok(job) = self.jobs.try_recv() else { break };
                let (more_writes, more_bytes) = job.size();
                writes += more_writes;
                bytes += more_bytes;
                batch.push(job);
            }
            // Whoever has gone cannot be told, and has been told by now that perhaps nothing was done.
            batch.retain(|job| !job.reply.is_closed());
            if !batch.is_empty() {
                self.serve(batch).await;
            }
        }
    }

    async fn serve(&mut self, batch: Vec<Job>) {
        let mut ends = Vec::with_capacity(batch.len());
        let mut writes = Vec::new();
        let mut replies = Vec::with_capacity(batch.len());
        for job in batch {
            writes.extend(job.writes);
            ends.push(writes.len());
            replies.push(job.reply);
        }
        let outcomes = self.write(&writes).await;
        let mut outcomes = outcomes.into_iter().zip(writes).map(|(outcome, write)| {
            outcome.map_err(|error| Refused { write: is_elsewhere(&error).then(|| Box::new(write)), error })
        });
        let mut begin = 0;
        for (reply, end) in replies.into_iter().zip(ends) {
            // A caller that has gone does not want to know.
            drop(reply.send(outcomes.by_ref().take(end - begin).collect()));
            begin = end;
        }
    }

    async fn write(&mut self, writes: &[Write]) -> Outcomes {
        let refused = |failure: QueueError| writes.iter().map(|_| Err(error::same(&failure))).collect();
        let (opened, barrier) = match self.barrier().await {
            Ok(found) => found,
            Err(failure) => return refused(failure),
        };
        let shards = self.context.settings.shards;
        let pieces =
            cut(shards, writes.iter().enumerate().map(|(at, write)| (at, write.id(), write.kind(at))));
        let calls = pipeline(pieces.iter().map(|piece| self.call(writes, piece)));
        let command = barrier_command(barrier, self.settings.patience);
        let limit = self.settings.endpoint.timeouts.response
            + command.as_ref().map_or(Duration::ZERO, |_| self.settings.patience);
        let sent = Instant::now();
        let exchanged = tokio::select! {
            biased;
            exchanged = self.link.send_on(&opened, &calls, command.as_ref(), limit) => exchanged,
            silent = self.silence() => {
                self.link.give_up(&opened);
                Err(silent)
            }
        };
        let mut answers = match exchanged {
            Ok(answers) => answers,
            Err(failure) => {
                self.context.barriers.missed.inc();
                return refused(error::from_redis(failure));
            }
        };
        let proof = if self.retired.is_cancelled() {
            Proof::Void
        } else if command.is_some() {
            proven(barrier, answers.pop())
        } else {
            Proof::Met
        };
        match proof {
            Proof::Met => self.context.barriers.took.observe(sent.elapsed()),
            Proof::Missed { .. } | Proof::Unknown(_) | Proof::Void => self.context.barriers.missed.inc(),
        }
        let mut outcomes: Vec<Option<Result<Written, QueueError>>> = writes.iter().map(|_| None).collect();
        for (piece, answer) in pieces.iter().zip(answers) {
            let decoded = answer.map_err(error::from_redis).and_then(|value| self.read(writes, piece, value));
            match decoded {
                Ok(written) => {
                    for (&at, one) in piece.items.iter().zip(written) {
                        outcomes[at] = Some(proof.apply(one));
                    }
                }
                Err(failure) => {
                    for &at in &piece.items {
                        outcomes[at] = Some(Err(error::same(&failure)));
                    }
                }
            }
        }
        let missing = || Err(error::unexpected("a write was not answered"));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }

    /// A connection whose server was looked at over this very connection, and how to learn that writes on it are durable.
    async fn barrier(&mut self) -> Result<(Opened, Barrier), QueueError> {
        if self.retired.is_cancelled() {
            return Err(QueueError::Unavailable(Box::new(Retired)));
        }
        let opened = self.link.opened().await.map_err(error::from_redis)?;
        let is_known = |checked: &&Checked| {
            checked.generation == opened.generation
                && checked.version == self.fitness.version()
                && (checked.found.is_ok() || checked.at.elapsed() < UNFIT_FOR)
        };
        let found = match self.checked.as_ref().filter(is_known) {
            Some(checked) => checked.found.clone(),
            None => {
                let found = inspect(&self.link, &opened, &self.settings).await?;
                self.fitness.note(found.clone());
                self.checked = Some(Checked {
                    generation: opened.generation,
                    version: self.fitness.version(),
                    at: Instant::now(),
                    found: found.clone(),
                });
                found
            }
        };
        match found {
            Ok(barrier) => Ok((opened, barrier)),
            Err(unfit) => Err(QueueError::Unfit(Arc::new(unfit))),
        }
    }

    /// Ends when the server does not answer others either. A barrier may take its time, a server that is there may not.
    async fn silence(&self) -> RedisError {
        let half = self.settings.endpoint.timeouts.response / 2;
        loop {
            tokio::time::sleep(half).await;
            if let Err(silent) = self.main.ping(half).await {
                return silent;
            }
        }
    }

    fn call(&self, writes: &[Write], piece: &Piece<Kind>) -> Cmd {
        let settings = &self.context.settings;
        if let Some(Write::Walk(_, change)) = piece.items.first().map(|&at| &writes[at]) {
            return change.call(piece.shard, self.context.now());
        }
        let ids: Vec<&TaskId> = piece.items.iter().map(|&at| writes[at].id()).collect();
        let mut call = Call::about(piece.kind.0, piece.shard, ids.into_iter()).arg(self.context.now());
        if piece.kind.0 == Script::Submit {
            call.push(settings.shard_cap);
            call.push(settings.tenant_cap);
            call.push(super::millis(settings.dedup_window));
            for &at in &piece.items {
                match &writes[at] {
                    Write::Submit(_, record) => {
                        call.push(record.start.as_slice());
                        call.push(record.body.as_slice());
                    }
                    Write::Cancel(_) | Write::Requeue(..) | Write::Walk(..) => {}
                }
            }
        }
        if piece.kind.0 == Script::Requeue {
            call.push(settings.shard_cap);
            for &at in &piece.items {
                if let Write::Requeue(_, run) = &writes[at] {
                    call.push(*run);
                }
            }
        }
        call.into_command()
    }

    fn read(&self, writes: &[Write], piece: &Piece<Kind>, value: Value) -> Result<Outcomes, QueueError> {
        let mut answer = Answer::read(value)?;
        self.context.hints.set(piece.shard, answer.pending);
        let mut written = Vec::with_capacity(piece.items.len());
        let mut wake = false;
        for &at in &piece.items {
            written.push(Ok(match &writes[at] {
                Write::Submit(..) => {
                    let submitted = [answer.integer()?, answer.integer()?, answer.integer()?];
                    wake |= submitted[1] == i64::from(codec::state_code(TaskState::Pending));
                    Written::Submit(submitted)
                }
                Write::Cancel(_) => Written::Cancel(answer.integer()?, answer.bytes()?, answer.bytes()?),
                Write::Requeue(..) => {
                    let requeued = [answer.integer()?, answer.integer()?, answer.integer()?];
                    wake |= requeued[0] == 1;
                    Written::Requeue(requeued)
                }
                Write::Walk(..) => Written::Walk([answer.integer()?, answer.integer()?]),
            }));
        }
        if wake {
            self.context.hints.wake();
        }
        Ok(written)
    }
}

impl Write {
    pub(super) const fn id(&self) -> &TaskId {
        match self {
            Self::Submit(id, _) | Self::Cancel(id) | Self::Requeue(id, _) | Self::Walk(id, _) => id,
        }
    }

    /// What it may share a call with: others of its script; a change of a walk nothing.
    const fn kind(&self, at: usize) -> Kind {
        match self {
            Self::Submit(..) => (Script::Submit, 0),
            Self::Cancel(_) => (Script::Cancel, 0),
            Self::Requeue(..) => (Script::Requeue, 0),
            Self::Walk(..) => (Script::WalkSave, at),
        }
    }
}

impl Job {
    fn size(&self) -> (usize, usize) {
        let bytes = self.writes.iter().map(|write| match write {
            Write::Submit(_, record) => record.body.len(),
            Write::Cancel(_) | Write::Requeue(..) => 0,
            Write::Walk(_, change) => change.bytes(),
        });
        (self.writes.len(), bytes.sum())
    }
}
