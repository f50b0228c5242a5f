//! The file of token issuers: whose tokens are taken, for which audience, with which keys, and how they name a caller.
//!
//! TOML, with every problem named by its setting. Holds no secret: keys are public.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backhaul_runtime::units::parse_duration;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{KeySet, Source};
use crate::events::sns::fetch::Fetch;

/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Longest lifetime that may be allowed.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// All issuers.
#[derive(Debug)]
pub struct Issuers(Vec<Issuer>);

/// Somebody whose tokens are taken.
#[derive(Debug)]
pub struct Issuer {
    /// Its name, as tokens have it in `iss`.
    pub name: String,
    /// What its tokens must be meant for.
    pub audience: String,
    /// How they may be signed.
    pub algorithms: Vec<Algorithm>,
    /// How much longer than now a token may be good.
    pub max_lifetime: Duration,
    pub(super) keys: KeySet,
    naming: Naming,
}

/// How claims become the path of a name.
#[derive(Debug)]
enum Naming {
    /// The subject is a service account of Kubernetes: `/ns/<namespace>/sa/<name>`.
    ServiceAccounts,
    /// Text, and between braces the claim to put there.
    Path(String),
}

/// Why a file of issuers was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// It could not be read.
    #[error("cannot read the token issuers file {}: {source}", path.display())]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    token_issuer: Vec<RawIssuer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIssuer {
    issuer: String,
    audience: String,
    keys_file: Option<PathBuf>,
    keys_url: Option<String>,
    #[serde(default = "both")]
    algorithms: Vec<RawAlgorithm>,
    max_lifetime: Option<String>,
    #[serde(default)]
    service_accounts: bool,
    path: Option<String>,
}

/// Only what needs a public key: with a shared one, whoever can check a token can make it.
#[derive(Deserialize, Clone, Copy)]
enum RawAlgorithm {
    RS256,
    ES256,
}

fn both() -> Vec<RawAlgorithm> {
    vec![RawAlgorithm::RS256, RawAlgorithm::ES256]
}

impl Issuers {
    /// Reads and checks a file. Keys with an address are fetched with `fetch` when they are needed.
    ///
    /// # Errors
    /// [`IssuersError`], naming each setting that is wrong.
    pub fn load(path: &Path, fetch: &Arc<dyn Fetch>) -> Result<Self, IssuersError> {
        let read = |source| IssuersError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(read)?.len() > MAX_FILE_BYTES {
            return Err(read(io::ErrorKind::FileTooLarge.into()));
        }
        Self::parse(&fs::read_to_string(path).map_err(read)?, path, fetch)
    }

    /// Checks the text of a file; `path` is only for errors.
    ///
    /// # Errors
    /// [`IssuersError`], naming each setting that is wrong.
    pub fn parse(text: &str, path: &Path, fetch: &Arc<dyn Fetch>) -> Result<Self, IssuersError> {
        let file: RawFile = toml::from_str(text)
            .map_err(|source| IssuersError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        let mut problems = Vec::new();
        let mut issuers: Vec<Issuer> = Vec::new();
        for (number, raw) in file.token_issuer.into_iter().enumerate() {
            let mut add = |setting: &str, what: &str| problems.push(format!("token_issuer[{number}].{setting}: {what}"));
            if issuers.iter().any(|other| other.name == raw.issuer) {
                add("issuer", "is there twice");
            }
            issuers.extend(issuer(raw, fetch, &mut add));
        }
        if issuers.is_empty() && problems.is_empty() {
            problems.push("token_issuer: the file names none".to_owned());
        }
        if problems.is_empty() { Ok(Self(issuers)) } else { Err(IssuersError::Invalid { path: path.to_owned(), problems }) }
    }

    /// The issuer with that name.
    pub(super) fn of(&self, name: &str) -> Option<&Issuer> {
        self.0.iter().find(|issuer| issuer.name == name)
    }
}

fn issuer(raw: RawIssuer, fetch: &Arc<dyn Fetch>, add: &mut impl FnMut(&str, &str)) -> Option<Issuer> {
    for (setting, text) in [("issuer", &raw.issuer), ("audience", &raw.audience)] {
        if text.is_empty() {
            add(setting, "must not be empty");
        }
    }
    if raw.algorithms.is_empty() {
        add("algorithms", "allows none");
    }
    let max_lifetime = match raw.max_lifetime.as_deref().map(parse_duration) {
        None => Duration::from_secs(3600),
        Some(Ok(time)) if (Duration::from_secs(60)..=MAX_LIFETIME).contains(&time) => time,
        Some(_) => {
            add("max_lifetime", "must be 1m to 24h");
            return None;
        }
    };
    let source = match (raw.keys_file, raw.keys_url) {
        (Some(path), None) => Source::File(path),
        (None, Some(url)) if url.starts_with("https://") => Source::Address(url, Arc::clone(fetch)),
        (None, Some(_)) => {
            add("keys_url", "must start with https://");
            return None;
        }
        (Some(_), Some(_)) | (None, None) => {
            add("keys_file", "or keys_url is needed, and not both");
            return None;
        }
    };
    let naming = match (raw.service_accounts, raw.path) {
        (true, None) => Naming::ServiceAccounts,
        (false, Some(path)) if is_template(&path) => Naming::Path(path),
        (false, Some(_)) => {
            add("path", "must be a path such as /backhaul/tenant/{sub}");
            return None;
        }
        (true, Some(_)) | (false, None) => {
            add("path", "or service_accounts = true is needed, and not both");
            return None;
        }
    };
    let algorithms = raw.algorithms.into_iter().map(|algorithm| match algorithm {
        RawAlgorithm::RS256 => Algorithm::RS256,
        RawAlgorithm::ES256 => Algorithm::ES256,
    });
    Some(Issuer {
        name: raw.issuer,
        audience: raw.audience,
        algorithms: algorithms.collect(),
        max_lifetime,
        keys: KeySet::new(source),
        naming,
    })
}

/// Segments, each a plain text or one claim in braces.
fn is_template(path: &str) -> bool {
    let is_claim = |text: &str| !text.is_empty() && !text.contains(['{', '}']);
    path.strip_prefix('/').is_some_and(|rest| {
        rest.split('/').all(|segment| match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(claim) => is_claim(claim),
            None => is_segment(segment),
        })
    })
}

/// What a path of a SPIFFE id is made of: a claim that holds anything else, a slash above all, names nobody.
fn is_segment(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !matches!(text, "" | "." | "..") && text.len() <= 255 && text.bytes().all(is_plain)
}

impl Issuer {
    /// The path of whom these claims name.
    pub(super) fn path(&self, claims: &Map<String, Value>) -> Option<String> {
        let claim = |name: &str| claims.get(name)?.as_str();
        match &self.naming {
            Naming::ServiceAccounts => {
                let mut parts = claim("sub")?.strip_prefix("system:serviceaccount:")?.split(':');
                let (namespace, name) = (parts.next()?, parts.next()?);
                let is_whole = parts.next().is_none() && is_segment(namespace) && is_segment(name);
                is_whole.then(|| format!("/ns/{namespace}/sa/{name}"))
            }
            Naming::Path(template) => {
                let segments = template.strip_prefix('/')?.split('/').map(|segment| {
                    match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                        Some(name) => claim(name).filter(|text| is_segment(text)),
                        None => Some(segment),
                    }
                });
                let segments: Option<Vec<&str>> = segments.collect();
                Some(format!("/{}", segments?.join("/")))
            }
        }
    }
}
