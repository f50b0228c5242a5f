//! Flags of `backhaul audit`.

use std::path::PathBuf;

use backhaul_runtime::audit::Head;
use clap::{Args, Subcommand};

const EXIT_CODES: &str = "Exit codes: 0 when every line is as it was written, 1 when one is not, 2 when the files could not be read, 3 when \
                          all are but the last, which is cut off: it is being written, or a crash has cut it off.";

/// What to do with audit logs.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Read a dispatcher's audit log, and name the first line that was changed, removed, inserted, moved or cut off.
    Verify(AuditVerifyArgs),
}

/// Flags of `audit verify`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct AuditVerifyArgs {
    /// All files of one log, in any order: the one that is written, and those that were set aside.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// File with the key that the lines are sealed with; may be given several times, where it was changed.
    #[arg(long = "key-file", value_name = "FILE")]
    pub(crate) key_files: Vec<PathBuf>,
    /// The first files are not here: take the first line's word for what came before it.
    #[arg(long)]
    pub(crate) partial: bool,
    /// A line that the log must have, as NUMBER:HASH: the end of the log as it was told at an earlier time. Without one nobody can see
    /// that lines were cut off at the end. May be given several times.
    #[arg(long = "anchor", value_name = "NUMBER:HASH")]
    pub(crate) anchors: Vec<Head>,
    /// Print JSON: one object.
    #[arg(long)]
    pub(crate) json: bool,
}
