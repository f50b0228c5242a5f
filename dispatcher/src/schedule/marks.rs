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
    /// Changes with every write.
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

    /// Keeps a mark in place of the one of that revision, `None` where there is to be none. False when another one is there: nothing was
    /// changed.
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
