//! The command `backhaul-dispatcher reshard`: another number of shards for data that is there, for an operator.
//!
//! Flags and output are here; what is done is [`crate::queue::redis::reshard`].

use std::{ffi::OsString, time::Duration};

use backhaul_runtime::units::parse_duration;
use clap::Parser;

use crate::{
    config::RedisArgs,
    queue::redis::reshard::{ReshardError, ReshardOptions, Resharded, reshard},
};

/// The first argument that asks for this command.
pub const COMMAND: &str = "reshard";

/// Changes the number of shards of the queue in Redis. All dispatchers must be stopped; task ids stay valid.
///
/// It may be stopped or killed at any moment: until it is run again with the same number, to its end, no dispatcher starts. Take a copy
/// of Redis' data first, and run `fsck` before. Exit codes: 0 done, 1 not done (the message says what to do), 64 a setting is wrong.
#[derive(Debug, Clone, Parser)]
#[command(name = "backhaul-dispatcher reshard", max_term_width = 110)]
pub struct ReshardFlags {
    /// Redis.
    #[command(flatten)]
    pub redis: RedisArgs,
    /// The number of shards from now on; dispatchers need the same `--shards` afterwards.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: u16,
    /// How long to watch that nobody is at work. Longer than the dispatchers' `--sweep-every`.
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = parse_duration)]
    pub quiet_for: Duration,
}

impl ReshardFlags {
    /// Reads arguments: the program's name, the command, flags.
    ///
    /// # Errors
    /// What clap found wrong, or that help was asked for.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(args.into_iter().skip(1))
    }

    /// Changes the number, and gives the text to print.
    ///
    /// # Errors
    /// [`ReshardError`].
    pub async fn run(self) -> Result<String, ReshardError> {
        let options = ReshardOptions { shards: self.shards, quiet_for: self.quiet_for };
        let Resharded { from, to, moved, records } = reshard(&self.redis.options(), &options).await?;
        Ok(format!(
            "{from} shards before, {to} now; {moved} records moved, {records} audited; start dispatchers with --shards {to}"
        ))
    }
}
