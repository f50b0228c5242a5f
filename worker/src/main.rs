//! The worker's program: settings, logs, signals, exit codes. Everything else is the library's.
//!
//! Exit codes: 0 after a clean drain, 64 when a setting is wrong (one line for each on standard error), 1 when anything else
//! failed, 130 and 143 after a second signal.

use std::process::ExitCode;

use anyhow::Context as _;
use backhaul_runtime::{EXIT_USAGE, shutdown::run_until_signal, telemetry};
use backhaul_worker::{
    app::{self, AppError},
    config::Args,
};
use clap::Parser as _;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(help) if !help.use_stderr() => {
            return if help.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(error) => return usage(&error.to_string()),
    };
    match run(args) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if error.is_usage() => usage(&error.to_string()),
        Ok(Err(error)) => failed(&error.into()),
        Err(error) => failed(&error),
    }
}

fn run(args: Args) -> anyhow::Result<Result<(), AppError>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let entered = runtime.enter();
    let telemetry = match telemetry::init(&args.log, "backhaul-worker") {
        Ok(telemetry) => telemetry,
        Err(error) => return Ok(Err(error.into())),
    };
    drop(entered);
    let ended = runtime
        .block_on(run_until_signal(|stop| Box::pin(telemetry.during(app::run(args, stop)))))
        .context("cannot listen for signals");
    telemetry.flush();
    ended
}

fn usage(problems: &str) -> ExitCode {
    #[expect(
        clippy::print_stderr,
        reason = "logs are not set up, or not what a person who starts this looks at"
    )]
    for problem in problems.lines() {
        eprintln!("backhaul-worker: {problem}");
    }
    ExitCode::from(EXIT_USAGE)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = format!("{error:#}"), "worker failed");
    ExitCode::FAILURE
}
