//! What is no task, kept beside the tasks and as durable as they are: bodies that nobody understands, removals, and what is known of rules.
//! What origins told is bounded; the oldest goes first.
//!
//! It exists here because only the queue knows which server has which key, and what proves a write there. Nothing here may touch
//! a key of a shard.

use std::sync::Arc;

use redis::{Cmd, FromRedisValue, Value};
use tokio::sync::Mutex;

use super::{
    RedisQueue,
    access::Address,
    check::Barrier,
    error, keys,
    link::{Link, pipeline},
    proof::{Proof, barrier_command, proven},
    scripts::{QUARANTINE, REMOVALS, RULE_MARK, RULE_MARKS, loaded},
    value,
};
use crate::queue::{QueueError, UnixMs};

/// Notes that one script adds.
const NOTES_AT_A_TIME: usize = 500;

/// The connection for it: its own, because a barrier covers earlier writes of its connection and blocks it.
#[derive(Debug, Default)]
pub(super) struct Aside(Mutex<Option<(Address, Link)>>);

/// A body as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBody {
    /// Its name.
    pub digest: String,
    /// When it came first.
    pub at: UnixMs,
    /// What is known of it.
    pub about: String,
}

impl RedisQueue {
    /// Keeps a body under its `digest`, unless it is kept already; says whether it is new. No more than `most` are kept, and no more than
    /// `most_bytes` of them.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`], [`QueueError::NotDurable`], [`QueueError::Unfit`]: it may not be kept.
    pub async fn keep_body(
        &self,
        digest: &str,
        body: &[u8],
        about: &str,
        most: usize,
        most_bytes: usize,
    ) -> Result<bool, QueueError> {
        let mut script = redis::cmd("EVAL");
        script.arg(loaded(QUARANTINE).as_ref()).arg(3);
        script.arg(keys::QUARANTINE_BODIES).arg(keys::QUARANTINE_ABOUT).arg(keys::QUARANTINE_ORDER);
        script.arg(digest).arg(body).arg(about).arg(most).arg(most_bytes);
        Ok(self.write_aside(vec![script]).await? == 1)
    }

    /// Forgets a body; says whether it was kept.
    ///
    /// # Errors
    /// As [`RedisQueue::keep_body`].
    pub async fn forget_body(&self, digest: &str) -> Result<bool, QueueError> {
        let commands = [
            redis::cmd("HDEL").arg(keys::QUARANTINE_BODIES).arg(digest).clone(),
            redis::cmd("HDEL").arg(keys::QUARANTINE_ABOUT).arg(digest).clone(),
            redis::cmd("ZREM").arg(keys::QUARANTINE_ORDER).arg(digest).clone(),
        ];
        Ok(self.write_aside(commands.to_vec()).await? > 0)
    }

    /// All bodies that are kept, the latest first.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    pub async fn kept_bodies(&self) -> Result<Vec<KeptBody>, QueueError> {
        let mut order = redis::cmd("ZREVRANGE");
        order.arg(keys::QUARANTINE_ORDER).arg(0).arg(-1).arg("WITHSCORES");
        let order: Vec<(String, u64)> = self.read_aside(order).await?;
        if order.is_empty() {
            return Ok(Vec::new());
        }
        let mut about = redis::cmd("HMGET");
        about.arg(keys::QUARANTINE_ABOUT).arg(order.iter().map(|(digest, _)| digest).collect::<Vec<_>>());
        let about: Vec<Option<String>> = self.read_aside(about).await?;
        let kept = order.into_iter().zip(about);
        // One that was forgotten between the two questions is not kept.
        Ok(kept
            .filter_map(|((digest, at), about)| Some(KeptBody { digest, at: UnixMs(at), about: about? }))
            .collect())
    }

    /// A body, while it is kept.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    pub async fn kept_body(&self, digest: &str) -> Result<Option<Vec<u8>>, QueueError> {
        self.read_aside(redis::cmd("HGET").arg(keys::QUARANTINE_BODIES).arg(digest).clone()).await
    }

    /// Notes removals, each once; no more than `most` are kept.
    ///
    /// # Errors
    /// As [`RedisQueue::keep_body`].
    pub async fn note_removals(&self, notes: &[String], most: usize) -> Result<(), QueueError> {
        let scripts = notes.chunks(NOTES_AT_A_TIME).map(|notes| {
            let mut script = redis::cmd("EVAL");
            script.arg(loaded(REMOVALS).as_ref()).arg(1).arg(keys::REMOVALS).arg(most).arg(notes);
            script
        });
        self.write_aside(scripts.collect()).await.map(|_| ())
    }

    /// Removals, the one that was told last first: `limit` of them after the first `skip`.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    pub async fn noted_removals(
        &self,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<(String, UnixMs)>, QueueError> {
        let mut range = redis::cmd("ZREVRANGE");
        range.arg(keys::REMOVALS).arg(skip).arg((skip + limit).saturating_sub(1)).arg("WITHSCORES");
        let notes: Vec<(String, u64)> = self.read_aside(range).await?;
        Ok(notes.into_iter().map(|(note, at)| (note, UnixMs(at))).collect())
    }

    /// What is kept of rules, by their names, and the server's time.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    pub async fn rule_marks(&self) -> Result<(UnixMs, Vec<(String, String)>), QueueError> {
        let mut script = redis::cmd("EVAL");
        script.arg(loaded(RULE_MARKS).as_ref()).arg(1).arg(keys::RULES);
        let answer: Vec<Value> = self.read_aside(script).await?;
        let mut values = answer.into_iter();
        let now = values.next().as_ref().and_then(value::integer).and_then(|now| u64::try_from(now).ok());
        let now = now.ok_or_else(|| error::unexpected("no time was answered"))?;
        let text = |value: Value| value::bytes(value).and_then(|bytes| String::from_utf8(bytes).ok());
        let mut records = Vec::new();
        while let (Some(name), Some(record)) = (values.next(), values.next()) {
            // What is no text was not written by any dispatcher.
            records.extend(text(name).zip(text(record)));
        }
        Ok((UnixMs(now), records))
    }

    /// Keeps a record of a rule in place of one that begins with `expected`; says whether it did.
    ///
    /// # Errors
    /// As [`RedisQueue::keep_body`].
    pub async fn save_rule_mark(&self, rule: &str, expected: &str, record: &str) -> Result<bool, QueueError> {
        let mut script = redis::cmd("EVAL");
        script.arg(loaded(RULE_MARK).as_ref()).arg(1).arg(keys::RULES);
        script.arg(rule).arg(expected).arg(record);
        Ok(self.write_aside(vec![script]).await? == 1)
    }

    async fn read_aside<T: FromRedisValue>(&self, command: Cmd) -> Result<T, QueueError> {
        let mut answers = self.shared.nodes.send(vec![command]).await;
        let answer = answers.pop().ok_or_else(|| error::unexpected("a command was not answered"))?;
        T::from_redis_value(answer.map_err(error::from_redis)?)
            .map_err(|_| error::unexpected("the server answered something else than was asked for"))
    }

    /// Makes changes that are answered with numbers, behind a barrier; gives the sum of the numbers.
    async fn write_aside(&self, commands: Vec<Cmd>) -> Result<i64, QueueError> {
        if commands.is_empty() {
            return Ok(0);
        }
        let slot = keys::slot(keys::QUARANTINE_ORDER.as_bytes());
        // One at a time: this is rare, and a caller's time limit is for its own barrier.
        let mut open = self.aside.0.lock().await;
        let primary = self.shared.nodes.of_slot(slot).map_err(error::from_redis)?;
        let found = primary.check(&self.writing).await?;
        let barrier = found.map_err(|unfit| QueueError::Unfit(Arc::new(unfit)))?;
        let link = match open.take() {
            Some((address, link)) if address == primary.address => link,
            Some(_) | None => self.shared.nodes.link(&primary.address),
        };
        let written = self.write_behind(&link, barrier, commands).await;
        *open = Some((primary.address.clone(), link));
        drop(open);
        if primary.is_retired() {
            // Whatever it says, it proves nothing.
            Proof::Void.result()?;
        }
        written
    }

    async fn write_behind(
        &self,
        link: &Link,
        barrier: Barrier,
        commands: Vec<Cmd>,
    ) -> Result<i64, QueueError> {
        let timeouts = self.writing.endpoint.timeouts;
        let opened = link.opened_within(timeouts.connect).await.map_err(error::from_redis)?;
        let wait = barrier_command(barrier, self.writing.patience);
        let limit = timeouts.response + self.writing.patience;
        let sent = link.send_on(&opened, &pipeline(commands), wait.as_ref(), limit).await;
        let mut answers = sent.map_err(error::from_redis)?;
        if wait.is_some() {
            proven(barrier, answers.pop()).result()?;
        }
        answers.into_iter().try_fold(0, |sum, answer| {
            let answer: Value = answer.map_err(error::from_redis)?;
            let number = value::integer(&answer);
            number.map(|number| sum + number).ok_or_else(|| error::unexpected("no number was answered"))
        })
    }
}
