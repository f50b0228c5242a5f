//! What a session makes of the worker's messages.

use std::time::{Duration, Instant};

use backhaul_proto::v1::{AcceptRefusal, ConfirmVerdict};

use super::{
    super::{
        Answer, CloseReason, Effect, Event, Excess, Held, Hello, LeaseKey, Report, Violation, leases::Stage,
        wire,
    },
    Session, State,
};
use crate::queue::{Outcome, Settlement};

/// Results that may wait for the queue: those of a Hello and of a full credit. More are put off.
const MAX_WAITING_SETTLES: usize = 20_000;

/// How long a worker without room is left alone, unless it gives new credit.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// How long a task waits that its worker cannot copy, so that it does not run in circles.
const UNKNOWN_LOCATION_DELAY: Duration = Duration::from_secs(5);

/// How long a task waits whose store a worker found away: another worker may reach it, but not in the same moment.
const PAUSED_LOCATION_DELAY: Duration = Duration::from_secs(5);

/// How much later than it said a draining worker may close the stream.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Whether a message did something for a task of this stream. Such messages are paid for by the assignment; all others count
/// against the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Earned,
    Charged,
}

impl Session {
    /// Takes in a message of the worker.
    pub(super) fn on_message(&mut self, now: Instant, event: Event) {
        match self.state {
            State::Closed { .. } => return,
            State::AwaitingHello { .. } => return self.on_first_message(now, event),
            State::Welcoming | State::Attached { .. } | State::Draining { .. } => {}
        }
        self.heard_at = now;
        let message_use = match event {
            Event::Hello(_) => return self.close(now, Violation::SecondHello.into()),
            Event::Broken(reason) => return self.close(now, reason),
            Event::Credit(credit) => {
                self.leases.set_limit(credit);
                self.paused_until = None;
                if credit.tasks == 0 {
                    self.return_all_unsent();
                }
                Use::Charged
            }
            Event::Paused(locations) => {
                self.on_paused(locations);
                Use::Charged
            }
            Event::Accepts(answers) => self.on_accepts(now, answers),
            Event::Heartbeat { seq, held } => self.on_heartbeat(now, seq, held),
            Event::Results(reports) => self.on_results(now, reports),
            Event::Listed(lease, answer) => self.on_listed(lease, answer),
            Event::WorkerDrains { finish_within } => {
                self.begin_draining(now + finish_within + DRAIN_GRACE, CloseReason::DrainOverstayed);
                Use::Charged
            }
            Event::Unknown
            | Event::PeerClosed
            | Event::PeerLost
            | Event::Renewed(..)
            | Event::Settled(_)
            | Event::Offered { .. }
            | Event::StopCopy(_)
            | Event::List(..)
            | Event::PageGivenUp(_)
            | Event::Drain(_)
            | Event::Stop => {
                self.counters.ignored += 1;
                Use::Charged
            }
        };
        self.charge(now, message_use);
    }

    fn on_first_message(&mut self, now: Instant, event: Event) {
        match event {
            Event::Hello(hello) => self.on_hello(now, *hello),
            Event::Broken(reason) => self.close(now, reason),
            Event::Credit(_)
            | Event::Paused(_)
            | Event::Accepts(_)
            | Event::Heartbeat { .. }
            | Event::Results(_)
            | Event::Listed(..)
            | Event::WorkerDrains { .. } => self.close(now, Violation::HelloNotFirst.into()),
            Event::Unknown
            | Event::PeerClosed
            | Event::PeerLost
            | Event::Renewed(..)
            | Event::Settled(_)
            | Event::Offered { .. }
            | Event::StopCopy(_)
            | Event::List(..)
            | Event::PageGivenUp(_)
            | Event::Drain(_)
            | Event::Stop => {
                self.counters.ignored += 1;
                self.charge(now, Use::Charged);
            }
        }
    }

    fn charge(&mut self, now: Instant, message_use: Use) {
        if message_use == Use::Charged && !self.rate.take(now) {
            self.close(now, Excess::Messages(self.settings.messages_per_second).into());
        }
    }

    fn on_hello(&mut self, now: Instant, hello: Hello) {
        let Hello { worker, paused, credit, held, unconfirmed } = hello;
        let worker = std::sync::Arc::new(worker);
        self.heard_at = now;
        self.state = State::Welcoming;
        self.locations = Some(std::sync::Arc::clone(&worker.locations));
        self.worker = Some(std::sync::Arc::clone(&worker));
        if !paused.is_empty() {
            self.on_paused(paused);
        }
        self.leases.set_limit(credit);
        self.announce = Some(Effect::Attach(worker, held.iter().map(|held| held.lease).collect()));
        for report in unconfirmed {
            self.on_report(now, report);
        }
        for held in &held {
            self.count_held(now, held);
        }
        if held.is_empty() {
            self.welcome(now, Vec::new());
        } else {
            self.beats.resume(held);
        }
    }

    fn on_accepts(&mut self, now: Instant, answers: Vec<Answer>) -> Use {
        let mut message_use = Use::Charged;
        if answers.iter().any(|answer| answer.refusal == AcceptRefusal::Unspecified) {
            self.paused_until = None;
        }
        for Answer { task, lease, refusal } in answers {
            let key = task.with(lease);
            let stage = key.as_ref().and_then(|key| self.leases.get(key)).map(|lease| lease.stage);
            match (key, stage, refusal) {
                (Some(key), Some(Stage::Offered { by }), AcceptRefusal::Unspecified) => {
                    message_use = Use::Earned;
                    self.counters.accepted += 1;
                    let _before = self.leases.advance(now, &key, Stage::Accepted);
                    // After `by` the queue may take the task for one that was never accepted.
                    self.accepts.push(key, (now + self.settings.accepts_after).min(by));
                }
                (
                    Some(key),
                    Some(Stage::Offered { .. } | Stage::Accepted),
                    AcceptRefusal::Draining
                    | AcceptRefusal::UnknownLocation
                    | AcceptRefusal::Busy
                    | AcceptRefusal::LocationPaused,
                ) => {
                    message_use = Use::Earned;
                    self.on_refusal(now, &key, refusal);
                }
                // A repeat, an answer that came too late, or one for a task of nobody here.
                (_, _, _) => self.counters.ignored += 1,
            }
        }
        message_use
    }

    fn on_refusal(&mut self, now: Instant, key: &LeaseKey, refusal: AcceptRefusal) {
        let Some(lease) = self.leases.remove(key) else { return };
        let delay = match refusal {
            AcceptRefusal::Unspecified => return,
            AcceptRefusal::Draining => {
                self.takes_no_more = true;
                self.return_all_unsent();
                Duration::ZERO
            }
            AcceptRefusal::UnknownLocation => {
                self.forget_location(lease.location);
                UNKNOWN_LOCATION_DELAY
            }
            AcceptRefusal::LocationPaused => PAUSED_LOCATION_DELAY,
            AcceptRefusal::Busy => {
                self.paused_until = Some(now + BUSY_PAUSE);
                Duration::ZERO
            }
        };
        self.counters.refused += 1;
        let outcome = Outcome::HandedBack { upload_id: lease.upload_id, delay };
        self.settles.hand_back(Settlement { id: lease.id, lease: key.lease, outcome });
    }

    /// Asks for no more tasks of a location that the worker turned out not to know.
    fn forget_location(&mut self, location: Option<usize>) {
        let name = location.and_then(|index| self.worker.as_ref()?.locations.get(index));
        if let Some(name) = name
            && self.unknown.insert(name.clone())
        {
            self.choose_locations();
        }
    }

    /// Asks for no tasks of these locations for now, and gives back what was not sent yet.
    fn on_paused(&mut self, mut paused: Vec<String>) {
        paused.sort_unstable();
        paused.dedup();
        if paused != self.paused {
            self.paused = paused;
            self.choose_locations();
            self.return_paused();
        }
    }

    fn choose_locations(&mut self) {
        let Some(worker) = &self.worker else { return };
        let wanted =
            |name: &&String| !self.unknown.contains(*name) && self.paused.binary_search(name).is_err();
        self.locations = Some(worker.locations.iter().filter(wanted).cloned().collect());
    }

    fn on_heartbeat(&mut self, now: Instant, seq: u64, held: Vec<Held>) -> Use {
        if seq <= self.last_seq {
            self.close(now, Violation::HeartbeatOrder.into());
            return Use::Charged;
        }
        self.last_seq = seq;
        for held in &held {
            self.count_held(now, held);
        }
        if let Some(before) = now.checked_sub(self.settings.lease) {
            let _forgotten = self.leases.forget_unseen(before);
        }
        self.beats.beat(seq, held);
        Use::Charged
    }

    /// Counts a lease that the worker says it holds. A renewal for it is on its way, so it needs no separate accept.
    fn count_held(&mut self, now: Instant, held: &Held) {
        let Some(key) = held.task.with(held.lease) else {
            self.counters.ignored += 1;
            return;
        };
        if self.settles.is_settling(held.lease) {
            return;
        }
        match self.leases.advance(now, &key, Stage::Accepted) {
            Some(Stage::Offered { .. }) => self.counters.accepted += 1,
            Some(Stage::Accepted | Stage::Reported) => {}
            None => self.leases.resume(now, &key, held.progress.bytes_total),
        }
    }

    fn on_results(&mut self, now: Instant, reports: Vec<Report>) -> Use {
        let mut message_use = Use::Charged;
        for report in reports {
            if self.on_report(now, report) == Use::Earned {
                message_use = Use::Earned;
            }
        }
        message_use
    }

    fn on_report(&mut self, now: Instant, report: Report) -> Use {
        let Report { task, lease, outcome } = report;
        let Some(key) = task.with(lease) else {
            self.counters.ignored += 1;
            self.outbox.confirm(wire::confirm(task, lease, ConfirmVerdict::Gone));
            return Use::Charged;
        };
        if self.settles.waiting() >= MAX_WAITING_SETTLES {
            self.counters.postponed += 1;
            self.outbox.confirm(wire::confirm(task, lease, ConfirmVerdict::TryAgain));
            return Use::Charged;
        }
        let before = self.leases.advance(now, &key, Stage::Reported);
        if matches!(before, Some(Stage::Offered { .. })) {
            self.counters.accepted += 1;
        }
        if !self.settles.report(Settlement { id: key.id, lease, outcome }) {
            self.counters.ignored += 1;
        }
        match before {
            Some(Stage::Offered { .. } | Stage::Accepted) => Use::Earned,
            Some(Stage::Reported) | None => Use::Charged,
        }
    }
}
