//! What a session wants from the queue and has not asked yet, and what it has asked and not heard of. Pure.
//!
//! One call of each kind is under way at a time, and what gathers meanwhile goes into the next: under load batches grow by
//! themselves. Accepts wait even when nothing is under way, because a result makes the write needless.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{Held, LeaseKey, RenewFor, TaskName};
use crate::queue::{LeaseToken, Renewal, Settlement};

/// Most items in one settle call.
const SETTLES_PER_CALL: usize = 1_000;

/// How long after an error accepts are tried again; heartbeats accept them as well.
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

/// Renewals that wait or are under way.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    hello: Option<Vec<Held>>,
    heartbeat: Option<(u64, Vec<Held>)>,
    asked: Option<(RenewFor, Vec<(TaskName, LeaseToken)>)>,
}

/// Accepts that wait or are under way.
#[derive(Debug, Default)]
pub(crate) struct Accepts {
    /// With the time at which each is to be written, in this order. Some have ended meanwhile: as many as ended in that time.
    waiting: VecDeque<(Instant, LeaseKey)>,
    /// To be written as soon as no call is under way.
    ripe: Vec<LeaseKey>,
    asked: Option<Vec<LeaseKey>>,
}

/// Settlements that wait or are under way.
#[derive(Debug, Default)]
pub(crate) struct Settles {
    waiting: VecDeque<(Settlement, Answered)>,
    asked: Option<Vec<(LeaseKey, Answered)>>,
    reported: HashSet<LeaseToken>,
}

/// Whether the worker waits for a Confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The worker reported it.
    Yes,
    /// The session hands back what the worker never took.
    No,
}

impl Beats {
    /// Leases that the worker resumes.
    pub(crate) fn resume(&mut self, held: Vec<Held>) {
        self.hello = Some(held);
    }

    /// A heartbeat. One that still waits is replaced.
    pub(crate) fn beat(&mut self, seq: u64, held: Vec<Held>) {
        self.heartbeat = Some((seq, held));
    }

    /// True when nothing waits and nothing is under way.
    pub(crate) const fn is_idle(&self) -> bool {
        self.hello.is_none() && self.heartbeat.is_none() && self.asked.is_none()
    }

    /// Forgets heartbeats that were not asked yet: the stream is over.
    pub(crate) fn stop(&mut self) {
        self.heartbeat = None;
    }

    /// The next call; `None` while one is under way.
    pub(crate) fn next(&mut self, session: &str) -> Option<(RenewFor, Vec<Renewal>)> {
        if self.asked.is_some() {
            return None;
        }
        let (what, held) = match self.hello.take() {
            Some(held) => (RenewFor::Hello, held),
            None => self.heartbeat.take().map(|(seq, held)| (RenewFor::Heartbeat(seq), held))?,
        };
        let mut renewals = Vec::with_capacity(held.len());
        let mut asked = Vec::with_capacity(held.len());
        for Held { task, lease, progress, upload_id } in held {
            if let TaskName::Known(id) = &task {
                renewals.push(Renewal {
                    id: id.clone(),
                    lease,
                    progress,
                    upload_id,
                    session: session.into(),
                });
            }
            asked.push((task, lease));
        }
        self.asked = Some((what, asked));
        Some((what, renewals))
    }

    /// The leases of the call that is answered now, in the worker's order.
    pub(crate) fn answered(&mut self) -> Option<(RenewFor, Vec<(TaskName, LeaseToken)>)> {
        self.asked.take()
    }
}

impl Accepts {
    /// A lease that the worker has accepted, to be written at that time.
    pub(crate) fn push(&mut self, key: LeaseKey, due: Instant) {
        let at = self.waiting.partition_point(|(earlier, _)| *earlier <= due);
        self.waiting.insert(at, (due, key));
    }

    /// True when nothing waits and nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.ripe.is_empty() && self.asked.is_none()
    }

    /// When the next is to be written; `None` when none waits for that.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    /// Time has passed.
    pub(crate) fn ripen(&mut self, now: Instant) {
        while let Some((_, key)) = self.waiting.pop_front_if(|(due, _)| *due <= now) {
            self.ripe.push(key);
        }
    }

    /// The next call; `None` while one is under way. `is_wanted` says whether a lease still needs it, `hurry` that none may wait.
    pub(crate) fn next(
        &mut self,
        hurry: bool,
        is_wanted: impl Fn(&LeaseKey) -> bool,
    ) -> Option<Vec<LeaseKey>> {
        if self.asked.is_some() {
            return None;
        }
        if hurry {
            self.ripe.extend(self.waiting.drain(..).map(|(_, key)| key));
        }
        self.ripe.retain(is_wanted);
        if self.ripe.is_empty() {
            return None;
        }
        let keys = std::mem::take(&mut self.ripe);
        self.asked = Some(keys.clone());
        Some(keys)
    }

    /// The leases of the call that is answered now.
    pub(crate) fn answered(&mut self) -> Vec<LeaseKey> {
        self.asked.take().unwrap_or_default()
    }

    /// The queue could not be asked: tries again after a while.
    pub(crate) fn again(&mut self, now: Instant, keys: Vec<LeaseKey>) {
        keys.into_iter().for_each(|key| self.push(key, now + ACCEPT_RETRY));
    }
}

impl Settles {
    /// A report of the worker. False when the same lease is being settled already: its answer serves both.
    pub(crate) fn report(&mut self, settlement: Settlement) -> bool {
        let is_new = self.reported.insert(settlement.lease);
        if is_new {
            self.waiting.push_back((settlement, Answered::Yes));
        }
        is_new
    }

    /// Something that the worker never took.
    pub(crate) fn hand_back(&mut self, settlement: Settlement) {
        self.waiting.push_back((settlement, Answered::No));
    }

    /// Settlements that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// True when nothing waits and nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_none()
    }

    /// True while a report on this lease waits or is under way.
    pub(crate) fn is_settling(&self, lease: LeaseToken) -> bool {
        self.reported.contains(&lease)
    }

    /// The next call; `None` while one is under way.
    pub(crate) fn next(&mut self) -> Option<Vec<Settlement>> {
        if self.asked.is_some() || self.waiting.is_empty() {
            return None;
        }
        let count = self.waiting.len().min(SETTLES_PER_CALL);
        let (settlements, asked) = self
            .waiting
            .drain(..count)
            .map(|(settlement, answered)| {
                let key = LeaseKey { id: settlement.id.clone(), lease: settlement.lease };
                (settlement, (key, answered))
            })
            .unzip();
        self.asked = Some(asked);
        Some(settlements)
    }

    /// The leases of the call that is answered now.
    pub(crate) fn answered(&mut self) -> Vec<(LeaseKey, Answered)> {
        let asked = self.asked.take().unwrap_or_default();
        for (key, answered) in &asked {
            if *answered == Answered::Yes {
                self.reported.remove(&key.lease);
            }
        }
        asked
    }
}
