//! Bodies that nobody understands, kept beside the tasks and as durable as they are. Bounded; the oldest goes first.
//!
//! It exists here because only the queue knows which server has which key, and what proves a write there. Nothing here may touch
//! a key of a shard.

use std::sync::Arc;

use redis::Cmd;
use tokio::sync::Mutex;

use super::{
    RedisQueue,
    access::Address,
    check::Barrier,
    error, keys,
    link::{Link, pipeline},
    value,
    writer::{Proof, barrier_command, proven},
};
use crate::queue::QueueError;

/// The connection for it: its own, because a barrier covers earlier writes of its connection and blocks it.
#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<Option<(Address, Link)>>);

impl RedisQueue {
    /// Keeps `body` under its `digest`, unless it is kept already; says whether it is new. No more than `most` are kept.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`], [`QueueError::NotDurable`], [`QueueError::Unfit`]: it may not be kept.
    pub async fn quarantine(&self, digest: &str, body: &str, most: usize) -> Result<bool, QueueError> {
        let slot = keys::slot(keys::QUARANTINE.as_bytes());
        // One at a time: this is rare, and a caller's time limit is for its own barrier.
        let mut open = self.quarantine.0.lock().await;
        let primary = self.shared.nodes.of_slot(slot).map_err(error::from_redis)?;
        let found = primary.check(&self.writing).await?;
        let barrier = found.map_err(|unfit| QueueError::Unfit(Arc::new(unfit)))?;
        let link = match open.take() {
            Some((address, link)) if address == primary.address => link,
            Some(_) | None => self.shared.nodes.link(&primary.address),
        };
        let kept = self.keep(&link, barrier, &script(digest, body, most)).await;
        *open = Some((primary.address.clone(), link));
        drop(open);
        if primary.is_retired() {
            // Whatever it says, it proves nothing.
            Proof::Void.result()?;
        }
        kept
    }

    async fn keep(&self, link: &Link, barrier: Barrier, script: &Cmd) -> Result<bool, QueueError> {
        let timeouts = self.writing.endpoint.timeouts;
        let opened = link.opened_within(timeouts.connect).await.map_err(error::from_redis)?;
        let command = barrier_command(barrier, self.writing.patience);
        let limit = timeouts.response + self.writing.patience;
        let sent = link.send_on(&opened, &pipeline([script.clone()]), command.as_ref(), limit).await;
        let mut answers = sent.map_err(error::from_redis)?.into_iter();
        let answer = answers.next().ok_or_else(|| error::unexpected("a command was not answered"))?;
        let answer = answer.map_err(error::from_redis)?;
        if command.is_some() {
            proven(barrier, answers.next()).result()?;
        }
        value::integer(&answer)
            .map(|new| new == 1)
            .ok_or_else(|| error::unexpected("a script answered something else than a number"))
    }
}

fn script(digest: &str, body: &str, most: usize) -> Cmd {
    let mut script = redis::cmd("EVAL");
    script.arg(include_str!("lua/quarantine.lua")).arg(2);
    script.arg(keys::QUARANTINE).arg(keys::QUARANTINE_ORDER).arg(digest).arg(body).arg(most);
    script
}
