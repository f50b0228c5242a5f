//! Settings of what one identity may use of what all have: the name in a certificate, or the subject of a token.

use clap::Args;

use super::Problems;

/// Bounds on each identity.
#[derive(Debug, Clone, Args)]
pub struct IdentityFlags {
    /// Most workers connected with one name in their certificates, and most watches of one caller; more are refused with
    /// RESOURCE_EXHAUSTED, and so is who opens more than ten times as many a second. As many as `--max-streams` unless given: all workers of
    /// a deployment have one name.
    #[arg(long, env = "BACKHAUL_MAX_STREAMS_PER_IDENTITY", value_name = "COUNT")]
    pub max_streams_per_identity: Option<u32>,
    /// Most calls of one caller in progress; more are refused with RESOURCE_EXHAUSTED. With `--insecure` all callers are one.
    #[arg(long, env = "BACKHAUL_MAX_CALLS_PER_IDENTITY", default_value_t = 512, value_name = "COUNT")]
    pub max_calls_per_identity: u32,
    /// Most calls of one caller a second, batches counted as one; more are refused with RESOURCE_EXHAUSTED. With `--insecure` all callers
    /// are one.
    #[arg(
        long,
        env = "BACKHAUL_CALLS_PER_SECOND_PER_IDENTITY",
        default_value_t = 50_000,
        value_name = "COUNT"
    )]
    pub calls_per_second_per_identity: u32,
}

impl IdentityFlags {
    pub(super) fn check(&self, problems: &mut Problems) {
        for (setting, count) in [
            ("--max-streams-per-identity", self.max_streams_per_identity.unwrap_or(1)),
            ("--max-calls-per-identity", self.max_calls_per_identity),
            ("--calls-per-second-per-identity", self.calls_per_second_per_identity),
        ] {
            problems.require(count > 0, setting, "must be at least 1");
        }
    }
}
