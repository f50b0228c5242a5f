//! What a Redis queue is told when it connects, and why it may refuse to.

use std::time::Duration;

use super::check::Unfit;
use super::connection::Timeouts;
use crate::queue::{QueueError, policy::InvalidSettings};

/// How the Redis queue is reached and how much an accepted task must survive.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[user:password@]host:port/db`. Never shown by `Debug`: it may hold a password.
    pub url: String,
    /// What must be true of a submit or a cancel before it is answered.
    pub durability: Durability,
    /// How long to wait for that.
    pub durability_timeout: Duration,
    /// How long to wait for the server.
    pub timeouts: Timeouts,
    /// Connections for submits, used in turn, so that one batch's wait for the disk does not hold up the next.
    pub writers: usize,
    /// Sends everything twice.
    #[cfg(test)]
    pub(super) repeats: bool,
}

/// How much an accepted submit or cancel has survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is in the server's memory: a crash of the server may lose the last second, or all without AOF.
    None,
    /// It is in the server's append-only file, on disk.
    Local,
    /// It is on disk and at this many replicas (from Redis 7.2: on their disks too), at least one.
    Replicas(u32),
}

/// Why there is no queue.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The settings cannot work; change them.
    #[error("invalid queue settings")]
    Settings(#[source] InvalidSettings),
    /// The URL cannot be used; change it.
    #[error("invalid Redis URL")]
    Url(#[source] redis::RedisError),
    /// The server does not answer, or refuses us.
    #[error("cannot use the Redis server")]
    Server(#[source] QueueError),
    /// The server must not be trusted with tasks as it is; the message names what to change.
    #[error("the Redis server is not fit for tasks: {0}")]
    Unfit(#[source] Unfit),
}

impl RedisOptions {
    /// Options for the server at `url`: durable on its disk, five seconds for anything, four connections for submits.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            durability: Durability::Local,
            durability_timeout: Duration::from_secs(3),
            timeouts: Timeouts { connect: Duration::from_secs(2), response: Duration::from_secs(5) },
            writers: 4,
            #[cfg(test)]
            repeats: false,
        }
    }
}

impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions")
            .field("durability", &self.durability)
            .field("durability_timeout", &self.durability_timeout)
            .field("timeouts", &self.timeouts)
            .field("writers", &self.writers)
            .finish_non_exhaustive()
    }
}
