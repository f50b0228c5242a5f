//! Figures of the stream between dispatchers and workers: how long a loss is felt, what a restart costs, what many workers cost.
//!
//! `make bench-stream`, or `stream_load DISPATCHER [--quick]` with the program of the dispatcher and a `redis-server` on the path.
//! Redis and dispatchers are processes of their own; the workers are fifty real links and runners in this one, whose copies only take
//! time. It only reports: no figure makes it fail.

use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use backhaul_proto::{
    WORKER_PROTOCOL,
    v1::{
        self as pb, backup_service_client::BackupServiceClient, from_worker::Message,
        worker_service_client::WorkerServiceClient,
    },
};
use backhaul_worker::{
    app::{self, AppError},
    config::WorkerSettings,
    transfer::{
        Copier, CopyReceipt, CopyRequest, ProgressCell, Step, Stop, TransferError, TransferErrorKind,
        VerifyLevel,
    },
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

const WORKERS: usize = 50;
const LOCATION: &str = "uploads";
const BUCKET: &str = "photos";
/// Nothing here takes longer; what does has failed.
const PATIENCE: Duration = Duration::from_secs(180);

/// A child that is killed when dropped.
struct Process(Child);

/// A redis-server and two dispatchers on it.
struct Servers {
    _redis: Process,
    dispatchers: Vec<Option<Process>>,
    ports: Vec<u16>,
    redis_port: u16,
    program: PathBuf,
    folder: tempfile::TempDir,
}

/// Copies that only take time; who began which, and when.
#[derive(Debug)]
struct Sleeper {
    worker: usize,
    takes: Duration,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Copies begun, by task.
    begun: HashMap<String, Vec<(usize, Instant)>>,
    finished: usize,
}

/// Workers in this process.
struct Crew {
    seen: Arc<Mutex<Seen>>,
    members: Vec<(CancellationToken, JoinSet<Result<(), AppError>>)>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let program = PathBuf::from(arguments.next().context("usage: stream_load DISPATCHER [--quick]")?);
    let idle = Duration::from_secs(if arguments.any(|a| a == "--quick") { 10 } else { 60 });
    let mut servers = Servers::start(program).await?;
    worker_killed(&servers).await?;
    dispatcher_killed(&mut servers).await?;
    restarts(&mut servers).await?;
    many_workers(&servers, idle).await
}

/// From the kill of a worker that holds tasks to their start at another: what is left of the lease, and the wait before a retry.
async fn worker_killed(servers: &Servers) -> Result<()> {
    let mut crew = Crew::hire(servers, 1, Duration::from_secs(3_600))?;
    submit(servers, 0, "killed", 10).await?;
    crew.until("ten copies are under way", |seen| seen.begun.len() == 10).await?;
    crew.members.clear();
    let killed = Instant::now();
    crew.join(servers, 1, Duration::from_millis(10))?;
    crew.until("all have been begun again", |seen| seen.begun.values().all(|b| b.len() > 1)).await?;
    let seen = crew.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let waits = seen.begun.values().filter_map(|begun| begun.get(1)).map(|(_, at)| *at - killed).collect();
    report(&format!("hand-over after a worker is killed (lease 30 s): {}", spread(waits)));
    Ok(())
}

/// From the kill of a dispatcher to the next copy of each of its workers.
async fn dispatcher_killed(servers: &mut Servers) -> Result<()> {
    let crew = Crew::hire(servers, WORKERS, Duration::from_millis(200))?;
    submit(servers, 1, "steady", 6_000).await?;
    crew.until("everybody works", |seen| {
        let busy: std::collections::HashSet<_> =
            seen.begun.values().flatten().map(|(worker, _)| *worker).collect();
        busy.len() == WORKERS
    })
    .await?;
    servers.dispatchers[0] = None;
    let killed = Instant::now();
    crew.until("everything is done", |seen| seen.finished >= 6_000).await?;
    let mut first: HashMap<usize, Instant> = HashMap::new();
    let seen = crew.seen.lock().unwrap_or_else(PoisonError::into_inner);
    // A worker that lost its stream has its tasks finished first; the next ones come only over a new stream.
    for (worker, at) in seen.begun.values().flatten().filter(|(_, at)| *at > killed) {
        let at_first = first.entry(*worker).or_insert(*at);
        *at_first = (*at_first).min(*at);
    }
    let repeated = seen.begun.values().filter(|begun| begun.len() > 1).count();
    let waits: Vec<Duration> = first.values().map(|at| *at - killed).collect();
    report(&format!(
        "next copy of each worker after a dispatcher is killed (half of {WORKERS} were on it): {}; copies repeated: {repeated}",
        spread(waits)
    ));
    drop(seen);
    servers.launch(0).await?;
    crew.leave().await
}

/// Everything restarted in order while it works.
async fn restarts(servers: &mut Servers) -> Result<()> {
    let mut crew = Crew::hire(servers, WORKERS, Duration::from_millis(200))?;
    submit(servers, 1, "rolling", 6_000).await?;
    let mut took = Vec::new();
    for number in [0, 1] {
        let begin = Instant::now();
        servers.stop(number).await?;
        took.push(begin.elapsed());
        servers.launch(number).await?;
    }
    for number in 0..WORKERS {
        crew.restart(servers, number, Duration::from_millis(200)).await?;
    }
    crew.until("everything is done", |seen| seen.finished >= 6_000).await?;
    let repeated = {
        let seen = crew.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.begun.values().filter(|begun| begun.len() > 1).count()
    };
    report(&format!(
        "both dispatchers and {WORKERS} workers restarted in order under load: copies repeated: {repeated}; \
         a dispatcher took {}",
        spread(took)
    ));
    crew.leave().await
}

/// What fifty connected workers cost, and one more that never reads.
async fn many_workers(servers: &Servers, idle: Duration) -> Result<()> {
    let pid = |number: usize| servers.dispatchers[number].as_ref().map(|p| p.0.id());
    let (one, other) = (pid(0).context("it runs")?, pid(1).context("it runs")?);
    let crew = Crew::hire(servers, WORKERS, Duration::from_millis(1))?;
    sleep(Duration::from_secs(3)).await;
    let (before, own_before) = (cpu(one)? + cpu(other)?, cpu(std::process::id())?);
    sleep(idle).await;
    let (dispatchers, workers) = (cpu(one)? + cpu(other)? - before, cpu(std::process::id())? - own_before);
    let percent = |seconds: f64| 100.0 * seconds / idle.as_secs_f64();
    report(&format!(
        "idle with {WORKERS} workers connected for {idle:?}: both dispatchers {:.2} % of a core, all workers {:.2} %, \
         dispatchers {:.1} and {:.1} MiB resident",
        percent(dispatchers),
        percent(workers),
        resident(one)?,
        resident(other)?
    ));
    let (say, said) = mpsc::channel(4);
    let hello = pb::Hello {
        protocol: WORKER_PROTOCOL,
        instance: vec![9; 16].into(),
        worker: "never-reads".into(),
        credit: Some(pb::Credit { tasks: 10_000, bytes: u64::MAX }),
        locations: vec![LOCATION.into()],
        ..Default::default()
    };
    say.send(pb::FromWorker { message: Some(Message::Hello(hello)) }).await?;
    let channel = servers.channel(0).await?;
    let unread = WorkerServiceClient::new(channel).connect(ReceiverStream::new(said)).await?;
    submit(servers, 0, "unread", 20_000).await?;
    crew.until("everything is done", |seen| seen.finished >= 20_000).await?;
    report(&format!(
        "and one that never reads with a credit of 10,000 tasks, 20,000 tasks later: {:.1} and {:.1} MiB resident",
        resident(one)?,
        resident(other)?
    ));
    drop(unread);
    crew.leave().await
}

impl Servers {
    async fn start(program: PathBuf) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let redis_port = free_port()?;
        let mut redis = Command::new("redis-server");
        redis.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        redis.args(["--port", &redis_port.to_string()]).arg("--dir").arg(folder.path());
        let redis = Process::start(&mut redis, &folder.path().join("redis.log"))?;
        fs::write(folder.path().join("locations.toml"), locations())?;
        let ports = vec![free_port()?, free_port()?];
        let dispatchers = vec![None, None];
        let mut servers = Self { _redis: redis, dispatchers, ports, redis_port, program, folder };
        for number in [0, 1] {
            servers.launch(number).await?;
        }
        Ok(servers)
    }

    async fn launch(&mut self, number: usize) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["--listen", &format!("127.0.0.1:{}", self.ports[number]), "--log", "warn"]);
        command.args(["--redis-url", &format!("redis://127.0.0.1:{}/0", self.redis_port)]);
        command.arg("--locations").arg(self.folder.path().join("locations.toml"));
        let log = self.folder.path().join(format!("dispatcher-{number}.log"));
        self.dispatchers[number] = Some(Process::start(&mut command, &log)?);
        let served = async {
            while self.channel(number).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, served).await.context("the dispatcher does not serve")
    }

    /// Asks a dispatcher to end and waits until it has.
    async fn stop(&mut self, number: usize) -> Result<()> {
        let mut process = self.dispatchers[number].take().context("it runs")?;
        ensure!(Command::new("kill").args(["-TERM", &process.0.id().to_string()]).status()?.success());
        let ended = async {
            while process.0.try_wait()?.is_none() {
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        timeout(PATIENCE, ended).await.context("the dispatcher does not end")?
    }

    async fn channel(&self, number: usize) -> Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://127.0.0.1:{}", self.ports[number]))?.connect().await?)
    }
}

impl Crew {
    fn hire(servers: &Servers, count: usize, takes: Duration) -> Result<Self> {
        let mut crew = Self { seen: Arc::default(), members: Vec::new() };
        for _ in 0..count {
            crew.join(servers, crew.members.len(), takes)?;
        }
        Ok(crew)
    }

    fn join(&mut self, servers: &Servers, number: usize, takes: Duration) -> Result<()> {
        let member = self.start(servers, number, takes)?;
        self.members.push(member);
        Ok(())
    }

    fn start(
        &self,
        servers: &Servers,
        number: usize,
        takes: Duration,
    ) -> Result<(CancellationToken, JoinSet<Result<(), AppError>>)> {
        let urls = servers.ports.iter().map(|port| format!("http://127.0.0.1:{port}").parse());
        let settings = WorkerSettings {
            dispatchers: urls.collect::<Result<_, _>>()?,
            name: format!("worker-{number}"),
            origins: [LOCATION.to_owned()].into(),
            max_tasks: 10,
            memory_bytes: 512 << 20,
            part_bytes: 16 << 20,
            drain_within: Duration::from_secs(25),
        };
        let copier = Arc::new(Sleeper { worker: number, takes, seen: Arc::clone(&self.seen) });
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(app::run_with(settings, copier, stop.clone()));
        Ok((stop, running))
    }

    async fn restart(&mut self, servers: &Servers, number: usize, takes: Duration) -> Result<()> {
        self.end(number).await?;
        self.members[number] = self.start(servers, number, takes)?;
        Ok(())
    }

    async fn end(&mut self, number: usize) -> Result<()> {
        let (stop, running) = &mut self.members[number];
        stop.cancel();
        Ok(running.join_next().await.context("it was started")???)
    }

    async fn leave(mut self) -> Result<()> {
        for number in 0..self.members.len() {
            self.end(number).await?;
        }
        Ok(())
    }

    async fn until(&self, what: &'static str, enough: impl Fn(&Seen) -> bool) -> Result<()> {
        let reached = async {
            while !enough(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, reached).await.context(what)
    }
}

#[async_trait]
impl Copier for Sleeper {
    async fn copy(
        &self,
        request: &CopyRequest,
        progress: Arc<ProgressCell>,
        stop: Stop,
    ) -> Result<CopyReceipt, TransferError> {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen().begun.entry(request.task_id.clone()).or_default().push((self.worker, Instant::now()));
        tokio::select! {
            () = sleep(self.takes) => {}
            () = stop.hand_back.cancelled() => {
                let (kind, message) = (TransferErrorKind::Cancelled, "told to hand back".to_owned());
                return Err(TransferError { step: Step::Read, kind, message, source: None });
            }
        }
        progress.add_bytes(1);
        seen().finished += 1;
        Ok(CopyReceipt {
            source_version: String::new(),
            source_etag: "e".into(),
            source_modified: None,
            backup_location: "vault".into(),
            backup_bucket: "backups".into(),
            backup_key: format!("{}/{}~v", request.bucket, request.key),
            backup_version: String::new(),
            backup_etag: "e".into(),
            size_bytes: 1,
            crc64nvme: 1,
            sha256: None,
            verified: VerifyLevel::Receipt,
            already_present: false,
            not_kept: Vec::new(),
            parts: 0,
            server_side: false,
            elapsed: self.takes,
        })
    }
}

impl Process {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = fs::File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self(command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

async fn submit(servers: &Servers, dispatcher: usize, name: &str, count: usize) -> Result<()> {
    let mut client = BackupServiceClient::new(servers.channel(dispatcher).await?);
    let request = |number: usize| pb::SubmitBackupRequest {
        object: Some(pb::ObjectRef {
            location: LOCATION.into(),
            bucket: BUCKET.into(),
            key: format!("{name}/{number}"),
            version: "v".into(),
        }),
        options: Some(pb::SubmitOptions { size_hint_bytes: 1, ..Default::default() }),
    };
    for first in (0..count).step_by(1_000) {
        let requests = (first..count.min(first + 1_000)).map(request).collect();
        client.submit_backups(pb::SubmitBackupsRequest { requests }).await?;
    }
    Ok(())
}

fn locations() -> String {
    format!(
        "[location.{LOCATION}]\nendpoint = \"http://127.0.0.1:9\"\nregion = \"r\"\ncredentials = \"anonymous\"\n\
         [[location.{LOCATION}.read]]\nbucket = \"{BUCKET}\"\ntenants = [\"*\"]\n\
         [location.{LOCATION}.backup]\nlocation = \"vault\"\nbucket = \"backups\"\n\
         [location.vault]\nendpoint = \"http://127.0.0.1:9\"\nregion = \"r\"\ncredentials = \"anonymous\"\n"
    )
}

/// Below the range that the system takes client ports from, so that no connection of ours takes it before the server does.
fn free_port() -> Result<u16> {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..100).map(|_| fastrand::u16(10_100..=21_900)).find(free).context("no free port")
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    let at = |percent: usize| times.get(last * percent / 100).copied().unwrap_or_default();
    format!("median {:.2?}, p90 {:.2?}, longest {:.2?} ({} times)", at(50), at(90), at(100), times.len())
}

/// User and system time of a process so far, in seconds.
fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().context("stat")?.split_whitespace();
    let ticks: Result<Vec<f64>, _> = fields.skip(11).take(2).map(str::parse).collect();
    Ok(ticks?.iter().sum::<f64>() / 100.0)
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

#[expect(clippy::print_stdout, reason = "figures are what this program is for")]
fn report(text: &str) {
    println!("{text}");
}
