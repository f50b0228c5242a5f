//! Settings of the audit log.

use std::path::PathBuf;

use backhaul_runtime::{audit::FileOptions, units::parse_size};
use clap::{ArgAction, Args};

use super::Problems;
use crate::audit::AuditSettings;

/// A file of this size holds some thousand entries; below it, setting files aside is all that would be done.
const LEAST_FILE_BYTES: u64 = 1024 * 1024;

/// Flags about the audit log.
#[derive(Debug, Clone, Args)]
pub struct AuditFlags {
    /// File to record each decision in: who asked for what, from where, and what came of it. JSON lines, each sealed to the one before;
    /// `backhaul audit verify` tells whether they are as they were written. Of this dispatcher alone.
    #[arg(long, env = "BACKHAUL_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// File with the key that the lines are sealed with, 32 bytes or more: who can write the log and has no key cannot
    /// make one of their own.
    #[arg(long, env = "BACKHAUL_AUDIT_KEY_FILE", value_name = "FILE", requires = "audit_log")]
    pub audit_key_file: Option<PathBuf>,
    /// While the audit log cannot be written, do nothing that would have to be recorded: calls, events and new leases are refused, and the
    /// dispatcher is not ready. Otherwise it goes on, and the log tells later how many entries are missing.
    #[arg(
        long,
        env = "BACKHAUL_AUDIT_REQUIRED",
        default_value_t = false,
        default_missing_value = "true",
        num_args = 0..=1,
        action = ArgAction::Set,
        value_name = "BOOL"
    )]
    pub audit_required: bool,
    /// Size at which the file is set aside, under its name with the number of its first line behind it, and another begun.
    #[arg(long, env = "BACKHAUL_AUDIT_FILE_SIZE", default_value = "256MiB", value_name = "SIZE", value_parser = parse_size)]
    pub audit_file_size: u64,
    /// Most files that are kept beside the one that is written; the oldest are removed. 0 keeps all.
    #[arg(long, env = "BACKHAUL_AUDIT_KEEP", default_value_t = 0, value_name = "COUNT")]
    pub audit_keep: u32,
}

impl AuditFlags {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.require(
            self.audit_file_size >= LEAST_FILE_BYTES,
            "--audit-file-size",
            "must be at least 1MiB",
        );
        problems.require(
            !self.audit_required || self.audit_log.is_some(),
            "--audit-required",
            "needs --audit-log",
        );
    }

    pub(super) fn settings(&self) -> Option<AuditSettings> {
        let path = self.audit_log.clone()?;
        Some(AuditSettings {
            path,
            key_file: self.audit_key_file.clone(),
            file: FileOptions { rotate_at: self.audit_file_size, keep: self.audit_keep as usize },
            is_required: self.audit_required,
        })
    }
}
