//! The link as a state machine: events and time in, effects and messages out. No I/O, no clock, no channel.
//!
//! It exists so that every rule of the stream can be read and tested in one place. The driver's loop is: hand in what happened, carry
//! out all [`Effect`]s, send messages while there is room for them, sleep until [`Link::poll_timeout`].
//!
//! What it keeps true whatever arrives in whatever order:
//! - A lease is held from its acceptance until its copy has ended or it is over, and never used after that.
//! - Leases and unconfirmed results together are at most twice the credit.
//! - A result is kept until a dispatcher settled it.
//! - One stream at a time, and it begins with exactly one Hello.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use backhaul_proto::v1;

use super::{
    backoff::Backoff,
    credit::CreditLimit,
    leases::Leases,
    outbox::{Outbox, OutboxSettings},
    task::{Assignment, Finished, LeaseKey, StopReason},
    wire::{Confirmation, LeaseNews, Welcomed},
};

mod drain;
mod outgoing;
mod pages;
mod stream;

use drain::WorkerDrain;
use pages::Pages;
use stream::{Dial, Stream};

/// What a link is told at its start.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    /// Name for logs and receipts: 1 to 128 bytes of printable ASCII.
    pub worker: String,
    /// Random id of this process start.
    pub instance: [u8; 16],
    /// Build version, at most 64 bytes.
    pub version: String,
    /// Locations whose objects can be copied here, at most 1,000.
    pub locations: BTreeSet<String>,
    /// Retention classes that are known here, as `LOCATION/CLASS`, at most 10,000.
    pub retention_classes: BTreeSet<String>,
    /// What to take at a time.
    pub credit: CreditLimit,
    /// How long a dispatcher may take to answer Hello.
    pub welcome_within: Duration,
    /// How long a heartbeat may stay unanswered.
    pub answer_within: Duration,
    /// How long results wait for company.
    pub flush_every: Duration,
    /// How long after `TRY_AGAIN` a result is sent again.
    pub retry_after: Duration,
    /// Delays between connections.
    pub backoff: Backoff,
    /// A connection that lasted this long was a good one: the delays start from the shortest again.
    pub stable_after: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A connection is there; the old stream, if any, makes way for a new one.
    Dialled,
    /// No connection came about.
    DialFailed,
    /// The stream is over, from whichever side.
    StreamEnded,
    /// The dispatcher accepts this worker.
    Welcome(Welcomed),
    /// The dispatcher gives tasks.
    Assigned(Vec<Assignment>),
    /// The dispatcher answers a heartbeat.
    LeaseUpdates {
        /// The heartbeat's number.
        seq: u64,
        /// A verdict per lease.
        updates: Vec<LeaseNews>,
    },
    /// The dispatcher answers results.
    Confirmed(Vec<Confirmation>),
    /// The dispatcher wants copies stopped.
    CancelAsked(Vec<LeaseKey>),
    /// The dispatcher wants this worker to connect elsewhere.
    MoveAsked {
        /// Because another stream of this instance took over.
        superseded: bool,
    },
    /// The dispatcher wants a page listed.
    ListAsked(Box<v1::ListPage>),
    /// A page was listed.
    Listed(Box<v1::ListedPage>),
    /// A copy ended.
    Finished(Finished),
    /// These are the locations, and no others, that nothing is to be taken of for now.
    Paused(BTreeSet<String>),
    /// This worker is to leave within that time.
    DrainAsked {
        /// All the time there is, confirmations included.
        within: Duration,
    },
}

/// What the driver must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Connect to a dispatcher and tell [`Event::Dialled`] or [`Event::DialFailed`].
    Dial,
    /// Open a stream on the connection that was dialled, dropping the one before.
    Open,
    /// Drop the stream.
    Hangup(HangupReason),
    /// Start a copy.
    Start(Box<Assignment>),
    /// Stop a copy.
    Stop(LeaseKey, StopReason),
    /// List a page.
    List(Box<v1::ListPage>),
    /// Drop all pages: nobody waits for them any more.
    DropPages,
    /// Hand back what has not started of these locations.
    Pause(BTreeSet<String>),
    /// Hand back what has not started.
    Drain,
    /// Close the stream and end.
    Leave(Departure),
}

/// Why the worker gave a stream up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HangupReason {
    /// Hello got no answer in time.
    #[error("the dispatcher did not answer the greeting")]
    NoWelcome,
    /// A heartbeat got no answer in time.
    #[error("the dispatcher did not answer a heartbeat")]
    Silent,
    /// Another stream of this instance took over.
    #[error("another stream of this worker took over")]
    Superseded,
    /// The dispatcher spoke before Welcome, welcomed twice, or asked for more answers than can be kept.
    #[error("the dispatcher broke the protocol")]
    Violation,
}

/// How a drained link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// Leases whose copies had not ended.
    pub leases: usize,
    /// Results that no dispatcher had confirmed.
    pub unconfirmed: usize,
}

/// Where a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No stream.
    Detached,
    /// Hello sent or about to be.
    Greeting,
    /// Welcome received.
    Attached,
    /// This worker is leaving, with a stream or without.
    Draining,
    /// It has left.
    Closed,
}

/// The state machine.
#[derive(Debug)]
pub struct Link {
    settings: LinkSettings,
    rng: fastrand::Rng,
    dial: Dial,
    stream: Stream,
    leases: Leases,
    outbox: Outbox,
    /// Answers to assignments, not sent yet.
    accepts: VecDeque<v1::Accept>,
    drain: Option<WorkerDrain>,
    /// Locations that nothing is taken of for now.
    paused: BTreeSet<String>,
    pages: Pages,
    left: bool,
    effects: VecDeque<Effect>,
    ignored: u64,
}

impl Link {
    /// A link that connects at once.
    #[must_use]
    pub fn new(settings: LinkSettings) -> Self {
        // A quarter of the credit must not wait: the dispatcher can refill it while the rest is worked on.
        let quarter = usize::try_from(settings.credit.tasks / 4).unwrap_or(usize::MAX);
        let outbox = OutboxSettings {
            batch: quarter.clamp(1, Outbox::BATCH),
            flush_every: settings.flush_every,
            retry_after: settings.retry_after,
        };
        Self {
            rng: fastrand::Rng::with_seed(settings.seed),
            settings,
            dial: Dial::Running,
            stream: Stream::None,
            leases: Leases::default(),
            outbox: Outbox::new(outbox),
            accepts: VecDeque::new(),
            drain: None,
            paused: BTreeSet::new(),
            pages: Pages::default(),
            left: false,
            effects: VecDeque::from([Effect::Dial]),
            ignored: 0,
        }
    }

    /// Takes in what happened at `now`, which never goes back.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        if self.left {
            return;
        }
        match event {
            Event::Dialled => self.dialled(now),
            Event::DialFailed => self.dial_failed(now),
            Event::StreamEnded => self.stream_ended(now),
            Event::Finished(finished) => self.finished(now, finished),
            Event::DrainAsked { within } => self.start_drain(now, within),
            Event::Paused(locations) => {
                self.paused.clone_from(&locations);
                self.effects.push_back(Effect::Pause(locations));
            }
            Event::Welcome(welcome) => self.welcome(now, welcome),
            Event::Assigned(assignments) => {
                if self.attached_or_hang_up(now) {
                    assignments.into_iter().for_each(|a| self.assigned(now, a));
                    self.bound_accepts(now);
                }
            }
            Event::LeaseUpdates { seq, updates } => {
                if self.attached_or_hang_up(now) {
                    self.lease_updates(now, seq, updates);
                }
            }
            Event::Confirmed(confirmations) => {
                if self.attached_or_hang_up(now) {
                    confirmations.into_iter().for_each(|c| self.confirmed(now, &c));
                }
            }
            Event::CancelAsked(leases) => {
                if self.attached_or_hang_up(now) {
                    leases.iter().for_each(|lease| self.stop(lease, StopReason::Cancelled));
                }
            }
            Event::ListAsked(page) => {
                if self.attached_or_hang_up(now) {
                    self.list_asked(page);
                }
            }
            Event::Listed(page) => self.listed(*page),
            Event::MoveAsked { superseded } => {
                if self.attached_or_hang_up(now) {
                    self.move_asked(now, superseded);
                }
            }
        }
        self.leave_if_done(now);
    }

    /// Lets time do its work. Early or repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.left {
            return;
        }
        for lease in self.leases.expire(now) {
            self.effects.push_back(Effect::Stop(lease, StopReason::Lost));
        }
        self.outbox.handle_timeout(now);
        self.stream_timeout(now);
        self.dial_timeout(now);
        self.drain_timeout(now);
        self.leave_if_done(now);
    }

    /// What the driver must do next, in order. `None` when there is nothing more.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Self::handle_timeout`], and to ask [`Self::next_message`] again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.left {
            return None;
        }
        [
            self.leases.poll_timeout(),
            self.outbox.poll_retry(),
            self.stream.poll_timeout(self.settings.answer_within),
            self.dial.poll_timeout(),
            self.drain.as_ref().map(WorkerDrain::poll_timeout),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Where the link is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match (self.left, &self.drain, &self.stream) {
            (true, _, _) => Phase::Closed,
            (false, Some(_), _) => Phase::Draining,
            (false, None, Stream::None) => Phase::Detached,
            (false, None, Stream::Greeting(_)) => Phase::Greeting,
            (false, None, Stream::Attached(_)) => Phase::Attached,
        }
    }

    /// Leases held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.leases.len()
    }

    /// Results that wait for their confirmation.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        self.outbox.len()
    }

    /// How many answers spoke of leases, results or heartbeats that this link knows nothing of. A few are ordinary (they crossed
    /// something on the wire); many mean a dispatcher that is confused.
    #[must_use]
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }

    fn assigned(&mut self, now: Instant, assignment: Assignment) {
        let lease = &assignment.lease;
        if self.leases.contains(lease) {
            return self.accept(lease.clone(), v1::AcceptRefusal::Unspecified);
        }
        if self.outbox.contains(lease) {
            self.outbox.resend(now, lease);
            return self.accept(lease.clone(), v1::AcceptRefusal::Unspecified);
        }
        // A new lease on a task means that the one before it is over, even if nobody has said so yet.
        if let Some(old) = self.leases.other_on_task(lease) {
            self.lose(old);
        }
        let cost = self.settings.credit.cost(assignment.size_hint_bytes);
        let refusal = if self.drain.is_some() {
            v1::AcceptRefusal::Draining
        } else if !self.settings.locations.contains(&assignment.object.location) {
            v1::AcceptRefusal::UnknownLocation
        } else if self.paused.contains(&assignment.object.location) {
            v1::AcceptRefusal::LocationPaused
        } else if !self.settings.credit.admits(
            self.leases.len(),
            self.leases.bytes(),
            self.outbox.len(),
            cost,
        ) {
            v1::AcceptRefusal::Busy
        } else {
            v1::AcceptRefusal::Unspecified
        };
        self.accept(lease.clone(), refusal);
        if refusal == v1::AcceptRefusal::Unspecified {
            self.leases.insert(lease.clone(), now, assignment.lease_for, cost);
            self.effects.push_back(Effect::Start(Box::new(assignment)));
        }
    }

    fn accept(&mut self, lease: LeaseKey, refusal: v1::AcceptRefusal) {
        self.accepts.push_back(v1::Accept {
            task_id: lease.task_id.to_string(),
            lease: lease.wire_token(),
            refusal: refusal.into(),
        });
    }

    /// A dispatcher that assigns on and on and takes no answers must not fill this worker's memory.
    fn bound_accepts(&mut self, now: Instant) {
        const MOST: usize = 20_000;
        if self.accepts.len() > MOST {
            self.hang_up(now, HangupReason::Violation);
        }
    }

    fn lease_updates(&mut self, now: Instant, seq: u64, updates: Vec<LeaseNews>) {
        let sent = match &mut self.stream {
            Stream::Attached(attached) => attached.answered(seq),
            Stream::None | Stream::Greeting(_) => None,
        };
        match sent {
            Some(sent) => updates.iter().for_each(|news| self.lease_news(sent, news)),
            None => self.ignored += 1,
        }
        // A copy that a late KEEP could not save is over now, not at the next timer.
        for lease in self.leases.expire(now) {
            self.effects.push_back(Effect::Stop(lease, StopReason::Lost));
        }
    }

    fn lease_news(&mut self, asked: Instant, news: &LeaseNews) {
        if !self.leases.contains(&news.lease) {
            // Its copy ended while the question was under way.
            self.ignored += 1;
            return;
        }
        match news.verdict {
            v1::LeaseVerdict::Keep => self.leases.renew(&news.lease, asked, news.lease_for),
            v1::LeaseVerdict::Lost => self.lose(news.lease.clone()),
            v1::LeaseVerdict::Cancel => self.stop(&news.lease, StopReason::Cancelled),
            v1::LeaseVerdict::Unknown | v1::LeaseVerdict::Unspecified => {
                self.leases.extend(&news.lease, asked, news.lease_for);
            }
        }
    }

    fn confirmed(&mut self, now: Instant, confirmation: &Confirmation) {
        let known = if confirmation.settled {
            self.outbox.settle(&confirmation.lease)
        } else {
            self.outbox.try_again(now, &confirmation.lease)
        };
        if !known {
            self.ignored += 1;
        }
    }

    fn finished(&mut self, now: Instant, finished: Finished) {
        // A copy whose lease is over reports nothing: the task is somebody else's.
        if self.leases.remove(&finished.lease) {
            self.outbox.push(now, finished);
            if self.leases.len() == 0 {
                self.outbox.flush(now);
            }
        }
    }

    fn stop(&mut self, lease: &LeaseKey, reason: StopReason) {
        if self.leases.mark_stopping(lease, reason) {
            self.effects.push_back(Effect::Stop(lease.clone(), reason));
        }
    }

    fn lose(&mut self, lease: LeaseKey) {
        if self.leases.remove(&lease) {
            self.effects.push_back(Effect::Stop(lease, StopReason::Lost));
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
