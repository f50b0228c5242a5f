//! The part of the link that connects, greets, notices silence and moves on.
//!
//! At most one dial and one stream exist at a time. A move keeps the old stream until the new connection is there, so that leases
//! are renewed and results confirmed without a gap.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{Effect, HangupReason, Link, Welcomed};

/// Whether a connection is being made.
#[derive(Debug)]
pub(super) enum Dial {
    /// None is wanted.
    Idle,
    /// One is wanted, from then on.
    At(Instant),
    /// The driver is at it.
    Running,
}

/// The stream, if there is one.
#[derive(Debug)]
pub(super) enum Stream {
    None,
    Greeting(Greeting),
    Attached(Attached),
}

#[derive(Debug)]
pub(super) struct Greeting {
    /// When Hello was sent: the leases that Welcome renews count from here.
    pub(super) hello_sent: Option<Instant>,
    /// Tasks of the credit in it.
    pub(super) credit_tasks: u32,
    /// Paused locations in it.
    pub(super) paused: BTreeSet<String>,
    deadline: Instant,
}

#[derive(Debug)]
pub(super) struct Attached {
    since: Instant,
    every: Duration,
    next_heartbeat: Instant,
    /// Since when a heartbeat waits for room on the stream.
    pub(super) heartbeat_due: Option<Instant>,
    seq: u64,
    /// Sent and not answered, oldest first.
    unanswered: VecDeque<(u64, Instant)>,
    /// Credit as the dispatcher knows it.
    pub(super) credit_tasks: u32,
    /// Paused locations as the dispatcher knows them.
    pub(super) paused: BTreeSet<String>,
    /// Draining has been said.
    pub(super) draining_said: bool,
}

impl Link {
    pub(super) fn dialled(&mut self, now: Instant) {
        self.dial = Dial::Idle;
        // What was to be said on the old stream is void: Hello says it all.
        self.accepts.clear();
        self.forget_pages();
        let deadline = now + self.settings.welcome_within;
        self.stream = Stream::Greeting(Greeting {
            hello_sent: None,
            credit_tasks: 0,
            paused: BTreeSet::new(),
            deadline,
        });
        self.effects.push_back(Effect::Open);
    }

    pub(super) fn dial_failed(&mut self, now: Instant) {
        self.dial_later(now);
    }

    pub(super) fn stream_ended(&mut self, now: Instant) {
        if let Stream::Attached(attached) = &self.stream
            && now.saturating_duration_since(attached.since) >= self.settings.stable_after
        {
            self.settings.backoff.reset();
        }
        self.stream = Stream::None;
        self.accepts.clear();
        self.forget_pages();
        if matches!(self.dial, Dial::Idle) {
            self.dial_later(now);
        }
    }

    pub(super) fn hang_up(&mut self, now: Instant, reason: HangupReason) {
        self.effects.push_back(Effect::Hangup(reason));
        self.stream_ended(now);
    }

    pub(super) fn welcome(&mut self, now: Instant, welcome: Welcomed) {
        let (asked, credit_tasks, paused) = match &mut self.stream {
            Stream::Greeting(Greeting { hello_sent: Some(sent), credit_tasks, paused, .. }) => {
                (*sent, *credit_tasks, std::mem::take(paused))
            }
            // An answer before the question, or a second one.
            Stream::Greeting(_) | Stream::Attached(_) => return self.hang_up(now, HangupReason::Violation),
            Stream::None => return,
        };
        self.stream = Stream::Attached(Attached {
            since: now,
            every: welcome.heartbeat_every,
            next_heartbeat: asked + welcome.heartbeat_every,
            heartbeat_due: None,
            seq: 0,
            unanswered: VecDeque::new(),
            credit_tasks,
            paused,
            draining_said: false,
        });
        welcome.held.iter().for_each(|news| self.lease_news(asked, news));
        self.outbox.flush(now);
    }

    /// True when the stream is attached. Anything but Welcome before that breaks the protocol and ends the stream.
    pub(super) fn attached_or_hang_up(&mut self, now: Instant) -> bool {
        match self.stream {
            Stream::Attached(_) => true,
            Stream::Greeting(_) => {
                self.hang_up(now, HangupReason::Violation);
                false
            }
            Stream::None => false,
        }
    }

    pub(super) fn move_asked(&mut self, now: Instant, superseded: bool) {
        if superseded {
            // Whoever took over has this instance's id: a greeting of ours that arrived late, or a cloned machine. Coming back at
            // once would throw it out in turn, so the stream is lost like any other, and without credit for having been stable.
            self.effects.push_back(Effect::Hangup(HangupReason::Superseded));
            self.stream = Stream::None;
            self.accepts.clear();
            self.forget_pages();
            if matches!(self.dial, Dial::Idle) {
                self.dial_later(now);
            }
        } else if matches!(self.dial, Dial::Idle) {
            self.settings.backoff.reset();
            self.dial_later(now);
        }
    }

    pub(super) fn stream_timeout(&mut self, now: Instant) {
        let given_up = match &mut self.stream {
            Stream::None => None,
            Stream::Greeting(greeting) => (now >= greeting.deadline).then_some(HangupReason::NoWelcome),
            Stream::Attached(attached) => {
                attached.beat(now);
                let deadline = attached.answer_deadline(self.settings.answer_within);
                deadline.is_some_and(|d| now >= d).then_some(HangupReason::Silent)
            }
        };
        if let Some(reason) = given_up {
            self.hang_up(now, reason);
        }
    }

    pub(super) fn dial_timeout(&mut self, now: Instant) {
        if matches!(self.dial, Dial::At(at) if now >= at) {
            self.dial = Dial::Running;
            self.effects.push_back(Effect::Dial);
        }
    }

    fn dial_later(&mut self, now: Instant) {
        let random = self.rng.f64();
        self.dial = Dial::At(now + self.settings.backoff.next_delay(random));
    }
}

impl Attached {
    /// Makes the heartbeat due when its time has come. Missed ones are not made up for.
    fn beat(&mut self, now: Instant) {
        if now >= self.next_heartbeat {
            self.heartbeat_due.get_or_insert(now);
            self.next_heartbeat = now + self.every;
        }
    }

    /// Takes the number of the heartbeat that is sent now.
    pub(super) fn heartbeat_sent(&mut self, now: Instant) -> u64 {
        self.heartbeat_due = None;
        self.seq += 1;
        self.unanswered.push_back((self.seq, now));
        self.seq
    }

    /// When the answered heartbeat was sent; `None` when no such one waits for an answer. Older ones count as answered.
    pub(super) fn answered(&mut self, seq: u64) -> Option<Instant> {
        let at = self.unanswered.iter().position(|(s, _)| *s == seq)?;
        self.unanswered.drain(..=at).next_back().map(|(_, sent)| sent)
    }

    fn answer_deadline(&self, within: Duration) -> Option<Instant> {
        let oldest = self.unanswered.front().map(|(_, sent)| *sent);
        // A heartbeat that finds no room on the stream is as bad as one without an answer.
        oldest.into_iter().chain(self.heartbeat_due).min().map(|since| since + within)
    }
}

impl Stream {
    pub(super) fn poll_timeout(&self, answer_within: Duration) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::Greeting(greeting) => Some(greeting.deadline),
            Self::Attached(attached) => {
                let deadline = attached.answer_deadline(answer_within);
                Some(deadline.map_or(attached.next_heartbeat, |d| d.min(attached.next_heartbeat)))
            }
        }
    }
}

impl Dial {
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(*at),
            Self::Idle | Self::Running => None,
        }
    }
}
