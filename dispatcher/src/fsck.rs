//! The command `backhaul-dispatcher fsck`: an audit of the queue in Redis, for an operator.
//!
//! It belongs to the dispatcher's program because it needs what only that has: access to Redis. Flags and output are here; what is
//! audited is [`crate::queue::redis::fsck`].

use std::{ffi::OsString, time::Duration};

use backhaul_runtime::units::parse_duration;
use clap::Parser;

use crate::{
    config::RedisArgs,
    queue::redis::fsck::{FsckError, FsckOptions, Report, fsck},
};

/// The first argument that asks for this command.
pub const COMMAND: &str = "fsck";

/// Audits the queue in Redis: records, indexes, lines and counters. Dispatchers may be at work on it.
///
/// Exit codes: 0 clean (or all repaired), 1 problems are left or the server cannot be used, 64 a setting is wrong.
#[derive(Debug, Clone, Parser)]
#[command(name = "backhaul-dispatcher fsck", max_term_width = 110)]
pub struct FsckFlags {
    /// Redis.
    #[command(flatten)]
    pub redis: RedisArgs,
    /// Repair what is safe: indexes, rings and counters are set to what the records say. Records and leases are never touched.
    #[arg(long)]
    pub repair: bool,
    /// With `--repair`: how long to wait before index entries that have no record are dropped. On a cluster, longer than a slot
    /// takes to migrate.
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = parse_duration)]
    pub orphan_grace: Duration,
    /// Examples to show of each problem.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    pub examples: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl FsckFlags {
    /// Reads arguments: the program's name, the command, flags.
    ///
    /// # Errors
    /// What clap found wrong, or that help was asked for.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(args.into_iter().skip(1))
    }

    /// Audits, and gives the report with the text to print.
    ///
    /// # Errors
    /// [`FsckError`].
    pub async fn run(self) -> Result<(Report, String), FsckError> {
        let redis = self.redis.options();
        let options =
            FsckOptions { repair: self.repair, orphan_grace: self.orphan_grace, examples: self.examples };
        let report = fsck(&redis, options).await?;
        let text = if self.json { report.to_json().to_string() } else { report.to_string() };
        Ok((report, text))
    }
}
