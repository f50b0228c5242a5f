//! The tools that Backhaul is measured beside, each used as its manual says.

use std::path::{Path, PathBuf};

use backhaul_tests::{locations::VAULT_BUCKET, weed::WeedServer};
use tokio::process::Command;

use crate::{case::Case, stores::Stores};

/// Those that are installed.
#[derive(Debug)]
pub(crate) struct Peers {
    /// On the path.
    pub(crate) rclone: Option<PathBuf>,
    /// Where `tests/setup/s5cmd.sh` has put it, or on the path.
    pub(crate) s5cmd: Option<PathBuf>,
}

impl Peers {
    /// Looks for them.
    pub(crate) fn find(target: &Path) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> =
            std::iter::once(target.join("tools/bin")).chain(std::env::split_paths(&path)).collect();
        let find = |name: &str| folders.iter().map(|f| f.join(name)).find(|file| file.is_file());
        Self { rclone: find("rclone"), s5cmd: find("s5cmd") }
    }
}

/// Copies everything of a case. Its listing of the buckets is part of the work; our tasks were listed by whoever submitted them.
pub(crate) fn rclone(program: &Path, stores: &Stores, case: &Case) -> Command {
    let mut command = Command::new(program);
    // It copies on the server only where both sides have one name.
    let vault = if case.inside { "origin" } else { "vault" };
    command.args(["copy", &format!("origin:{}", case.bucket), &format!("{vault}:{VAULT_BUCKET}")]);
    command.args(["--transfers", &case.at_once.to_string(), "--checkers", &case.at_once.to_string()]);
    command.args(["--config", "/dev/null", "--stats", "0", "--log-level", "ERROR", "--s3-no-check-bucket"]);
    // A store asks for less load by an error; a retry of the whole would be measured as work.
    command.args(["--retries", "1"]);
    remote(&mut command, "ORIGIN", stores.origin());
    remote(&mut command, "VAULT", stores.vault_of(case));
    // Versions up to 1.60 refuse to start where it is set, whatever it names.
    command.env_remove("AWS_CA_BUNDLE");
    command
}

/// Copies everything of a case within one server; it knows one endpoint at a time.
pub(crate) fn s5cmd(program: &Path, stores: &Stores, case: &Case) -> Command {
    let mut command = Command::new(program);
    let credentials = stores.origin().credentials();
    command.args(["--endpoint-url", &stores.origin().endpoint(), "--log", "error", "cp"]);
    command.args([format!("s3://{}/*", case.bucket), format!("s3://{VAULT_BUCKET}/")]);
    command.env("AWS_ACCESS_KEY_ID", &credentials.access_key);
    command.env("AWS_SECRET_ACCESS_KEY", &credentials.secret_key);
    command.env("AWS_REGION", "us-east-1").env_remove("AWS_CA_BUNDLE").env_remove("AWS_PROFILE");
    command
}

fn remote(command: &mut Command, name: &str, server: &WeedServer) {
    let credentials = server.credentials();
    for (setting, value) in [
        ("TYPE", "s3"),
        ("PROVIDER", "Other"),
        ("ENDPOINT", &server.endpoint()),
        ("ACCESS_KEY_ID", &credentials.access_key),
        ("SECRET_ACCESS_KEY", &credentials.secret_key),
    ] {
        command.env(format!("RCLONE_CONFIG_{name}_{setting}"), value);
    }
}
