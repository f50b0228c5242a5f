//! Removals that origins told of: noted, with the time when each was told last, and never followed by a deletion of a backup. Bounded; the
//! oldest goes first.
//!
//! A removal that is told again is the same note, so repeats of events cost nothing. In Redis the notes are beside the shards, as durable
//! as tasks are (`queue::redis::aside`).

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::queue::{QueueError, UnixMs, redis::RedisQueue};

/// Removals that are kept: about 15 MB.
pub const MOST_KEPT: usize = 50_000;

/// An object that was removed at its origin. It is known by its JSON text, so the order of its fields must not change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Note {
    /// The source's name.
    pub source: String,
    /// Location.
    pub location: String,
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Version, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Keeps notes.
#[async_trait]
pub trait Removals: Send + Sync + std::fmt::Debug + 'static {
    /// Keeps them.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`], [`QueueError::NotDurable`]: they may not be kept.
    async fn note(&self, notes: &[Note]) -> Result<(), QueueError>;

    /// `limit` of them after the first `skip`, the one that was told last first.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn list(&self, skip: usize, limit: usize) -> Result<Vec<(Note, UnixMs)>, QueueError>;
}

/// Keeps them in memory: for a dispatcher over a queue of its own.
#[derive(Debug, Default)]
pub struct MemoryRemovals(Mutex<Vec<Note>>);

#[async_trait]
impl Removals for MemoryRemovals {
    async fn note(&self, notes: &[Note]) -> Result<(), QueueError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new: HashSet<&Note> = notes.iter().collect();
        kept.retain(|note| !new.contains(note));
        kept.extend_from_slice(notes);
        let over = kept.len().saturating_sub(MOST_KEPT);
        kept.drain(..over);
        Ok(())
    }

    async fn list(&self, skip: usize, limit: usize) -> Result<Vec<(Note, UnixMs)>, QueueError> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.iter().rev().skip(skip).take(limit).map(|note| (note.clone(), UnixMs(0))).collect())
    }
}

#[async_trait]
impl Removals for RedisQueue {
    async fn note(&self, notes: &[Note]) -> Result<(), QueueError> {
        let texts: Result<Vec<String>, _> = notes.iter().map(serde_json::to_string).collect();
        let texts = texts.map_err(|error| QueueError::Rejected(Box::new(error)))?;
        self.note_removals(&texts, MOST_KEPT).await
    }

    async fn list(&self, skip: usize, limit: usize) -> Result<Vec<(Note, UnixMs)>, QueueError> {
        let kept = self.noted_removals(skip, limit).await?.into_iter();
        // One that a person has put there is nobody's note.
        Ok(kept.filter_map(|(text, at)| Some((serde_json::from_str(&text).ok()?, at))).collect())
    }
}

#[cfg(test)]
mod tests;
