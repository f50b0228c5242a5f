//! A Redis stream as a source: all dispatchers are one consumer group, each a consumer of its own.
//!
//! An entry stays in the group's pending list until it is acknowledged; what a consumer that is gone has left there is claimed after
//! [`ABANDONED_AFTER`]. Entries of a live consumer that waits for its queue that long are claimed too, and taken twice, which
//! is harmless.

use std::{fmt::Write as _, time::Duration};

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, aio::MultiplexedConnection};

use super::{Message, PullError, PullSource};
use crate::{
    events::sources::StreamOptions,
    queue::redis::{Timeouts, connect_to},
};

/// Entries of a batch.
const BATCH: usize = 16;
/// How long the server is asked to wait for entries.
const BLOCK: Duration = Duration::from_secs(2);
/// How long to wait for the server.
const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(5), response: Duration::from_secs(7) };
/// Idle time after which an entry is taken from its consumer.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// Fields and values of an entry; none when it was deleted from the stream.
type Fields = Option<Vec<Vec<u8>>>;
/// An entry's id, and what it holds.
type Entry = (String, Fields);

/// A reader of a stream.
pub struct RedisStream {
    options: StreamOptions,
    consumer: String,
    abandoned_after: Duration,
    connection: Option<MultiplexedConnection>,
}

impl RedisStream {
    /// Connects when it is first asked.
    #[must_use]
    pub fn new(options: StreamOptions, abandoned_after: Duration) -> Self {
        let consumer = format!("backhaul-{:016x}", fastrand::u64(..));
        Self { options, consumer, abandoned_after, connection: None }
    }

    /// A connection, and the group on the server behind it.
    async fn connection(&mut self) -> RedisResult<MultiplexedConnection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let mut connection = connect_to(&self.options.url, TIMEOUTS).await?;
        // From the first entry, so that what was written before the first dispatcher came is read.
        let created = redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(&self.options.stream)
            .arg(&self.options.group)
            .arg("0")
            .arg("MKSTREAM")
            .query_async::<()>(&mut connection)
            .await;
        match created {
            Err(error) if error.code() != Some("BUSYGROUP") => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// Asks; after a failure the next question goes over a new connection.
    async fn ask<T: FromRedisValue>(&mut self, command: Cmd) -> Result<T, PullError> {
        let asked = match self.connection().await {
            Ok(mut connection) => command.query_async(&mut connection).await,
            Err(error) => Err(error),
        };
        asked.map_err(|error: RedisError| {
            self.connection = None;
            PullError(Box::new(error))
        })
    }

    async fn abandoned(&mut self) -> Result<Vec<Entry>, PullError> {
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg(&self.options.stream).arg(&self.options.group).arg(&self.consumer);
        claim.arg(u64::try_from(self.abandoned_after.as_millis()).unwrap_or(u64::MAX));
        claim.arg("0-0").arg("COUNT").arg(BATCH);
        let (_next, entries, _deleted): (String, Vec<Entry>, Vec<String>) = self.ask(claim).await?;
        Ok(entries)
    }

    async fn new_ones(&mut self) -> Result<Vec<Entry>, PullError> {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.options.group).arg(&self.consumer).arg("COUNT").arg(BATCH);
        read.arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX));
        read.arg("STREAMS").arg(&self.options.stream).arg(">");
        let streams: Option<Vec<(String, Vec<Entry>)>> = self.ask(read).await?;
        Ok(streams.into_iter().flatten().flat_map(|(_, entries)| entries).collect())
    }
}

#[async_trait]
impl PullSource for RedisStream {
    async fn receive(&mut self) -> Result<Vec<Message>, PullError> {
        let mut entries = self.abandoned().await?;
        if entries.is_empty() {
            entries = self.new_ones().await?;
        }
        let field = self.options.field.as_bytes();
        Ok(entries.into_iter().map(|(id, fields)| Message { id, body: body(fields, field).into() }).collect())
    }

    async fn acknowledge(&mut self, ids: &[String]) -> Result<(), PullError> {
        let mut acknowledge = redis::cmd("XACK");
        acknowledge.arg(&self.options.stream).arg(&self.options.group).arg(ids);
        self.ask::<u64>(acknowledge).await?;
        Ok(())
    }

    /// Removes the consumer from the group, unless entries are still pending for it: they would go with it.
    async fn leave(&mut self) {
        let StreamOptions { stream, group, .. } = self.options.clone();
        let mut pending = redis::cmd("XPENDING");
        pending.arg(&stream).arg(&group).arg("-").arg("+").arg(1).arg(&self.consumer);
        if let Ok(redis::Value::Array(left)) = self.ask::<redis::Value>(pending).await
            && left.is_empty()
        {
            let mut forget = redis::cmd("XGROUP");
            forget.arg("DELCONSUMER").arg(&stream).arg(&group).arg(&self.consumer);
            // A consumer that stays costs the server a few bytes.
            drop(self.ask::<u64>(forget).await);
        }
    }
}

/// The value of the field; where there is none, all that there is, which nobody will understand and a person will see.
fn body(fields: Fields, field: &[u8]) -> Vec<u8> {
    let fields = fields.unwrap_or_default();
    let found = fields.chunks_exact(2).find(|pair| pair[0] == field).map(|pair| pair[1].clone());
    found.unwrap_or_else(|| {
        let mut text = String::from("no such field in the entry:");
        for value in &fields {
            // Writing to a String cannot fail.
            let _infallible = write!(text, " {}", String::from_utf8_lossy(value));
        }
        text.into_bytes()
    })
}

impl std::fmt::Debug for RedisStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStream")
            .field("options", &self.options)
            .field("consumer", &self.consumer)
            .finish_non_exhaustive()
    }
}
