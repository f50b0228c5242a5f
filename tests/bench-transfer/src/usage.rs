//! What a process costs: time on the clock, time on the processors, and the most memory that it had.
//!
//! From what the kernel keeps in `/proc`, because it is the same for every program that is compared here.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    process::Command,
    time::{Instant, interval},
};

/// How often the memory of a child is looked at. Its high-water mark only grows, so little is missed.
const SAMPLE: Duration = Duration::from_millis(10);
/// The kernel counts processor time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// What something cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) peak_mib: f64,
    /// What the stores took of the processors meanwhile: where it is most of the time on the clock, no client can be faster.
    pub(crate) stores_cpu_s: f64,
}

/// Runs a program to its end. What it writes goes to `log`.
pub(crate) async fn of(command: &mut Command, log: &Path) -> anyhow::Result<Usage> {
    let file = fs::File::create(log)?;
    command.stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
    let cpu_before = cpu_of_ended_children()?;
    let begin = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.as_std()))?;
    let id = child.id().context("the process has no id")?;
    let mut sample = interval(SAMPLE);
    let mut peak_mib = 0.0;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = sample.tick() => peak_mib = peak_mib_of(id).unwrap_or(peak_mib),
        }
    };
    let wall_s = begin.elapsed().as_secs_f64();
    let said = || fs::read_to_string(log).unwrap_or_default();
    ensure!(status.success(), "{:?} ended with {status}:\n{}", command.as_std(), said());
    Ok(Usage { wall_s, cpu_s: cpu_of_ended_children()? - cpu_before, peak_mib, stores_cpu_s: 0.0 })
}

/// User and system time of a process so far, in seconds.
pub(crate) fn cpu_s_of(id: u32) -> anyhow::Result<f64> {
    ticks(&format!("/proc/{id}/stat"), 11)
}

/// The most memory that a process has had so far, in MiB.
pub(crate) fn peak_mib_of(id: u32) -> anyhow::Result<f64> {
    status_mib(id, "VmHWM:")
}

/// The memory that a process has now, in MiB.
pub(crate) fn resident_mib_of(id: u32) -> anyhow::Result<f64> {
    status_mib(id, "VmRSS:")
}

/// User and system time of all children that have been waited for.
fn cpu_of_ended_children() -> anyhow::Result<f64> {
    ticks("/proc/self/stat", 13)
}

/// Two fields of a `stat`, counted from the one behind the name, which may hold blanks.
fn ticks(path: &str, first: usize) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(path)?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<f64> = fields.skip(first).take(2).map(str::parse).collect::<Result<_, _>>()?;
    ensure!(ticks.len() == 2, "{path} has too few fields");
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn status_mib(id: u32, field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_works_is_charged_and_one_that_fails_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("log");
        let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let usage = of(Command::new("sh").args(["-c", work]), &log).await.expect("it ends well");
        assert!(usage.cpu_s > 0.0 && usage.wall_s > 0.0 && usage.peak_mib > 0.1, "{usage:?}");
        let failed = of(Command::new("sh").args(["-c", "echo why; exit 3"]), &log).await;
        assert!(failed.expect_err("it fails").to_string().contains("why"));
    }
}
