//! The decisions of one stream: [`Session`]. No I/O, no clock, no channel; `now` is an argument everywhere.
//!
//! A driver gives it events, carries out [`Session::next_effect`], sends [`Session::next_message`] whenever there is room to
//! send, and calls [`Session::handle_timeout`] at [`Session::poll_timeout`]. What the worker says is in `state/worker.rs`,
//! what the queue answers in `state/answers.rs`, what it is offered in `state/offers.rs`; here is the life of the stream.

mod answers;
mod offers;
mod pages;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use backhaul_proto::v1 as pb;

use self::{offers::Unsent, pages::Pages};
use super::{
    CloseReason, Credit, DrainOrder, Effect, Event, Excess, LeaseKey, RenewFor, SessionCounters, SessionId,
    Standing, StreamSettings, WorkerInfo,
    leases::{Leases, Stage},
    outbox::Outbox,
    rate::RateLimit,
    wire,
    work::{Accepts, Beats, Settles},
};
use crate::queue::{Progress, Renewal};

/// Confirms that may wait for a worker that does not read.
const MAX_WAITING_CONFIRMS: usize = 25_000;

/// One stream.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    settings: Arc<StreamSettings>,
    state: State,
    worker: Option<Arc<WorkerInfo>>,
    announce: Option<Effect>,
    /// Locations to ask tasks of: those of the worker, less those it turned out not to know and those that it paused.
    locations: Option<Arc<[String]>>,
    /// Locations that the worker turned out not to know.
    unknown: BTreeSet<String>,
    /// Locations that the worker paused.
    paused: Vec<String>,
    rebalance_after: Option<Duration>,
    leases: Leases,
    unsent: VecDeque<Unsent>,
    outbox: Outbox,
    beats: Beats,
    accepts: Accepts,
    settles: Settles,
    pages: Pages,
    rate: RateLimit,
    heard_at: Instant,
    last_seq: u64,
    /// The worker had no room after all, or left an assignment unanswered: nothing is offered until it says otherwise, or until
    /// then.
    paused_until: Option<Instant>,
    /// The worker refused a task because it drains.
    takes_no_more: bool,
    /// A task of this cost went back because it did not fit: nothing is asked for until it would.
    makes_room_for: Option<u64>,
    /// Since when something waits to be sent.
    blocked_since: Option<Instant>,
    /// Nobody reads what is sent.
    is_mute: bool,
    is_over: bool,
    offers_seen: u64,
    counters: SessionCounters,
}

/// Where a stream is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Open, and the worker has said nothing yet.
    AwaitingHello { deadline: Instant },
    /// The worker is known; its leases are being renewed.
    Welcoming,
    /// Takes tasks.
    Attached { rebalance_at: Option<Instant> },
    /// Takes no more tasks; ends at the deadline for this reason.
    Draining { deadline: Instant, then: CloseReason },
    /// Ended. What was reported and accepted is still written, until `by`.
    Closed { reason: CloseReason, by: Instant },
}

impl Session {
    /// A stream that has just been opened. `jitter` in [0, 1) spreads the age at which it is drained.
    pub(crate) fn new(now: Instant, id: SessionId, settings: Arc<StreamSettings>, jitter: f64) -> Self {
        Self {
            id,
            state: State::AwaitingHello { deadline: now + settings.hello_within },
            worker: None,
            announce: None,
            locations: None,
            unknown: BTreeSet::new(),
            paused: Vec::new(),
            rebalance_after: settings
                .rebalance_after
                .map(|age| age.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))),
            leases: Leases::default(),
            unsent: VecDeque::new(),
            outbox: Outbox::default(),
            beats: Beats::default(),
            accepts: Accepts::default(),
            settles: Settles::default(),
            pages: Pages::default(),
            rate: RateLimit::new(now, settings.messages_per_second),
            settings,
            heard_at: now,
            last_seq: 0,
            paused_until: None,
            takes_no_more: false,
            makes_room_for: None,
            blocked_since: None,
            is_mute: false,
            is_over: false,
            offers_seen: 0,
            counters: SessionCounters::default(),
        }
    }

    /// Takes in what has happened.
    pub(crate) fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Renewed(RenewFor::Accepts, answers) => self.on_accepts_written(now, answers),
            Event::Renewed(RenewFor::Hello | RenewFor::Heartbeat(_), answers) => {
                self.on_renewed(now, answers)
            }
            Event::Settled(answers) => self.on_settled(now, answers),
            Event::Offered { request, tasks } => self.on_offered(now, request, tasks),
            Event::StopCopy(key) => self.stop_copy(&key),
            Event::List(lease, order) => self.on_list(lease, &order),
            Event::PageGivenUp(lease) => self.on_page_given_up(lease),
            Event::Drain(order) => self.on_drain(now, &order),
            Event::Stop => self.close(now, CloseReason::Stopping),
            Event::PeerClosed => self.close(now, CloseReason::PeerClosed),
            Event::PeerLost => self.on_peer_lost(now),
            from_worker @ (Event::Hello(_)
            | Event::Credit(_)
            | Event::Paused(_)
            | Event::Accepts(_)
            | Event::Heartbeat { .. }
            | Event::Results(_)
            | Event::WorkerDrains { .. }
            | Event::Listed(..)
            | Event::Unknown
            | Event::Broken(_)) => self.on_message(now, from_worker),
        }
        if self.outbox.waiting_confirms() > MAX_WAITING_CONFIRMS {
            self.close(now, Excess::NotReading.into());
        }
        self.note_blocked(now);
    }

    /// The next thing to do; `None` when there is nothing to do now.
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        if let Some(announce) = self.announce.take() {
            return Some(announce);
        }
        if let Some((lease, answer)) = self.pages.next_answer() {
            return Some(Effect::Listed(lease, answer));
        }
        if let Some(settlements) = self.settles.next() {
            return Some(Effect::Settle(settlements));
        }
        if let Some((what, renewals)) = self.beats.next(self.id.as_str()) {
            return Some(Effect::Renew(what, renewals));
        }
        let hurry = matches!(self.state, State::Closed { .. });
        let leases = &self.leases;
        let is_wanted = |key: &LeaseKey| {
            leases.get(key).is_some_and(|lease| lease.stage == Stage::Accepted && !lease.is_renewed)
        };
        let accepted = self.accepts.next(hurry, is_wanted)?;
        let renewals = accepted
            .into_iter()
            .map(|LeaseKey { id, lease }| {
                let key = LeaseKey { id, lease };
                let upload_id =
                    self.leases.get(&key).map(|lease| lease.upload_id.clone()).unwrap_or_default();
                Renewal {
                    id: key.id,
                    lease,
                    progress: Progress::default(),
                    upload_id,
                    session: self.id.as_str().into(),
                }
            })
            .collect();
        Some(Effect::Renew(RenewFor::Accepts, renewals))
    }

    /// True when [`Session::next_message`] has something to send.
    pub(crate) fn has_message(&self) -> bool {
        !self.is_mute && (!self.outbox.is_empty() || self.next_fits())
    }

    /// The next message to the worker, composed now.
    pub(crate) fn next_message(&mut self, now: Instant) -> Option<pb::FromDispatcher> {
        if self.is_mute {
            return None;
        }
        let next = self.outbox.next().or_else(|| self.next_assign(now));
        self.blocked_since = None;
        self.note_blocked(now);
        next
    }

    /// When [`Session::handle_timeout`] is to be called; `None` when the session is over.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let of_state = match self.state {
            State::AwaitingHello { deadline } | State::Draining { deadline, .. } => Some(deadline),
            State::Closed { by, .. } => return Some(by),
            State::Attached { rebalance_at } => rebalance_at,
            State::Welcoming => None,
        };
        let silent_at = match self.state {
            State::AwaitingHello { .. } => None,
            State::Welcoming | State::Attached { .. } | State::Draining { .. } | State::Closed { .. } => {
                Some(self.heard_at + self.settings.lease)
            }
        };
        [
            of_state,
            silent_at,
            self.leases.next_deadline(),
            self.unsent.iter().map(|unsent| unsent.deadline).min(),
            self.accepts.due(),
            self.paused_until,
            self.blocked_since.map(|since| since + self.settings.lease),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Acts on every deadline that has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::AwaitingHello { deadline } if deadline <= now => {
                self.close(now, CloseReason::HelloMissing(self.settings.hello_within));
            }
            State::Draining { deadline, then } if deadline <= now => self.close(now, then),
            State::Attached { rebalance_at: Some(at) } if at <= now => {
                let reason = pb::DrainReason::Rebalance;
                let within = self.settings.drain_within;
                self.on_drain(now, &DrainOrder { reason, within, taken_over: Arc::new([]) });
            }
            State::Closed { by, .. } if by <= now => self.is_over = true,
            State::AwaitingHello { .. }
            | State::Welcoming
            | State::Attached { .. }
            | State::Draining { .. }
            | State::Closed { .. } => {}
        }
        if matches!(self.state, State::Closed { .. }) {
            return;
        }
        if !matches!(self.state, State::AwaitingHello { .. }) && self.heard_at + self.settings.lease <= now {
            return self.close(now, CloseReason::PeerSilent(self.settings.lease));
        }
        if self.blocked_since.is_some_and(|since| since + self.settings.lease <= now) {
            return self.close(now, Excess::NotReading.into());
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        self.accepts.ripen(now);
        self.return_unsent(now);
        self.return_unaccepted(now);
        self.note_blocked(now);
    }

    /// Where the session stands, for whoever feeds it.
    pub(crate) fn standing(&self) -> Standing {
        let is_attached = matches!(self.state, State::Attached { .. });
        // Whatever waits to be sent means that the worker does not keep up: it earns nothing until that is gone.
        let keeps_up = self.unsent.is_empty() && self.outbox.is_empty();
        let is_willing = self.paused_until.is_none()
            && !self.takes_no_more
            && self.makes_room_for.is_none_or(|cost| self.leases.fits(cost));
        let outstanding = self.leases.outstanding();
        Standing {
            room: if is_attached && keeps_up && is_willing { self.leases.room() } else { Credit::default() },
            offers_seen: self.offers_seen,
            outstanding: outstanding.tasks,
            outstanding_bytes: outstanding.bytes,
            locations: self.locations.clone(),
            draining: self.takes_no_more
                || matches!(self.state, State::Draining { .. } | State::Closed { .. }),
            counters: self.counters,
        }
    }

    /// Why the stream ended; `None` while it lives.
    pub(crate) const fn close_reason(&self) -> Option<CloseReason> {
        match self.state {
            State::Closed { reason, .. } => Some(reason),
            State::AwaitingHello { .. }
            | State::Welcoming
            | State::Attached { .. }
            | State::Draining { .. } => None,
        }
    }

    /// True when the worker can be told how the stream ends: nothing that it waits for is still to come.
    pub(crate) fn can_end_stream(&self) -> bool {
        match self.state {
            State::Closed { reason, .. } => {
                self.is_over || reason.is_immediate() || (self.is_idle() && !self.has_message())
            }
            State::AwaitingHello { .. }
            | State::Welcoming
            | State::Attached { .. }
            | State::Draining { .. } => false,
        }
    }

    /// The response stream is closed: nothing can be sent any more.
    pub(crate) fn mute(&mut self) {
        self.is_mute = true;
        self.blocked_since = None;
        self.outbox.clear();
    }

    /// True when nothing is left to do.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over || (matches!(self.state, State::Closed { .. }) && self.is_idle() && !self.has_message())
    }

    fn is_idle(&self) -> bool {
        self.announce.is_none() && self.settles.is_idle() && self.accepts.is_idle() && self.beats.is_idle()
    }

    /// Ends the stream. Leases that were never accepted go back; accepted ones live on without it.
    fn close(&mut self, now: Instant, reason: CloseReason) {
        if matches!(self.state, State::Closed { .. }) {
            return;
        }
        self.state = State::Closed { reason, by: now + self.settings.queue_timeout };
        self.return_all_unsent();
        for (key, lease) in self.leases.take_offered() {
            self.hand_back(key, lease.upload_id, Duration::ZERO);
        }
        self.beats.stop();
        if reason.is_immediate() {
            self.mute();
        }
    }

    /// The peer can neither send nor read. If the stream was ending anyway, this is the end of waiting.
    fn on_peer_lost(&mut self, now: Instant) {
        self.mute();
        self.close(now, CloseReason::PeerLost);
    }

    fn on_drain(&mut self, now: Instant, order: &DrainOrder) {
        if matches!(self.state, State::Closed { .. }) {
            return;
        }
        self.leases.release(&order.taken_over);
        self.outbox.drain(pb::Drain { reason: order.reason.into(), within_ms: wire::millis(order.within) });
        if order.reason == pb::DrainReason::Superseded {
            self.close(now, CloseReason::Superseded);
        } else {
            self.begin_draining(now + order.within, CloseReason::Drained(order.reason));
        }
    }

    /// Takes no more tasks. Of several deadlines the first counts.
    fn begin_draining(&mut self, deadline: Instant, then: CloseReason) {
        match self.state {
            State::Closed { .. } => return,
            State::Draining { deadline: earlier, .. } if earlier <= deadline => {}
            State::AwaitingHello { .. }
            | State::Welcoming
            | State::Attached { .. }
            | State::Draining { .. } => {
                self.state = State::Draining { deadline, then };
            }
        }
        self.return_all_unsent();
    }

    /// Remembers since when something waits, so that a worker that does not read is found out.
    fn note_blocked(&mut self, now: Instant) {
        if !self.has_message() {
            self.blocked_since = None;
        } else if self.blocked_since.is_none() {
            self.blocked_since = Some(now);
        }
    }
}
