//! The worker's program: what is special about its settings and failures. Everything else is the library's and the frame's.
//!
//! Exit codes: 0 after a clean drain, 64 when a setting is wrong (one line for each on standard error), 1 when anything else
//! failed, 130 and 143 after a second signal.

use std::process::ExitCode;

use backhaul_runtime::program::{Failure, Program};
use backhaul_worker::{
    app::{self, AppError},
    config::Args,
};
use clap::Parser as _;

const PROGRAM: Program = Program::new("backhaul-worker");

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(help) if !help.use_stderr() => return PROGRAM.help(&help),
        Err(error) => return PROGRAM.usage(error),
    };
    let log = args.log.clone();
    PROGRAM.run(&log, |stop| Box::pin(async move { app::run(args, stop).await.map_err(failure) }))
}

fn failure(error: AppError) -> Failure {
    if error.is_usage() { Failure::Usage(error.to_string()) } else { Failure::Other(error.into()) }
}
