//! What can go wrong when the queue is asked, and what the caller may rely on then.

use std::{error::Error as StdError, sync::Arc};

use super::id::TaskId;

/// Why the queue did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Nothing was stored: the shard holds as many unfinished tasks as it may. A later repeat can succeed.
    #[error("the queue is full")]
    Full,
    /// Nothing was stored: the tenant has as many unfinished or dead tasks as it may. A later repeat can succeed.
    #[error("the tenant has too many unfinished tasks")]
    TenantFull,
    /// There is no such task.
    #[error("no such task: {0}")]
    NotFound(TaskId),
    /// Redis could not be asked, or its answer was lost: the change may or may not have happened. Safe to repeat.
    #[error("the queue store cannot be reached")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
    /// The change was made, but is not yet as durable as configured. Safe to repeat, and to be repeated.
    #[error("stored, but not confirmed as durable ({reached} of {wanted} replicas)")]
    NotDurable {
        /// Copies that confirmed in time.
        reached: u32,
        /// Copies that must confirm.
        wanted: u32,
    },
    /// Nothing was stored: the server that the change belongs to must not be trusted with tasks as it is. The source names what to
    /// change; a later repeat can succeed then.
    #[error("the queue store is not fit for tasks")]
    Unfit(#[source] Arc<dyn StdError + Send + Sync>),
    /// What is stored cannot be understood; a person has to look. Nothing was changed.
    #[error("the stored record of task {task} is damaged: {what}")]
    Corrupt {
        /// The task.
        task: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Redis refused the request for a reason that repeating does not cure. Nothing was changed.
    #[error("the queue store refused the request")]
    Rejected(#[source] Box<dyn StdError + Send + Sync>),
}

impl QueueError {
    /// True when repeating the same request later can succeed without anybody's change.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Full
            | Self::TenantFull
            | Self::Unavailable(_)
            | Self::NotDurable { .. }
            | Self::Unfit(_) => true,
            Self::NotFound(_) | Self::Corrupt { .. } | Self::Rejected(_) => false,
        }
    }
}
