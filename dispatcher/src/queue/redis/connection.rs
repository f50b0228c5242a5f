//! Connections to Redis: opened with explicit timeouts, scripts loaded, replaced when they break.
//!
//! They exist so that a lost answer is an error at once and never a silent repeat by a client library: what to repeat is the
//! caller's choice. This is also the seam behind which Sentinel and Cluster belong: [`Endpoint`] finds the server, [`Link`] keeps
//! one connection to it. Nothing here may know tasks.

use std::{sync::Arc, time::Duration};

use redis::{
    Client, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, time::Instant};

use super::{options::RedisOptions, scripts::Script};

/// First wait after a connection attempt that failed; doubles up to [`RECONNECT_MAX`].
const RECONNECT_BASE: Duration = Duration::from_millis(50);
/// Longest wait between two connection attempts.
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// How long to wait for the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To establish a connection.
    pub connect: Duration,
    /// For an answer. A command without one by then may or may not have been executed.
    pub response: Duration,
}

/// Where Redis is.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Client,
    timeouts: Timeouts,
    /// Every pipeline is sent once more and the second answer dropped, as if the first had been lost.
    #[cfg(test)]
    repeats: bool,
}

/// One connection, shared by its callers, replaced when it breaks.
#[derive(Debug)]
pub(super) struct Link {
    endpoint: Arc<Endpoint>,
    state: Mutex<LinkState>,
}

struct LinkState {
    /// The connection and how many there were before it, so that a late failure of an old one does not close the new one.
    open: Option<(u64, MultiplexedConnection)>,
    opened: u64,
    failures: u32,
    not_before: Option<Instant>,
}

/// A pipeline's answers, one per command.
pub(super) type Answers = Vec<RedisResult<Value>>;

impl Endpoint {
    /// The server that the options name, with other timeouts.
    pub(super) fn new(options: &RedisOptions, timeouts: Timeouts) -> RedisResult<Self> {
        Ok(Self {
            client: Client::open(options.url.as_str())?,
            timeouts,
            #[cfg(test)]
            repeats: options.repeats,
        })
    }

    /// A new connection with all scripts loaded.
    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeouts.connect))
            .set_response_timeout(Some(self.timeouts.response));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        load_scripts(&mut connection).await?;
        Ok(connection)
    }

    /// A new connection for subscriptions.
    pub(super) async fn subscribe(&self, channel: &str) -> RedisResult<redis::aio::PubSub> {
        let open = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(channel).await?;
            Ok(connection)
        };
        match tokio::time::timeout(self.timeouts.connect + self.timeouts.response, open).await {
            Ok(result) => result,
            Err(elapsed) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed).into()),
        }
    }
}

impl Link {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            state: Mutex::new(LinkState { open: None, opened: 0, failures: 0, not_before: None }),
        }
    }

    /// Sends `calls` in one go and gives each its own answer.
    ///
    /// A command whose script the server had forgotten was not executed; it alone is sent again, after the scripts.
    ///
    /// # Errors
    /// When the connection could not be made, broke, or was silent for too long: any of the calls may have been executed.
    pub(super) async fn send(&self, calls: Vec<Cmd>) -> RedisResult<Answers> {
        self.send_before(calls, None).await
    }

    /// As [`Link::send`], with a `barrier` as the last command, and its answer as the last one: it is always sent after the last
    /// of the calls, those included that had to be sent again.
    pub(super) async fn send_before(&self, calls: Vec<Cmd>, barrier: Option<&Cmd>) -> RedisResult<Answers> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, mut connection) = self.connection().await?;
        #[cfg(test)]
        let again = self.endpoint.repeats.then(|| calls.clone());
        let result = exchange(&mut connection, calls, barrier).await;
        let broken = match &result {
            Ok(answers) => answers.iter().filter_map(|answer| answer.as_ref().err()).any(must_replace),
            Err(_) => true,
        };
        #[cfg(test)]
        if let Some(calls) = again {
            exchange(&mut connection, calls, barrier).await?;
        }
        if broken {
            self.discard(generation).await;
        }
        result
    }

    async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let mut state = self.state.lock().await;
        if let Some((generation, connection)) = &state.open {
            return Ok((*generation, connection.clone()));
        }
        if state.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(
                std::io::Error::new(std::io::ErrorKind::NotConnected, "waiting to connect again").into()
            );
        }
        match self.endpoint.connect().await {
            Ok(connection) => {
                state.opened += 1;
                state.failures = 0;
                state.not_before = None;
                state.open = Some((state.opened, connection.clone()));
                Ok((state.opened, connection))
            }
            Err(error) => {
                let wait = backoff(state.failures);
                state.failures = state.failures.saturating_add(1);
                state.not_before = Some(Instant::now() + wait);
                Err(error)
            }
        }
    }

    async fn discard(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.open.as_ref().is_some_and(|(open, _)| *open == generation) {
            state.open = None;
        }
    }
}

impl std::fmt::Debug for LinkState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkState")
            .field("open", &self.open.is_some())
            .field("opened", &self.opened)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

/// The wait after `failures` failed attempts before this one, with jitter so that dispatchers do not return in step.
pub(super) fn backoff(failures: u32) -> Duration {
    let ceiling = RECONNECT_BASE.saturating_mul(1 << failures.min(10)).min(RECONNECT_MAX);
    ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
}

async fn exchange(
    connection: &mut MultiplexedConnection,
    calls: Vec<Cmd>,
    barrier: Option<&Cmd>,
) -> RedisResult<Answers> {
    let sent = pipeline(calls, barrier);
    let mut answers = round_trip(connection, &sent).await?;
    let forgotten: Vec<bool> =
        answers.iter().map(|answer| answer.as_ref().is_err_and(is_forgotten)).collect();
    if forgotten.contains(&true) {
        load_scripts(connection).await?;
        let again = sent.cmd_iter().zip(&forgotten).filter(|(_, forgotten)| **forgotten);
        let mut repaired =
            round_trip(connection, &pipeline(again.map(|(call, _)| call.clone()), barrier)).await?;
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

fn pipeline(calls: impl IntoIterator<Item = Cmd>, barrier: Option<&Cmd>) -> Pipeline {
    let mut pipeline = Pipeline::new();
    for call in calls.into_iter().chain(barrier.cloned()) {
        pipeline.add_command(call);
    }
    pipeline.ignore_errors();
    pipeline
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
