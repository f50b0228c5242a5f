//! Flags of `backhaul prefix`.

use clap::{Args, Subcommand, ValueEnum};

use super::{ClientArgs, task::TaskArgs};
use crate::object::PrefixArg;

/// What to do with prefixes.
#[derive(Debug, Subcommand)]
pub(crate) enum PrefixCommand {
    /// Ask for backups of all objects below a prefix.
    Submit(Box<PrefixSubmitArgs>),
    /// Show how far one is.
    Status(PrefixStatusArgs),
    /// List those of the tenant, newest first.
    List(PrefixListArgs),
    /// List no further until it is resumed; tasks that were submitted go on.
    Pause(PrefixIdArgs),
    /// List on where it was paused.
    Resume(PrefixIdArgs),
    /// End it; tasks that were submitted go on.
    Cancel(PrefixIdArgs),
    /// Show the objects that could not be backed up.
    Failed(PrefixIdArgs),
}

/// Flags of `prefix submit`.
#[derive(Debug, Args)]
pub(crate) struct PrefixSubmitArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The prefix as LOCATION:BUCKET/PREFIX, or LOCATION:BUCKET for the whole bucket. Taken as it is: nothing is decoded.
    #[arg(value_name = "PREFIX")]
    pub(crate) prefix: PrefixArg,
    /// Name of the request: the same name is the same prefix backup. A random one when not given.
    #[arg(long, value_name = "NAME")]
    pub(crate) request_id: Option<String>,
    /// Which versions of each object.
    #[arg(long, value_enum, default_value_t = VersionsArg::Current)]
    pub(crate) versions: VersionsArg,
    /// Only keys that end with this.
    #[arg(long, value_name = "SUFFIX")]
    pub(crate) suffix: Option<String>,
    /// Only objects of at least this size, such as 1KiB.
    #[arg(long, value_parser = backhaul_runtime::units::parse_size, value_name = "SIZE")]
    pub(crate) min_size: Option<u64>,
    /// Only objects of at most this size.
    #[arg(long, value_parser = backhaul_runtime::units::parse_size, value_name = "SIZE")]
    pub(crate) max_size: Option<u64>,
    /// Only objects modified at this instant or later: 2027-01-31T09:00:00Z, or from now: -24h.
    #[arg(long, allow_hyphen_values = true, value_name = "WHEN")]
    pub(crate) modified_since: Option<String>,
    #[command(flatten)]
    pub(crate) task: TaskArgs,
    /// Follow it until it is finished.
    #[arg(long)]
    pub(crate) watch: bool,
}

/// Flags of `prefix status`.
#[derive(Debug, Args)]
pub(crate) struct PrefixStatusArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Id of the prefix backup.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Follow it until it is finished.
    #[arg(long)]
    pub(crate) watch: bool,
}

/// Flags of `prefix list`.
#[derive(Debug, Args)]
pub(crate) struct PrefixListArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Only those that are not finished.
    #[arg(long)]
    pub(crate) unfinished: bool,
}

/// Flags of commands about one prefix backup.
#[derive(Debug, Args)]
pub(crate) struct PrefixIdArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Id of the prefix backup.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// Versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VersionsArg {
    /// What a reader gets who names none.
    Current,
    /// All that the bucket keeps.
    All,
}
