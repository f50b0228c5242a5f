//! The dispatcher's program: what is special about its settings and failures. Everything else is the library's and the frame's.
//!
//! Exit codes: 0 after an ordered stop, 64 when a setting is wrong (one line for each on standard error), 1 when anything else
//! failed, 130 and 143 after a second signal. `backhaul-dispatcher fsck` audits the queue instead: 1 also when problems are left.
//! `backhaul-dispatcher reshard` changes its number of shards.

use std::process::ExitCode;

use anyhow::Context as _;
use backhaul_dispatcher::{
    app::{self, AppError},
    config::{Config, ConfigError},
    fsck::{self, CommandError, FsckFlags},
    queue::redis::{ConnectError, fsck::FsckError, reshard::ReshardError},
    reshard::{self, ReshardFlags},
};
use backhaul_runtime::program::{Failure, Program};

const PROGRAM: Program = Program::new("backhaul-dispatcher");

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(first) if first == fsck::COMMAND => return audit(),
        Some(first) if first == reshard::COMMAND => return change_shards(),
        Some(_) | None => {}
    }
    let config = match Config::from_args(std::env::args_os()) {
        Ok(config) => config,
        Err(ConfigError::Flags(help)) if !help.use_stderr() => return PROGRAM.help(&help),
        Err(error) => return PROGRAM.usage(error),
    };
    let log = config.log.clone();
    PROGRAM.run(&log, |stop| Box::pin(async move { app::run(config, stop).await.map_err(failure) }))
}

fn failure(error: AppError) -> Failure {
    match error {
        AppError::File(error) => Failure::Usage(error.to_string()),
        AppError::Tls(error) => Failure::Usage(format!("{:#}", anyhow::Error::from(error))),
        error @ AppError::PlainTokens => Failure::Usage(error.to_string()),
        AppError::Connect(error @ (ConnectError::Settings(_) | ConnectError::Url(_))) => {
            Failure::Usage(format!("--redis-url: {:#}", anyhow::Error::from(error)))
        }
        AppError::Audit(error) => Failure::Usage(error.to_string()),
        error @ (AppError::Connect(_)
        | AppError::Events(_)
        | AppError::Listen { .. }
        | AppError::AddressFile { .. }
        | AppError::Reflection(_)
        | AppError::Dispatch(_)
        | AppError::Ended(_)
        | AppError::Panicked(_)) => Failure::Other(error.into()),
    }
}

/// Runs `fsck`.
fn audit() -> ExitCode {
    let flags = match FsckFlags::from_args(std::env::args_os()) {
        Ok(flags) => flags,
        Err(help) if !help.use_stderr() => return PROGRAM.help(&help),
        Err(error) => return PROGRAM.usage(ConfigError::Flags(error)),
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
        Ok(Err(CommandError::Fsck(error @ (FsckError::Url(_) | FsckError::NotOurs(_))))) => {
            PROGRAM.usage(format_args!("--redis-url: {error}"))
        }
        Ok(Err(error @ CommandError::Audit(_))) => PROGRAM.usage(error),
        Ok(Err(error)) => PROGRAM.failed(&error.into()),
        Err(error) => PROGRAM.failed(&error),
    }
}

/// Runs `reshard`.
fn change_shards() -> ExitCode {
    let flags = match ReshardFlags::from_args(std::env::args_os()) {
        Ok(flags) => flags,
        Err(help) if !help.use_stderr() => return PROGRAM.help(&help),
        Err(error) => return PROGRAM.usage(ConfigError::Flags(error)),
    };
    #[expect(clippy::print_stderr, reason = "whoever waits wants to know how far it is")]
    let say = |how_far: String| eprintln!("{how_far}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let changed = runtime.context("cannot start the runtime").map(|runtime| runtime.block_on(flags.run(say)));
    match changed {
        Ok(Ok(text)) => {
            #[expect(clippy::print_stdout, reason = "what was done is what the command is for")]
            {
                println!("{text}");
            }
            ExitCode::SUCCESS
        }
        Ok(Err(ReshardError::Data(error @ (FsckError::Url(_) | FsckError::NotOurs(_))))) => {
            PROGRAM.usage(format_args!("--redis-url: {error}"))
        }
        Ok(Err(error)) => PROGRAM.failed(&error.into()),
        Err(error) => PROGRAM.failed(&error),
    }
}
