//! What a developer may set in the environment of the tests. The only place that reads it.

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

use anyhow::Context as _;

const PATIENCE: Duration = Duration::from_secs(60);

/// How long a test waits for something that will happen before it fails: `BACKHAUL_TEST_PATIENCE` in seconds, 60 unless set.
/// Nothing may depend on its value: it only separates "slow" from "never".
#[must_use]
pub fn patience() -> Duration {
    let seconds = variable("BACKHAUL_TEST_PATIENCE").and_then(|text| text.to_str()?.parse().ok());
    seconds.map_or(PATIENCE, Duration::from_secs)
}

/// Folder of programs that are already built, from `BACKHAUL_TEST_BIN_DIR`.
#[must_use]
pub fn built_programs() -> Option<PathBuf> {
    variable("BACKHAUL_TEST_BIN_DIR").map(PathBuf::from)
}

/// The Redis that Backhaul is tested with: `BACKHAUL_TEST_REDIS`, or `redis-server` on the path.
///
/// # Errors
/// When there is none, with the command that brings it.
pub fn redis_server() -> anyhow::Result<PathBuf> {
    program("BACKHAUL_TEST_REDIS", "redis-server")
        .context("no redis-server on this machine: run tests/setup/redis.sh")
}

/// A newer Redis or Valkey, if there is one: `BACKHAUL_TEST_REDIS_8`, or what `make setup` could install.
#[must_use]
pub fn redis_server_8() -> Option<PathBuf> {
    program("BACKHAUL_TEST_REDIS_8", "redis-server-8")
}

/// Prometheus' checker of rules, if there is one: `BACKHAUL_TEST_PROMTOOL`, or what `make setup` could install.
#[must_use]
pub fn promtool() -> Option<PathBuf> {
    program("BACKHAUL_TEST_PROMTOOL", "promtool")
}

/// A server that speaks as many services of AWS: `BACKHAUL_TEST_MOTO`, or what `make setup` installed.
///
/// # Errors
/// When there is none, with the command that brings it.
pub fn moto() -> anyhow::Result<PathBuf> {
    program("BACKHAUL_TEST_MOTO", "moto_server").context("no moto on this machine: run tests/setup/moto.sh")
}

/// Garage: `BACKHAUL_TEST_GARAGE`, or what its script of `setup` installed.
///
/// # Errors
/// When there is none, with the command that brings it.
pub fn garage() -> anyhow::Result<PathBuf> {
    program("BACKHAUL_TEST_GARAGE", "garage").context("no Garage on this machine: run tests/setup/garage.sh")
}

/// SeaweedFS: `BACKHAUL_TEST_WEED`, what `make setup` installed, or `weed` on the path.
///
/// # Errors
/// When there is none, with the command that brings it.
pub fn weed() -> anyhow::Result<PathBuf> {
    program("BACKHAUL_TEST_WEED", "weed")
        .context("no SeaweedFS on this machine: run tests/setup/seaweedfs.sh")
}

/// Names of variables that would change the settings of a program under test. It must not see them: what a test does would depend on
/// who runs it.
#[must_use]
pub fn of_programs() -> Vec<OsString> {
    env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("BACKHAUL_"))
        .collect()
}

/// Folder of the build of the running test or program, such as `target/debug`.
///
/// # Errors
/// When it was not started from there.
pub fn profile_folder() -> anyhow::Result<PathBuf> {
    let running = env::current_exe().context("the path of this program is not known")?;
    let folder = running.parent().map(|folder| folder.ancestors().find(|f| !f.ends_with("deps")));
    Ok(folder.flatten().with_context(|| format!("{} is in no folder", running.display()))?.to_owned())
}

fn program(setting: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = variable(setting) {
        return Some(PathBuf::from(path));
    }
    let installed = profile_folder().ok().and_then(|folder| Some(folder.parent()?.join("tools/bin")));
    let path = variable("PATH").unwrap_or_default();
    installed
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
