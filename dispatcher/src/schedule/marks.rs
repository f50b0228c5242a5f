//! Where marks of rules are kept: in Redis beside the shards, as durable as tasks are, or in memory for tests.
//!
//! A store of small records that are changed by comparing revisions. It decides nothing.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;

use super::mark::Mark;
use crate::queue::{QueueClock, QueueError, UnixMs, redis::RedisQueue};

/// A mark as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The mark.
    pub mark: Mark,
    /// From 1, one more with every write.
    pub revision: u64,
}

/// Keeps marks.
#[async_trait]
pub trait Marks: Send + Sync + fmt::Debug + 'static {
    /// The store's time, and all marks by the names of their rules.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn load(&self) -> Result<(UnixMs, BTreeMap<String, Kept>), QueueError>;

    /// Keeps a mark in place of the one of that revision, `None` where there is to be none; its own is the next one, from 1. False when
    /// another one is there: nothing was changed.
    ///
    /// # Errors
    /// As a submit: what is not durable is to be repeated.
    async fn save(&self, rule: &str, expected: Option<u64>, mark: &Mark) -> Result<bool, QueueError>;
}

/// Keeps them in memory: for a dispatcher over a queue of its own.
#[derive(Debug, Default)]
pub struct MemoryMarks {
    clock: QueueClock,
    marks: Mutex<BTreeMap<String, Kept>>,
}

impl MemoryMarks {
    /// None yet, on that clock.
    #[must_use]
    pub fn new(clock: QueueClock) -> Self {
        Self { clock, marks: Mutex::default() }
    }
}

#[async_trait]
impl Marks for MemoryMarks {
    async fn load(&self) -> Result<(UnixMs, BTreeMap<String, Kept>), QueueError> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((self.clock.local_now(), marks))
    }

    async fn save(&self, rule: &str, expected: Option<u64>, mark: &Mark) -> Result<bool, QueueError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = expected.unwrap_or_default() + 1;
        let before = marks.get(rule);
        if before.is_some_and(|kept| kept.revision == revision && kept.mark == *mark) {
            return Ok(true);
        }
        if before.map(|kept| kept.revision) != expected {
            return Ok(false);
        }
        marks.insert(rule.to_owned(), Kept { mark: mark.clone(), revision });
        Ok(true)
    }
}

#[async_trait]
impl Marks for RedisQueue {
    async fn load(&self) -> Result<(UnixMs, BTreeMap<String, Kept>), QueueError> {
        let (now, records) = self.rule_marks().await?;
        let mut marks = BTreeMap::new();
        for (rule, record) in records {
            match read(&record) {
                Some(kept) => drop(marks.insert(rule, kept)),
                // One that is damaged must not hide all others. It is never written over: a person has to look.
                None => tracing::error!(rule, "what is kept of a rule is damaged"),
            }
        }
        Ok((now, marks))
    }

    async fn save(&self, rule: &str, expected: Option<u64>, mark: &Mark) -> Result<bool, QueueError> {
        let json = serde_json::to_string(mark).map_err(|error| QueueError::Rejected(Box::new(error)))?;
        let record = format!("{} {json}", expected.unwrap_or_default() + 1);
        let expected = expected.map(|revision| revision.to_string()).unwrap_or_default();
        self.save_rule_mark(rule, &expected, &record).await
    }
}

fn read(record: &str) -> Option<Kept> {
    let (revision, json) = record.split_once(' ')?;
    Some(Kept { revision: revision.parse().ok()?, mark: serde_json::from_str(json).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::redis::tests::{patient, server::Server, settings};

    /// What both places must do.
    async fn is_changed_by_comparing(marks: &dyn Marks) {
        let (before, none) = marks.load().await.unwrap();
        assert!(none.is_empty());
        let first = Mark::first(UnixMs(7));
        assert!(!marks.save("a", Some(3), &first).await.unwrap(), "there is nothing yet");
        assert!(marks.save("a", None, &first).await.unwrap());
        assert!(marks.save("a", None, &first).await.unwrap(), "a repeat is the same change");
        assert!(!marks.save("a", None, &first.paused()).await.unwrap());
        let second = first.begun(UnixMs(u64::MAX >> 16), true);
        assert!(marks.save("a", Some(1), &second).await.unwrap());
        assert!(!marks.save("a", Some(1), &first.paused()).await.unwrap(), "somebody was faster");
        assert!(marks.save("a-b.c", None, &first).await.unwrap(), "each has its own");
        let (now, kept) = marks.load().await.unwrap();
        assert!(now >= before);
        let expected = [("a", second, 2), ("a-b.c", first, 1)];
        let expected = expected.map(|(rule, mark, revision)| (rule.to_owned(), Kept { mark, revision }));
        assert_eq!(kept, expected.into());
    }

    #[tokio::test]
    async fn marks_in_memory_are_kept_as_the_contract_says() {
        is_changed_by_comparing(&MemoryMarks::default()).await;
    }

    #[tokio::test]
    async fn marks_in_redis_are_kept_as_the_contract_says_and_damage_hides_no_other() {
        let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
        let queue =
            RedisQueue::connect(patient(server.url(0)), settings(), QueueClock::Server).await.unwrap();
        is_changed_by_comparing(&queue).await;
        let mut client = server.client().await;
        for (rule, record) in [("x", "1 {"), ("y", "one {}"), ("z", "")] {
            let mut set = redis::cmd("HSET");
            set.arg("{bh:aside}:rules").arg(rule).arg(record);
            set.query_async::<()>(&mut client).await.unwrap();
            assert!(!queue.save(rule, None, &Mark::default()).await.unwrap(), "it is never written over");
        }
        assert_eq!(queue.load().await.unwrap().1.len(), 2);
        server.kill();
        assert!(queue.save("late", None, &Mark::default()).await.is_err());
        server.restart();
        let mut client = server.client().await;
        let kept: usize = redis::cmd("HLEN").arg("{bh:aside}:rules").query_async(&mut client).await.unwrap();
        assert_eq!(kept, 5, "what was said to be kept is there");
        queue.shutdown().await;
    }
}
