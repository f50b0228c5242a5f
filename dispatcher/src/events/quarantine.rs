//! What nobody understands: kept once, with the raw body, for a person to look at. Bounded; the oldest goes first.
//!
//! In Redis it is the hash `bh:quarantine`, by digest of source and body, with the list `bh:quarantine:order` of its digests. Both
//! are outside of the shards: they are no part of the queue, and whoever wants the room may delete them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use redis::{Client, ErrorKind, RedisError, RedisResult, ServerErrorKind, aio::MultiplexedConnection};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::sources::EventSource;
use crate::queue::{QueueError, redis::Durability};

const BODIES: &str = "bh:quarantine";
const ORDER: &str = "bh:quarantine:order";
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

/// Keeps it in Redis, as durable as tasks are.
pub struct RedisQuarantine {
    client: Client,
    durability: Durability,
    open: tokio::sync::Mutex<Option<MultiplexedConnection>>,
}

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

impl RedisQuarantine {
    /// In the server at `url`.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &str, durability: Durability) -> RedisResult<Self> {
        Ok(Self { client: Client::open(url)?, durability, open: tokio::sync::Mutex::default() })
    }

    /// One at a time: this is rare, and a barrier is about its own connection's writes.
    async fn try_keep(&self, oddity: &Oddity) -> Result<bool, QueueError> {
        let mut open = self.open.lock().await;
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => connect(&self.client, Duration::from_secs(5)).await.map_err(unavailable)?,
        };
        let is_new: bool = redis::cmd("HSETNX")
            .arg(BODIES)
            .arg(&oddity.digest)
            .arg(&oddity.text)
            .query_async(&mut connection)
            .await
            .map_err(unavailable)?;
        if is_new {
            self.bound(&mut connection, &oddity.digest).await.map_err(unavailable)?;
        }
        self.barrier(&mut connection).await?;
        // Only one on which nothing has failed is used again.
        *open = Some(connection);
        Ok(is_new)
    }

    async fn bound(&self, connection: &mut MultiplexedConnection, digest: &str) -> RedisResult<()> {
        let count: usize = redis::cmd("RPUSH").arg(ORDER).arg(digest).query_async(connection).await?;
        if count > MOST_KEPT {
            let oldest: Vec<String> =
                redis::cmd("LPOP").arg(ORDER).arg(count - MOST_KEPT).query_async(connection).await?;
            if !oldest.is_empty() {
                let _: () = redis::cmd("HDEL").arg(BODIES).arg(oldest).query_async(connection).await?;
            }
        }
        Ok(())
    }

    async fn barrier(&self, connection: &mut MultiplexedConnection) -> Result<(), QueueError> {
        const PATIENCE_MS: u32 = 3000;
        let wanted = match self.durability {
            Durability::None => return Ok(()),
            Durability::Local => 0,
            Durability::Replicas(count) => count,
        };
        let waited: RedisResult<(u32, u32)> =
            redis::cmd("WAITAOF").arg(1).arg(wanted).arg(PATIENCE_MS).query_async(connection).await;
        let (is_local, replicas) = match waited {
            Ok((local, replicas)) => (local >= 1, replicas),
            // Before 7.2 there is no such command, and a server that syncs later than it answers has been refused at the start.
            Err(error) if is_unknown(&error) => {
                let replicas = redis::cmd("WAIT").arg(wanted).arg(PATIENCE_MS).query_async(connection).await;
                (true, replicas.map_err(unavailable)?)
            }
            Err(error) => return Err(unavailable(error)),
        };
        if is_local && replicas >= wanted {
            Ok(())
        } else {
            Err(QueueError::NotDurable { reached: replicas, wanted })
        }
    }
}

#[async_trait]
impl Quarantine for RedisQuarantine {
    async fn keep(&self, oddity: Oddity) -> Result<bool, QueueError> {
        self.try_keep(&oddity).await
    }
}

impl std::fmt::Debug for RedisQuarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisQuarantine").field("durability", &self.durability).finish_non_exhaustive()
    }
}

/// A new connection whose answers are waited for that long.
pub(super) async fn connect(client: &Client, patience: Duration) -> RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(patience));
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
        && error.detail().is_some_and(|detail| detail.contains("unknown command"))
}

fn unavailable(error: RedisError) -> QueueError {
    QueueError::Unavailable(Box::new(error))
}

#[cfg(test)]
mod tests;
