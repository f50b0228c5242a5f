//! Whether anybody else is at work: a dispatcher listens for tasks and sweeps, another reshard listens too, on a channel of its own.
//!
//! What is there now is noticed before anything is moved, and what has come since before the change is finished.

use redis::{Value, aio::PubSub};

use super::{ReshardError, Work, command};
use crate::queue::redis::{endpoint::Endpoint, error, keys, link::pipeline, value};

/// That this one is there, for others to see, and what it saw. Ends when it is dropped.
pub(super) struct Presence {
    _heard: PubSub,
    swept: Vec<String>,
}

impl Work {
    /// Shows itself, unless another one is there.
    pub(super) async fn show(&self, endpoint: &Endpoint) -> Result<Presence, ReshardError> {
        let primaries = self.nodes.primaries();
        let first = primaries.first().ok_or_else(|| error::unexpected("no server is known"))?;
        let heard =
            endpoint.subscribe(&first.address, keys::RESHARD_CHANNEL).await.map_err(error::from_redis)?;
        self.only_one().await?;
        Ok(Presence { _heard: heard, swept: self.swept().await? })
    }

    /// Looks whether anybody has come, or has swept.
    pub(super) async fn still_alone(&self, presence: &Presence) -> Result<(), ReshardError> {
        if self.listeners(keys::READY_CHANNEL).await? > 0 {
            return Err(ReshardError::Dispatcher);
        }
        self.only_one().await?;
        // A shard that was given up has no mark any more.
        let swept = self.swept().await?;
        let is_news = |(now, before): (&String, &String)| !now.is_empty() && now != before;
        if swept.iter().zip(&presence.swept).any(is_news) { Err(ReshardError::Swept) } else { Ok(()) }
    }

    /// Two that begin at once see each other, and neither goes on.
    async fn only_one(&self) -> Result<(), ReshardError> {
        if self.listeners(keys::RESHARD_CHANNEL).await? > 1 { Err(ReshardError::Another) } else { Ok(()) }
    }

    /// How many listen on a channel, at any of the servers.
    async fn listeners(&self, channel: &str) -> Result<i64, ReshardError> {
        let mut listeners = 0;
        for primary in self.nodes.primaries() {
            let mut count = command("PUBSUB", "NUMSUB");
            count.arg(channel);
            for answer in primary.link.send(&pipeline([count])).await.map_err(error::from_redis)? {
                let answer = answer.map_err(error::from_redis)?;
                let counts = if let Value::Map(pairs) = answer {
                    pairs.into_iter().map(|(_, count)| count).collect()
                } else {
                    value::list(answer).unwrap_or_default()
                };
                listeners += counts.iter().filter_map(value::integer).sum::<i64>();
            }
        }
        Ok(listeners)
    }

    /// When each shard was swept last.
    async fn swept(&self) -> Result<Vec<String>, ReshardError> {
        let marks = (0..self.mark.most).map(|shard| {
            let mut mark = command("HGET", keys::of_shard(shard, "sweep"));
            mark.arg("swept");
            mark
        });
        Ok(self.ask(marks.collect()).await?.iter().map(value::text).collect())
    }
}
