//! What nobody understands: kept once, with the raw body, for a person to look at. Bounded; the oldest goes first.
//!
//! In Redis it is the hash `{bh:quarantine}:bodies`, by digest of source and body, with the list `{bh:quarantine}:order` of its
//! digests. Both are outside of the shards: they are no part of the queue, and whoever wants the room may delete them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::sources::EventSource;
use crate::queue::{QueueError, redis::RedisQueue};

/// Bodies that are kept.
pub const MOST_KEPT: usize = 256;
/// Most bytes of a body that are kept; more than a message of SNS or SQS may have.
pub const MAX_KEPT_BYTES: usize = 256 * 1024;

/// A body that was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oddity {
    /// Digest of source and body, in hex: its name.
    pub digest: String,
    /// A JSON object: `source`, `reason`, `bytes` (of the whole body), and `body`, or `body_hex` where that is not text.
    pub text: String,
}

/// Keeps what was not understood.
#[async_trait]
pub trait Quarantine: Send + Sync + std::fmt::Debug + 'static {
    /// Keeps it, unless it is kept already; says whether it is new.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`], [`QueueError::NotDurable`]: it may not be kept.
    async fn keep(&self, oddity: Oddity) -> Result<bool, QueueError>;
}

/// Keeps it in memory: for a dispatcher over a queue of its own.
#[derive(Debug, Default)]
pub struct MemoryQuarantine(Mutex<(HashMap<String, String>, VecDeque<String>)>);

impl Oddity {
    /// Of a source's body, and why it is not understood.
    #[must_use]
    pub fn new(source: &EventSource, reason: &str, body: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(&source.name);
        digest.update([0]);
        digest.update(body);
        let kept = &body[..body.len().min(MAX_KEPT_BYTES)];
        let mut text = json!({ "source": source.name, "reason": reason, "bytes": body.len() });
        match std::str::from_utf8(kept) {
            Ok(kept) => text["body"] = kept.into(),
            Err(_) => text["body_hex"] = hex::encode(kept).into(),
        }
        Self { digest: hex::encode(digest.finalize()), text: text.to_string() }
    }
}

impl MemoryQuarantine {
    /// What is kept, the oldest first.
    #[must_use]
    pub fn kept(&self) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.1.iter().filter_map(|digest| kept.0.get(digest).cloned()).collect()
    }
}

#[async_trait]
impl Quarantine for MemoryQuarantine {
    async fn keep(&self, oddity: Oddity) -> Result<bool, QueueError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = kept.0.insert(oddity.digest.clone(), oddity.text).is_none();
        if is_new {
            kept.1.push_back(oddity.digest);
            if kept.1.len() > MOST_KEPT
                && let Some(oldest) = kept.1.pop_front()
            {
                kept.0.remove(&oldest);
            }
        }
        Ok(is_new)
    }
}

#[async_trait]
impl Quarantine for RedisQueue {
    async fn keep(&self, oddity: Oddity) -> Result<bool, QueueError> {
        self.quarantine(&oddity.digest, &oddity.text, MOST_KEPT).await
    }
}

#[cfg(test)]
mod tests;
