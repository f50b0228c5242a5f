//! Logs and traces: one subscriber. Logs go to standard error, as text for people or JSON lines for machines.
//!
//! What is logged can be changed while the program runs: by a file, which takes nothing but the right to write it. Must not decide what is
//! logged: that is each call's level, and the filter's.

mod escape;

use std::{
    convert::Infallible,
    fmt,
    future::{Future, pending},
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use tokio::{fs::File, io::AsyncReadExt as _, time::sleep};
use tracing::{info, warn};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use self::escape::{JsonLines, OneLine};
use crate::trace::{Exporter, TraceArgs};

/// How often the filter's file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Most bytes of it.
const MOST_FILTER_BYTES: u64 = 4096;

/// The log and trace settings that all programs share.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to log: a level (error, warn, info, debug, trace), or levels by module such as `info,backhaul_worker=debug`.
    #[arg(long, env = "BACKHAUL_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// File with a filter that replaces `--log` as long as it is there and not empty. Looked at every 2 seconds, so that what is logged
    /// can be changed while the program runs.
    #[arg(long, env = "BACKHAUL_LOG_FILTER_FILE", value_name = "PATH")]
    pub log_filter_file: Option<PathBuf>,
    /// How to write logs.
    #[arg(long, env = "BACKHAUL_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Traces.
    #[command(flatten)]
    pub traces: TraceArgs,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be understood.
    #[error("--log: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Traces cannot be sent there.
    #[error("--otlp-endpoint: {0}")]
    Traces(String),
    /// A subscriber is there already.
    #[error("logging is already set up")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

/// Logs and traces of a process, set up.
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    base: String,
    file: Option<PathBuf>,
    exporter: Option<Exporter>,
}

impl LogArgs {
    /// Text by `filter`, no traces.
    #[must_use]
    pub fn text(filter: &str) -> Self {
        Self {
            log: filter.to_owned(),
            log_filter_file: None,
            log_format: LogFormat::Text,
            traces: TraceArgs::none(),
        }
    }
}

/// Sets up logs and traces for the whole process, the program `name`. To be called inside the runtime.
///
/// # Errors
/// [`TelemetryError`]; nothing is set up then.
pub fn init(args: &LogArgs, name: &'static str) -> Result<Telemetry, TelemetryError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&args.log)?);
    let exporter = Exporter::new(&args.traces, name).map_err(TelemetryError::Traces)?;
    let logs = tracing_subscriber::fmt::layer();
    let logs = match args.log_format {
        LogFormat::Text => {
            let logs = logs.fmt_fields(OneLine).with_writer(std::io::stderr);
            logs.with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => logs.json().flatten_event(true).with_writer(JsonLines).boxed(),
    };
    let traces = exporter.as_ref().map(Exporter::layer);
    tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).try_init()?;
    Ok(Telemetry { filter: handle, base: args.log.clone(), file: args.log_filter_file.clone(), exporter })
}

impl Telemetry {
    /// Runs `work`, and meanwhile follows the filter's file.
    pub async fn during<F: Future>(&self, work: F) -> F::Output {
        tokio::select! {
            done = work => done,
            never = self.follow() => match never {},
        }
    }

    /// Sends the traces that were not sent yet. Blocks for some seconds at most; the runtime must still be there.
    pub fn flush(&self) {
        if let Some(exporter) = &self.exporter {
            exporter.flush();
        }
    }

    async fn follow(&self) -> Infallible {
        let Some(file) = &self.file else { return pending().await };
        let mut filters = Filters::new(&self.base);
        loop {
            if let Some(wanted) = filters.next(read(file).await) {
                match EnvFilter::try_new(&wanted) {
                    Ok(filter) => {
                        if self.filter.reload(filter).is_ok() {
                            info!(filter = wanted, "logging by another filter");
                        }
                    }
                    Err(error) => warn!(filter = wanted, %error, "the filter's file is not understood"),
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Which filter is wanted, and which was tried last, so that each is tried once.
#[derive(Debug)]
struct Filters<'b> {
    base: &'b str,
    last: String,
}

impl<'b> Filters<'b> {
    fn new(base: &'b str) -> Self {
        Self { base, last: base.to_owned() }
    }

    /// The filter to change to, if what the file holds now asks for another.
    fn next(&mut self, held: Option<String>) -> Option<String> {
        let held = held.unwrap_or_default();
        let wanted = if held.trim().is_empty() { self.base } else { held.trim() };
        if wanted == self.last {
            return None;
        }
        wanted.clone_into(&mut self.last);
        Some(self.last.clone())
    }
}

/// What the file holds; `None` when there is none, or it is no filter by its size.
async fn read(path: &Path) -> Option<String> {
    let file = File::open(path).await.ok()?;
    let mut text = String::new();
    file.take(MOST_FILTER_BYTES + 1).read_to_string(&mut text).await.ok()?;
    (text.len() as u64 <= MOST_FILTER_BYTES).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_tried_once_and_the_settings_come_back_with_the_file_gone() {
        let mut filters = Filters::new("info");
        let held = |text: &str| Some(text.to_owned());
        assert_eq!(filters.next(None), None);
        assert_eq!(filters.next(held("debug\n")).as_deref(), Some("debug"));
        assert_eq!(filters.next(held(" debug")), None);
        assert_eq!(filters.next(held("no=such=filter")).as_deref(), Some("no=such=filter"));
        assert_eq!(filters.next(held("no=such=filter")), None);
        assert_eq!(filters.next(held(" \n")).as_deref(), Some("info"));
        assert_eq!(filters.next(None), None);
    }

    #[tokio::test]
    async fn a_file_of_any_size_is_not_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("filter");
        assert_eq!(read(&path).await, None);
        std::fs::write(&path, "warn").unwrap();
        assert_eq!(read(&path).await.as_deref(), Some("warn"));
        std::fs::write(&path, "w".repeat(5000)).unwrap();
        assert_eq!(read(&path).await, None);
    }
}
