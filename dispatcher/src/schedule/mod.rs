//! Rules: prefixes that are backed up again and again, each on a schedule, so that an upload nobody heard of is found within one period.
//!
//! A rule is in a file that is checked at the start against the locations, as strictly as a call would be. Each of its times makes one
//! backup of its prefix, whose name says rule and time: whoever makes it, and however often, it is one. [`scheduler`] makes them. Nothing
//! here may know tonic or Redis.

pub mod schedule;
pub mod scheduler;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use backhaul_proto::v1 as pb;
use backhaul_runtime::{locations::Locations, units::parse_size};
use serde::Deserialize;

use self::schedule::Schedule;
use crate::{
    grpc::{backup_service::SubmitDefaults, validate::prefix},
    queue::{UnixMs, walk::WalkSpec},
};

/// Largest rules file, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Longest name of a rule.
const MAX_NAME_BYTES: usize = 63;
/// What the names of prefix backups begin with that rules make. No caller can use it.
pub const MARK: &str = "rule:";

/// All rules, by name.
#[derive(Debug, Clone, Default)]
pub struct Rules(BTreeMap<String, Rule>);

/// A prefix that is backed up on a schedule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name: 1 to 63 bytes of [a-z0-9-].
    pub name: String,
    /// What is backed up, and how; `request_id` is the rule's mark.
    spec: WalkSpec,
    /// When.
    pub schedule: Schedule,
    /// The expression, as it was written.
    pub expression: String,
    /// The zone, as it was written.
    pub time_zone: String,
}

/// Why a file of rules was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// It could not be read.
    #[error("cannot read the rules file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or has a setting that does not exist or is of the wrong type.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It says something that cannot be: one line each.
    #[error("{}:{}", path.display(), problems.iter().map(|p| format!("\n  {p}")).collect::<String>())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    rule: BTreeMap<String, RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    tenant: String,
    location: String,
    bucket: String,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    suffix: String,
    min_size: Option<String>,
    max_size: Option<String>,
    #[serde(default)]
    versions: RawVersions,
    #[serde(default)]
    priority: RawPriority,
    #[serde(default)]
    max_attempts: u32,
    verify: Option<RawVerify>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    schedule: String,
    #[serde(default = "utc")]
    time_zone: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawVersions {
    #[default]
    Current,
    All,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawPriority {
    #[default]
    Low,
    Normal,
    High,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawVerify {
    Receipt,
    Head,
    Readback,
}

fn utc() -> String {
    "UTC".to_owned()
}
