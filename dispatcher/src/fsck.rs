//! The command `backhaul-dispatcher fsck`: an audit of the queue in Redis, for an operator.
//!
//! It belongs to the dispatcher's program because it needs what only that has: access to Redis. Flags and output are here; what is
//! audited is [`crate::queue::redis::fsck`].

mod record;

use std::{ffi::OsString, io, path::PathBuf, time::Duration};

use backhaul_runtime::units::parse_duration;
use clap::Parser;

use self::record::Record;
use crate::{
    audit::AuditError,
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
    /// With `--repair`: file to record it in, before and after: who repairs, and what was repaired. An audit log of its own, not that of a
    /// dispatcher; `backhaul audit verify` verifies it.
    #[arg(long, value_name = "FILE", requires = "repair")]
    pub audit_log: Option<PathBuf>,
    /// File with the key that its lines are sealed with, 32 bytes or more.
    #[arg(long, value_name = "FILE", requires = "audit_log")]
    pub audit_key_file: Option<PathBuf>,
    /// Examples to show of each problem.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    pub examples: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The audit could not be finished.
    #[error(transparent)]
    Fsck(#[from] FsckError),
    /// A repair cannot be recorded. Nothing was audited or repaired.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The same, found out a moment later.
    #[error("--audit-log: cannot be written, so nothing was repaired")]
    Unrecordable(#[source] io::Error),
    /// It was repaired, and that is not on record.
    #[error("--audit-log: cannot be written any more. What was done:\n{report}\nand this is not recorded")]
    Unrecorded {
        /// What was found and repaired.
        report: String,
        /// Why.
        source: io::Error,
    },
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
    /// [`CommandError`].
    pub async fn run(self) -> Result<(Report, String), CommandError> {
        let redis = self.redis.options();
        let options =
            FsckOptions { repair: self.repair, orphan_grace: self.orphan_grace, examples: self.examples };
        let key = self.audit_key_file.as_deref();
        let mut record = self.audit_log.as_deref().map(|path| Record::open(path, key)).transpose()?;
        if let Some(record) = &mut record {
            record.begins().map_err(CommandError::Unrecordable)?;
        }
        let audited = fsck(&redis, options).await;
        let recorded = record.map_or(Ok(()), |mut record| record.ended(&audited));
        let text = |report: &Report| {
            if self.json { report.to_json().to_string() } else { report.to_string() }
        };
        if let Err(source) = recorded {
            let report = audited.as_ref().map_or_else(ToString::to_string, text);
            return Err(CommandError::Unrecorded { report, source });
        }
        let report = audited?;
        let text = text(&report);
        Ok((report, text))
    }
}
