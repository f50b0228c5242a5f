//! A whole Backhaul: Redis, an origin, a vault, a dispatcher and workers, each a process of its own as in production.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, bail, ensure};
use backhaul_proto::v1::{
    self as pb, backup_service_client::BackupServiceClient, worker_service_client::WorkerServiceClient,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::{
    eventually::eventually,
    locations::{self, ORIGIN, ORIGIN_BUCKET, Read, VAULT_BUCKET},
    ports::Port,
    process::Process,
    programs::program,
    redis::{RedisOptions, RedisServer},
    s3::S3,
    store::{Store, StoreKind},
};

/// Tenant that the calls of a test act for.
pub const TENANT: &str = "acme";

/// Enough to understand a failed scenario.
const LOG_FILTER: &str =
    "backhaul=debug,backhaul_dispatcher=debug,backhaul_worker=debug,backhaul_runtime=debug,info";

/// What a scenario needs to differ from the ordinary.
#[derive(Debug, Clone)]
pub struct EnvOptions {
    /// The Redis; the machine's own, with every write on disk before it is answered, when not set.
    pub redis: Option<RedisOptions>,
    /// Store that objects are uploaded to.
    pub origin: StoreKind,
    /// Store that backups go to; the origin itself when not set.
    pub vault: Option<StoreKind>,
    /// What may be backed up.
    pub reads: Vec<Read>,
    /// Workers at the start.
    pub workers: usize,
    /// Flags of the dispatcher besides those that say where everything is: name without dashes, value.
    pub dispatcher_flags: Vec<(String, String)>,
    /// Flags of each worker, likewise.
    pub worker_flags: Vec<(String, String)>,
}

/// Everything of one scenario. End it with [`TestEnv::finish`]; dropped before that, it shows what its programs logged, because
/// then the scenario has failed.
#[derive(Debug)]
pub struct TestEnv {
    options: EnvOptions,
    /// Programs come before what they use, so that they are dropped first.
    workers: Vec<Process>,
    dispatcher: Process,
    dispatcher_port: Port,
    redis: RedisServer,
    origin: Store,
    /// `None` when backups go to the origin's own store.
    vault: Option<Store>,
    locations: PathBuf,
    folder: TempDir,
    finished: bool,
}

impl Default for EnvOptions {
    /// Two embedded stores, one worker, times short enough for a test.
    fn default() -> Self {
        let flag = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let dispatcher = [
            ("lease", "3s"),
            ("accept-within", "1s"),
            ("sweep-every", "100ms"),
            ("retry-base", "200ms"),
            ("retry-floor", "20ms"),
            ("retry-max", "2s"),
            ("processing-timeout", "30s"),
            ("drain-within", "5s"),
            ("shards", "2"),
        ];
        Self {
            redis: None,
            origin: StoreKind::Weed,
            vault: Some(StoreKind::Weed),
            reads: vec![Read::all_of(ORIGIN_BUCKET)],
            workers: 1,
            dispatcher_flags: dispatcher.map(flag).to_vec(),
            worker_flags: vec![flag(("drain-within", "5s"))],
        }
    }
}

impl EnvOptions {
    /// Sets a flag of the dispatcher.
    #[must_use]
    pub fn dispatcher_flag(mut self, name: &str, value: &str) -> Self {
        set(&mut self.dispatcher_flags, name, value);
        self
    }

    /// Sets a flag of every worker.
    #[must_use]
    pub fn worker_flag(mut self, name: &str, value: &str) -> Self {
        set(&mut self.worker_flags, name, value);
        self
    }

    /// Sets how many workers there are at the start.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Sets the kind of both stores.
    #[must_use]
    pub fn stores(mut self, kind: StoreKind) -> Self {
        self.origin = kind;
        self.vault = Some(kind);
        self
    }

    /// Sets the Redis.
    #[must_use]
    pub fn redis(mut self, redis: RedisOptions) -> Self {
        self.redis = Some(redis);
        self
    }
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
        let origin = Store::start(options.origin, &[ORIGIN_BUCKET, VAULT_BUCKET]).await?;
        let vault = match options.vault {
            Some(kind) => Some(Store::start(kind, &[VAULT_BUCKET]).await?),
            None => None,
        };
        let target = vault.as_ref().unwrap_or(&origin).location();
        let locations = locations::write(folder.path(), &origin.location(), &target, &options.reads)?;
        let dispatcher_port = Port::lease()?;
        let dispatcher =
            launch_dispatcher(&options, folder.path(), &locations, &redis.url(), dispatcher_port.number())?;
        let workers = Vec::new();
        let finished = false;
        let mut env = Self {
            options,
            workers,
            dispatcher,
            dispatcher_port,
            redis,
            origin,
            vault,
            locations,
            folder,
            finished,
        };
        env.until_serving().await?;
        for _ in 0..env.options.workers {
            env.add_worker()?;
        }
        Ok(env)
    }

    /// Base URL of the dispatcher; the same after a restart.
    #[must_use]
    pub fn dispatcher_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.dispatcher_port.number())
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
        Ok(Endpoint::from_shared(self.dispatcher_url())?.connect_lazy())
    }

    /// The Redis.
    pub fn redis(&mut self) -> &mut RedisServer {
        &mut self.redis
    }

    /// The store that objects are uploaded to.
    #[must_use]
    pub fn origin(&self) -> &Store {
        &self.origin
    }

    /// The store that backups go to.
    #[must_use]
    pub fn vault(&self) -> &Store {
        self.vault.as_ref().unwrap_or(&self.origin)
    }

    /// A client of the origin.
    #[must_use]
    pub fn uploads(&self) -> S3 {
        self.origin.client()
    }

    /// A client of the backup store.
    #[must_use]
    pub fn copies(&self) -> S3 {
        self.vault().client()
    }

    /// Starts one more worker; gives its number. It is named `worker-<number>`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn add_worker(&mut self) -> anyhow::Result<usize> {
        let number = self.workers.len();
        let name = format!("worker-{number}");
        let mut command = Command::new(program("backhaul-worker")?);
        command.args(["--dispatcher", &self.dispatcher_url(), "--name", &name, "--log", LOG_FILTER]);
        command.arg("--locations").arg(&self.locations);
        add_flags(&mut command, &self.options.worker_flags);
        let log = self.folder.path().join(format!("{name}.log"));
        self.workers.push(Process::start(&name, &mut command, &log)?);
        Ok(number)
    }

    /// A worker's process, to be signalled.
    ///
    /// # Panics
    /// When there is no worker of that number.
    pub fn worker(&mut self, number: usize) -> &mut Process {
        &mut self.workers[number]
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
        let _absent = fs::remove_file(address_file(self.folder.path()));
        let port = self.dispatcher_port.number();
        self.dispatcher =
            launch_dispatcher(&self.options, self.folder.path(), &self.locations, &self.redis.url(), port)?;
        self.until_serving().await
    }

    /// Submits the latest version of an object of the origin's bucket.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn submit(&self, key: &str) -> anyhow::Result<pb::SubmitBackupResponse> {
        let request = pb::SubmitBackupRequest { object: Some(object(key)), options: None };
        Ok(self.backups()?.submit_backup(request).await?.into_inner())
    }

    /// A task as callers see it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn task(&self, task_id: &str) -> anyhow::Result<pb::Backup> {
        let request = pb::GetBackupRequest { task_id: task_id.to_owned() };
        Ok(self.backups()?.get_backup(request).await?.into_inner())
    }

    /// Waits until a task is in `state`, and fails at once when it has ended in another one.
    ///
    /// # Errors
    /// When the task ends otherwise, or does not get there.
    pub async fn until(&self, task_id: &str, state: pb::TaskState) -> anyhow::Result<pb::Backup> {
        use pb::TaskState::{Cancelled, Dead, Done};
        let what = format!("task {task_id} is {}", state.as_str_name());
        eventually(&what, async || {
            let task = self.task(task_id).await?;
            if task.state() == state {
                return Ok(Ok(task));
            }
            let told = format!(
                "{} because {:?}, last failure {:?}",
                task.state().as_str_name(),
                task.reason(),
                task.last_failure
            );
            if [Done, Dead, Cancelled].contains(&task.state()) {
                return Ok(Err(anyhow::anyhow!("it ended {told}")));
            }
            bail!("it is {told}")
        })
        .await?
        .with_context(|| what.clone())
    }

    /// Ends the scenario: programs that still run are asked to end and must do so cleanly, and nothing may have been logged as
    /// an error, which means "a human must look".
    ///
    /// # Errors
    /// When a program does not end cleanly or has logged an error.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let mut programs: Vec<&mut Process> = self.workers.iter_mut().collect();
        programs.push(&mut self.dispatcher);
        for process in &mut programs {
            if process.is_running()? {
                check_clean(process.stop().await?, process)?;
            }
        }
        self.finished = true;
        Ok(())
    }

    async fn until_serving(&mut self) -> anyhow::Result<()> {
        let file = address_file(self.folder.path());
        eventually("the dispatcher serves", async || {
            if let Err(ended) = self.dispatcher.ensure_running() {
                return Ok(Err(ended));
            }
            ensure!(!fs::read_to_string(&file)?.trim().is_empty(), "it has not written its address");
            Ok(Ok(()))
        })
        .await?
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if !self.finished {
            self.dispatcher.show_log();
            for worker in &mut self.workers {
                worker.show_log();
            }
        }
    }
}

fn launch_dispatcher(
    options: &EnvOptions,
    folder: &Path,
    locations: &Path,
    redis_url: &str,
    port: u16,
) -> anyhow::Result<Process> {
    let mut command = Command::new(program("backhaul-dispatcher")?);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--redis-url", redis_url]);
    command.args(["--tenant", TENANT, "--log", LOG_FILTER]);
    command.arg("--address-file").arg(address_file(folder));
    command.arg("--locations").arg(locations);
    add_flags(&mut command, &options.dispatcher_flags);
    Process::start("dispatcher", &mut command, &folder.join("dispatcher.log"))
}

fn add_flags(command: &mut Command, flags: &[(String, String)]) {
    for (name, value) in flags {
        command.arg(format!("--{name}")).arg(value);
    }
}

fn set(flags: &mut Vec<(String, String)>, name: &str, value: &str) {
    flags.retain(|(given, _)| given != name);
    flags.push((name.to_owned(), value.to_owned()));
}

fn address_file(folder: &Path) -> PathBuf {
    folder.join("dispatcher.address")
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

/// The latest version of an object of the origin's bucket.
#[must_use]
pub fn object(key: &str) -> pb::ObjectRef {
    pb::ObjectRef {
        location: ORIGIN.to_owned(),
        bucket: ORIGIN_BUCKET.to_owned(),
        key: key.to_owned(),
        version: String::new(),
    }
}
