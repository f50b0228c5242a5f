//! Sources that are asked for events: a queue or a stream somewhere, from which a message goes only when its tasks are durable.
//!
//! [`PullSource`] is the seam to the broker. [`run`] is the same for all: a batch is received, each message is taken, again and again
//! while the queue says no, and only then acknowledged. A crash in between leaves the message to be received again.

pub mod redis_stream;

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    intake::{Intake, NotTaken},
    sources::EventSource,
};
use crate::metrics::EventAnswer;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// One message of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What the broker calls this delivery.
    pub id: String,
    /// The notification.
    pub body: Bytes,
}

/// What went wrong at the broker. All of it may pass.
#[derive(Debug, thiserror::Error)]
#[error("the event source cannot be read")]
pub struct PullError(#[source] pub Box<dyn Error + Send + Sync>);

/// A broker.
#[async_trait]
pub trait PullSource: Send + std::fmt::Debug + 'static {
    /// Waits a moment for messages and receives a bounded number, none when there were none. What is received and not acknowledged
    /// is received again later, by anybody. May be dropped at any point.
    ///
    /// # Errors
    /// [`PullError`].
    async fn receive(&mut self) -> Result<Vec<Message>, PullError>;

    /// Makes the broker forget messages.
    ///
    /// # Errors
    /// [`PullError`]: they may come again.
    async fn acknowledge(&mut self, ids: &[String]) -> Result<(), PullError>;

    /// Leaves in order. Failing to is no loss.
    async fn leave(&mut self) {}
}

/// Takes what a source has until `stop`.
pub async fn run(
    mut broker: Box<dyn PullSource>,
    source: Arc<EventSource>,
    intake: Arc<Intake>,
    stop: CancellationToken,
) {
    let work = async {
        let mut wait = Wait::default();
        loop {
            match round(broker.as_mut(), &source, &intake).await {
                Ok(()) => {
                    if wait.is_over() {
                        info!(source = %source.name, "the event source is read again");
                    }
                }
                Err(error) => {
                    // Once: it is one state, however often it is tried.
                    if wait.is_new() {
                        warn!(source = %source.name, error = &error as &dyn Error, "events are not read");
                    }
                    wait.pause().await;
                }
            }
        }
    };
    stop.run_until_cancelled(work).await;
    broker.leave().await;
}

/// One batch: received, taken, acknowledged.
async fn round(broker: &mut dyn PullSource, source: &EventSource, intake: &Intake) -> Result<(), PullError> {
    let messages = broker.receive().await?;
    let mut taken = Vec::with_capacity(messages.len());
    for Message { id, body } in messages {
        take(source, intake, &body).await;
        taken.push(id);
    }
    if taken.is_empty() { Ok(()) } else { broker.acknowledge(&taken).await }
}

/// Takes one message, however long that takes.
async fn take(source: &EventSource, intake: &Intake, body: &[u8]) {
    let mut wait = Wait::default();
    loop {
        let error = match intake.take(source, body).await {
            Ok(_) => break,
            // Nobody could mend the message, and it must not block those behind it.
            Err(foreign @ NotTaken::ForeignBucket) => {
                match intake.set_aside(source, &foreign.to_string(), body).await {
                    Ok(_) => break,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        intake.metrics.event_answer(source.form.into(), EventAnswer::Unavailable);
        if wait.is_new() {
            warn!(source = %source.name, error = &error as &dyn Error, "events wait until the queue takes them");
        }
        wait.pause().await;
    }
    intake.metrics.event_answer(source.form.into(), EventAnswer::Taken);
}

/// Waits that grow.
#[derive(Debug, Default)]
struct Wait {
    tries: u32,
}

impl Wait {
    const fn is_new(&self) -> bool {
        self.tries == 0
    }

    fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.tries) > 0
    }

    async fn pause(&mut self) {
        let ceiling = FIRST_WAIT.saturating_mul(1 << self.tries.min(10)).min(LONGEST_WAIT);
        self.tries = self.tries.saturating_add(1);
        tokio::time::sleep(ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

#[cfg(test)]
mod tests;
