//! The event sources file: who may tell of which buckets, in which form, and how they prove who they are.
//!
//! TOML, with every problem named by its setting. Secrets are in files that it points to; they are read once, at the start, kept as
//! digests, and compared in constant time. Must not open a connection.

mod delivery;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use backhaul_runtime::{
    locations::{Locations, is_bucket_name, is_location_name, is_tenant_name},
    settings_file::{self, FileError, Problems},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use self::delivery::{RawDelivery, delivery};
use super::{parse::Form, pull::sqs::client::QueueOptions};

/// Largest file, in bytes; of sources, and of secrets.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// All sources.
#[derive(Debug, Default)]
pub struct Sources(Vec<std::sync::Arc<EventSource>>);

/// Somebody who tells of uploads.
#[derive(Debug)]
pub struct EventSource {
    /// Its name, also in the path that it posts to.
    pub name: String,
    /// How it writes.
    pub form: Form,
    /// Where the objects are that it tells of.
    pub location: String,
    /// Tenant that its tasks are for.
    pub tenant: String,
    /// Buckets that it may tell of; empty means all that the location allows the tenant.
    buckets: BTreeSet<String>,
    /// How its events get here.
    pub delivery: Delivery,
}

/// How events of a source get here.
#[derive(Debug)]
pub enum Delivery {
    /// It posts them, with one of these tokens.
    Token(Tokens),
    /// Amazon SNS posts them, signed, from this topic.
    Topic(String),
    /// They are read from a Redis stream.
    RedisStream(StreamOptions),
    /// They are read from an Amazon SQS queue; wrapped by this topic, where that matters.
    Sqs {
        /// The queue.
        queue: QueueOptions,
        /// Topic that must have wrapped them.
        topic: Option<String>,
    },
}

/// Tokens of a source; two while they are being changed. Known by their digests only.
pub struct Tokens(Vec<[u8; 32]>);

/// A Redis stream, and the consumer group that all dispatchers read it as.
#[derive(Clone)]
pub struct StreamOptions {
    /// The server; may hold a password.
    pub url: String,
    /// Key of the stream.
    pub stream: String,
    /// Consumer group.
    pub group: String,
    /// Field of an entry that holds the notification.
    pub field: String,
}

impl Sources {
    /// Reads and checks a file, and the secrets that it points to.
    ///
    /// # Errors
    /// [`FileError`], naming each setting that is wrong.
    pub fn load(path: &Path, locations: &Locations) -> Result<Self, FileError> {
        Self::parse(&settings_file::read("event sources", path, MAX_FILE_BYTES)?, path, locations)
    }

    /// Checks the text of a file; `path` is only for errors.
    ///
    /// # Errors
    /// [`FileError`], naming each setting that is wrong.
    pub fn parse(text: &str, path: &Path, locations: &Locations) -> Result<Self, FileError> {
        let file: RawFile = settings_file::parse(text, path)?;
        let mut problems = Problems::default();
        let mut names = BTreeSet::new();
        let mut sources = Vec::new();
        for (number, raw) in file.event_source.into_iter().enumerate() {
            let mut add = |setting: &str, what: &str| {
                problems.add(format!("event_source[{number}]{setting}"), what);
            };
            if !names.insert(raw.name.clone()) {
                add(".name", "another source has it");
            }
            sources.extend(source(raw, locations, &mut add).map(std::sync::Arc::new));
        }
        problems.unless_any(path, Self(sources))
    }

    /// The source of that name that posts its events.
    #[must_use]
    pub fn posting(&self, name: &str) -> Option<&EventSource> {
        let posts =
            |source: &&EventSource| matches!(source.delivery, Delivery::Token(_) | Delivery::Topic(_));
        self.iter().map(AsRef::as_ref).filter(posts).find(|source| source.name == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &std::sync::Arc<EventSource>> {
        self.0.iter()
    }
}

impl EventSource {
    /// Whether it may tell of that bucket; what the location allows is asked besides.
    #[must_use]
    pub fn may_name(&self, bucket: &str) -> bool {
        self.buckets.is_empty() || self.buckets.contains(bucket)
    }
}

impl Tokens {
    /// Tokens by themselves.
    #[must_use]
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        Self(tokens.into_iter().map(|token| Sha256::digest(token).into()).collect())
    }

    /// Whether `token` is one of them. Takes the same time whatever it is: digests are compared, to the last byte.
    #[must_use]
    pub fn accept(&self, token: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(token).into();
        let differs = |known: &[u8; 32]| known.iter().zip(given).fold(0, |sum, (a, b)| sum | (a ^ b));
        self.0.iter().fold(false, |accepted, known| accepted | (std::hint::black_box(differs(known)) == 0))
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, stream, group, field } = self;
        write!(f, "StreamOptions {{ stream: {stream:?}, group: {group:?}, field: {field:?}, .. }}")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    event_source: Vec<RawSource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    name: String,
    form: Form,
    location: String,
    tenant: String,
    #[serde(default)]
    buckets: BTreeSet<String>,
    token_file: Option<PathBuf>,
    sns_topic: Option<String>,
    redis_stream: Option<delivery::RawStream>,
    sqs: Option<delivery::RawQueue>,
}

fn source(raw: RawSource, locations: &Locations, add: &mut dyn FnMut(&str, &str)) -> Option<EventSource> {
    if !is_location_name(&raw.name) {
        add(".name", "a name is 1 to 63 characters of a-z, 0-9 and -, and starts with a letter");
    }
    if !is_tenant_name(&raw.tenant) {
        add(".tenant", "a tenant is 1 to 63 characters of a-z, 0-9, -, _ and .");
    }
    let rules = locations.get(&raw.location).filter(|l| l.backup.is_some()).map(|l| &l.read);
    let readable: BTreeSet<&str> = rules
        .into_iter()
        .flatten()
        .filter(|rule| rule.tenants.iter().any(|t| t == "*" || *t == raw.tenant))
        .map(|rule| rule.bucket.as_str())
        .collect();
    if readable.is_empty() {
        add(".location", "there is no such location that the tenant may back up from");
    }
    for bucket in &raw.buckets {
        if !is_bucket_name(bucket) {
            add(".buckets", "is not a bucket name");
        } else if !readable.is_empty() && !readable.contains(bucket.as_str()) {
            add(".buckets", "the location does not allow the tenant such a bucket");
        }
    }
    let RawSource { token_file, sns_topic, redis_stream, sqs, .. } = raw;
    let delivery = delivery(raw.form, RawDelivery { token_file, sns_topic, redis_stream, sqs }, add)?;
    Some(EventSource {
        name: raw.name,
        form: raw.form,
        location: raw.location,
        tenant: raw.tenant,
        buckets: raw.buckets,
        delivery,
    })
}

#[cfg(test)]
mod tests;
