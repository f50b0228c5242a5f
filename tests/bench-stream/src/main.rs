//! `make bench-stream`: what the stream between dispatchers and workers costs, and how long a loss is felt.
//!
//! It measures and reports, and never judges: no figure makes it fail. Redis and two dispatchers are processes of their own; the workers
//! are real links and runners in this one, whose copies only take time. Everything runs on this machine's loopback, is bounded in
//! count, and ends with the program.

mod cost;
mod crew;
mod figures;
mod handover;
mod loss;
mod servers;

use std::time::Duration;

use anyhow::Context as _;

use self::{figures::Report, servers::Servers};

/// Workers wherever there are many.
pub(crate) const WORKERS: usize = 50;
/// Nothing here takes longer; what does has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let quick = std::env::args().skip(1).any(|argument| argument == "--quick");
    let mut report = Report::default();
    let mut servers = Servers::start().await.context("the servers")?;
    handover::submit_to_assignment(&servers, if quick { 200 } else { 1_000 }, &mut report).await?;
    loss::of_a_worker(&servers, &mut report).await?;
    loss::of_a_dispatcher(&mut servers, &mut report).await?;
    loss::in_order(&mut servers, &mut report).await?;
    cost::of_streams(&mut servers, if quick { 100 } else { 500 }, &mut report).await?;
    cost::of_waiting(&servers, Duration::from_secs(if quick { 10 } else { 60 }), &mut report).await?;
    cost::of_one_that_never_reads(&servers, &mut report).await?;
    report.write(quick)
}
