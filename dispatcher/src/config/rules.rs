//! Settings of rules.

use std::path::PathBuf;

use clap::Args;

/// Flags about rules.
#[derive(Debug, Clone, Args)]
pub struct RuleFlags {
    /// Rules file: what is said about objects below prefixes, and when these are listed. Read again when it changes.
    #[arg(long, env = "BACKHAUL_RULES", value_name = "FILE")]
    pub rules: Option<PathBuf>,
}
