//! `backhaul`: the command line for callers, and the whole of Backhaul in one process for developers.
//!
//! The only program that knows both services. It holds no logic of either: the client commands speak the public contract, and
//! `standalone` only puts the parts together.

mod cli;
mod client;
mod commands;
mod demo;
#[cfg(test)]
mod docs;
mod instant;
mod object;
mod output;
mod progress;
mod standalone;
mod view;
mod watching;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use backhaul_runtime::shutdown::run_until_signal;
use clap::Parser as _;

use crate::{
    cli::{Cli, Command},
    commands::Verdict,
};

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Anything else would leave work undone, or its outcome unknown, and must not look like a success.
    let may_be_cut_short = matches!(command, Command::List(_) | Command::Status(_) | Command::Stats(_));
    let done = run_until_signal(|stop| {
        // Commands are large futures.
        Box::pin(async move {
            match command {
                // The client commands have nothing to put in order: a signal just ends them.
                Command::Submit(args) => until(&stop, Box::pin(commands::submit::run(args))).await,
                Command::Status(args) => until(&stop, commands::status::run(args)).await,
                Command::List(args) => until(&stop, commands::list::run(args)).await,
                Command::Cancel(args) => until(&stop, commands::cancel::run(args)).await,
                Command::Retry(args) => until(&stop, Box::pin(commands::retry::run(args))).await,
                Command::Stats(args) => until(&stop, commands::stats::run(args)).await,
                Command::Events(command) => until(&stop, commands::events::run(command)).await,
                Command::Prefix(command) => until(&stop, Box::pin(commands::prefix::run(command))).await,
                Command::Schedule(command) => until(&stop, Box::pin(commands::schedule::run(command))).await,
                Command::Watch(args) => until(&stop, commands::watch::run(args)).await,
                Command::Audit(command) => until(&stop, commands::audit::run(command)).await,
                // It cleans up after itself: a signal is heard when it is done.
                Command::Probe(args) => commands::probe::run(args).await,
                Command::Standalone(args) => Box::pin(standalone::run(args, stop)).await,
                Command::Demo(args) => demo::run(args, stop).await,
            }
        })
    })
    .await;
    match done {
        Ok(Ok(Verdict::Good)) => ExitCode::SUCCESS,
        Ok(Ok(Verdict::Bad)) => ExitCode::from(1),
        Ok(Ok(Verdict::CutOff)) => ExitCode::from(3),
        Ok(Err(error)) => {
            // Who reads our output has gone away (`backhaul list | head`): that is not an error.
            let gone =
                error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
            if gone && may_be_cut_short { ExitCode::SUCCESS } else { complain(&format!("{error:#}")) }
        }
        Err(error) => complain(&error.to_string()),
    }
}

/// Ends `work` early when told to stop.
async fn until(
    stop: &tokio_util::sync::CancellationToken,
    work: impl Future<Output = anyhow::Result<Verdict>>,
) -> anyhow::Result<Verdict> {
    match stop.run_until_cancelled(work).await {
        Some(done) => done,
        None => anyhow::bail!("interrupted"),
    }
}

fn complain(error: &str) -> ExitCode {
    // With standard error closed there is nobody left to tell.
    writeln!(io::stderr().lock(), "backhaul: {error}").ok();
    ExitCode::from(2)
}
