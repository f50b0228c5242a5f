//! The keys of an issuer, kept current: read again now and then by one task of the process, and when a token names a key that nobody
//! knows, at most every few seconds however many such tokens come. Kept for a bounded while when they cannot be read.
//!
//! The task is not a caller's: one who goes away must not take along what others wait for.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::jwks::{Algorithm, Jwks, Key};
use crate::https::Https;

/// How long keys are used that cannot be read again.
pub(super) const GOOD_FOR: Duration = Duration::from_secs(3600);
/// Shortest time between two attempts.
pub(super) const NOT_BEFORE: Duration = Duration::from_secs(10);
/// Largest set of keys, in bytes.
const MOST_BYTES: usize = 256 * 1024;

/// Where keys come from.
#[async_trait]
pub(super) trait KeySource: Send + Sync + std::fmt::Debug + 'static {
    /// The set, as it is published.
    async fn read(&self) -> io::Result<Bytes>;

    /// How often to read it.
    fn every(&self) -> Duration;
}

/// A file on a local disk.
#[derive(Debug)]
pub(super) struct KeyFile(pub(super) PathBuf);

/// An address.
#[derive(Debug)]
pub(super) struct KeyAddress {
    pub(super) url: String,
    pub(super) https: Https,
}

/// The keys as they are known. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    current: watch::Receiver<State>,
    /// The number of the attempt that somebody wants.
    wanted: Arc<watch::Sender<u64>>,
}

/// Reads the keys of one issuer again.
#[derive(Debug)]
pub struct KeyKeeper {
    issuer: String,
    source: Box<dyn KeySource>,
    current: watch::Sender<State>,
    wanted: watch::Receiver<u64>,
    is_failing: bool,
}

#[derive(Debug, Clone)]
struct State {
    keys: Option<Arc<Jwks>>,
    /// When they were read; when there was a first look, before they have been.
    read_at: Instant,
    /// The newest attempt: its number, when it ended, and how.
    tries: u64,
    tried_at: Option<Instant>,
    has_failed: bool,
}

/// The keys cannot be had, or not for too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unavailable;

impl Keys {
    /// Keys that somebody has to keep.
    pub(super) fn new(issuer: &str, source: Box<dyn KeySource>) -> (Self, KeyKeeper) {
        let state =
            State { keys: None, read_at: Instant::now(), tries: 0, tried_at: None, has_failed: false };
        let (sender, current) = watch::channel(state);
        let (want, wanted) = watch::channel(0);
        let keeper =
            KeyKeeper { issuer: issuer.to_owned(), source, current: sender, wanted, is_failing: false };
        (Self { current, wanted: Arc::new(want) }, keeper)
    }

    /// The key with that id; `None` when the issuer has none.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Arc<Key>>, Unavailable> {
        let mut current = self.current.clone();
        let seen = current.borrow().clone();
        if let Some(key) = seen.find(id, algorithm) {
            return Ok(Some(key));
        }
        if seen.tried_at.is_none_or(|at| at.elapsed() >= NOT_BEFORE) {
            self.wanted.send_if_modified(|wanted| {
                let is_new = *wanted <= seen.tries;
                if is_new {
                    *wanted = seen.tries + 1;
                }
                is_new
            });
            let tried = current.wait_for(|state| state.tries > seen.tries).await;
            // Nobody keeps them any more: the process ends.
            tried.map_err(|_| Unavailable)?;
        }
        let now = current.borrow().clone();
        match now.find(id, algorithm) {
            Some(key) => Ok(Some(key)),
            // It may be a new one that could not be read.
            None if now.has_failed || !now.is_good() => Err(Unavailable),
            None => Ok(None),
        }
    }

    /// Waits until they have been read, or could not be; or until nobody tries.
    pub(super) async fn tried(&self) {
        self.current.clone().wait_for(|state| state.tries > 0).await.ok();
    }

    /// Time since they were read, or since somebody began to try.
    pub(super) fn age(&self) -> Duration {
        self.current.borrow().read_at.elapsed()
    }
}

impl State {
    fn is_good(&self) -> bool {
        self.keys.is_some() && self.read_at.elapsed() < GOOD_FOR
    }

    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<Key>> {
        self.keys.as_ref().filter(|_| self.is_good())?.find(id, algorithm)
    }
}

impl KeyKeeper {
    /// Uses what was read.
    ///
    /// # Errors
    /// It is no set of keys, or nothing was read.
    pub(super) fn take(&mut self, read: io::Result<Bytes>) -> io::Result<()> {
        let read = match read {
            Ok(text) => Jwks::parse(&text).map_err(io::Error::other),
            Err(error) => Err(error),
        };
        let now = Instant::now();
        let (keys, answer) = match read {
            Ok(keys) => (Some(Arc::new(keys)), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.current.send_modify(|state| {
            state.tries += 1;
            state.tried_at = Some(now);
            state.has_failed = keys.is_none();
            if keys.is_some() {
                state.keys = keys;
                state.read_at = now;
            }
        });
        answer
    }

    /// Keeps the keys current until `stop`, or until nobody has them any more.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let (next, soonest) = self.next_reads();
                let tries = self.current.borrow().tries;
                tokio::select! {
                    () = sleep_until(next) => {}
                    wanted = self.wanted.wait_for(|wanted| *wanted > tries) => if wanted.is_err() { return },
                }
                sleep_until(soonest).await;
                let read = self.source.read().await;
                let taken = self.take(read);
                self.tell(taken);
            }
        })
        .await;
    }

    /// When to read them again by oneself, and when at the earliest.
    fn next_reads(&self) -> (Instant, Instant) {
        let state = self.current.borrow();
        let Some(tried_at) = state.tried_at else {
            let now = Instant::now();
            return (now, now);
        };
        let soonest = tried_at + NOT_BEFORE;
        let next = if state.has_failed { soonest } else { tried_at + self.source.every() };
        (next, soonest)
    }

    fn tell(&mut self, taken: io::Result<()>) {
        let issuer = &self.issuer;
        match taken {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) || self.current.borrow().tries == 1 {
                    let keys = self.current.borrow().keys.as_ref().map_or(0, |keys| keys.len());
                    info!(issuer, keys, "the keys of a token issuer were read");
                }
            }
            Err(error) => {
                // Once: it is one state, however often it is tried.
                if !std::mem::replace(&mut self.is_failing, true) {
                    let error = &error as &dyn std::error::Error;
                    warn!(
                        issuer,
                        error,
                        "the keys of a token issuer cannot be read; those that are known are used for an hour"
                    );
                }
            }
        }
    }
}

impl KeyFile {
    /// A small file on a local disk: not worth a thread.
    pub(super) fn read_now(&self) -> io::Result<Bytes> {
        if fs::metadata(&self.0)?.len() > MOST_BYTES as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(fs::read(&self.0)?.into())
    }
}

#[async_trait]
impl KeySource for KeyFile {
    async fn read(&self) -> io::Result<Bytes> {
        self.read_now()
    }

    fn every(&self) -> Duration {
        NOT_BEFORE
    }
}

#[async_trait]
impl KeySource for KeyAddress {
    async fn read(&self) -> io::Result<Bytes> {
        match self.https.get(&self.url, MOST_BYTES).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(io::Error::other(format!("answered with {status}"))),
        }
    }

    fn every(&self) -> Duration {
        Duration::from_secs(300)
    }
}
