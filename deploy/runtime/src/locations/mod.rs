//! Locations: the named stores that objects are backed up from and to, as the TOML file lists them.
//!
//! The dispatcher reads the file to know which location, bucket and prefix a tenant may name; the worker also to reach the stores.
//! The file holds no secret: credentials are read by [`Credentials`]' owner, the worker, from where the file points.

mod file;
mod owners;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

pub use self::{
    file::{is_bucket_name, is_location_name, is_tenant_name},
    owners::Owners,
};
use crate::address::AddressRule;

/// All locations of the file, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locations {
    by_name: BTreeMap<String, Location>,
}

/// One store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Name: 1 to 63 bytes of [a-z0-9-], starting with a letter.
    pub name: String,
    /// Base URL of the store; `None` means AWS in `region`.
    pub endpoint: Option<String>,
    /// Region for signatures.
    pub region: String,
    /// Bucket in the path instead of the host name.
    pub path_style: bool,
    /// Which addresses the endpoint may lead to.
    pub addresses: AddressRule,
    /// Whose its buckets are; that of a bucket where it is known goes with every request.
    pub owners: Owners,
    /// Where the worker finds the credentials.
    pub credentials: Credentials,
    /// What may be read here, and by whom; empty for a location that is only a backup target.
    pub read: Vec<ReadRule>,
    /// Paths of the SPIFFE ids of the workers that may have tasks of this location, `*` for any one segment; empty for all workers.
    pub workers: Vec<String>,
    /// Where objects read here are backed up; `None` for a location that is only a backup target.
    pub backup: Option<BackupTarget>,
    /// Proof wanted unless a request asks for another.
    pub verify: VerifyLevel,
    /// SHA-256 over every object besides the CRC.
    pub sha256: bool,
    /// Objects here have ACLs of their own: look, and name those that a copy loses.
    pub acls: bool,
    /// What must not be used here, whatever the store seems to be able to do.
    pub without: BTreeSet<Feature>,
    /// How much one worker may ask of the store.
    pub limits: RateLimits,
}

/// What stores differ in. Backup locations are tried out once; what fails there is not used, and need not be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// `If-None-Match: *` on writes.
    ConditionalWrites,
    /// CRC-64/NVME in writes; without it MD5 is sent.
    Checksums,
    /// Object tags.
    Tagging,
    /// Copies made by the store itself.
    ServerSideCopy,
}

/// How much one worker may ask of a store; `None` for no limit but the store's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests a second.
    pub requests_per_second: Option<u32>,
    /// Bytes of objects a second, read and written together.
    pub bytes_per_second: Option<u64>,
}

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The ordinary chain of AWS clients: workload identity, profile, instance.
    Default,
    /// No signature at all.
    Anonymous,
    /// A file of two lines, access key id and secret access key, with an optional third: session token.
    File(PathBuf),
    /// Environment variables `<PREFIX>_ACCESS_KEY_ID` and `<PREFIX>_SECRET_ACCESS_KEY`, and optionally `<PREFIX>_SESSION_TOKEN`.
    Environment {
        /// The prefix.
        prefix: String,
    },
}

/// What some tenants may have backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRule {
    /// Bucket.
    pub bucket: String,
    /// Key prefixes, compared byte for byte; the empty prefix allows every key.
    pub prefixes: Vec<String>,
    /// Tenants; `*` stands for every one.
    pub tenants: Vec<String>,
}

/// Where the backups of a location go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupTarget {
    /// Name of the backup location; it exists.
    pub location: String,
    /// Bucket there.
    pub bucket: String,
    /// Prefix of every key, without a slash at either end; may be empty.
    pub prefix: String,
    /// Storage class of the copies; `None` for the bucket's own.
    pub storage_class: Option<String>,
    /// Object lock on each copy; `None` for the bucket's own.
    pub retain: Option<Retain>,
    /// Object lock of copies whose task names one of these classes, in place of `retain`.
    pub classes: BTreeMap<String, Retain>,
}

/// How long nobody can delete a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    /// Nobody at all can shorten it (compliance); otherwise those with a special right can (governance).
    pub compliance: bool,
    /// Days from the writing of the copy, at most 36,500.
    pub days: u32,
}

/// Proof wanted before a copy is called done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum VerifyLevel {
    /// The worker's checksum agrees with the store's answer to the write.
    #[default]
    Receipt,
    /// And a HEAD agrees.
    Head,
    /// And the backup, read back, agrees.
    Readback,
}

/// Why a tenant may not name an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such location, or the tenant may name nothing in it; told alike, so that names cannot be probed.
    #[error("no such location")]
    Location,
    /// The tenant may not name this bucket of the location.
    #[error("the location allows no such bucket")]
    Bucket,
    /// The tenant may not name this key of the bucket.
    #[error("the location does not allow this key")]
    Key,
}

impl Location {
    /// Whether objects of the bucket may be read here.
    fn reads(&self, bucket: &str) -> bool {
        self.read.iter().any(|rule| rule.bucket == bucket)
    }

    /// Whether the worker whose SPIFFE id has that path may have tasks of this location.
    #[must_use]
    pub fn admits_worker(&self, path: &str) -> bool {
        let is_like = |pattern: &String| {
            let (mut given, mut expected) = (path.split('/'), pattern.split('/'));
            loop {
                match (given.next(), expected.next()) {
                    (None, None) => return true,
                    (Some(given), Some(expected)) if expected == "*" || given == expected => {}
                    (Some(_), _) | (None, Some(_)) => return false,
                }
            }
        };
        self.workers.is_empty() || self.workers.iter().any(is_like)
    }
}

impl Locations {
    /// The location of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Location> {
        self.by_name.get(name)
    }

    /// All locations, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Location> {
        self.by_name.values()
    }

    /// Names of the locations that can be backed up.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.by_name.values().filter(|l| l.backup.is_some()).map(|l| l.name.as_str())
    }

    /// All retention classes, as `LOCATION/CLASS`.
    pub fn retention_classes(&self) -> impl Iterator<Item = String> {
        let of = |location: &Location| {
            let classes = location.backup.iter().flat_map(|backup| backup.classes.keys());
            classes.map(|class| format!("{}/{class}", location.name)).collect::<Vec<_>>()
        };
        self.by_name.values().flat_map(of)
    }

    /// Whether `tenant` may have that object backed up.
    ///
    /// # Errors
    /// [`Refusal`]: what is not allowed.
    pub fn authorize(
        &self,
        tenant: &str,
        location: &str,
        bucket: &str,
        key: &str,
    ) -> Result<&Location, Refusal> {
        let found = self.by_name.get(location).filter(|l| l.backup.is_some()).ok_or(Refusal::Location)?;
        let mut rules =
            found.read.iter().filter(|r| r.tenants.iter().any(|t| t == "*" || t == tenant)).peekable();
        if rules.peek().is_none() {
            return Err(Refusal::Location);
        }
        let mut in_bucket = rules.filter(|r| r.bucket == bucket).peekable();
        if in_bucket.peek().is_none() {
            return Err(Refusal::Bucket);
        }
        if in_bucket.any(|r| r.prefixes.iter().any(|p| key.as_bytes().starts_with(p.as_bytes()))) {
            Ok(found)
        } else {
            Err(Refusal::Key)
        }
    }
}
