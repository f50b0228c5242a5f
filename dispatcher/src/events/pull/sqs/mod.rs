//! An Amazon SQS queue as a source: long polls, and a message is deleted only when its tasks are durable.
//!
//! A message is invisible to others from its receipt for [`HELD_FOR`], again and again while the dispatcher cannot take it, so an outage of Redis
//! costs no deliveries, which a dead-letter queue would count. Any number of dispatchers read one queue.

pub mod client;

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::{
    Client,
    error::BuildError,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    },
};
use bytes::Bytes;

use super::{Message, PullError, PullSource};

/// Most messages of a batch that SQS knows.
const BATCH: i32 = 10;
/// How long SQS is asked to wait for messages; the longest that it knows.
pub(super) const LONG_POLL: Duration = Duration::from_secs(20);
/// How long a message that was received is invisible to others.
pub const HELD_FOR: Duration = Duration::from_secs(60);

/// A reader of a queue.
#[derive(Debug)]
pub struct Sqs {
    client: Client,
    queue_url: String,
    long_poll: Duration,
    held_for: Duration,
    /// Receipt handles of what was received and not deleted.
    held: Vec<String>,
}

/// SQS did not do it for some messages of a batch.
#[derive(Debug, thiserror::Error)]
#[error("SQS refused a message of a batch: {code}")]
struct Refused {
    code: String,
}

impl Sqs {
    /// Asks nothing yet.
    #[must_use]
    pub const fn new(client: Client, queue_url: String) -> Self {
        Self { client, queue_url, long_poll: LONG_POLL, held_for: HELD_FOR, held: Vec::new() }
    }

    /// With other times, in whole seconds.
    #[cfg(test)]
    pub(super) fn waiting(self, long_poll: Duration, held_for: Duration) -> Self {
        Self { long_poll, held_for, ..self }
    }

    async fn make_visible_in(&self, ids: &[String], time: Duration) -> Result<(), PullError> {
        let entries: Result<Vec<_>, BuildError> = numbered(ids)
            .map(|(number, handle)| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(number)
                    .receipt_handle(handle)
                    .visibility_timeout(seconds(time))
                    .build()
            })
            .collect();
        let request = self.client.change_message_visibility_batch().queue_url(&self.queue_url);
        let answer = request.set_entries(Some(entries.map_err(failed)?)).send().await.map_err(failed)?;
        all_done(answer.failed())
    }
}

#[async_trait]
impl PullSource for Sqs {
    async fn receive(&mut self) -> Result<Vec<Message>, PullError> {
        self.held.clear();
        let request = self.client.receive_message().queue_url(&self.queue_url).max_number_of_messages(BATCH);
        let request = request.wait_time_seconds(seconds(self.long_poll));
        let answer = request.visibility_timeout(seconds(self.held_for)).send().await.map_err(failed)?;
        let messages = answer.messages.unwrap_or_default().into_iter().filter_map(|message| {
            let body = Bytes::from(message.body.unwrap_or_default());
            Some(Message { id: message.receipt_handle?, body })
        });
        let messages: Vec<_> = messages.collect();
        self.held.extend(messages.iter().map(|message| message.id.clone()));
        Ok(messages)
    }

    fn held_for(&self) -> Duration {
        self.held_for
    }

    async fn keep(&mut self, ids: &[String]) -> Result<(), PullError> {
        self.make_visible_in(ids, self.held_for).await
    }

    async fn acknowledge(&mut self, ids: &[String]) -> Result<(), PullError> {
        let entries: Result<Vec<_>, BuildError> = numbered(ids)
            .map(|(number, handle)| {
                DeleteMessageBatchRequestEntry::builder().id(number).receipt_handle(handle).build()
            })
            .collect();
        let request = self.client.delete_message_batch().queue_url(&self.queue_url);
        let answer = request.set_entries(Some(entries.map_err(failed)?)).send().await.map_err(failed)?;
        self.held.retain(|handle| !ids.contains(handle));
        all_done(answer.failed())
    }

    /// Others need not wait for what is not taken here any more.
    async fn leave(&mut self) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            // Else they become visible by themselves, later.
            drop(self.make_visible_in(&held, Duration::ZERO).await);
        }
    }
}

fn numbered(ids: &[String]) -> impl Iterator<Item = (String, &String)> {
    ids.iter().enumerate().map(|(number, id)| (number.to_string(), id))
}

/// A batch is answered message by message. A receipt that is not valid any more is no failure: the message comes again.
fn all_done(failures: &[BatchResultErrorEntry]) -> Result<(), PullError> {
    match failures.iter().find(|failure| !failure.sender_fault()) {
        Some(failure) => Err(failed(Refused { code: failure.code().to_owned() })),
        None => Ok(()),
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> PullError {
    PullError(Box::new(error))
}

fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
