//! The dispatcher's program: settings, logs, signals, exit codes. Everything else is the library's.
//!
//! Exit codes: 0 after an ordered stop, 64 when a setting is wrong (one line for each on standard error), 1 when anything else
//! failed, 130 and 143 after a second signal. `backhaul-dispatcher fsck` audits the queue instead: 1 also when problems are left.

use std::process::ExitCode;

use anyhow::Context as _;
use backhaul_dispatcher::{
    app::{self, AppError},
    config::{Config, ConfigError},
    fsck::{self, FsckFlags},
    queue::redis::{ConnectError, fsck::FsckError},
};
use backhaul_runtime::{EXIT_USAGE, shutdown::run_until_signal, telemetry};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == fsck::COMMAND) {
        return audit();
    }
    let config = match Config::from_args(std::env::args_os()) {
        Ok(config) => config,
        Err(ConfigError::Flags(help)) if !help.use_stderr() => {
            return if help.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(error) => return usage(&error.to_string()),
    };
    match run(config) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(AppError::Telemetry(error))) => usage(&error.to_string()),
        Ok(Err(AppError::Locations(error))) => usage(&error.to_string()),
        Ok(Err(AppError::EventSources(error))) => usage(&error.to_string()),
        Ok(Err(AppError::Connect(error @ (ConnectError::Settings(_) | ConnectError::Url(_))))) => {
            usage(&format!("--redis-url: {:#}", anyhow::Error::from(error)))
        }
        Ok(Err(error)) => failed(&error.into()),
        Err(error) => failed(&error),
    }
}

/// Runs `fsck`.
fn audit() -> ExitCode {
    let flags = match FsckFlags::from_args(std::env::args_os()) {
        Ok(flags) => flags,
        Err(help) if !help.use_stderr() => {
            return if help.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(error) => return usage(&ConfigError::Flags(error).to_string()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let audited = runtime.context("cannot start the runtime").map(|runtime| runtime.block_on(flags.run()));
    match audited {
        Ok(Ok((report, text))) => {
            #[expect(clippy::print_stdout, reason = "the report is what the command is for")]
            {
                println!("{text}");
            }
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Err(error @ (FsckError::Url(_) | FsckError::NotOurs(_)))) => {
            usage(&format!("--redis-url: {error}"))
        }
        Ok(Err(error)) => audit_failed(&error.into()),
        Err(error) => audit_failed(&error),
    }
}

fn audit_failed(error: &anyhow::Error) -> ExitCode {
    #[expect(clippy::print_stderr, reason = "a person looks at this, and there are no logs")]
    {
        eprintln!("backhaul-dispatcher: {error:#}");
    }
    ExitCode::FAILURE
}

fn run(config: Config) -> anyhow::Result<Result<(), AppError>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let entered = runtime.enter();
    let telemetry = match telemetry::init(&config.log, "backhaul-dispatcher") {
        Ok(telemetry) => telemetry,
        Err(error) => return Ok(Err(AppError::Telemetry(error))),
    };
    drop(entered);
    let ended = runtime
        .block_on(run_until_signal(|stop| Box::pin(telemetry.during(app::run(config, stop)))))
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
        eprintln!("backhaul-dispatcher: {problem}");
    }
    ExitCode::from(EXIT_USAGE)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = format!("{error:#}"), "dispatcher failed");
    ExitCode::FAILURE
}
