//! Flags that say how tasks are to be done: the same for objects and for prefixes.

use backhaul_proto::v1;
use clap::{Args, ValueEnum};

use super::parse_label;

/// How each task is to be done.
#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// Band to wait in; `normal` for objects and `low` for prefixes when not given.
    #[arg(long, value_enum)]
    priority: Option<PriorityArg>,
    /// Failed attempts before a task is given up; the dispatcher's default when not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100), value_name = "N")]
    max_attempts: Option<u32>,
    /// Label NAME=VALUE of each task; may be given several times.
    #[arg(long = "label", value_parser = parse_label, value_name = "NAME=VALUE")]
    labels: Vec<(String, String)>,
    /// Proof wanted; the location's level when not given.
    #[arg(long, value_enum)]
    verify: Option<VerifyArg>,
}

/// Bands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PriorityArg {
    /// What somebody waits for.
    High,
    /// What a user has just uploaded.
    Normal,
    /// Bulk work.
    Low,
}

/// Levels of proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VerifyArg {
    /// The worker's checksum agrees with the store's answer to the write.
    Receipt,
    /// And a HEAD of the backup agrees.
    Head,
    /// And the backup, read back, agrees.
    Readback,
}

impl TaskArgs {
    /// The options of a submit that say nothing else.
    pub(crate) fn of_object(&self) -> v1::SubmitOptions {
        v1::SubmitOptions {
            priority: self.priority().into(),
            max_attempts: self.max_attempts.unwrap_or_default(),
            labels: self.labels.iter().cloned().collect(),
            verify: self.verify().into(),
            ..v1::SubmitOptions::default()
        }
    }

    /// The options of a prefix backup.
    pub(crate) fn of_prefix(&self) -> v1::PrefixBackupOptions {
        v1::PrefixBackupOptions {
            priority: self.priority().into(),
            max_attempts: self.max_attempts.unwrap_or_default(),
            labels: self.labels.iter().cloned().collect(),
            verify: self.verify().into(),
            ..v1::PrefixBackupOptions::default()
        }
    }

    const fn priority(&self) -> v1::Priority {
        match self.priority {
            None => v1::Priority::Unspecified,
            Some(PriorityArg::High) => v1::Priority::High,
            Some(PriorityArg::Normal) => v1::Priority::Normal,
            Some(PriorityArg::Low) => v1::Priority::Low,
        }
    }

    const fn verify(&self) -> v1::VerifyLevel {
        match self.verify {
            None => v1::VerifyLevel::Unspecified,
            Some(VerifyArg::Receipt) => v1::VerifyLevel::Receipt,
            Some(VerifyArg::Head) => v1::VerifyLevel::Head,
            Some(VerifyArg::Readback) => v1::VerifyLevel::Readback,
        }
    }
}
