//! A real redis-server that a test owns: killed, frozen, restarted on the same port and data.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::Context as _;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use crate::{
    eventually::eventually,
    ports::Port,
    process::{Process, Signal},
    settings,
};

/// How a server is started.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Path of `redis-server` or `valkey-server`.
    pub binary: PathBuf,
    /// What survives a kill.
    pub persistence: Persistence,
    /// More settings, as in redis.conf: name and value.
    pub settings: Vec<(String, String)>,
}

/// What a server keeps on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    Nothing,
    /// The append-only file, with this `appendfsync`.
    AppendOnly(Fsync),
}

/// When the append-only file reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before each answer.
    Always,
    /// Once a second.
    EverySecond,
    /// When the system likes.
    No,
}

/// A server. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct RedisServer {
    options: RedisOptions,
    port: Port,
    process: Process,
    folder: TempDir,
}

impl RedisOptions {
    /// The Redis of this machine, with every write on disk before it is answered: what a single Redis 7.0 in production needs.
    ///
    /// # Errors
    /// When there is no redis-server.
    pub fn durable() -> anyhow::Result<Self> {
        Ok(Self::with_binary(settings::redis_server()?))
    }

    /// [`RedisOptions::durable`] with another server.
    #[must_use]
    pub fn with_binary(binary: PathBuf) -> Self {
        Self { binary, persistence: Persistence::AppendOnly(Fsync::Always), settings: Vec::new() }
    }

    /// Sets what survives a kill.
    #[must_use]
    pub fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// Adds a setting of redis.conf.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, port: u16, folder: &TempDir) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no", "--port", &port.to_string()]);
        command.arg("--dir").arg(folder.path());
        match self.persistence {
            Persistence::Nothing => command.args(["--appendonly", "no"]),
            Persistence::AppendOnly(fsync) => {
                let when = match fsync {
                    Fsync::Always => "always",
                    Fsync::EverySecond => "everysec",
                    Fsync::No => "no",
                };
                command.args(["--appendonly", "yes", "--appendfsync", when])
            }
        };
        for (name, value) in &self.settings {
            command.arg(format!("--{name}")).arg(value);
        }
        command
    }
}

impl RedisServer {
    /// Starts a server with empty data and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(options: RedisOptions) -> anyhow::Result<Self> {
        let port = Port::lease()?;
        let folder = TempDir::with_prefix("backhaul-redis-")?;
        let process = launch(&options, &port, &folder)?;
        let mut server = Self { options, port, process, folder };
        server.until_ready().await?;
        Ok(server)
    }

    /// `redis://127.0.0.1:<port>/`, the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port.number())
    }

    /// Its port, the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// A new connection, with answers awaited for at most 5 s so that a frozen server is noticed.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let limit = Duration::from_secs(5);
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit));
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Its version, such as `7.0.15`; Valkey says which Redis it is compatible with.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn version(&self) -> anyhow::Result<String> {
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut self.connect().await?).await?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.context("INFO names no version")?.trim().to_owned())
    }

    /// All that it has written to its append-only file; empty when it has none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn appended(&self) -> std::io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let Ok(files) = std::fs::read_dir(self.folder.path().join("appendonlydir")) else { return Ok(all) };
        for file in files {
            all.extend(std::fs::read(file?.path())?);
        }
        Ok(all)
    }

    /// The process, to be signalled.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it at once, as a crash of the machine's memory would.
    ///
    /// # Errors
    /// When it is already gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().map(drop)
    }

    /// Freezes it: connections stay open and nothing is answered.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::Stop)
    }

    /// Undoes [`RedisServer::pause`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::Continue)
    }

    /// Starts it again, after a kill or a stop, on the same port and data.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process = launch(&self.options, &self.port, &self.folder)?;
        self.until_ready().await
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        // A server that loads its data accepts connections and answers LOADING.
        eventually("redis-server answers", async || {
            if let Err(ended) = self.process.ensure_running() {
                return Ok(Err(ended));
            }
            let mut connection = self.connect().await?;
            let pong: String = redis::cmd("PING").query_async(&mut connection).await?;
            anyhow::ensure!(pong == "PONG", "answered {pong:?}");
            Ok(Ok(()))
        })
        .await?
    }
}

fn launch(options: &RedisOptions, port: &Port, folder: &TempDir) -> anyhow::Result<Process> {
    let log = folder.path().join("redis.log");
    Process::start("redis-server", &mut options.command(port.number(), folder), &log)
}
