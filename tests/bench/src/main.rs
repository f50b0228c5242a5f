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
    report::Columns,
    servers::{Durability, RedisServer},
};

/// Memory that ten million pending tasks may take of the machine, with room for everything else.
const ROOM_FOR_TEN_MILLION_KIB: u64 = 10 << 20;

/// How much of everything is measured.
#[derive(Debug, Clone, Copy)]
struct Counts {
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
            let pending = 1_000_000;
            Self { scripts: 200_000, bulk: 20_000, single: 5_000, latency: 1_000, waiting: 50_000, pending }
        } else {
            let pending = if has_room() { 10_000_000 } else { 1_000_000 };
            Self {
                scripts: 1_000_000,
                bulk: 300_000,
                single: 100_000,
                latency: 1_000,
                waiting: 300_000,
                pending,
            }
        }
    }

    /// Where each answer waits for the disk: enough to see a rate, and no hour of it.
    const fn with_slow_writes(self) -> Self {
        let Self { scripts, bulk, single, latency, .. } = self;
        Self { scripts: scripts / 5, bulk: bulk / 5, single: single / 10, latency: latency / 5, ..self }
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
    let counts = Counts::of(is_quick);
    let target = target_folder()?;
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    let bullmq = BullMq::find(&target);
    if bullmq.is_none() {
        say("BullMQ is not installed (it needs node and npm): its column stays empty")?;
    }
    let mut modes = Vec::new();
    for durability in [Durability::EverySecond, Durability::Nothing, Durability::Always] {
        say(&format!("measuring rates, appendfsync {} ...", durability.name()))?;
        let counts = if durability == Durability::Always { counts.with_slow_writes() } else { counts };
        let columns = rates(&folder, durability, bullmq.as_ref(), counts).await?;
        let heading = format!("\nAOF {} (Backhaul and BullMQ on the same redis-server)", durability.name());
        say(&columns.table(&heading))?;
        modes.push((durability.name(), columns));
    }
    say(&format!("measuring memory, and dispatch with {} pending ...", counts.pending))?;
    let once = sizes(&folder, bullmq.as_ref(), counts).await?;
    say(&once.table("\nOnce, AOF none"))?;
    let conditions = json!({
        "quick": is_quick,
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

/// Everything that depends on the durability.
async fn rates(
    scratch: &Path,
    durability: Durability,
    bullmq: Option<&BullMq>,
    counts: Counts,
) -> anyhow::Result<Columns> {
    let redis = RedisServer::start(scratch, durability).await?;
    let mut columns = Columns::default();
    let scripts = raw::scripts_per_second(&redis, counts.scripts).await.context("raw Redis")?;
    columns.redis.insert("script_pipelined_per_s".into(), scripts);
    if let Some(bullmq) = bullmq {
        columns.bullmq = bullmq.rates(&redis, counts.bulk, counts.single).await.context("BullMQ")?;
    }
    let place = Place { scratch, redis: &redis };
    columns.backhaul = place.rates(counts.bulk, counts.single).await.context("Backhaul")?;
    columns.backhaul.extend(place.latency(counts.latency).await.context("Backhaul, one task at a time")?);
    Ok(columns)
}

/// What depends on how much is stored, and not on when it reaches the disk.
async fn sizes(scratch: &Path, bullmq: Option<&BullMq>, counts: Counts) -> anyhow::Result<Columns> {
    const BYTES: &str = "bytes_per_pending_task";
    let redis = RedisServer::start(scratch, Durability::Nothing).await?;
    let mut columns = Columns::default();
    if let Some(bullmq) = bullmq {
        columns.bullmq.insert(BYTES.into(), bullmq.bytes_per_job(&redis, counts.waiting).await?);
    }
    let place = Place { scratch, redis: &redis };
    columns.backhaul.insert(BYTES.into(), place.bytes_per_task(counts.waiting).await?);
    columns.backhaul.extend(place.dispatch(counts.pending).await?);
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
