//! What a request about all shards makes of those that could not be asked.

use crate::queue::QueueError;

/// Shards that could not be asked. They hold up nothing that others can do.
#[derive(Debug, Default)]
pub(super) struct Failures {
    answered: bool,
    failure: Option<QueueError>,
}

impl Failures {
    /// Counts an answer; `None` when it is none.
    pub(super) fn note<T>(&mut self, answer: Result<T, QueueError>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.answered = true;
                Some(answer)
            }
            Err(error) => {
                self.failure.get_or_insert(error);
                None
            }
        }
    }

    /// Counts an answer; `None` when the shard is away. Any other failure is the caller's.
    pub(super) fn unless_away<T>(&mut self, answer: Result<T, QueueError>) -> Result<Option<T>, QueueError> {
        match answer {
            Err(error) if !error.is_retryable() => Err(error),
            answer => Ok(self.note(answer)),
        }
    }

    /// True when a shard could not be asked.
    pub(super) const fn any(&self) -> bool {
        self.failure.is_some()
    }

    /// What there is, unless nobody could be asked.
    pub(super) fn unless_all_failed<T>(self, found: T) -> Result<T, QueueError> {
        match self.failure {
            Some(error) if !self.answered => Err(error),
            Some(_) | None => Ok(found),
        }
    }
}
