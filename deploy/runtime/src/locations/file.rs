//! Reading the locations file: TOML into [`Locations`], with every problem named by its setting.
//!
//! Must not open credentials: whoever may hold them does that.

mod reach;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use self::reach::{account, check_endpoint, claim, settle_owners};
use super::{
    BackupTarget, Credentials, Feature, Location, Locations, Owners, RateLimits, ReadRule, Retain,
    VerifyLevel,
};
use crate::{
    address::AddressRule,
    settings_file::{self, FileError},
    units::parse_size,
};

/// Largest locations file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Longest retention: a hundred years.
const MAX_RETAIN_DAYS: u32 = 36_500;
/// Less would not move a part in the time that a store gives it.
const MIN_BYTES_PER_SECOND: u64 = 64 * 1024;

impl Locations {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`FileError`], naming each setting that is wrong.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        Self::parse(&settings_file::read("locations", path, MAX_FILE_BYTES)?, path)
    }

    /// Checks the text of a file; `path` is only for errors.
    ///
    /// # Errors
    /// [`FileError`], naming each setting that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, FileError> {
        let file: RawFile = settings_file::parse(text, path)?;
        let mut problems = Problems::default();
        if file.location.is_empty() {
            problems.add("location", "the file names no location");
        }
        let mut by_name = BTreeMap::new();
        for (name, raw) in file.location {
            let location = location(&mut problems, &name, raw);
            by_name.insert(name, location);
        }
        check_targets(&mut problems, &by_name);
        settle_owners(&mut problems, &mut by_name);
        problems.found.unless_any(path, Self { by_name })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    location: BTreeMap<String, RawLocation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLocation {
    endpoint: Option<String>,
    #[serde(default = "default_region")]
    region: String,
    #[serde(default)]
    path_style: bool,
    #[serde(default)]
    allow_link_local: bool,
    owner: Option<String>,
    #[serde(default)]
    credentials: RawCredentials,
    #[serde(default)]
    read: Vec<RawRead>,
    workers: Option<Vec<String>>,
    backup: Option<RawBackup>,
    #[serde(default)]
    verify: RawVerify,
    #[serde(default)]
    sha256: bool,
    #[serde(default)]
    acls: bool,
    #[serde(default)]
    without: BTreeSet<RawFeature>,
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
enum RawFeature {
    ConditionalWrites,
    Checksums,
    Tagging,
    ServerSideCopy,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    requests_per_second: Option<u32>,
    bytes_per_second: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRetain {
    mode: RawRetainMode,
    days: u32,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum RawRetainMode {
    Compliance,
    Governance,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum RawCredentials {
    #[default]
    Default,
    Anonymous,
    File(PathBuf),
    Env(String),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum RawVerify {
    #[default]
    Receipt,
    Head,
    Readback,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRead {
    bucket: String,
    owner: Option<String>,
    #[serde(default = "every_key")]
    prefixes: Vec<String>,
    tenants: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBackup {
    location: String,
    bucket: String,
    owner: Option<String>,
    #[serde(default)]
    prefix: String,
    storage_class: Option<String>,
    retain: Option<RawRetain>,
    #[serde(default)]
    retention_class: BTreeMap<String, RawRetain>,
}

fn default_region() -> String {
    "us-east-1".into()
}

fn every_key() -> Vec<String> {
    vec![String::new()]
}

/// What was found so far.
#[derive(Default)]
struct Problems {
    found: settings_file::Problems,
    claims: Vec<reach::Claim>,
}

impl Problems {
    fn add(&mut self, setting: impl Into<String>, what: impl Into<String>) {
        self.found.add(setting, what);
    }

    fn require(&mut self, holds: bool, setting: &str, what: &str) {
        self.found.require(holds, setting, what);
    }
}

fn location(problems: &mut Problems, name: &str, raw: RawLocation) -> Location {
    let at = format!("location.{name}");
    problems.require(
        is_location_name(name),
        &at,
        "a name is 1 to 63 characters of a-z, 0-9 and -, and starts with a letter",
    );
    let addresses = AddressRule { allow_link_local: raw.allow_link_local };
    if let Some(endpoint) = &raw.endpoint
        && let Err(what) = check_endpoint(endpoint, addresses)
    {
        problems.add(format!("{at}.endpoint"), what);
    }
    problems.require(!raw.region.trim().is_empty(), &format!("{at}.region"), "must not be empty");
    let credentials = match raw.credentials {
        RawCredentials::Default => Credentials::Default,
        RawCredentials::Anonymous => Credentials::Anonymous,
        RawCredentials::File(path) => {
            problems.require(
                path.is_absolute(),
                &format!("{at}.credentials.file"),
                "must be an absolute path",
            );
            Credentials::File(path)
        }
        RawCredentials::Env(prefix) => {
            problems.require(
                !prefix.is_empty()
                    && prefix.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'),
                &format!("{at}.credentials.env"),
                "a prefix has only A-Z, 0-9 and _",
            );
            Credentials::Environment { prefix }
        }
    };
    problems.require(
        raw.backup.is_some() || raw.read.is_empty(),
        &format!("{at}.backup"),
        "objects may be read here, so it must say where their backups go",
    );
    problems.require(
        raw.backup.is_none() || !raw.read.is_empty(),
        &format!("{at}.read"),
        "has a backup target, so it must say what may be read, and by which tenants",
    );
    let workers = raw.workers.map(|paths| workers(problems, &at, paths)).unwrap_or_default();
    let owners = Owners { all: account(problems, &at, raw.owner), by_bucket: BTreeMap::new() };
    let read = raw.read.into_iter().enumerate();
    let read = read.map(|(n, rule)| read_rule(problems, name, &format!("{at}.read[{n}]"), rule)).collect();
    let backup = raw.backup.map(|target| backup_target(problems, &at, target));
    let limits = rate_limits(problems, &at, raw.limits);
    Location {
        name: name.to_owned(),
        endpoint: raw.endpoint,
        region: raw.region,
        path_style: raw.path_style,
        addresses,
        owners,
        credentials,
        read,
        workers,
        backup,
        verify: match raw.verify {
            RawVerify::Receipt => VerifyLevel::Receipt,
            RawVerify::Head => VerifyLevel::Head,
            RawVerify::Readback => VerifyLevel::Readback,
        },
        sha256: raw.sha256,
        acls: raw.acls,
        without: raw.without.into_iter().map(Feature::from).collect(),
        limits,
    }
}

fn workers(problems: &mut Problems, at: &str, paths: Vec<String>) -> Vec<String> {
    let at = format!("{at}.workers");
    problems.require(!paths.is_empty(), &at, "allows no worker at all");
    let is_path = |path: &String| {
        path.strip_prefix('/').is_some_and(|rest| {
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            rest.split('/').all(|part| part == "*" || (!part.is_empty() && part.bytes().all(is_plain)))
        })
    };
    problems.require(paths.iter().all(is_path), &at, "must be paths of SPIFFE ids, such as /backhaul/worker");
    paths
}

fn backup_target(problems: &mut Problems, at: &str, target: RawBackup) -> BackupTarget {
    let at = format!("{at}.backup");
    problems.require(is_bucket_name(&target.bucket), &format!("{at}.bucket"), "is not a bucket name");
    problems.require(
        !target.prefix.starts_with('/') && !target.prefix.ends_with('/') && target.prefix.len() <= 256,
        &format!("{at}.prefix"),
        "at most 256 bytes, without a slash at either end",
    );
    let is_class = |class: &String| {
        (1..=64).contains(&class.len())
            && class.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    problems.require(
        target.storage_class.as_ref().is_none_or(is_class),
        &format!("{at}.storage_class"),
        "is not the name of a storage class, such as STANDARD_IA",
    );
    let lock = target.retain.map(|raw| retain(problems, &format!("{at}.retain"), &raw));
    let mut classes = BTreeMap::new();
    for (name, raw) in target.retention_class {
        let at = format!("{at}.retention_class.{name}");
        problems.require(
            is_location_name(&name),
            &at,
            "a name is 1 to 63 characters of a-z, 0-9 and -, and starts with a letter",
        );
        classes.insert(name, retain(problems, &at, &raw));
    }
    let RawBackup { location, bucket, owner, prefix, storage_class, .. } = target;
    claim(problems, &at, (&location, &bucket), owner);
    BackupTarget { location, bucket, prefix, storage_class, retain: lock, classes }
}

fn retain(problems: &mut Problems, at: &str, raw: &RawRetain) -> Retain {
    problems.require((1..=MAX_RETAIN_DAYS).contains(&raw.days), &format!("{at}.days"), "must be 1 to 36500");
    Retain { compliance: raw.mode == RawRetainMode::Compliance, days: raw.days }
}

fn rate_limits(problems: &mut Problems, at: &str, raw: RawLimits) -> RateLimits {
    problems.require(
        raw.requests_per_second != Some(0),
        &format!("{at}.limits.requests_per_second"),
        "must be at least 1",
    );
    let at = format!("{at}.limits.bytes_per_second");
    let bytes_per_second = raw.bytes_per_second.and_then(|text| match parse_size(&text) {
        Ok(bytes) if bytes >= MIN_BYTES_PER_SECOND => Some(bytes),
        Ok(_) => {
            problems.add(at, "must be at least 64KiB");
            None
        }
        Err(error) => {
            problems.add(at, error.to_string());
            None
        }
    });
    RateLimits { requests_per_second: raw.requests_per_second, bytes_per_second }
}

impl From<RawFeature> for Feature {
    fn from(raw: RawFeature) -> Self {
        match raw {
            RawFeature::ConditionalWrites => Self::ConditionalWrites,
            RawFeature::Checksums => Self::Checksums,
            RawFeature::Tagging => Self::Tagging,
            RawFeature::ServerSideCopy => Self::ServerSideCopy,
        }
    }
}

fn read_rule(problems: &mut Problems, location: &str, at: &str, rule: RawRead) -> ReadRule {
    problems.require(is_bucket_name(&rule.bucket), &format!("{at}.bucket"), "is not a bucket name");
    problems.require(!rule.prefixes.is_empty(), &format!("{at}.prefixes"), "allows no key at all");
    problems.require(!rule.tenants.is_empty(), &format!("{at}.tenants"), "allows no tenant at all");
    for tenant in &rule.tenants {
        problems.require(
            tenant == "*" || is_tenant_name(tenant),
            &format!("{at}.tenants"),
            "a tenant is 1 to 63 characters of a-z, 0-9, -, _ and ., or *",
        );
    }
    claim(problems, at, (location, &rule.bucket), rule.owner);
    ReadRule { bucket: rule.bucket, prefixes: rule.prefixes, tenants: rule.tenants }
}

/// A backup must end in a location that exists, and must not be taken for something to back up again.
fn check_targets(problems: &mut Problems, by_name: &BTreeMap<String, Location>) {
    for location in by_name.values() {
        let Some(target) = &location.backup else { continue };
        let at = format!("location.{}.backup", location.name);
        let Some(store) = by_name.get(&target.location) else {
            problems.add(format!("{at}.location"), format!("there is no location {:?}", target.location));
            continue;
        };
        let reads_its_own_backups = store.read.iter().any(|rule| {
            rule.bucket == target.bucket
                && rule
                    .prefixes
                    .iter()
                    .any(|p| p.starts_with(&target.prefix) || target.prefix.starts_with(p.as_str()))
        });
        problems.require(
            !reads_its_own_backups,
            &format!("{at}.bucket"),
            "the backups would be readable as an origin, and would be backed up again",
        );
    }
}

/// Name of a location: 1 to 63 bytes of [a-z0-9-], starting with a letter.
#[must_use]
pub fn is_location_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Name of a tenant: 1 to 63 bytes of [a-z0-9._-].
#[must_use]
pub fn is_tenant_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

/// Name of a bucket, by the general rules of S3: 3 to 63 bytes of [a-z0-9.-], with a letter or digit at both ends.
#[must_use]
pub fn is_bucket_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let outer = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(inner)
        && name.bytes().next().is_some_and(outer)
        && name.bytes().last().is_some_and(outer)
        && !name.contains("..")
}

#[cfg(test)]
mod tests;
