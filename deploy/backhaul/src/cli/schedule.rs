//! Flags of `backhaul schedule`.

use clap::{Args, Subcommand};

use super::ClientArgs;

/// What to do with runs of rules.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// List rules with their next run, their last one, and how far that is or what came of it.
    List(ScheduleListArgs),
    /// Begin a run now, unless one goes on; also while the rule is paused.
    Run(ScheduleRunArgs),
    /// Let no run begin by itself; one that goes on goes on.
    Pause(ScheduleNameArgs),
    /// Let runs begin by themselves again, from the next time on.
    Resume(ScheduleNameArgs),
}

/// Flags of `schedule list`.
#[derive(Debug, Args)]
pub(crate) struct ScheduleListArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Flags of `schedule run`.
#[derive(Debug, Args)]
pub(crate) struct ScheduleRunArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Name of the rule.
    #[arg(value_name = "RULE")]
    pub(crate) rule: String,
    /// Follow the run until it has ended.
    #[arg(long)]
    pub(crate) watch: bool,
}

/// Flags of commands about one rule.
#[derive(Debug, Args)]
pub(crate) struct ScheduleNameArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Name of the rule.
    #[arg(value_name = "RULE")]
    pub(crate) rule: String,
}
