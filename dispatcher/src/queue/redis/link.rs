//! One connection to one server, shared by its callers and replaced when it breaks.
//!
//! A lost answer is an error at once and never a silent repeat: what to repeat is the caller's choice. Connections are made by one
//! task for each link, never by a caller: while a server does not answer, every call fails at once. Nothing here may know tasks.

use std::{sync::Arc, time::Duration};

use redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    access::Address,
    endpoint::{Endpoint, within},
    scripts::Script,
    trouble::Trouble,
};

/// First wait after a connection attempt that failed; doubles up to [`RECONNECT_MAX`].
const RECONNECT_BASE: Duration = Duration::from_millis(50);
/// Longest wait between two connection attempts.
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// How long callers wait for the first connection at most, whatever becomes of the attempts.
const NEW_FOR: Duration = Duration::from_secs(2);
/// A connection that breaks sooner than this counts as one that could not be made.
const SHORT_LIVED: Duration = Duration::from_secs(1);

/// A pipeline's answers, one per command.
pub(super) type Answers = Vec<RedisResult<Value>>;

/// A connection to a server that replaces itself. Dropping it ends its task.
#[derive(Debug)]
pub(super) struct Link {
    wire: Arc<Wire>,
    _end: DropGuard,
}

/// A connection as it is now.
#[derive(Clone)]
pub(super) struct Opened {
    /// How many there were before it on this link.
    pub(super) generation: u64,
    connection: MultiplexedConnection,
}

struct Wire {
    address: Address,
    /// When it was begun.
    since: Instant,
    endpoint: Arc<Endpoint>,
    trouble: Arc<Trouble>,
    state: watch::Sender<State>,
}

#[derive(Clone)]
enum State {
    /// Wait for it: it was closed a moment ago, or never open.
    Opening,
    Open(Opened),
    /// The server does not answer. Attempts go on.
    Down(RedisError),
}

impl Link {
    /// A link to the server at `address`, kept by a task of `tasks` until `stop`, or until it is dropped.
    pub(super) fn new(
        address: Address,
        endpoint: Arc<Endpoint>,
        trouble: Arc<Trouble>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (since, state) = (Instant::now(), watch::Sender::new(State::Opening));
        let wire = Arc::new(Wire { address, since, endpoint, trouble, state });
        let end = stop.child_token();
        tasks.spawn(Arc::clone(&wire).keep(end.clone()));
        Self { wire, _end: end.drop_guard() }
    }

    /// The connection, as soon as there is one.
    ///
    /// # Errors
    /// When the server does not answer: at once if that is known.
    pub(super) async fn opened(&self) -> RedisResult<Opened> {
        let timeouts = self.wire.endpoint.timeouts;
        // The first connection is made right now, which takes longer than an answer.
        let limit = if self.wire.is_new() { timeouts.connect } else { timeouts.response };
        self.opened_within(limit).await
    }

    /// As [`Link::opened`], with another time limit.
    pub(super) async fn opened_within(&self, limit: Duration) -> RedisResult<Opened> {
        if let State::Open(opened) = &*self.wire.state.borrow() {
            return Ok(opened.clone());
        }
        let mut states = self.wire.state.subscribe();
        within(limit, async {
            let state = states.wait_for(|state| !matches!(state, State::Opening)).await;
            match state.as_deref() {
                Ok(State::Open(opened)) => Ok(opened.clone()),
                Ok(State::Down(error)) => Err(error.clone()),
                Ok(State::Opening) | Err(_) => Err((ErrorKind::Io, "the connection was given up").into()),
            }
        })
        .await
    }

    /// Sends commands in one go and gives each its own answer.
    ///
    /// # Errors
    /// When there is no connection, or it broke or was silent for too long: any of the commands may have been executed.
    pub(super) async fn send(&self, sent: &Pipeline) -> RedisResult<Answers> {
        let opened = self.opened().await?;
        self.send_on(&opened, sent, None, self.wire.endpoint.timeouts.response).await
    }

    /// As [`Link::send`] on this very connection, with a `barrier` as the last command and its answer as the last one: it is
    /// always sent after the last of the others, those included that had to be sent again.
    ///
    /// A command whose script the server had forgotten was not executed; it alone is sent again, after the scripts.
    pub(super) async fn send_on(
        &self,
        opened: &Opened,
        sent: &Pipeline,
        barrier: Option<&Cmd>,
        limit: Duration,
    ) -> RedisResult<Answers> {
        let mut connection = opened.connection.clone();
        #[cfg(test)]
        if let Some(life) = &self.wire.endpoint.life {
            live_on(life, &mut connection, sent).await?;
        }
        let result = within(limit, exchange(&mut connection, sent, barrier)).await;
        #[cfg(test)]
        if self.wire.endpoint.repeats {
            within(limit, exchange(&mut connection, sent, barrier)).await?;
        }
        match &result {
            Ok(answers) => {
                for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
                    self.wire.trouble.note(error, &self.wire.address);
                }
                if answers.iter().filter_map(|answer| answer.as_ref().err()).any(must_replace) {
                    self.wire.close(opened, State::Opening);
                }
            }
            Err(error) if error.is_timeout() => self.give_up(opened),
            Err(_) => self.wire.close(opened, State::Opening),
        }
        result
    }

    /// Says that nothing comes over this connection any more.
    pub(super) fn give_up(&self, opened: &Opened) {
        let silent = std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not answer");
        self.wire.close(opened, State::Down(silent.into()));
    }

    /// Whether the server answers, at once if that is known.
    pub(super) async fn ping(&self, limit: Duration) -> RedisResult<()> {
        let opened = within(limit, self.opened()).await?;
        let mut ping = redis::pipe();
        ping.cmd("PING");
        self.send_on(&opened, &ping, None, limit).await.map(drop)
    }
}

impl Wire {
    /// Makes connections, one after the other, until `end`.
    async fn keep(self: Arc<Self>, end: CancellationToken) {
        let (mut generation, mut failures) = (0, 0);
        let mut states = self.state.subscribe();
        loop {
            let Some(made) = end.run_until_cancelled(self.endpoint.connect(&self.address)).await else {
                return;
            };
            match made {
                Ok(connection) => {
                    generation += 1;
                    if matches!(
                        self.state.send_replace(State::Open(Opened { generation, connection })),
                        State::Down(_)
                    ) {
                        tracing::debug!(address = %self.address, "a Redis server answers again");
                    }
                    let since = Instant::now();
                    let closed = states.wait_for(|state| !matches!(state, State::Open(_)));
                    if end.run_until_cancelled(closed).await.is_none() {
                        return;
                    }
                    failures = if since.elapsed() < SHORT_LIVED { failures + 1 } else { 0 };
                }
                Err(error) => {
                    tracing::debug!(address = %self.address, %error, "cannot connect to a Redis server");
                    // Of a server that never answered it is not known that it is away, until it had its time.
                    if generation > 0 || !self.is_new() {
                        self.state.send_replace(State::Down(error));
                    }
                    self.trouble.report();
                    failures += 1;
                }
            }
            if failures > 0
                && end.run_until_cancelled(tokio::time::sleep(backoff(failures - 1))).await.is_none()
            {
                return;
            }
        }
    }

    /// Whether its first connection may still be on its way.
    fn is_new(&self) -> bool {
        self.since.elapsed() < self.endpoint.timeouts.connect.min(NEW_FOR)
    }

    fn close(&self, closed: &Opened, then: State) {
        self.state.send_if_modified(|state| {
            let is_this = matches!(state, State::Open(open) if open.generation == closed.generation);
            if is_this {
                *state = then;
            }
            is_this
        });
        self.trouble.report();
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The wait after `failures` failed attempts before this one, with jitter so that dispatchers do not return in step.
pub(super) fn backoff(failures: u32) -> Duration {
    let ceiling = RECONNECT_BASE.saturating_mul(1 << failures.min(10)).min(RECONNECT_MAX);
    ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// A pipeline whose commands fail one by one.
pub(super) fn pipeline(calls: impl IntoIterator<Item = Cmd>) -> Pipeline {
    let mut pipeline = Pipeline::new();
    for call in calls {
        pipeline.add_command(call);
    }
    pipeline.ignore_errors();
    pipeline
}

/// Takes the commands off a life that may end among them: what comes before its end is executed, and nobody learns the answer.
#[cfg(test)]
async fn live_on(
    life: &std::sync::atomic::AtomicI64,
    connection: &mut MultiplexedConnection,
    sent: &Pipeline,
) -> RedisResult<()> {
    let count = i64::try_from(sent.len()).unwrap_or(i64::MAX);
    let left = life.fetch_sub(count, std::sync::atomic::Ordering::Relaxed);
    if left >= count {
        return Ok(());
    }
    let last = pipeline(sent.cmd_iter().take(usize::try_from(left).unwrap_or(0)).cloned());
    if !last.is_empty() {
        exchange(connection, &last, None).await?;
    }
    Err((ErrorKind::Io, "killed").into())
}

async fn exchange(
    connection: &mut MultiplexedConnection,
    sent: &Pipeline,
    barrier: Option<&Cmd>,
) -> RedisResult<Answers> {
    let whole = barrier.map(|barrier| pipeline(sent.cmd_iter().chain([barrier]).cloned()));
    let mut answers = round_trip(connection, whole.as_ref().unwrap_or(sent)).await?;
    let forgotten: Vec<bool> =
        answers.iter().map(|answer| answer.as_ref().is_err_and(is_forgotten)).collect();
    if forgotten.contains(&true) {
        load_scripts(connection).await?;
        let again = sent.cmd_iter().zip(&forgotten).filter(|(_, forgotten)| **forgotten);
        let again = pipeline(again.map(|(call, _)| call).chain(barrier).cloned());
        let mut repaired = round_trip(connection, &again).await?;
        if barrier.is_some() {
            answers.pop();
            answers.extend(repaired.pop());
        }
        let forgotten = answers.iter_mut().zip(forgotten).filter(|(_, forgotten)| *forgotten);
        for ((answer, _), repaired) in forgotten.zip(repaired) {
            *answer = repaired;
        }
    }
    Ok(answers)
}

async fn round_trip(connection: &mut MultiplexedConnection, pipeline: &Pipeline) -> RedisResult<Answers> {
    let answers: Answers = pipeline.query_async(connection).await?;
    if answers.len() == pipeline.len() {
        Ok(answers)
    } else {
        Err((ErrorKind::UnexpectedReturnType, "fewer answers than commands").into())
    }
}

fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

async fn load_scripts(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let mut pipeline = redis::pipe();
    for script in Script::ALL {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(script.text()).ignore();
    }
    pipeline.query_async(connection).await
}

/// True when an answer shows that this server is not, or no longer, the one to talk to.
fn must_replace(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
            | ErrorKind::Io
            | ErrorKind::Parse
    )
}
