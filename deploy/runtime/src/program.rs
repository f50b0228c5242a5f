//! The frame of every long-running program: logs, runtime, signals, what is told when it fails, exit codes.
//!
//! It exists so that each `main` says only what is special about its program. Knows nothing of what a program does.

use std::{fmt, future::Future, process::ExitCode, time::Duration};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{
    EXIT_USAGE,
    shutdown::run_until_signal,
    telemetry::{self, LogArgs},
};

/// How long threads that wait for the system (name lookups, files) may hold up an exit.
const THREADS_WITHIN: Duration = Duration::from_secs(1);

/// A program, by its name.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    name: &'static str,
}

/// How a program failed.
#[derive(Debug)]
pub enum Failure {
    /// Somebody must change a setting before another start can work: one line for each.
    Usage(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl Program {
    /// The program of that name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name }
    }

    /// Prints the help or version that was asked for.
    #[must_use]
    pub fn help(self, help: &clap::Error) -> ExitCode {
        if help.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Tells what is wrong with the settings, one problem a line.
    #[must_use]
    pub fn usage(self, problems: impl fmt::Display) -> ExitCode {
        self.tell(problems);
        ExitCode::from(EXIT_USAGE)
    }

    /// Tells why a command failed that a person has given and waits for.
    #[must_use]
    pub fn failed(self, error: &anyhow::Error) -> ExitCode {
        self.tell(format_args!("{error:#}"));
        ExitCode::FAILURE
    }

    /// Runs `work` with logs until it ends. Its token is cancelled by the first SIGTERM or SIGINT; the second ends the process.
    pub fn run<W, F>(self, log: &LogArgs, work: W) -> ExitCode
    where
        W: FnOnce(CancellationToken) -> F,
        F: Future<Output = Result<(), Failure>>,
    {
        match run(log, self.name, work) {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Usage(problems)) => self.usage(problems),
            Err(Failure::Other(error)) => {
                tracing::error!(error = format!("{error:#}"), "{} failed", self.name);
                ExitCode::FAILURE
            }
        }
    }

    fn tell(self, text: impl fmt::Display) {
        #[expect(
            clippy::print_stderr,
            reason = "logs are not set up, or not what a person who starts this looks at"
        )]
        for line in text.to_string().lines() {
            eprintln!("{}: {line}", self.name);
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

fn run<W, F>(log: &LogArgs, name: &'static str, work: W) -> Result<(), Failure>
where
    W: FnOnce(CancellationToken) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let entered = runtime.enter();
    let telemetry = telemetry::init(log, name).map_err(|error| Failure::Usage(error.to_string()))?;
    drop(entered);
    let ended =
        runtime.block_on(telemetry.during(run_until_signal(work))).context("cannot listen for signals");
    telemetry.flush();
    // A name server that does not answer must not keep a program that is done.
    runtime.shutdown_timeout(THREADS_WITHIN);
    ended?
}
