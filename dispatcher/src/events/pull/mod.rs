//! Sources that are asked for events: a queue or a stream somewhere, from which a message goes only when its tasks are durable.
//!
//! [`PullSource`] is the seam to the broker. [`run`] is the same for all: a batch is received, its messages are taken side by side, and
//! each is acknowledged only then. While the queue says no, what is left of the batch is kept from others and nothing more is
//! received. A crash in between leaves messages to be received again.

pub mod redis_stream;
pub mod sqs;

use std::{borrow::Cow, error::Error, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use backhaul_runtime::metrics::Label as _;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    intake::{Intake, NotTaken},
    parse::{Form, envelope},
    sources::{Delivery, EventSource},
};
use crate::{
    audit::{Call, Told},
    metrics::EventAnswer,
};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long leaving a broker may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

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

    /// How long the broker gives a message to nobody else after it was received or kept.
    fn held_for(&self) -> Duration;

    /// Begins that time anew.
    ///
    /// # Errors
    /// [`PullError`]: somebody else may receive them too.
    async fn keep(&mut self, ids: &[String]) -> Result<(), PullError>;

    /// Makes the broker forget messages.
    ///
    /// # Errors
    /// [`PullError`]: they may come again.
    async fn acknowledge(&mut self, ids: &[String]) -> Result<(), PullError>;

    /// Leaves in order; what is not acknowledged is for others. Failing to is no loss.
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
    if timeout(LEAVE_WITHIN, broker.leave()).await.is_err() {
        debug!(source = %source.name, "the event source was not left in time");
    }
}

/// One batch: received, taken, acknowledged.
async fn round(broker: &mut dyn PullSource, source: &EventSource, intake: &Intake) -> Result<(), PullError> {
    let mut left = broker.receive().await?;
    let mut hold = Hold::new(broker.held_for());
    let mut wait = Wait::default();
    while !left.is_empty() {
        let tries = join_all(left.iter().map(|message| take(source, intake, &message.body)));
        let results = hold.during(broker, &left, tries).await;
        let (mut taken, mut refused, mut why) = (Vec::new(), Vec::new(), None);
        for (message, result) in std::mem::take(&mut left).into_iter().zip(results) {
            match result {
                Ok(()) => taken.push(message.id),
                Err(error) => {
                    why.get_or_insert(error);
                    refused.push(message);
                }
            }
        }
        // Now, so that what holds up one message holds up no other.
        if !taken.is_empty() {
            broker.acknowledge(&taken).await?;
        }
        left = refused;
        if let Some(error) = why {
            if wait.is_new() {
                warn!(source = %source.name, error = &error as &dyn Error, "events wait until the queue takes them");
            }
            hold.during(broker, &left, wait.pause()).await;
        }
    }
    Ok(())
}

/// Tries to take one message, and records it.
async fn take(source: &EventSource, intake: &Intake, raw: &[u8]) -> Result<(), NotTaken> {
    let Some(mut record) = Call::events(&intake.audit, &source.name, None) else {
        return try_to_take(source, intake, raw).await;
    };
    record.of_source(source);
    let result = record.during(try_to_take(source, intake, raw)).await;
    let is_taken = result.is_ok();
    let answer = if is_taken { EventAnswer::Taken } else { EventAnswer::Unavailable };
    record.end(Told::Events { answer: answer.as_str(), is_taken, is_stranger: false });
    result
}

async fn try_to_take(source: &EventSource, intake: &Intake, raw: &[u8]) -> Result<(), NotTaken> {
    let result = match opened(source, raw) {
        Ok(body) => match intake.take(source, &body).await {
            // Nobody could mend the message, and it must not block those behind it.
            Err(foreign @ NotTaken::ForeignBucket) => {
                intake.set_aside(source, &foreign.to_string(), raw).await
            }
            result => result,
        },
        Err(reason) => intake.set_aside(source, reason, raw).await,
    };
    let answer = if result.is_ok() { EventAnswer::Taken } else { EventAnswer::Unavailable };
    intake.metrics.event_answer(source.form.into(), answer);
    result.map(|_| ())
}

/// What a message holds, in the form of its source.
///
/// # Errors
/// Why it is of no use.
pub(crate) fn opened<'a>(source: &EventSource, raw: &'a [u8]) -> Result<Cow<'a, [u8]>, &'static str> {
    match (&source.delivery, source.form) {
        (Delivery::Sqs { topic, .. }, Form::Sns) => {
            envelope::message(raw, topic.as_deref()).map(|message| Cow::Owned(message.into_bytes()))
        }
        _ => Ok(Cow::Borrowed(raw)),
    }
}

/// When messages have to be kept from others again.
#[derive(Debug)]
struct Hold {
    every: Duration,
    next: Instant,
}

impl Hold {
    fn new(held_for: Duration) -> Self {
        let every = held_for / 3;
        Self { every, next: Instant::now() + every }
    }

    /// Does something, however long it takes, and keeps `messages` from others meanwhile.
    async fn during<T>(
        &mut self,
        broker: &mut dyn PullSource,
        messages: &[Message],
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep_until(self.next) => {}
            }
            let ids: Vec<String> = messages.iter().map(|message| message.id.clone()).collect();
            let mut keep = pin!(broker.keep(&ids));
            let kept = tokio::select! {
                biased;
                // What is not kept comes again, and is taken twice: no loss.
                done = &mut work => return done,
                kept = &mut keep => kept,
            };
            if let Err(error) = kept {
                debug!(error = &error as &dyn Error, "messages could not be kept from others");
            }
            self.next = Instant::now() + self.every;
        }
    }
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
