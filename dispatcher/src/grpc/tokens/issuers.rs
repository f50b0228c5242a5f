//! The file of token issuers: whose tokens are taken, for which audience, with which keys, and who their callers are.
//!
//! TOML, with every problem named by its setting. Holds no secret: keys are public, and credentials for reading them are in files.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use backhaul_runtime::{
    settings_file::{self, FileError, Problems},
    units::parse_duration,
};
use serde::Deserialize;

pub use super::keys::KeyKeeper;
use super::{
    callers::{Callers, RawRule},
    jwks::Algorithm,
    keys::{KeyAddress, KeyFile, KeySource, Keys},
    review::Reviews,
};
use crate::https::{Https, HttpsOptions, is_https};

/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Longest time that a token may last.
const LONGEST: Duration = Duration::from_secs(3600);
/// Below this, whoever renews tokens does nothing else.
const SHORTEST: Duration = Duration::from_secs(60);

/// All issuers.
#[derive(Debug)]
pub struct Issuers(Vec<Issuer>);

/// Somebody whose tokens are taken.
#[derive(Debug)]
pub(super) struct Issuer {
    /// What it is called here, in logs and metrics.
    pub(super) name: String,
    /// What it is called in its tokens.
    issuer: String,
    /// What its tokens must be meant for.
    pub(super) audience: String,
    /// How they may be signed.
    pub(super) algorithms: Vec<Algorithm>,
    /// How much longer than now a token may be good.
    pub(super) max_lifetime: Duration,
    pub(super) keys: Keys,
    pub(super) reviews: Option<Reviews>,
    pub(super) callers: Callers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    issuer: Vec<RawIssuer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIssuer {
    name: String,
    issuer: String,
    audience: String,
    keys_file: Option<PathBuf>,
    keys_url: Option<String>,
    keys_ca_file: Option<PathBuf>,
    keys_token_file: Option<PathBuf>,
    algorithms: Option<Vec<String>>,
    max_lifetime: Option<String>,
    review: Option<RawReview>,
    #[serde(default)]
    caller: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReview {
    url: String,
    ca_file: Option<PathBuf>,
    token_file: PathBuf,
}

impl Issuers {
    /// Reads and checks a file, and the keys that it names as files. Others are read by their keepers, which somebody has to run.
    ///
    /// # Errors
    /// [`FileError`], naming each setting that is wrong.
    pub fn load(path: &Path) -> Result<(Self, Vec<KeyKeeper>), FileError> {
        Self::parse(&settings_file::read("token issuers", path, MAX_FILE_BYTES)?, path)
    }

    /// The same for the text of a file; `path` is only for errors.
    ///
    /// # Errors
    /// [`FileError`], naming each setting that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<(Self, Vec<KeyKeeper>), FileError> {
        let file: RawFile = settings_file::parse(text, path)?;
        let mut problems = Problems::default();
        let (mut issuers, mut keepers) = (Vec::<Issuer>::new(), Vec::new());
        for (number, raw) in file.issuer.into_iter().enumerate() {
            let mut add =
                |setting: String, what: &str| problems.add(format!("issuer[{number}].{setting}"), what);
            if issuers.iter().any(|other| other.name == raw.name) {
                add("name".to_owned(), "is there twice");
            }
            if issuers.iter().any(|other| other.issuer == raw.issuer) {
                add("issuer".to_owned(), "is there twice");
            }
            if let Some((issuer, keeper)) = Issuer::read(raw, &mut add) {
                issuers.push(issuer);
                keepers.push(keeper);
            }
        }
        if issuers.is_empty() && problems.is_empty() {
            problems.add("issuer", "the file names none");
        }
        problems.unless_any(path, (Self(issuers), keepers))
    }

    /// The issuer that its tokens call so.
    pub(super) fn of(&self, issuer: &str) -> Option<&Issuer> {
        self.0.iter().find(|known| known.issuer == issuer)
    }

    /// How long ago the keys of each issuer were read, or somebody began to try.
    pub fn key_ages(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.0.iter().map(|issuer| (issuer.name.as_str(), issuer.keys.age()))
    }
}

impl Issuer {
    fn read(raw: RawIssuer, add: &mut impl FnMut(String, &str)) -> Option<(Self, KeyKeeper)> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !((1..=63).contains(&raw.name.len()) && raw.name.bytes().all(is_plain)) {
            add("name".to_owned(), "must be 1 to 63 of a-z, 0-9 and -");
        }
        for (setting, text) in [("issuer", &raw.issuer), ("audience", &raw.audience)] {
            if text.is_empty() {
                add(setting.to_owned(), "must not be empty");
            }
        }
        let algorithms = match raw.algorithms {
            None => Some(Algorithm::ALL.to_vec()),
            Some(names) => names.iter().map(|name| Algorithm::named(name)).collect(),
        };
        let algorithms = algorithms.filter(|all| !all.is_empty());
        if algorithms.is_none() {
            add("algorithms".to_owned(), "must name RS256, ES256, or both");
        }
        let max_lifetime = match raw.max_lifetime.as_deref().map(parse_duration) {
            None => Some(LONGEST),
            Some(Ok(time)) if (SHORTEST..=LONGEST).contains(&time) => Some(time),
            Some(_) => None,
        };
        if max_lifetime.is_none() {
            add("max_lifetime".to_owned(), "must be 1m to 1h");
        }
        let options = HttpsOptions { ca_file: raw.keys_ca_file, token_file: raw.keys_token_file };
        let keys = keys(&raw.name, raw.keys_file, raw.keys_url, options, add);
        let reviews = match raw.review {
            None => None,
            Some(review) => {
                if !is_https(&review.url) {
                    add("review.url".to_owned(), "must be https://HOST[:PORT]");
                }
                let options = HttpsOptions { ca_file: review.ca_file, token_file: Some(review.token_file) };
                Some(Reviews::new(
                    &raw.name,
                    &review.url,
                    &raw.audience,
                    https("review.ca_file", options, add),
                ))
            }
        };
        let callers = Callers::read(raw.caller, add);
        let (keys, keeper) = keys?;
        let issuer = Self {
            name: raw.name,
            issuer: raw.issuer,
            audience: raw.audience,
            algorithms: algorithms?,
            max_lifetime: max_lifetime?,
            keys,
            reviews,
            callers,
        };
        Some((issuer, keeper))
    }
}

fn keys(
    issuer: &str,
    file: Option<PathBuf>,
    url: Option<String>,
    options: HttpsOptions,
    add: &mut impl FnMut(String, &str),
) -> Option<(Keys, KeyKeeper)> {
    match (file, url) {
        (Some(path), None) => {
            if options != HttpsOptions::default() {
                add("keys_file".to_owned(), "is read without keys_ca_file and keys_token_file");
            }
            let first = KeyFile(path.clone()).read_now();
            let (keys, mut keeper) = Keys::new(issuer, Box::new(KeyFile(path.clone())));
            if let Err(error) = keeper.take(first) {
                add("keys_file".to_owned(), &format!("{}: {error}", path.display()));
            }
            Some((keys, keeper))
        }
        (None, Some(url)) => {
            if !is_https(&url) {
                add("keys_url".to_owned(), "must be https://HOST/PATH");
            }
            let https = https("keys_ca_file", options, add);
            let source: Box<dyn KeySource> = Box::new(KeyAddress { url, https });
            Some(Keys::new(issuer, source))
        }
        (Some(_), Some(_)) | (None, None) => {
            add("keys_file".to_owned(), "or keys_url is needed, and not both");
            None
        }
    }
}

fn https(setting: &str, options: HttpsOptions, add: &mut impl FnMut(String, &str)) -> Https {
    let https = Https::new(options);
    if let Err(error) = https.check() {
        add(setting.to_owned(), &error.to_string());
    }
    https
}
