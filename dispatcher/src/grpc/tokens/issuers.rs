//! The file of token issuers: whose tokens are taken, for which audience, with which keys, and who their callers are.
//!
//! TOML, with every problem named by its setting. Holds no secret: keys are public, and credentials for reading them are in files.
//! What a new file says as the old one did is kept as it is, with the keys and reviews that are known.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backhaul_runtime::{
    settings_file::{self, FileError, Problems},
    units::parse_duration,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub use super::keys::KeyKeeper;
use super::{
    callers::{Callers, RawRule},
    jwks::Algorithm,
    keys::{KeyAddress, KeyFile, KeySource, Keys},
    review::Reviews,
};
use crate::https::{Https, HttpsOptions, is_https};

/// Largest file, in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Longest time that a token may last.
const LONGEST: Duration = Duration::from_secs(3600);
/// Below this, whoever renews tokens does nothing else.
const SHORTEST: Duration = Duration::from_secs(60);

/// All issuers; none by default.
#[derive(Debug, Default)]
pub struct Issuers(Vec<Arc<Issuer>>);

/// Somebody whose tokens are taken.
#[derive(Debug)]
pub(super) struct Issuer {
    /// As the file has it.
    said: RawIssuer,
    /// How they may be signed.
    pub(super) algorithms: Vec<Algorithm>,
    /// How much longer than now a token may be good.
    pub(super) max_lifetime: Duration,
    pub(super) keys: Keys,
    pub(super) reviews: Option<Arc<Reviews>>,
    pub(super) callers: Callers,
    /// Cancelled when the file says so no more, of it or of its callers.
    pub(super) withdrawn: CancellationToken,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    issuer: Option<Vec<RawIssuer>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReview {
    url: String,
    ca_file: Option<PathBuf>,
    token_file: PathBuf,
}

impl Issuers {
    /// Reads and checks the text of a file, and the keys that it names as files; `path` is only for errors. Others are read by their
    /// keepers, which somebody has to run.
    ///
    /// # Errors
    /// [`FileError`], naming each setting that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<(Self, Vec<KeyKeeper>), FileError> {
        Self::default().replaced(text, path)
    }

    /// The same for the text that is there now instead of that of these issuers, with the keepers of keys that are new.
    pub(super) fn replaced(&self, text: &str, path: &Path) -> Result<(Self, Vec<KeyKeeper>), FileError> {
        let file: RawFile = settings_file::parse(text, path)?;
        let mut problems = Problems::default();
        let (mut issuers, mut keepers) = (Vec::<Arc<Issuer>>::new(), Vec::new());
        if file.issuer.is_none() {
            // Who means nobody has to say so: a file that is being written has none either.
            problems.add("issuer", "the file names none; `issuer = []` is how to say that");
        }
        for (number, raw) in file.issuer.into_iter().flatten().enumerate() {
            let mut add =
                |setting: String, what: &str| problems.add(format!("issuer[{number}].{setting}"), what);
            if issuers.iter().any(|other| other.said.name == raw.name) {
                add("name".to_owned(), "is there twice");
            }
            if issuers.iter().any(|other| other.said.issuer == raw.issuer) {
                add("issuer".to_owned(), "is there twice");
            }
            if let Some(same) = self.0.iter().find(|known| known.said == raw) {
                issuers.push(Arc::clone(same));
            } else if let Some((issuer, keeper)) = Issuer::read(raw, &self.0, &mut add) {
                issuers.push(Arc::new(issuer));
                keepers.extend(keeper);
            }
        }
        problems.unless_any(path, (Self(issuers), keepers))
    }

    /// The issuer that its tokens call so.
    pub(super) fn of(&self, issuer: &str) -> Option<&Issuer> {
        self.0.iter().find(|known| known.said.issuer == issuer).map(Arc::as_ref)
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Waits until the keys of all of them have been read, or could not be.
    pub(super) async fn tried(&self) {
        for issuer in &self.0 {
            issuer.keys.tried().await;
        }
    }

    /// Ends what was let in by issuers that are not among `others` as they are here; tells how many those are.
    pub(super) fn withdraw_but(&self, others: &Self) -> usize {
        let is_kept = |issuer: &Arc<Issuer>| others.0.iter().any(|other| Arc::ptr_eq(other, issuer));
        let withdrawn = self.0.iter().filter(|issuer| !is_kept(issuer));
        withdrawn.map(|issuer| issuer.withdrawn.cancel()).count()
    }

    /// How long ago the keys of each issuer were read, or somebody began to try.
    pub fn key_ages(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.0.iter().map(|issuer| (issuer.name(), issuer.keys.age()))
    }
}

impl Issuer {
    /// What it is called here, in logs and metrics.
    pub(super) fn name(&self) -> &str {
        &self.said.name
    }

    /// What its tokens must be meant for.
    pub(super) fn audience(&self) -> &str {
        &self.said.audience
    }

    /// Checks what a file says. Keys and reviews of `before` are gone on with where they are the same.
    fn read(
        said: RawIssuer,
        before: &[Arc<Self>],
        add: &mut impl FnMut(String, &str),
    ) -> Option<(Self, Option<KeyKeeper>)> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !((1..=63).contains(&said.name.len()) && said.name.bytes().all(is_plain)) {
            add("name".to_owned(), "must be 1 to 63 of a-z, 0-9 and -");
        }
        for (setting, text) in [("issuer", &said.issuer), ("audience", &said.audience)] {
            if text.is_empty() {
                add(setting.to_owned(), "must not be empty");
            }
        }
        let algorithms = match &said.algorithms {
            None => Some(Algorithm::ALL.to_vec()),
            Some(names) => names.iter().map(|name| Algorithm::named(name)).collect(),
        };
        let algorithms = algorithms.filter(|all| !all.is_empty());
        if algorithms.is_none() {
            add("algorithms".to_owned(), "must name RS256, ES256, or both");
        }
        let max_lifetime = match said.max_lifetime.as_deref().map(parse_duration) {
            None => Some(LONGEST),
            Some(Ok(time)) if (SHORTEST..=LONGEST).contains(&time) => Some(time),
            Some(_) => None,
        };
        if max_lifetime.is_none() {
            add("max_lifetime".to_owned(), "must be 1m to 1h");
        }
        let keys = match before.iter().find(|known| known.said.has_keys_of(&said)) {
            Some(known) => Some((known.keys.clone(), None)),
            None => said.keys(add).map(|(keys, keeper)| (keys, Some(keeper))),
        };
        let reviews = match before.iter().find(|known| known.said.has_reviews_of(&said)) {
            Some(known) => known.reviews.clone(),
            None => said.reviews(add),
        };
        let callers = Callers::read(said.caller.clone(), add);
        let (keys, keeper) = keys?;
        let (algorithms, max_lifetime) = (algorithms?, max_lifetime?);
        let withdrawn = CancellationToken::new();
        Some((Self { said, algorithms, max_lifetime, keys, reviews, callers, withdrawn }, keeper))
    }
}

impl RawIssuer {
    fn has_keys_of(&self, other: &Self) -> bool {
        let source =
            |of: &Self| [&of.keys_file, &of.keys_ca_file, &of.keys_token_file].map(|path| path.clone());
        self.name == other.name && self.keys_url == other.keys_url && source(self) == source(other)
    }

    fn has_reviews_of(&self, other: &Self) -> bool {
        self.name == other.name && self.audience == other.audience && self.review == other.review
    }

    fn keys(&self, add: &mut impl FnMut(String, &str)) -> Option<(Keys, KeyKeeper)> {
        let options =
            HttpsOptions { ca_file: self.keys_ca_file.clone(), token_file: self.keys_token_file.clone() };
        match (&self.keys_file, &self.keys_url) {
            (Some(path), None) => {
                if options != HttpsOptions::default() {
                    add("keys_file".to_owned(), "is read without keys_ca_file and keys_token_file");
                }
                let first = KeyFile(path.clone()).read_now();
                let (keys, mut keeper) = Keys::new(&self.name, Box::new(KeyFile(path.clone())));
                if let Err(error) = keeper.take(first) {
                    add("keys_file".to_owned(), &format!("{}: {error}", path.display()));
                }
                Some((keys, keeper))
            }
            (None, Some(url)) => {
                if !is_https(url) {
                    add("keys_url".to_owned(), "must be https://HOST/PATH");
                }
                let https = https("keys_ca_file", options, add);
                let source: Box<dyn KeySource> = Box::new(KeyAddress { url: url.clone(), https });
                Some(Keys::new(&self.name, source))
            }
            (Some(_), Some(_)) | (None, None) => {
                add("keys_file".to_owned(), "or keys_url is needed, and not both");
                None
            }
        }
    }

    fn reviews(&self, add: &mut impl FnMut(String, &str)) -> Option<Arc<Reviews>> {
        let RawReview { url, ca_file, token_file } = self.review.as_ref()?;
        if !is_https(url) {
            add("review.url".to_owned(), "must be https://HOST[:PORT]");
        }
        let options = HttpsOptions { ca_file: ca_file.clone(), token_file: Some(token_file.clone()) };
        let https = https("review.ca_file", options, add);
        Some(Arc::new(Reviews::new(&self.name, url, &self.audience, https)))
    }
}

fn https(setting: &str, options: HttpsOptions, add: &mut impl FnMut(String, &str)) -> Https {
    let https = Https::new(options);
    if let Err(error) = https.check() {
        add(setting.to_owned(), &error.to_string());
    }
    https
}
