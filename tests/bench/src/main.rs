//! `make bench-queue`: Backhaul's queue end to end beside BullMQ and raw Redis, in one run on the same servers.
//!
//! It measures and reports, and never judges: no figure makes it fail. Everything runs on this machine's loopback, is bounded in
//! count, and ends with the program. It must not reach into the services: it sees what their callers and workers see.

mod backhaul;
mod bullmq;
mod raw;
mod report;
mod servers;
mod submit;
mod watch;
mod workers;

use std::{
    fs,
    io::{Write as _, stdout},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    backhaul::Place,
    bullmq::BullMq,
    report::{Columns, Figures, Rounds},
    servers::{Durability, RedisServer},
};

/// Memory that ten million pending tasks may take of the machine, with room for everything else.
const ROOM_FOR_TEN_MILLION_KIB: u64 = 10 << 20;

/// How much of everything is measured.
#[derive(Debug, Clone, Copy)]
struct Counts {
    /// Turns of everything whose rate is compared; the median counts.
    rounds: u32,
    scripts: u64,
    bulk: u64,
    single: u64,
    latency: u64,
    waiting: u64,
    pending: u64,
}

impl Counts {
    fn of(is_quick: bool) -> Self {
        if is_quick {
            let (rounds, pending) = (1, 1_000_000);
            Self {
                rounds,
                scripts: 200_000,
                bulk: 20_000,
                single: 5_000,
                latency: 1_000,
                waiting: 50_000,
                pending,
            }
        } else {
            let pending = if has_room() { 10_000_000 } else { 1_000_000 };
            Self {
                rounds: 3,
                scripts: 400_000,
                bulk: 100_000,
                single: 30_000,
                latency: 1_000,
                waiting: 300_000,
                pending,
            }
        }
    }

    /// Where each answer waits for a disk or another server: enough to see a rate, and no hour of it.
    const fn with(self, durability: Durability) -> Self {
        let Self { scripts, bulk, single, latency, .. } = self;
        match durability {
            Durability::Nothing | Durability::EverySecond | Durability::Replica => self,
            Durability::Always => Self {
                scripts: scripts / 4,
                bulk: bulk / 4,
                single: single / 10,
                latency: latency / 5,
                ..self
            },
            // A call of one waits for most of a second.
            Durability::Barrier => {
                Self { scripts: scripts / 4, bulk: bulk / 4, single: 500, latency: 20, ..self }
            }
        }
    }
}

/// Ends in order on a signal as well: the servers end when what owns them is dropped.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run() => done,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).and_then(|()| bail!("interrupted")),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn run() -> anyhow::Result<()> {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    // To look at one part again; only a whole run is written down.
    let only = std::env::args().skip_while(|argument| argument != "--only").nth(1);
    let is_wanted = |part| only.as_deref().is_none_or(|only| only == part);
    let counts = Counts::of(is_quick);
    let target = target_folder()?;
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    let bullmq = BullMq::find(&target);
    if bullmq.is_none() {
        say("BullMQ is not installed (it needs node and npm): its column stays empty")?;
    }
    let servers = Servers::find(&target);
    let mut modes = Vec::new();
    let durabilities = [
        Durability::EverySecond,
        Durability::Nothing,
        Durability::Always,
        Durability::Barrier,
        Durability::Replica,
    ];
    for durability in durabilities.into_iter().filter(|durability| is_wanted(durability.name())) {
        let name = durability.name();
        let Some(binary) = servers.with(durability) else {
            say(&format!("AOF {name}: not measured, it needs Redis 7.2 or newer (tests/setup/redis8.sh)"))?;
            continue;
        };
        say(&format!("measuring rates, AOF {name} ..."))?;
        let columns = rates(&folder, binary, durability, bullmq.as_ref(), counts.with(durability)).await?;
        let heading = format!("\nAOF {name} (Backhaul and BullMQ on the same redis-server)");
        say(&columns.table(&heading))?;
        modes.push((name, columns));
    }
    let mut once = Columns::default();
    if is_wanted("variants") {
        say("measuring what watchers and shards cost ...")?;
        once = variants(&folder, &servers.usual, counts).await?;
        say(&once.table("\nWatchers and shards, AOF none"))?;
    }
    if is_wanted("sizes") {
        say(&format!("measuring memory, and dispatch with {} pending ...", counts.pending))?;
        let sizes = sizes(&folder, &servers.usual, bullmq.as_ref(), counts).await?;
        say(&sizes.table("\nMany tasks, AOF none"))?;
        once.backhaul.extend(sizes.backhaul);
        once.bullmq.extend(sizes.bullmq);
        once.ratios.extend(sizes.ratios);
    }
    if only.is_some() {
        return Ok(());
    }
    let conditions = json!({
        "quick": is_quick,
        "rounds": counts.rounds,
        "cpus": std::thread::available_parallelism()?.get(),
        "pending": counts.pending,
        "bulk": counts.bulk,
        "single": counts.single,
        "spec_bytes": 200,
    });
    let path = folder.join("queue.json");
    report::write(&path, &conditions, &modes, &once)?;
    say(&format!("written to {}", path.display()))
}

/// Redis servers to measure on.
#[derive(Debug)]
struct Servers {
    /// The system's own.
    usual: PathBuf,
    /// One with `WAITAOF`, where there is one.
    newer: Option<PathBuf>,
}

impl Servers {
    fn find(target: &Path) -> Self {
        let usual =
            std::env::var_os("BACKHAUL_TEST_REDIS").map_or_else(|| "redis-server".into(), PathBuf::from);
        let installed = target.join("tools/bin/redis-server-8");
        let newer = std::env::var_os("BACKHAUL_TEST_REDIS_8").map_or(installed, PathBuf::from);
        Self { usual, newer: Some(newer).filter(|path| path.is_file()) }
    }

    fn with(&self, durability: Durability) -> Option<&Path> {
        if durability == Durability::Barrier { self.newer.as_deref() } else { Some(&self.usual) }
    }
}

/// Everything that depends on the durability, all sides in turns.
async fn rates(
    scratch: &Path,
    binary: &Path,
    durability: Durability,
    bullmq: Option<&BullMq>,
    counts: Counts,
) -> anyhow::Result<Columns> {
    let redis = RedisServer::start(scratch, binary, durability).await?;
    let place = Place { scratch, redis: &redis };
    let mut rounds = Rounds::default();
    for _ in 0..counts.rounds {
        let scripts = raw::scripts_per_second(&redis, counts.scripts).await.context("raw Redis")?;
        rounds.redis.push([("script_pipelined_per_s".to_owned(), scripts)].into());
        if let Some(bullmq) = bullmq {
            rounds.bullmq.push(bullmq.rates(&redis, counts.bulk, counts.single).await.context("BullMQ")?);
        }
        rounds.backhaul.push(place.rates(counts.bulk, counts.single).await.context("Backhaul")?);
    }
    let mut columns = rounds.columns();
    columns.backhaul.extend(place.latency(counts.latency).await.context("Backhaul, one task at a time")?);
    Ok(columns)
}

/// What is compared with nothing but Backhaul itself, in turns.
async fn variants(scratch: &Path, binary: &Path, counts: Counts) -> anyhow::Result<Columns> {
    let redis = RedisServer::start(scratch, binary, Durability::Nothing).await?;
    let place = Place { scratch, redis: &redis };
    let mut rounds = Rounds::default();
    for _ in 0..counts.rounds {
        let mut figures = place.watched(counts.bulk).await.context("watched")?;
        figures.extend(place.shards(counts.bulk).await.context("shards")?);
        rounds.backhaul.push(figures);
    }
    Ok(rounds.columns())
}

/// What depends on how much is stored, and not on when it reaches the disk.
async fn sizes(
    scratch: &Path,
    binary: &Path,
    bullmq: Option<&BullMq>,
    counts: Counts,
) -> anyhow::Result<Columns> {
    let bytes = |bytes: f64| vec![Figures::from([("bytes_per_pending_task".to_owned(), bytes)])];
    let redis = RedisServer::start(scratch, binary, Durability::Nothing).await?;
    let mut rounds = Rounds::default();
    if let Some(bullmq) = bullmq {
        rounds.bullmq = bytes(bullmq.bytes_per_job(&redis, counts.waiting).await?);
    }
    let place = Place { scratch, redis: &redis };
    rounds.backhaul = bytes(place.bytes_per_task(counts.waiting).await?);
    let mut columns = rounds.columns();
    let small = RedisServer::start(scratch, binary, Durability::Nothing).await?;
    columns.backhaul.extend(place.dispatch(&small, counts.pending).await?);
    Ok(columns)
}

/// Where cargo has put this program: `target`, for `target/release/backhaul-bench`.
fn target_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent);
    Ok(target.context("this program is not where cargo puts programs")?.to_owned())
}

fn has_room() -> bool {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or_default();
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
    kib >= ROOM_FOR_TEN_MILLION_KIB
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(stdout(), "{text}")?)
}
