//! What this program was built from: its version, and the commit where whoever built it said so.
//!
//! `BACKHAUL_COMMIT` in the environment of the build names the commit; nothing asks git, so that a build from a tarball or in an image
//! is the same as any other.

use std::sync::LazyLock;

/// Version of the packages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit, or `unknown`.
pub const COMMIT: &str = match option_env!("BACKHAUL_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

static TEXT: LazyLock<String> = LazyLock::new(|| format!("{VERSION} (commit {COMMIT})"));

/// What `--version` says after the program's name.
#[must_use]
pub fn text() -> &'static str {
    &TEXT
}
