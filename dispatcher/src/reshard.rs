//! The command `backhaul-dispatcher reshard`: another number of shards for data that is there, for an operator.
//!
//! Flags and output are here; what is done is [`crate::queue::redis::reshard`].

use std::{ffi::OsString, time::Duration};

use backhaul_runtime::units::parse_duration;
use clap::Parser;
use tokio::time::Instant;

use crate::{
    config::{RedisArgs, parse_durability},
    queue::{
        id::MAX_SHARDS,
        redis::{
            Durability,
            reshard::{ReshardError, ReshardOptions, Resharded, Step, reshard},
        },
    },
};

/// The first argument that asks for this command.
pub const COMMAND: &str = "reshard";

/// How long to wait for a proof that copies are durable. Nobody else waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two words on how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Changes the number of shards of the queue in Redis. All dispatchers must be stopped; workers may stay. Ids of tasks stay what they are.
///
/// It may be stopped or killed at any moment; from its first move on, no dispatcher starts until it was run again to its end. A number that was begun with
/// can be left for another one, also for the first. Exit codes: 0 done, 1 not done (the message says what to do), 64 a setting is wrong.
#[derive(Debug, Clone, Parser)]
#[command(name = "backhaul-dispatcher reshard", max_term_width = 110)]
pub struct ReshardFlags {
    /// Redis.
    #[command(flatten)]
    pub redis: RedisArgs,
    /// The number of shards from now on, 1 to 1024; dispatchers need the same `--shards` afterwards.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: u16,
    /// What a copy must have survived before its original is deleted, as for the dispatcher: with replicas, say `replicas=N`.
    #[arg(long, env = "BACKHAUL_DURABILITY", default_value = "local", value_name = "MODE", value_parser = parse_durability)]
    pub durability: Durability,
    /// How long to watch that no dispatcher is at work. Longer than their `--sweep-every`.
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = parse_duration)]
    pub quiet_for: Duration,
    /// Repair what the audit at the end finds, where that is safe.
    #[arg(long)]
    pub repair: bool,
}

impl ReshardFlags {
    /// Reads arguments: the program's name, the command, flags.
    ///
    /// # Errors
    /// What clap found wrong, or that help was asked for.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(args.into_iter().skip(1))
    }

    /// Changes the number, says now and then how far it is, and gives the text to print at the end.
    ///
    /// # Errors
    /// [`ReshardError`].
    pub async fn run(self, mut say: impl FnMut(String) + Send) -> Result<String, ReshardError> {
        let mut redis = self.redis.options();
        redis.durability = self.durability;
        let options = ReshardOptions {
            shards: self.shards,
            quiet_for: self.quiet_for,
            patience: PATIENCE,
            repair: self.repair,
        };
        let mut said: Option<Instant> = None;
        let mut tell = |step: Step| {
            let is_due = said.is_none_or(|said| said.elapsed() >= TELL_EVERY);
            match step {
                Step::Moving { .. } if !is_due => return,
                Step::Moving { .. } => said = Some(Instant::now()),
                Step::Watching(_) | Step::Auditing => said = None,
            }
            say(step.to_string());
        };
        let Resharded { from, to, moved, report } = reshard(&redis, &options, &mut tell).await?;
        Ok(match report {
            None => format!("the data has {to} shards already; nothing was changed"),
            Some(report) => format!(
                "{from} shards before, {to} from now on; {moved} tasks and listings moved\n{report}\nstart dispatchers with --shards {to}"
            ),
        })
    }
}
