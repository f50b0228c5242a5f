//! What a Redis queue is told when it connects, and why it may refuse to.

use std::time::Duration;

use super::{
    access::{self, Access, Address},
    check::Unfit,
    endpoint::Endpoint,
};
pub use super::{
    access::{Login, TlsFiles},
    endpoint::Timeouts,
    scout::Layout,
};
use crate::queue::{QueueError, policy::InvalidSettings};

/// How the Redis queue is reached and how much an accepted task must survive.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[user:password@]host:port[,host:port...]/db`, `rediss://` for TLS. Never shown by `Debug`: it may hold a password.
    pub url: String,
    /// What the URL names.
    pub layout: Layout,
    /// Who logs in to the servers that hold the data; at Sentinels, the URL says it.
    pub login: Login,
    /// For `rediss://`.
    pub tls: TlsFiles,
    /// What must be true of a submit or a cancel before it is answered.
    pub durability: Durability,
    /// How long to wait for that.
    pub durability_timeout: Duration,
    /// How long to wait for the server.
    pub timeouts: Timeouts,
    /// How often to look, without a reason, whether other servers have become primaries.
    pub look_every: Duration,
    /// Connections for submits to each primary, used in turn, so that one batch's wait for the disk does not hold up the next.
    pub writers: usize,
    /// Sends everything twice.
    #[cfg(test)]
    pub(super) repeats: bool,
    /// How many commands may still be sent before everything fails, as if this process were killed.
    #[cfg(test)]
    pub(super) life: Option<std::sync::Arc<std::sync::atomic::AtomicI64>>,
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
    /// Options for the one server at `url`: durable on its disk, a second for anything else, four connections for submits.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            layout: Layout::Single,
            login: Login::default(),
            tls: TlsFiles::default(),
            durability: Durability::Local,
            durability_timeout: Duration::from_secs(3),
            timeouts: Timeouts { connect: Duration::from_secs(2), response: Duration::from_secs(1) },
            look_every: Duration::from_secs(1),
            writers: 4,
            #[cfg(test)]
            repeats: false,
            #[cfg(test)]
            life: None,
        }
    }

    /// Looks at what can be known without a connection.
    ///
    /// # Errors
    /// What is wrong, without anything secret.
    pub fn verify(&self) -> Result<(), String> {
        // The detail of an error may repeat the URL.
        self.servers()
            .map(drop)
            .map_err(|error| error.to_string().split(" - ").next().unwrap_or_default().to_owned())
    }

    /// The servers that the URL names, how they are entered to be asked where the data is, and how the data is.
    pub(super) fn servers(&self) -> redis::RedisResult<(Vec<Address>, Endpoint, Endpoint)> {
        let (named, addresses) = access::parse(&self.url, &self.tls)?;
        let refuse = |what| Err((redis::ErrorKind::InvalidClientConfig, what).into());
        let data = match &self.layout {
            Layout::Single if addresses.len() > 1 => {
                return refuse("several servers are named; say whether they are a cluster or Sentinels");
            }
            Layout::Cluster if named.database() != 0 => return refuse("a cluster has only database 0"),
            Layout::Single | Layout::Cluster => named.clone().with_login(&self.login),
            Layout::Sentinel(_) => named.for_others(&self.login),
        };
        let asking = match &self.layout {
            Layout::Single | Layout::Cluster => data.clone(),
            Layout::Sentinel(_) => named.without_database(),
        };
        Ok((addresses, self.endpoint(asking), self.endpoint(data)))
    }

    fn endpoint(&self, access: Access) -> Endpoint {
        Endpoint {
            access,
            timeouts: self.timeouts,
            #[cfg(test)]
            repeats: self.repeats,
            #[cfg(test)]
            life: self.life.clone(),
        }
    }
}

impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions")
            .field("layout", &self.layout)
            .field("durability", &self.durability)
            .field("durability_timeout", &self.durability_timeout)
            .field("timeouts", &self.timeouts)
            .field("writers", &self.writers)
            .finish_non_exhaustive()
    }
}
