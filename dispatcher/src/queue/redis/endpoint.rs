//! Making connections: within explicit time limits, scripts loaded, and only to a primary.
//!
//! A server that has become a replica, or that belongs to nobody any more, is refused here, before anything is read from it or
//! written to it. Nothing here may know tasks, or which server is whose.

use std::time::Duration;

use redis::{ErrorKind, RedisResult, aio::MultiplexedConnection};

use super::{
    access::{self, Access, Address, TlsFiles},
    scripts::Script,
    value::text,
};

/// How long to wait for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To establish a connection, log in and load the scripts.
    pub connect: Duration,
    /// For an answer. A command without one by then may or may not have been executed.
    pub response: Duration,
}

/// What connects to servers of one kind.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) access: Access,
    pub(super) timeouts: Timeouts,
    /// Every pipeline is sent once more and the second answer dropped, as if the first had been lost.
    #[cfg(test)]
    pub(super) repeats: bool,
    /// How many commands may still be sent.
    #[cfg(test)]
    pub(super) life: Option<std::sync::Arc<std::sync::atomic::AtomicI64>>,
}

impl Endpoint {
    /// A new connection to whatever is there.
    pub(super) async fn open(&self, address: &Address) -> RedisResult<MultiplexedConnection> {
        within(self.timeouts.connect, self.dial(address)).await
    }

    /// A new connection to a primary, with all scripts loaded.
    pub(super) async fn connect(&self, address: &Address) -> RedisResult<MultiplexedConnection> {
        within(self.timeouts.connect, async {
            let mut connection = self.dial(address).await?;
            let mut pipeline = redis::pipe();
            pipeline.cmd("INFO").arg("replication");
            for script in Script::ALL {
                pipeline.cmd("SCRIPT").arg("LOAD").arg(script.text()).ignore();
            }
            let [info]: [redis::Value; 1] = pipeline.query_async(&mut connection).await?;
            if text(&info).contains("role:master") {
                Ok(connection)
            } else {
                Err((ErrorKind::Io, "it is a replica", address.to_string()).into())
            }
        })
        .await
    }

    /// A new connection for subscriptions.
    pub(super) async fn subscribe(
        &self,
        address: &Address,
        channel: &str,
    ) -> RedisResult<redis::aio::PubSub> {
        within(self.timeouts.connect, async {
            let mut connection = self.access.client(address).await?.get_async_pubsub().await?;
            connection.subscribe(channel).await?;
            Ok(connection)
        })
        .await
    }

    async fn dial(&self, address: &Address) -> RedisResult<MultiplexedConnection> {
        // Whoever uses it sets the limits: a barrier may take longer than anything else.
        let config =
            redis::AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        self.access.client(address).await?.get_multiplexed_async_connection_with_config(&config).await
    }
}

/// A new connection to the one server that a URL names, which need not have anything to do with queues.
///
/// # Errors
/// When the URL names none or several, or the server does not answer.
pub async fn connect_to(url: &str, timeouts: Timeouts) -> RedisResult<MultiplexedConnection> {
    let (access, address) = one_server(url)?;
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(Some(timeouts.response));
    within(timeouts.connect, async {
        access.client(&address).await?.get_multiplexed_async_connection_with_config(&config).await
    })
    .await
}

/// Whether [`connect_to`] could connect to that.
#[must_use]
pub fn is_server(url: &str) -> bool {
    one_server(url).is_ok()
}

fn one_server(url: &str) -> RedisResult<(Access, Address)> {
    let (access, mut addresses) = access::parse(url, &TlsFiles::default())?;
    match (addresses.pop(), addresses.is_empty()) {
        (Some(address), true) => Ok((access, address)),
        _ => Err((ErrorKind::InvalidClientConfig, "not one server").into()),
    }
}

/// Waits for something at most this long.
pub(super) async fn within<T>(limit: Duration, what: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    match tokio::time::timeout(limit, what).await {
        Ok(result) => result,
        Err(elapsed) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed).into()),
    }
}
