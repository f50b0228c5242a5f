//! What the benchmark starts: a Redis with one durability, a dispatcher on it. All of them end with the value that owns them.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

/// How long a server may take to answer for the first time.
const START: Duration = Duration::from_secs(20);

/// What a write has reached when it is answered; the same for everything in a column beside another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Memory: no append-only file.
    Nothing,
    /// Memory; the disk within a second.
    EverySecond,
    /// The disk.
    Always,
    /// The disk, by a barrier (`WAITAOF`) while the server itself writes within a second: Redis 7.2 or newer.
    Barrier,
    /// Memory of a replica too, by a barrier (`WAIT`).
    Replica,
}

/// A folder that is removed at the end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

/// A redis-server with empty data.
#[derive(Debug)]
pub(crate) struct RedisServer {
    port: u16,
    durability: Durability,
    _process: Process,
    folder: Folder,
    _replica: Option<Box<Self>>,
}

/// A dispatcher on a Redis.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    address: String,
    process: Process,
    _folder: Folder,
}

/// A child that is killed when dropped.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
}

impl Durability {
    /// As it is called in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::EverySecond => "everysec",
            Self::Always => "always",
            Self::Barrier => "everysec, WAITAOF",
            Self::Replica => "everysec, WAIT 1",
        }
    }

    const fn redis_settings(self) -> [&'static str; 4] {
        match self {
            Self::Nothing => ["--appendonly", "no", "--appendfsync", "no"],
            Self::EverySecond | Self::Barrier | Self::Replica => {
                ["--appendonly", "yes", "--appendfsync", "everysec"]
            }
            Self::Always => ["--appendonly", "yes", "--appendfsync", "always"],
        }
    }

    /// What the dispatcher promises on such a server. Up to `Always` it waits for no more than BullMQ waits for; BullMQ has no barrier.
    const fn promise(self) -> &'static str {
        match self {
            Self::Nothing | Self::EverySecond => "none",
            Self::Always | Self::Barrier => "local",
            Self::Replica => "replicas=1",
        }
    }
}

impl Folder {
    fn make(below: &Path, name: &str) -> anyhow::Result<Self> {
        let path = below.join(format!("{name}-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays below the build's folder, where it is no harm.
        let _left = fs::remove_dir_all(&self.0);
    }
}

impl RedisServer {
    /// Starts `binary` on a free port, its files below `scratch`, with the replica that the durability needs.
    pub(crate) async fn start(scratch: &Path, binary: &Path, durability: Durability) -> anyhow::Result<Self> {
        let mut primary = Self::start_one(scratch, binary, durability, &[]).await?;
        if durability == Durability::Replica {
            let of = ["--replicaof", "127.0.0.1", &primary.port.to_string()];
            primary._replica = Some(Box::new(Self::start_one(scratch, binary, durability, &of).await?));
            let deadline = Instant::now() + START;
            while !primary.info("replication").await?.contains("state=online") {
                ensure!(Instant::now() < deadline, "the replica does not come");
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(primary)
    }

    async fn start_one(
        scratch: &Path,
        binary: &Path,
        durability: Durability,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let folder = Folder::make(scratch, "redis")?;
        let port = free_port()?;
        let mut command = Command::new(binary);
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
        command.args(["--repl-diskless-sync-delay", "0"]).args(more);
        // A rewrite of the file in the middle of somebody's turn would be charged to them.
        command.args(durability.redis_settings()).args(["--auto-aof-rewrite-percentage", "0"]);
        command.arg("--dir").arg(&folder.0);
        let process = Process::start("redis-server", &mut command, &folder.0)?;
        let mut server = Self { port, durability, _process: process, folder, _replica: None };
        let deadline = Instant::now() + START;
        while let Err(error) = server.connect().await {
            server._process.ensure_running(&server.folder.0)?;
            ensure!(Instant::now() < deadline, "redis-server does not answer: {error:#}");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    /// Where it listens on 127.0.0.1.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(120)));
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(connection)
    }

    /// Forgets everything.
    pub(crate) async fn clear(&self) -> anyhow::Result<()> {
        Ok(redis::cmd("FLUSHALL").arg("SYNC").exec_async(&mut self.connect().await?).await?)
    }

    /// Bytes that its data takes, without the buffers of clients and of the append-only file.
    pub(crate) async fn data_bytes(&self) -> anyhow::Result<i64> {
        let info = self.info("memory").await?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|text| text.trim().parse::<i64>().ok())
                .with_context(|| format!("INFO has no {name}"))
        };
        Ok(field("used_memory")? - field("mem_clients_normal")? - field("mem_aof_buffer")?)
    }

    /// User and system time of the server so far, in seconds.
    pub(crate) async fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let info = self.info("cpu").await?;
        let fields = ["used_cpu_user:", "used_cpu_sys:"];
        let seconds =
            info.lines().filter_map(|line| fields.iter().find_map(|field| line.strip_prefix(field)));
        Ok(seconds.map(|text| text.trim().parse::<f64>()).sum::<Result<f64, _>>()?)
    }

    /// Calls of scripts so far.
    pub(crate) async fn script_calls(&self) -> anyhow::Result<u64> {
        let info = self.info("commandstats").await?;
        let calls =
            info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
        Ok(calls.map_or(Ok(0), str::parse)?)
    }

    /// All memory that the server has of the system, in bytes.
    pub(crate) async fn resident_bytes(&self) -> anyhow::Result<i64> {
        let info = self.info("memory").await?;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory_rss:"));
        Ok(line.context("INFO has no used_memory_rss")?.trim().parse()?)
    }

    async fn info(&self, section: &str) -> anyhow::Result<String> {
        Ok(redis::cmd("INFO").arg(section).query_async(&mut self.connect().await?).await?)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Dispatcher {
    /// Empties the Redis and starts the dispatcher that was built together with this program, with these flags besides the usual.
    pub(crate) async fn start(scratch: &Path, redis: &RedisServer, flags: &[&str]) -> anyhow::Result<Self> {
        redis.clear().await?;
        let folder = Folder::make(scratch, "dispatcher")?;
        let (locations, address_file) = (folder.0.join("locations.toml"), folder.0.join("address"));
        fs::write(&locations, locations_file(&folder.0)?)?;
        let program = std::env::current_exe()?.with_file_name("backhaul-dispatcher");
        ensure!(program.is_file(), "there is no {}: run `make bench-queue`", program.display());
        let mut command = Command::new(program);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BACKHAUL_"))
        {
            command.env_remove(name);
        }
        command.args(["--listen", "127.0.0.1:0", "--redis-url", &redis.url(), "--log", "warn"]);
        command.args(["--durability", redis.durability.promise(), "--insecure"]);
        // A barrier that a busy disk keeps waiting is waited for: repeats would be no new tasks.
        command.args(["--durability-timeout", "60s"]);
        // Every task of the benchmark is one tenant's: no bound may be what is measured.
        command.args(["--calls-per-second", "4000000000", "--tenant-in-flight-cap", "1000000"]);
        command.args(["--shard-cap", "100000000", "--tenant-cap", "100000000"]);
        command.args(flags);
        command.arg("--locations").arg(&locations).arg("--address-file").arg(&address_file);
        let mut process = Process::start("backhaul-dispatcher", &mut command, &folder.0)?;
        let deadline = Instant::now() + START;
        let address = loop {
            let text = fs::read_to_string(&address_file).unwrap_or_default();
            if !text.trim().is_empty() {
                break text.trim().to_owned();
            }
            process.ensure_running(&folder.0)?;
            ensure!(Instant::now() < deadline, "the dispatcher does not serve");
            sleep(Duration::from_millis(20)).await;
        };
        Ok(Self { address, process, _folder: folder })
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?.tcp_nodelay(true);
        let endpoint = endpoint.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
        Ok(endpoint.connect().await?)
    }

    /// User and system time and resident memory so far, where the kernel tells them: seconds, MiB.
    pub(crate) fn usage(&self) -> Option<(f64, f64)> {
        let folder = PathBuf::from(format!("/proc/{}", self.process.child.id()));
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let ticks: Vec<f64> = stat
            .rsplit(')')
            .next()?
            .split_whitespace()
            .skip(11)
            .take(2)
            .map_while(|t| t.parse().ok())
            .collect();
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = resident.trim().trim_end_matches(" kB").parse().ok()?;
        Some((ticks.iter().sum::<f64>() / 100.0, kib / 1024.0))
    }
}

impl Process {
    fn start(name: &'static str, command: &mut Command, folder: &Path) -> anyhow::Result<Self> {
        let log = fs::File::create(folder.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    fn ensure_running(&mut self, folder: &Path) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            bail!("{} ended with {status}:\n{log}", self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Below the range that the system takes client ports from, so that no connection of ours takes it before the server does.
fn free_port() -> anyhow::Result<u16> {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..100).map(|_| fastrand::u16(10_100..=21_900)).find(free).context("no free port")
}

/// One origin that may be read by everybody. No store is ever called: the workers of the benchmark copy nothing.
fn locations_file(folder: &Path) -> anyhow::Result<String> {
    let credentials = folder.join("credentials");
    fs::write(&credentials, "none\nnone\n")?;
    let store = |name: &str| {
        format!(
            "[location.{name}]\nendpoint = \"http://127.0.0.1:9\"\nregion = \"us-east-1\"\npath_style = true\n\
             credentials = {{ file = {credentials:?} }}\n\n"
        )
    };
    let origin = store(super::submit::LOCATION);
    let rules = format!(
        "[[location.{0}.read]]\nbucket = {1:?}\ntenants = [\"*\"]\n\n\
         [location.{0}.backup]\nlocation = \"vault\"\nbucket = \"backups\"\n\n",
        super::submit::LOCATION,
        super::submit::BUCKET,
    );
    Ok(origin + &rules + &store("vault"))
}
