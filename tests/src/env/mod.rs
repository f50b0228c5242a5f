//! A whole Backhaul: Redis, an origin, a vault, a dispatcher and workers, each a process of its own as in production.
//!
//! Between the programs and everything they talk to over S3 or gRPC stands a [`Gate`], so that a scenario can part them. The test's own
//! calls go straight to the servers.

mod calls;
mod dispatchers;
mod options;
mod prefixes;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::FaultPlan;
use backhaul_proto::v1::{
    backup_service_client::BackupServiceClient, worker_service_client::WorkerServiceClient,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{
    certificates::Holder,
    gate::Gate,
    locations::{self, ARCHIVE, ORIGIN, ORIGIN_BUCKET, VAULT_BUCKET},
    process::Process,
    programs::program,
    redis::{RedisOptions, RedisServer},
    s3::{Credentials, S3},
    store::{Store, StoreKind},
};

use self::dispatchers::Dispatcher;
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
    dispatchers: Vec<Dispatcher>,
    /// Number of the dispatcher that the test's own calls go to.
    called: usize,
    redis: RedisServer,
    origin: Behind<Store>,
    /// `None` when backups go to the origin's own store.
    vault: Option<Behind<Store>>,
    archive: Option<Behind<Store>>,
    locations: PathBuf,
    folder: TempDir,
    finished: bool,
}

/// A worker and its ways to the dispatchers, in their order.
#[derive(Debug)]
struct Worker {
    process: Process,
    gates: Vec<Gate>,
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
        let origin = match (&options.webhook, &options.origin_at) {
            (Some(webhook), _) => Behind::new(Store::start_telling(webhook, &buckets).await?).await?,
            (None, Some((address, keys))) => {
                Behind::new(Store::elsewhere(address, keys, &buckets).await?).await?
            }
            (None, None) => Behind::start(options.origin, &buckets).await?,
        };
        let vault = match options.vault {
            Some(kind) => Some(Behind::start(kind, &[VAULT_BUCKET]).await?),
            None => None,
        };
        if options.locks {
            vault.as_ref().unwrap_or(&origin).server.client().allow_locks(VAULT_BUCKET).await?;
        }
        let archive = match options.archive {
            true => Some(Behind::start(StoreKind::Embedded, &[ORIGIN_BUCKET]).await?),
            false => None,
        };
        let target = vault.as_ref().unwrap_or(&origin).location();
        let places = [(ORIGIN, Some(&origin)), (ARCHIVE, archive.as_ref())];
        let places = places.into_iter().filter_map(|(name, place)| Some((name, place?.location())));
        let places: Vec<(&str, locations::Store)> = places.collect();
        let places: Vec<(&str, &locations::Store)> =
            places.iter().map(|(name, place)| (*name, place)).collect();
        let locations =
            locations::write_all(folder.path(), &places, &target, &options.reads, &options.terms)?;
        let (dispatchers, workers, called, finished) = (Vec::new(), Vec::new(), 0, false);
        let mut env = Self {
            options,
            workers,
            dispatchers,
            called,
            redis,
            origin,
            vault,
            archive,
            locations,
            folder,
            finished,
        };
        env.add_dispatcher(&[]).await?;
        for _ in 0..env.options.workers {
            env.add_worker().await?;
        }
        Ok(env)
    }

    /// A client for what internal services call. It connects when it is used, and again after a restart.
    ///
    /// # Errors
    /// When the URL is not one.
    pub fn backups(&self) -> anyhow::Result<BackupServiceClient<Channel>> {
        Ok(BackupServiceClient::new(self.channel()?))
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
        self.channel_at(self.called)
    }

    /// The file of locations that all programs are given.
    #[must_use]
    pub fn locations_file(&self) -> &Path {
        &self.locations
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

    /// A client of the second origin.
    ///
    /// # Errors
    /// When the scenario has none.
    pub fn archived(&self) -> anyhow::Result<S3> {
        Ok(self.archive.as_ref().context("the scenario has no archive")?.server.client())
    }

    /// A client of the backup store.
    #[must_use]
    pub fn copies(&self) -> S3 {
        self.vault.as_ref().unwrap_or(&self.origin).server.client()
    }

    /// What the programs log in with at each store.
    #[must_use]
    pub fn store_credentials(&self) -> Vec<Credentials> {
        let stores = [Some(&self.origin), self.vault.as_ref(), self.archive.as_ref()];
        stores.into_iter().flatten().map(|store| store.server.credentials().clone()).collect()
    }

    /// Starts one more worker; gives its number. It is named `worker-<number>`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn add_worker(&mut self) -> anyhow::Result<usize> {
        let number = self.workers.len();
        let mut gates = Vec::new();
        for dispatcher in 0..self.dispatchers.len() {
            gates.push(Gate::open_to(&self.address_of(dispatcher)).await?);
        }
        let process = self.launch_worker(number, &gates)?;
        self.workers.push(Worker { process, gates });
        Ok(number)
    }

    /// Starts a worker again, after a kill or a stop, under the same name and behind the same gates.
    ///
    /// # Errors
    /// When it cannot be started.
    ///
    /// # Panics
    /// When there is no worker of that number.
    pub fn restart_worker(&mut self, number: usize) -> anyhow::Result<()> {
        ensure!(!self.workers[number].process.is_running()?, "the worker still runs");
        self.workers[number].process = self.launch_worker(number, &self.workers[number].gates)?;
        Ok(())
    }

    fn launch_worker(&self, number: usize, gates: &[Gate]) -> anyhow::Result<Process> {
        let name = worker_name(number);
        let mut command = program("backhaul-worker")?;
        if let Some(certificates) = &self.options.certificates {
            certificates.tell(&mut command, Holder::Worker);
        }
        for gate in gates {
            command.args(["--dispatcher", &format!("{}://{}", self.scheme(), gate.address())]);
        }
        command.args(["--name", &name, "--log", LOG_FILTER]);
        command.arg("--locations").arg(&self.locations);
        add_flags(&mut command, &self.options.worker_flags);
        let log = self.folder.path().join(format!("{name}.log"));
        Process::start(&name, &mut command, &log)
    }

    /// A worker's process, to be signalled.
    ///
    /// # Panics
    /// When there is no worker of that number.
    pub fn worker(&mut self, number: usize) -> &mut Process {
        &mut self.workers[number].process
    }

    /// What stands between a worker and the first dispatcher.
    ///
    /// # Panics
    /// When there is no worker of that number.
    #[must_use]
    pub fn worker_gate(&self, number: usize) -> &Gate {
        &self.workers[number].gates[0]
    }

    /// Ends the scenario: programs that still run are asked to end and must do so cleanly, and nothing may have been logged as
    /// an error, which means "a human must look". No secret of a store may be in a log or in Redis.
    ///
    /// # Errors
    /// When a program does not end cleanly, has logged an error, or has shown a secret.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let stores = [Some(&self.origin), self.vault.as_ref()].into_iter().flatten();
        let secrets: Vec<String> =
            stores.map(|store| store.server.credentials().secret_key.clone()).collect();
        let mut programs: Vec<&mut Process> =
            self.workers.iter_mut().map(|worker| &mut worker.process).collect();
        programs.extend(self.dispatchers.iter_mut().map(|dispatcher| &mut dispatcher.process));
        for process in &mut programs {
            if process.is_running()? {
                check_clean(process.stop().await?, process)?;
            }
            ensure!(
                !shows(process.log()?.as_bytes(), &secrets),
                "a secret is in the log of {}",
                process.id()
            );
        }
        ensure!(!shows(&self.redis.appended()?, &secrets), "a secret is in Redis");
        self.finished = true;
        Ok(())
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if !self.finished {
            for dispatcher in &mut self.dispatchers {
                dispatcher.process.show_log();
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

fn add_flags(command: &mut Command, flags: &[(String, String)]) {
    for (name, value) in flags {
        command.arg(format!("--{name}")).args(Some(value).filter(|value| !value.is_empty()));
    }
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

/// True when one of the secrets stands in `text`.
fn shows(text: &[u8], secrets: &[String]) -> bool {
    let text = String::from_utf8_lossy(text);
    secrets.iter().any(|secret| text.contains(secret.as_str()))
}
