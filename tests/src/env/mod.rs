//! A whole Backhaul: Redis, an origin, a vault, a dispatcher and workers, each a process of its own as in production.
//!
//! Between the programs and everything they talk to over S3 or gRPC stands a [`Gate`], so that a scenario can part them. The test's own
//! calls go straight to the servers.

mod calls;
mod options;
mod prefixes;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::FaultPlan;
use backhaul_proto::v1::{
    backup_service_client::BackupServiceClient, worker_service_client::WorkerServiceClient,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::{
    certificates::Holder,
    eventually::eventually,
    gate::Gate,
    locations::{self, ORIGIN_BUCKET, VAULT_BUCKET},
    ports::Port,
    process::Process,
    programs::program,
    redis::{RedisOptions, RedisServer},
    s3::S3,
    store::{Store, StoreKind},
};

pub use self::{calls::object, options::EnvOptions, prefixes::prefix};

/// Tenant that the calls of a test act for.
pub const TENANT: &str = "acme";

/// Enough to understand a failed scenario.
const LOG_FILTER: &str =
    "backhaul=debug,backhaul_dispatcher=debug,backhaul_worker=debug,backhaul_runtime=debug,info";

/// Everything of one scenario. End it with [`TestEnv::finish`]; dropped before that, it shows what its programs logged, because
/// then the scenario has failed.
#[derive(Debug)]
pub struct TestEnv {
    options: EnvOptions,
    /// Programs come before what they use, so that they are dropped first.
    workers: Vec<Worker>,
    dispatcher: Process,
    dispatcher_port: Port,
    /// Dispatchers besides the first one, on the same Redis.
    others: Vec<(Process, Port)>,
    redis: RedisServer,
    origin: Behind<Store>,
    /// `None` when backups go to the origin's own store.
    vault: Option<Behind<Store>>,
    locations: PathBuf,
    folder: TempDir,
    finished: bool,
}

/// A worker and its way to the dispatcher.
#[derive(Debug)]
struct Worker {
    process: Process,
    gate: Gate,
}

/// A server and the gate through which the programs reach it; the test's own clients go straight to it.
#[derive(Debug)]
struct Behind<T> {
    gate: Gate,
    server: T,
}

impl TestEnv {
    /// Starts everything and waits until the dispatcher serves.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(options: EnvOptions) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("backhaul-env-")?;
        let redis = match &options.redis {
            Some(redis) => redis.clone(),
            None => RedisOptions::durable()?,
        };
        let redis = RedisServer::start(redis).await?;
        let buckets = [ORIGIN_BUCKET, VAULT_BUCKET];
        let origin = match &options.webhook {
            Some(webhook) => Behind::new(Store::start_telling(webhook, &buckets).await?).await?,
            None => Behind::start(options.origin, &buckets).await?,
        };
        let vault = match options.vault {
            Some(kind) => Some(Behind::start(kind, &[VAULT_BUCKET]).await?),
            None => None,
        };
        let target = vault.as_ref().unwrap_or(&origin).location();
        let locations = locations::write(folder.path(), &origin.location(), &target, &options.reads)?;
        let dispatcher_port = Port::lease()?;
        let url = redis.url();
        let port = dispatcher_port.number();
        let dispatcher = launch_dispatcher(&options, folder.path(), &locations, &url, port, "dispatcher")?;
        let (workers, others) = (Vec::new(), Vec::new());
        let finished = false;
        let mut env = Self {
            options,
            workers,
            dispatcher,
            dispatcher_port,
            others,
            redis,
            origin,
            vault,
            locations,
            folder,
            finished,
        };
        env.until_serving().await?;
        for _ in 0..env.options.workers {
            env.add_worker().await?;
        }
        Ok(env)
    }

    /// Where the dispatcher listens; the same after a restart.
    #[must_use]
    pub fn dispatcher_address(&self) -> String {
        format!("127.0.0.1:{}", self.dispatcher_port.number())
    }

    /// A client for what internal services call. It connects when it is used, and again after a restart.
    ///
    /// # Errors
    /// When the URL is not one.
    pub fn backups(&self) -> anyhow::Result<BackupServiceClient<Channel>> {
        Ok(BackupServiceClient::new(self.channel()?))
    }

    /// Starts one more dispatcher on the same Redis, with these flags set otherwise than for the first, waits until it serves, and
    /// gives its address.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn add_dispatcher(&mut self, flags: &[(&str, &str)]) -> anyhow::Result<String> {
        let mut options = self.options.clone();
        for (name, value) in flags {
            options = options.dispatcher_flag(name, value);
        }
        let port = Port::lease()?;
        let name = format!("dispatcher-{}", self.others.len() + 1);
        let (folder, url) = (self.folder.path(), self.redis.url());
        let process = launch_dispatcher(&options, folder, &self.locations, &url, port.number(), &name)?;
        let address = format!("127.0.0.1:{}", port.number());
        let file = address_file(folder, &name);
        self.others.push((process, port));
        let process = &mut self.others.last_mut().context("one was added")?.0;
        until_serving(process, &file).await?;
        Ok(address)
    }

    /// A client of a dispatcher that was added.
    ///
    /// # Errors
    /// When the address is none.
    pub fn backups_at(address: &str) -> anyhow::Result<BackupServiceClient<Channel>> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
        Ok(BackupServiceClient::new(channel))
    }

    /// A client that pretends to be a worker.
    ///
    /// # Errors
    /// When the URL is not one.
    pub fn as_worker(&self) -> anyhow::Result<WorkerServiceClient<Channel>> {
        Ok(WorkerServiceClient::new(self.channel()?))
    }

    /// A channel to the dispatcher, for other services that it serves.
    ///
    /// # Errors
    /// When the URL is not one.
    pub fn channel(&self) -> anyhow::Result<Channel> {
        match &self.options.certificates {
            Some(certificates) => certificates.channel(&self.dispatcher_address(), Holder::Caller),
            None => {
                Ok(Endpoint::from_shared(format!("http://{}", self.dispatcher_address()))?.connect_lazy())
            }
        }
    }

    /// The Redis.
    pub fn redis(&mut self) -> &mut RedisServer {
        &mut self.redis
    }

    /// What stands between the programs and the origin.
    #[must_use]
    pub fn origin_gate(&self) -> &Gate {
        &self.origin.gate
    }

    /// What stands between the programs and the backup store.
    #[must_use]
    pub fn vault_gate(&self) -> &Gate {
        &self.vault.as_ref().unwrap_or(&self.origin).gate
    }

    /// What goes wrong in the origin, when it is an embedded one.
    ///
    /// # Errors
    /// When the store has no faults on demand.
    pub fn origin_faults(&self) -> anyhow::Result<&FaultPlan> {
        self.origin.server.faults().context("only the embedded store fails on demand")
    }

    /// What goes wrong in the backup store, when it is an embedded one.
    ///
    /// # Errors
    /// When the store has no faults on demand.
    pub fn vault_faults(&self) -> anyhow::Result<&FaultPlan> {
        self.vault
            .as_ref()
            .unwrap_or(&self.origin)
            .server
            .faults()
            .context("only the embedded store fails on demand")
    }

    /// Behind which keys pages of a synthetic origin began, in the order in which they were asked for.
    ///
    /// # Errors
    /// When the origin is another one.
    pub fn page_begins(&self) -> anyhow::Result<Vec<String>> {
        self.origin.server.page_begins().context("the origin is not synthetic")
    }

    /// A client of the origin.
    #[must_use]
    pub fn uploads(&self) -> S3 {
        self.origin.server.client()
    }

    /// A client of the backup store.
    #[must_use]
    pub fn copies(&self) -> S3 {
        self.vault.as_ref().unwrap_or(&self.origin).server.client()
    }

    /// Starts one more worker; gives its number. It is named `worker-<number>`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn add_worker(&mut self) -> anyhow::Result<usize> {
        let number = self.workers.len();
        let name = worker_name(number);
        let gate = Gate::open_to(&self.dispatcher_address()).await?;
        let mut command = program("backhaul-worker")?;
        let mut scheme = "http";
        if let Some(certificates) = &self.options.certificates {
            certificates.tell(&mut command, Holder::Worker);
            scheme = "https";
        }
        command.args([
            "--dispatcher",
            &format!("{scheme}://{}", gate.address()),
            "--name",
            &name,
            "--log",
            LOG_FILTER,
        ]);
        command.arg("--locations").arg(&self.locations);
        add_flags(&mut command, &self.options.worker_flags);
        let log = self.folder.path().join(format!("{name}.log"));
        self.workers.push(Worker { process: Process::start(&name, &mut command, &log)?, gate });
        Ok(number)
    }

    /// A worker's process, to be signalled.
    ///
    /// # Panics
    /// When there is no worker of that number.
    pub fn worker(&mut self, number: usize) -> &mut Process {
        &mut self.workers[number].process
    }

    /// What stands between a worker and the dispatcher.
    ///
    /// # Panics
    /// When there is no worker of that number.
    #[must_use]
    pub fn worker_gate(&self, number: usize) -> &Gate {
        &self.workers[number].gate
    }

    /// The dispatcher's process, to be signalled.
    pub fn dispatcher(&mut self) -> &mut Process {
        &mut self.dispatcher
    }

    /// Starts the dispatcher again, after a kill or a stop, at the same address, and waits until it serves.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn restart_dispatcher(&mut self) -> anyhow::Result<()> {
        ensure!(!self.dispatcher.is_running()?, "the dispatcher still runs");
        let (folder, name) = (self.folder.path(), "dispatcher");
        let _absent = fs::remove_file(address_file(folder, name));
        let (port, url) = (self.dispatcher_port.number(), self.redis.url());
        self.dispatcher = launch_dispatcher(&self.options, folder, &self.locations, &url, port, name)?;
        self.until_serving().await
    }

    /// Ends the scenario: programs that still run are asked to end and must do so cleanly, and nothing may have been logged as
    /// an error, which means "a human must look".
    ///
    /// # Errors
    /// When a program does not end cleanly or has logged an error.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let mut programs: Vec<&mut Process> =
            self.workers.iter_mut().map(|worker| &mut worker.process).collect();
        programs.push(&mut self.dispatcher);
        programs.extend(self.others.iter_mut().map(|(process, _)| process));
        for process in &mut programs {
            if process.is_running()? {
                check_clean(process.stop().await?, process)?;
            }
        }
        self.finished = true;
        Ok(())
    }

    async fn until_serving(&mut self) -> anyhow::Result<()> {
        let file = address_file(self.folder.path(), "dispatcher");
        until_serving(&mut self.dispatcher, &file).await
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if !self.finished {
            self.dispatcher.show_log();
            for (process, _) in &mut self.others {
                process.show_log();
            }
            for worker in &mut self.workers {
                worker.process.show_log();
            }
        }
    }
}

impl Behind<Store> {
    async fn start(kind: StoreKind, buckets: &[&str]) -> anyhow::Result<Self> {
        Self::new(Store::start(kind, buckets).await?).await
    }

    async fn new(server: Store) -> anyhow::Result<Self> {
        Ok(Self { gate: Gate::open_to(server.address()).await?, server })
    }

    fn location(&self) -> locations::Store {
        let endpoint = format!("http://{}", self.gate.address());
        locations::Store { endpoint, credentials: self.server.credentials().clone() }
    }
}

/// The name that a worker has in receipts.
#[must_use]
pub fn worker_name(number: usize) -> String {
    format!("worker-{number}")
}

fn launch_dispatcher(
    options: &EnvOptions,
    folder: &Path,
    locations: &Path,
    redis_url: &str,
    port: u16,
    name: &str,
) -> anyhow::Result<Process> {
    let mut command = program("backhaul-dispatcher")?;
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--tenant", TENANT]);
    for (name, value) in [("redis-url", redis_url), ("log", LOG_FILTER)] {
        if !options.dispatcher_flags.iter().any(|(given, _)| given == name) {
            command.arg(format!("--{name}")).arg(value);
        }
    }
    if let Some(certificates) = &options.certificates {
        certificates.tell(&mut command, Holder::Dispatcher);
    }
    command.arg("--address-file").arg(address_file(folder, name));
    command.arg("--locations").arg(locations);
    add_flags(&mut command, &options.dispatcher_flags);
    Process::start(name, &mut command, &folder.join(format!("{name}.log")))
}

async fn until_serving(dispatcher: &mut Process, address_file: &Path) -> anyhow::Result<()> {
    eventually("the dispatcher serves", async || {
        if let Err(ended) = dispatcher.ensure_running() {
            return Ok(Err(ended));
        }
        ensure!(!fs::read_to_string(address_file)?.trim().is_empty(), "it has not written its address");
        Ok(Ok(()))
    })
    .await?
}

fn add_flags(command: &mut Command, flags: &[(String, String)]) {
    for (name, value) in flags {
        command.arg(format!("--{name}")).arg(value);
    }
}

fn address_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.address"))
}

/// The exit status and the log of a program that was asked to end.
fn check_clean(status: ExitStatus, process: &Process) -> anyhow::Result<()> {
    ensure!(status.success(), "process {} ended with {status}", process.id());
    let log = process.log()?;
    let errors: Vec<&str> =
        log.lines().filter(|line| line.split_whitespace().take(3).any(|word| word == "ERROR")).collect();
    ensure!(errors.is_empty(), "logged as an error:\n{}", errors.join("\n"));
    Ok(())
}
