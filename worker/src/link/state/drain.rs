//! The part of the link that leaves: a worker's own end, in order and in bounded time.
//!
//! Copies get most of the time to finish, then they hand back, and the rest is for the confirmations. A worker that cannot reach any
//! dispatcher leaves all the same when the time is over: its leases end by themselves.

use std::time::{Duration, Instant};

use super::{Departure, Effect, Link, StopReason};

/// When a drain does what.
#[derive(Debug)]
pub(super) struct WorkerDrain {
    /// Running copies are told to hand back; `None` once they were.
    hand_back_at: Option<Instant>,
    close_at: Instant,
}

impl Link {
    pub(super) fn start_drain(&mut self, now: Instant, within: Duration) {
        /// What the end needs at most: parts in flight stop, results travel, confirmations come back.
        const WRAP_UP: Duration = Duration::from_secs(5);
        /// A drain without an end would be none.
        const LONGEST: Duration = Duration::from_secs(24 * 3600);
        if self.drain.is_some() {
            return;
        }
        let within = within.min(LONGEST);
        let hand_back_at = now + (within - WRAP_UP.min(within / 4));
        self.drain = Some(WorkerDrain { hand_back_at: Some(hand_back_at), close_at: now + within });
        self.effects.push_back(Effect::Drain);
    }

    pub(super) fn drain_timeout(&mut self, now: Instant) {
        let Some(drain) = &mut self.drain else { return };
        if drain.hand_back_at.is_some_and(|at| now >= at) {
            drain.hand_back_at = None;
            let held: Vec<_> = self.leases.keys().cloned().collect();
            held.iter().for_each(|lease| self.stop(lease, StopReason::HandBack));
        }
    }

    pub(super) fn leave_if_done(&mut self, now: Instant) {
        let Some(drain) = &self.drain else { return };
        let departure = Departure { leases: self.leases.len(), unconfirmed: self.outbox.len() };
        if !self.left && (departure.is_clean() || now >= drain.close_at) {
            self.left = true;
            self.effects.push_back(Effect::Leave(departure));
        }
    }
}

impl WorkerDrain {
    /// Milliseconds until the stream closes.
    pub(super) fn left_ms(&self, now: Instant) -> u64 {
        u64::try_from(self.close_at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.hand_back_at.unwrap_or(self.close_at)
    }
}

impl Departure {
    /// Nothing was left behind.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.leases == 0 && self.unconfirmed == 0
    }
}
