//! What nobody understands: kept once, with the raw body, for a person to look at. Bounded; the oldest goes first.
//!
//! In Redis it is beside the shards, as durable as tasks are (`queue::redis::aside`): it is no part of the queue, and whoever wants the
//! room may discard it.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{parse::MAX_BODY_BYTES, sources::EventSource};
use crate::queue::{QueueError, UnixMs, redis::RedisQueue};

/// Bodies that are kept.
pub const MOST_KEPT: usize = 256;
/// Most bytes of a body that are kept: all that can be posted, so that it can be taken again.
pub const MAX_KEPT_BYTES: usize = MAX_BODY_BYTES;
/// Bytes of all bodies that are kept.
pub const MOST_BYTES: usize = 64 * 1024 * 1024;

/// A body that was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oddity {
    /// Digest of source and body, in hex: its name.
    pub digest: String,
    /// What is known of it.
    pub about: About,
    /// The body, or as much of it as is kept.
    pub body: Bytes,
}

/// What is known of a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The source's name.
    pub source: String,
    /// Why it was not understood.
    pub reason: String,
    /// Length of the whole body.
    pub bytes: u64,
}

/// A body that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub digest: String,
    /// When it came first.
    pub at: UnixMs,
    /// What is known of it.
    pub about: About,
}

/// Keeps what was not understood.
#[async_trait]
pub trait Quarantine: Send + Sync + std::fmt::Debug + 'static {
    /// Keeps it, unless it is kept already; says whether it is new.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`], [`QueueError::NotDurable`]: it may not be kept.
    async fn keep(&self, oddity: Oddity) -> Result<bool, QueueError>;

    /// All that are kept, the latest first.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn list(&self) -> Result<Vec<Kept>, QueueError>;

    /// The body of one, as much of it as is kept; `None` when it is not kept.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn body(&self, digest: &str) -> Result<Option<Bytes>, QueueError>;

    /// Forgets one; says whether it was kept.
    ///
    /// # Errors
    /// As [`Quarantine::keep`].
    async fn forget(&self, digest: &str) -> Result<bool, QueueError>;
}

/// Keeps it in memory: for a dispatcher over a queue of its own.
#[derive(Debug, Default)]
pub struct MemoryQuarantine(Mutex<VecDeque<Oddity>>);

impl Oddity {
    /// Of a source's body, and why it is not understood.
    #[must_use]
    pub fn new(source: &EventSource, reason: &str, body: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(&source.name);
        digest.update([0]);
        digest.update(body);
        Self {
            digest: hex::encode(digest.finalize()),
            about: About { source: source.name.clone(), reason: reason.to_owned(), bytes: body.len() as u64 },
            body: Bytes::copy_from_slice(&body[..body.len().min(MAX_KEPT_BYTES)]),
        }
    }
}

impl MemoryQuarantine {
    /// What is kept, the oldest first.
    #[must_use]
    pub fn kept(&self) -> Vec<Oddity> {
        self.bodies().iter().cloned().collect()
    }

    fn bodies(&self) -> std::sync::MutexGuard<'_, VecDeque<Oddity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Quarantine for MemoryQuarantine {
    async fn keep(&self, oddity: Oddity) -> Result<bool, QueueError> {
        let mut bodies = self.bodies();
        if bodies.iter().any(|kept| kept.digest == oddity.digest) {
            return Ok(false);
        }
        bodies.push_back(oddity);
        let mut bytes: usize = bodies.iter().map(|kept| kept.body.len()).sum();
        while bodies.len() > MOST_KEPT || bytes > MOST_BYTES {
            bytes -= bodies.pop_front().map_or(0, |oldest| oldest.body.len());
        }
        Ok(true)
    }

    async fn list(&self) -> Result<Vec<Kept>, QueueError> {
        let kept = |oddity: &Oddity| Kept {
            digest: oddity.digest.clone(),
            // Nobody keeps this longer than the process lives.
            at: UnixMs(0),
            about: oddity.about.clone(),
        };
        Ok(self.bodies().iter().rev().map(kept).collect())
    }

    async fn body(&self, digest: &str) -> Result<Option<Bytes>, QueueError> {
        Ok(self.bodies().iter().find(|kept| kept.digest == digest).map(|kept| kept.body.clone()))
    }

    async fn forget(&self, digest: &str) -> Result<bool, QueueError> {
        let mut bodies = self.bodies();
        let before = bodies.len();
        bodies.retain(|kept| kept.digest != digest);
        Ok(bodies.len() < before)
    }
}

#[async_trait]
impl Quarantine for RedisQueue {
    async fn keep(&self, oddity: Oddity) -> Result<bool, QueueError> {
        let about = serde_json::to_string(&oddity.about);
        let about = about.map_err(|error| QueueError::Rejected(Box::new(error)))?;
        self.keep_body(&oddity.digest, &oddity.body, &about, MOST_KEPT, MOST_BYTES).await
    }

    async fn list(&self) -> Result<Vec<Kept>, QueueError> {
        let kept = self.kept_bodies().await?.into_iter().map(|kept| {
            let unknown = || About { source: String::new(), reason: "damaged".into(), bytes: 0 };
            let about = serde_json::from_str(&kept.about).unwrap_or_else(|_| unknown());
            Kept { digest: kept.digest, at: kept.at, about }
        });
        Ok(kept.collect())
    }

    async fn body(&self, digest: &str) -> Result<Option<Bytes>, QueueError> {
        Ok(self.kept_body(digest).await?.map(Bytes::from))
    }

    async fn forget(&self, digest: &str) -> Result<bool, QueueError> {
        self.forget_body(digest).await
    }
}

#[cfg(test)]
mod tests;
