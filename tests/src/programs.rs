//! The programs of this repository, as cargo builds them.
//!
//! `env!("CARGO_BIN_EXE_..")` exists only inside the package that has the program, so they are found beside the tests. A program left
//! over from an earlier build would make a test lie about the code it stands beside; so they are built first, once for each test
//! process, unless `BACKHAUL_TEST_BIN_DIR` says that somebody (`make`) has just done it. Cargo takes a fraction of a second when
//! nothing has changed.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{anyhow, ensure};

use crate::settings;

/// The same selection as in the Makefile: another one would make cargo build the dependencies again with other features.
const BUILD: [&str; 7] = ["build", "--workspace", "--locked", "--lib", "--bins", "--tests", "--examples"];

/// A command that runs the program `name` of this workspace, such as `backhaul-worker`, with no settings but those of its flags.
///
/// # Errors
/// When it does not exist or cannot be built.
pub fn program(name: &str) -> anyhow::Result<Command> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| folder().map_err(|error| format!("{error:#}")));
    let path = folder.as_ref().map_err(|error| anyhow!("{error}"))?.join(name);
    ensure!(path.is_file(), "there is no program {}: run `make build`", path.display());
    let mut command = Command::new(path);
    for variable in settings::of_programs() {
        command.env_remove(variable);
    }
    // Scenarios are not about who is who, except those that say so.
    command.env("BACKHAUL_INSECURE", "true");
    Ok(command)
}

fn folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = settings::built_programs() {
        return Ok(folder);
    }
    let folder = settings::profile_folder()?;
    let mut build = Command::new(env!("CARGO"));
    build.args(BUILD).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    if folder.ends_with("release") {
        build.arg("--release");
    }
    let output = build.output()?;
    ensure!(
        output.status.success(),
        "cargo cannot build the programs:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(folder)
}
