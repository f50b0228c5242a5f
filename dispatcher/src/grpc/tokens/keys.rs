//! The public keys of an issuer (JWKS), from a file or an address: read again now and then, once for everybody who waits, and kept for a
//! bounded while when they cannot be read.

use std::{
    collections::HashMap,
    fmt, io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::{DecodingKey, jwk::JwkSet};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::events::sns::fetch::Fetch;

/// How old keys may be before they are read again.
const FRESH_FOR: Duration = Duration::from_secs(300);
/// How old they may be when they cannot be.
const GOOD_FOR: Duration = Duration::from_secs(3600);
/// Shortest time between two attempts, however many tokens name keys that nobody knows.
const NOT_BEFORE: Duration = Duration::from_secs(10);
/// Most bytes of a file, and most keys.
const MOST_BYTES: u64 = 64 * 1024;
const MOST_KEYS: usize = 64;

/// Where keys are.
pub(super) enum Source {
    /// In a file.
    File(PathBuf),
    /// At an address.
    Address(String, Arc<dyn Fetch>),
}

/// Keys by their id.
#[derive(Debug)]
pub(super) struct KeySet {
    source: Source,
    current: RwLock<Current>,
    /// Held by whoever reads them: others wait for it, or use what there is.
    reading: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default, Clone)]
struct Current {
    keys: Arc<HashMap<String, Arc<DecodingKey>>>,
    read_at: Option<Instant>,
}

/// The keys cannot be had, or not for too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unavailable;

impl KeySet {
    pub(super) fn new(source: Source) -> Self {
        Self { source, current: RwLock::default(), reading: tokio::sync::Mutex::default() }
    }

    /// The key with that id; `None` when the issuer has none.
    pub(super) async fn find(&self, kid: &str) -> Result<Option<Arc<DecodingKey>>, Unavailable> {
        let known = self.current();
        let age = known.age();
        match known.keys.get(kid) {
            Some(key) if age < FRESH_FOR => return Ok(Some(Arc::clone(key))),
            // Somebody else reads them: these are good until then.
            Some(key) if age < GOOD_FOR => match self.reading.try_lock() {
                Ok(mut tried) => self.read(&mut tried).await,
                Err(_) => return Ok(Some(Arc::clone(key))),
            },
            Some(_) | None => {
                let mut tried = self.reading.lock().await;
                // Whoever held it before has just read them.
                if self.current().read_at == known.read_at {
                    self.read(&mut tried).await;
                }
            }
        }
        let now = self.current();
        if now.age() >= GOOD_FOR {
            return Err(Unavailable);
        }
        Ok(now.keys.get(kid).map(Arc::clone))
    }

    /// Reads the keys, unless that has just been tried.
    async fn read(&self, tried: &mut Option<Instant>) {
        let now = Instant::now();
        if tried.is_some_and(|at| now.duration_since(at) < NOT_BEFORE) {
            return;
        }
        *tried = Some(now);
        match self.source.read().await {
            Ok(keys) => {
                let current = Current { keys: Arc::new(keys), read_at: Some(now) };
                let mut held = self.current.write().unwrap_or_else(PoisonError::into_inner);
                if held.read_at.is_none() {
                    info!(keys = current.keys.len(), source = ?self.source, "keys for tokens read");
                }
                *held = current;
            }
            Err(error) => warn!(%error, source = ?self.source, "keys for tokens cannot be read; those that are known are used for a while"),
        }
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Current {
    fn age(&self) -> Duration {
        self.read_at.map_or(Duration::MAX, |at| at.elapsed())
    }
}

impl Source {
    async fn read(&self) -> io::Result<HashMap<String, Arc<DecodingKey>>> {
        let text = match self {
            Self::File(path) => {
                if tokio::fs::metadata(path).await?.len() > MOST_BYTES {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                tokio::fs::read(path).await?.into()
            }
            Self::Address(address, fetch) => fetch.get(address).await?,
        };
        parse(&text)
    }
}

/// The keys of a set that tokens can be checked with; others of it are passed over.
pub(super) fn parse(text: &[u8]) -> io::Result<HashMap<String, Arc<DecodingKey>>> {
    let set: JwkSet = serde_json::from_slice(text).map_err(io::Error::other)?;
    let usable = set.keys.iter().filter(|key| key.is_supported()).take(MOST_KEYS);
    let named = usable.filter_map(|key| {
        let id = key.common.key_id.clone().unwrap_or_default();
        Some((id, Arc::new(DecodingKey::from_jwk(key).ok()?)))
    });
    let keys: HashMap<_, _> = named.collect();
    if keys.is_empty() { Err(io::Error::other("no key that can be used")) } else { Ok(keys) }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            Self::Address(address, _) => address.fmt(f),
        }
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Current({} keys)", self.keys.len())
    }
}
