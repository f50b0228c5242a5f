//! The event sources file: who may tell of which buckets, in which form, and how they prove who they are.
//!
//! TOML, with every problem named by its setting. Secrets are in files that it points to; they are read once, at the start, kept as
//! digests, and compared in constant time. Must not open a connection.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use backhaul_runtime::locations::{Locations, is_bucket_name, is_location_name, is_tenant_name};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::parse::Form;
use crate::queue::redis::is_server;

/// Largest file, in bytes; of sources, and of secrets.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Shortest token: 128 bits in base64.
const MIN_TOKEN_BYTES: usize = 22;

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

/// Why a file of sources was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// It could not be read.
    #[error("cannot read the event sources file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or has a setting that does not exist or is of the wrong type.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It says something that cannot be: one line each.
    #[error("{}:{}", path.display(), problems.iter().map(|p| format!("\n  {p}")).collect::<String>())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<String>,
    },
}

impl Sources {
    /// Reads and checks a file, and the secrets that it points to.
    ///
    /// # Errors
    /// [`SourcesError`], naming each setting that is wrong.
    pub fn load(path: &Path, locations: &Locations) -> Result<Self, SourcesError> {
        let text = read(path).map_err(|source| SourcesError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path, locations)
    }

    /// Checks the text of a file; `path` is only for errors.
    ///
    /// # Errors
    /// [`SourcesError`], naming each setting that is wrong.
    pub fn parse(text: &str, path: &Path, locations: &Locations) -> Result<Self, SourcesError> {
        let file: RawFile = toml::from_str(text)
            .map_err(|source| SourcesError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        let mut problems = Vec::new();
        let mut names = BTreeSet::new();
        let mut sources = Vec::new();
        for (number, raw) in file.event_source.into_iter().enumerate() {
            let mut add = |setting: &str, what: &str| {
                problems.push(format!("event_source[{number}]{setting}: {what}"));
            };
            if !names.insert(raw.name.clone()) {
                add(".name", "another source has it");
            }
            sources.extend(source(raw, locations, &mut add).map(std::sync::Arc::new));
        }
        if problems.is_empty() {
            Ok(Self(sources))
        } else {
            Err(SourcesError::Invalid { path: path.to_owned(), problems })
        }
    }

    /// The source of that name that posts its events.
    #[must_use]
    pub fn posting(&self, name: &str) -> Option<&EventSource> {
        let posts = |source: &&EventSource| !matches!(source.delivery, Delivery::RedisStream(_));
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
    redis_stream: Option<RawStream>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStream {
    url_file: PathBuf,
    stream: String,
    #[serde(default = "default_group")]
    group: String,
    #[serde(default = "default_field")]
    field: String,
}

fn default_group() -> String {
    "backhaul".into()
}

fn default_field() -> String {
    "event".into()
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
    let delivery = delivery(raw.form, raw.token_file, raw.sns_topic, raw.redis_stream, add)?;
    Some(EventSource {
        name: raw.name,
        form: raw.form,
        location: raw.location,
        tenant: raw.tenant,
        buckets: raw.buckets,
        delivery,
    })
}

fn delivery(
    form: Form,
    token_file: Option<PathBuf>,
    topic: Option<String>,
    stream: Option<RawStream>,
    add: &mut dyn FnMut(&str, &str),
) -> Option<Delivery> {
    match (token_file, topic, stream) {
        (None, Some(topic), None) if form == Form::Sns => {
            let parts: Vec<&str> = topic.split(':').collect();
            if !matches!(parts.as_slice(), ["arn", _, "sns", region, account, name]
                if ![region, account, name].iter().any(|part| part.is_empty()))
            {
                add(".sns_topic", "must be the ARN of a topic");
            }
            Some(Delivery::Topic(topic))
        }
        (Some(file), None, None) if form != Form::Sns => match tokens(&file) {
            Ok(tokens) => Some(Delivery::Token(tokens)),
            Err(what) => {
                add(".token_file", &what);
                None
            }
        },
        (None, None, Some(stream)) if form != Form::Sns => {
            match secret(&stream.url_file) {
                Ok(url) if is_server(url.trim()) => {
                    let RawStream { stream, group, field, .. } = stream;
                    if [&stream, &group, &field].iter().any(|name| name.is_empty()) {
                        add(".redis_stream", "a name is empty");
                    }
                    return Some(Delivery::RedisStream(StreamOptions {
                        url: url.trim().to_owned(),
                        stream,
                        group,
                        field,
                    }));
                }
                Ok(_) => add(".redis_stream.url_file", "the file holds no URL of one Redis server"),
                Err(what) => add(".redis_stream.url_file", &what),
            }
            None
        }
        _ if form == Form::Sns => {
            add("", "the form sns needs sns_topic, and nothing else, to know who sends");
            None
        }
        _ => {
            add("", "needs exactly one of token_file and redis_stream");
            None
        }
    }
}

/// One token a line.
fn tokens(file: &Path) -> Result<Tokens, String> {
    let text = secret(file)?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => Err("the file holds no token".into()),
        [_, _, _, ..] => Err("the file holds more than two tokens".into()),
        tokens if tokens.iter().any(|token| token.len() < MIN_TOKEN_BYTES) => {
            Err(format!("a token has at least {MIN_TOKEN_BYTES} characters"))
        }
        tokens if tokens.iter().any(|token| !token.bytes().all(|b| b.is_ascii_graphic())) => {
            Err("a token has only visible ASCII characters".into())
        }
        tokens => Ok(Tokens::new(tokens.iter().copied())),
    }
}

fn secret(file: &Path) -> Result<String, String> {
    if !file.is_absolute() {
        return Err("must be an absolute path".into());
    }
    read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other("larger than 256 KiB"));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests;
