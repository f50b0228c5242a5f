//! Figures: how they are told, and what the kernel knows of a process.

use std::{
    fs,
    io::{Write as _, stdout},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use backhaul_tests::settings;
use serde_json::{Map, Value, json};

/// What was measured so far: shown at once, written at the end.
#[derive(Debug, Default)]
pub(crate) struct Report(Map<String, Value>);

/// Times of one kind, in order.
#[derive(Debug)]
pub(crate) struct Times(Vec<Duration>);

impl Report {
    /// Shows a figure and keeps it.
    pub(crate) fn add(&mut self, name: &str, text: &str, value: Value) -> anyhow::Result<()> {
        writeln!(stdout(), "{text}")?;
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// Writes all of them to `target/bench/stream.json`.
    pub(crate) fn write(mut self, quick: bool) -> anyhow::Result<()> {
        self.0.insert("quick".to_owned(), quick.into());
        self.0.insert("cpus".to_owned(), std::thread::available_parallelism()?.get().into());
        let folder = settings::profile_folder()?.parent().map_or_else(PathBuf::new, |f| f.join("bench"));
        fs::create_dir_all(&folder)?;
        let path = folder.join("stream.json");
        fs::write(&path, serde_json::to_string_pretty(&self.0)?)?;
        writeln!(stdout(), "written to {}", path.display())?;
        Ok(())
    }
}

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, percent: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * percent / 100).copied().unwrap_or_default()
    }

    /// For people.
    pub(crate) fn show(&self) -> String {
        let [median, p99, longest] = [50, 99, 100].map(|percent| self.at(percent));
        format!("median {median:.2?}, p99 {p99:.2?}, longest {longest:.2?} ({} times)", self.0.len())
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let ms = |percent| self.at(percent).as_secs_f64() * 1e3;
        json!({ "count": self.0.len(), "p50_ms": ms(50), "p99_ms": ms(99), "longest_ms": ms(100) })
    }
}

/// User and system time of a process so far, in seconds.
pub(crate) fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    /// The kernel counts in hundredths of a second.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().context("stat")?.split_whitespace();
    let ticks: Result<Vec<f64>, _> = fields.skip(11).take(2).map(str::parse).collect();
    Ok(ticks?.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// Bytes in MiB.
#[expect(clippy::cast_precision_loss, reason = "a figure with one digit behind the point")]
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
