//! `make bench-transfer`: copies from one S3 server to another, beside rclone and s5cmd and what the servers allow, in one run.
//!
//! It measures and reports, and never judges: no figure makes it fail. Everything runs on this machine's loopback, is bounded in count,
//! and ends with the program. Rounds of all tools are interleaved, so that a busy minute of the machine is everybody's.

mod case;
mod engine;
mod path;
mod peers;
mod report;
mod stores;
mod usage;

use std::{
    fs,
    io::{Write as _, stdout},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use serde_json::json;
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use self::{
    case::{Case, cases},
    path::Backhaul,
    peers::Peers,
    report::{Report, Tool},
    stores::Stores,
};

/// Measures copies from one S3 server to another.
#[derive(Debug, Parser)]
struct Args {
    /// Fewer and smaller objects, one round.
    #[arg(long)]
    quick: bool,
    /// Times that each tool copies each case; one when it is to be quick.
    #[arg(long, default_value = "3")]
    rounds: NonZeroUsize,
    /// Only cases whose name begins with this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only these tools; all when none is named.
    #[arg(long, value_delimiter = ',')]
    tools: Vec<String>,
    #[command(subcommand)]
    child: Option<Child>,
}

/// What this program does as a child of itself, to be measured.
#[derive(Debug, Subcommand)]
enum Child {
    /// Copies with Backhaul's engine.
    Engine { locations: PathBuf, case: String },
    /// Sends bare requests.
    Bound { locations: PathBuf, case: String },
}

/// What a run is made of.
struct Run {
    args: Args,
    cases: [Case; 4],
    folder: PathBuf,
    peers: Peers,
    stores: Stores,
    report: Report,
}

/// Ends in order on a signal as well: the servers end when what owns them is dropped.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run(Args::parse()) => done,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).and_then(|()| bail!("interrupted")),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let cases = cases(args.quick);
    let named = |name: &str| cases.iter().find(|case| case.name == name).context("no such case");
    match &args.child {
        Some(Child::Engine { locations, case }) => engine::copy(locations, named(case)?).await,
        Some(Child::Bound { locations, case }) => engine::bound(locations, named(case)?).await,
        None => measure(args, cases).await,
    }
}

async fn measure(args: Args, cases: [Case; 4]) -> anyhow::Result<()> {
    let target = target_folder()?;
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    let peers = Peers::find(&target);
    for (name, found) in [("rclone", &peers.rclone), ("s5cmd", &peers.s5cmd)] {
        if found.is_none() {
            say(&format!("{name} is not installed: it will not be measured"))?;
        }
    }
    say("writing the objects ...")?;
    let wanted: Vec<Case> = cases.iter().filter(|case| case.name.starts_with(&args.only)).copied().collect();
    let stores = Stores::start(&wanted).await?;
    let mut run = Run { args, cases, folder, peers, stores, report: Report::default() };
    let rounds = if run.args.quick { 1 } else { run.args.rounds.get() };
    for round in 0..rounds {
        run.round(round).await?;
    }
    say(&run.report.table(&run.cases))?;
    let path = run.folder.join("transfer.json");
    let conditions = json!({
        "quick": run.args.quick,
        "cpus": std::thread::available_parallelism()?.get(),
        "rounds": rounds,
        "rclone": version(run.peers.rclone.as_deref(), "version").await,
        "s5cmd": version(run.peers.s5cmd.as_deref(), "version").await,
        "cases": run.cases.map(|c| json!({ "case": c.name, "count": c.count, "size_bytes": c.size_bytes, "at_once": c.at_once })),
    });
    run.report.write(&path, &run.cases, &conditions)?;
    say(&format!("written to {}", path.display()))
}

impl Run {
    /// Every tool once on every case; who begins changes.
    async fn round(&mut self, round: usize) -> anyhow::Result<()> {
        let mut tools = [Tool::Bound, Tool::Rclone, Tool::Engine, Tool::S5cmd, Tool::Path];
        let first = round % tools.len();
        tools.rotate_left(first);
        for number in 0..self.cases.len() {
            let case = self.cases[number];
            if !case.name.starts_with(&self.args.only) {
                continue;
            }
            for tool in tools {
                let is_wanted =
                    self.args.tools.is_empty() || self.args.tools.iter().any(|t| t == tool.name());
                if is_wanted {
                    self.one(number, tool)
                        .await
                        .with_context(|| format!("{}, {}", case.name, tool.name()))?;
                }
            }
        }
        Ok(())
    }

    async fn one(&mut self, number: usize, tool: Tool) -> anyhow::Result<()> {
        let case = self.cases[number];
        let scratch = tempfile::tempdir_in(&self.folder)?;
        let locations = self.stores.locations(scratch.path(), &self.cases, case.inside)?;
        let command = match tool {
            Tool::Engine | Tool::Bound => Some(self.own(tool.name(), &locations, &case)?),
            Tool::Rclone => self.peers.rclone.as_deref().map(|p| peers::rclone(p, &self.stores, &case)),
            Tool::S5cmd if !case.inside => None,
            Tool::S5cmd => self.peers.s5cmd.as_deref().map(|p| peers::s5cmd(p, &self.stores, &case)),
            Tool::Path => None,
        };
        if command.is_none() && tool != Tool::Path {
            return Ok(());
        }
        self.stores.empty_vault(&case).await?;
        let stores_before = self.stores.cpu_s()?;
        let mut usage = match command {
            Some(mut command) => usage::of(&mut command, &scratch.path().join("log")).await?,
            None => self.path(number, scratch.path(), &locations).await?,
        };
        usage.stores_cpu_s = self.stores.cpu_s()? - stores_before;
        let copied = self.stores.copied(&case).await?;
        // The path copies one object more, to be warm.
        anyhow::ensure!(copied >= case.count, "{copied} of {} objects were copied", case.count);
        self.stores.drop_vault(&case).await?;
        say(&format!(
            "{:<12}{:<8}{:>8.2} s{:>8.2} CPU s{:>7.0} MiB{:>8.2} CPU s of the stores",
            case.name,
            tool.name(),
            usage.wall_s,
            usage.cpu_s,
            usage.peak_mib,
            usage.stores_cpu_s
        ))?;
        self.report.add(number, tool, usage);
        Ok(())
    }

    async fn path(
        &mut self,
        number: usize,
        scratch: &Path,
        locations: &Path,
    ) -> anyhow::Result<usage::Usage> {
        const IDLE: Duration = Duration::from_secs(10);
        let case = self.cases[number];
        let mut backhaul = Backhaul::start(scratch, locations).await?;
        if number == 0 && !self.args.quick {
            self.report.set_idle(backhaul.idle(IDLE).await?);
        }
        let usage = backhaul.copy(&case).await?;
        self.report.add_beside(number, usage.dispatcher_cpu_s, usage.redis_cpu_s);
        Ok(usage.worker)
    }

    /// This program as a child.
    fn own(&self, what: &str, locations: &Path, case: &Case) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        if self.args.quick {
            command.arg("--quick");
        }
        command.arg(what).arg(locations).arg(case.name);
        Ok(command)
    }
}

/// Where cargo has put this program: `target`, for `target/release/backhaul-bench-transfer`.
fn target_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent);
    Ok(target.context("this program is not where cargo puts programs")?.to_owned())
}

async fn version(program: Option<&Path>, argument: &str) -> Option<String> {
    let output = Command::new(program?).arg(argument).output().await.ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(ToOwned::to_owned)
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(stdout(), "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A benchmark is run by hand, once in a while: that everything in it still starts and copies must be seen before.
    #[tokio::test(flavor = "multi_thread")]
    async fn each_of_our_own_copies_a_little() {
        let few = cases(true).map(|case| Case { count: 2, size_bytes: 16 << 10, ..case });
        let stores = Stores::start(&few).await.unwrap();
        for case in few.iter().filter(|case| case.name.starts_with('s')) {
            let folder = tempfile::tempdir().unwrap();
            let locations = stores.locations(folder.path(), &few, case.inside).unwrap();
            for tool in [Tool::Bound, Tool::Engine, Tool::Path] {
                stores.empty_vault(case).await.unwrap();
                match tool {
                    Tool::Bound => engine::bound(&locations, case).await.unwrap(),
                    Tool::Engine => engine::copy(&locations, case).await.unwrap(),
                    Tool::Path | Tool::Rclone | Tool::S5cmd => {
                        let mut backhaul = Backhaul::start(folder.path(), &locations).await.unwrap();
                        backhaul.copy(case).await.unwrap();
                    }
                }
                assert!(stores.copied(case).await.unwrap() >= case.count, "{}: {}", case.name, tool.name());
                stores.drop_vault(case).await.unwrap();
            }
        }
    }
}
