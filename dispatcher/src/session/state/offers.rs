//! How offered tasks become assignments, and how they go back when they cannot.
//!
//! A task waits unsent until the worker's credit has room for it and the connection takes it. What waits too long, or waits
//! when the stream takes no more tasks, is handed back at no cost.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use backhaul_proto::v1 as pb;

use super::{
    super::{LeaseKey, WorkerInfo, leases::cost_of, outbox::message, wire},
    Session, State,
};
use crate::queue::{LeasedTask, Outcome, Settlement};

/// Most assignments in one message. With the longest keys a message stays far below a client's default limit of 4 MiB, and the
/// few messages sent ahead hold little.
const ASSIGNMENTS_PER_MESSAGE: usize = 64;

/// How long a task waits whose retention class the worker does not know: its locations file may be replaced just now.
const UNKNOWN_CLASS_DELAY: Duration = Duration::from_secs(5);

/// A leased task that was not sent yet.
#[derive(Debug)]
pub(super) struct Unsent {
    task: LeasedTask,
    /// It goes back when it could not be sent by then.
    pub(super) deadline: Instant,
}

impl Session {
    pub(super) fn on_offered(&mut self, now: Instant, request: u64, tasks: Vec<LeasedTask>) {
        self.offers_seen = self.offers_seen.max(request);
        self.makes_room_for = None;
        let takes = matches!(self.state, State::Attached { .. }) && !self.takes_no_more;
        let before = self.unsent.len();
        for task in tasks {
            // A repeated request may bring what is here already.
            let is_known = self.leases.contains(task.lease)
                || self.unsent.iter().take(before).any(|unsent| unsent.task.lease == task.lease);
            if is_known {
                continue;
            }
            if takes && !self.knows_class_of(&task) {
                // Another worker may. This one would keep the copy for another time than was asked for.
                self.return_unsent_task(task, UNKNOWN_CLASS_DELAY);
            } else if takes {
                // The worker is promised its time to answer from when the task is sent; what the queue gives beyond that may
                // be spent here.
                let answer_within = self.settings.accept_within;
                let spare = task.accept_within.saturating_sub(answer_within).max(answer_within / 10);
                self.unsent.push_back(Unsent { task, deadline: now + spare });
            } else {
                self.return_unsent_task(task, Duration::ZERO);
            }
        }
    }

    fn knows_class_of(&self, task: &LeasedTask) -> bool {
        let (class, location) = (&task.spec.retention_class, &task.spec.object.location);
        let knows = |worker: &WorkerInfo| worker.retention_classes.contains(&format!("{location}/{class}"));
        class.is_empty() || self.worker.as_deref().is_some_and(knows)
    }

    pub(super) fn stop_copy(&mut self, key: &LeaseKey) {
        let waiting = self.unsent.iter().position(|unsent| unsent.task.lease == key.lease);
        if let Some(Unsent { task, .. }) = waiting.and_then(|index| self.unsent.remove(index)) {
            // Never sent: given back, it is cancelled without the worker.
            self.return_unsent_task(task, Duration::ZERO);
        } else if self.leases.get(key).is_some() {
            self.outbox.cancel(wire::cancel(key));
        }
    }

    pub(super) fn next_fits(&self) -> bool {
        matches!(self.state, State::Attached { .. })
            && self
                .unsent
                .front()
                .is_some_and(|unsent| self.leases.fits(cost_of(unsent.task.spec.size_hint_bytes)))
    }

    pub(super) fn next_assign(&mut self, now: Instant) -> Option<pb::FromDispatcher> {
        let mut assignments = Vec::new();
        while assignments.len() < ASSIGNMENTS_PER_MESSAGE && self.next_fits() {
            let Some(Unsent { task, .. }) = self.unsent.pop_front() else { break };
            let by = now + self.settings.accept_within;
            self.leases.offer(now, &task, self.location_of(&task), by);
            self.counters.assigned += 1;
            assignments.push(wire::assignment(task, self.settings.lease));
        }
        if assignments.is_empty() {
            return None;
        }
        Some(message(pb::from_dispatcher::Message::Assign(pb::Assign { assignments })))
    }

    pub(super) fn location_of(&self, task: &LeasedTask) -> Option<usize> {
        self.worker.as_ref()?.locations.binary_search(&task.spec.object.location).ok()
    }

    /// Gives back what could not be sent in time.
    pub(super) fn return_unsent(&mut self, now: Instant) {
        if self.unsent.iter().all(|unsent| unsent.deadline > now) {
            return;
        }
        let (late, rest) = self.unsent.drain(..).partition::<VecDeque<_>, _>(|unsent| unsent.deadline <= now);
        self.unsent = rest;
        for Unsent { task, .. } in late {
            let cost = cost_of(task.spec.size_hint_bytes);
            let is_giant = cost > self.leases.limit().bytes;
            if !self.leases.fits(cost) {
                self.makes_room_for = Some(cost);
            }
            // A task larger than the whole credit needs an empty worker. Coming straight back would only keep the queue busy.
            self.return_unsent_task(task, if is_giant { self.settings.lease } else { Duration::ZERO });
        }
    }

    /// Gives back what the worker has not answered in time, and tells it, should it wake up. It gets nothing more for a while,
    /// or until it accepts something or gives credit: what it does not answer would only come round again.
    pub(super) fn return_unaccepted(&mut self, now: Instant) {
        for (key, lease) in self.leases.take_overdue(now) {
            self.paused_until = Some(now + self.settings.lease);
            self.outbox.cancel(wire::cancel(&key));
            self.hand_back(key, lease.upload_id, Duration::ZERO);
        }
    }

    /// Gives back what was to be sent of locations that the worker has paused.
    pub(super) fn return_paused(&mut self) {
        let paused = &self.paused;
        let (back, rest) = self
            .unsent
            .drain(..)
            .partition::<VecDeque<_>, _>(|unsent| paused.contains(&unsent.task.spec.object.location));
        self.unsent = rest;
        for Unsent { task, .. } in back {
            self.return_unsent_task(task, Duration::ZERO);
        }
    }

    pub(super) fn return_all_unsent(&mut self) {
        for Unsent { task, .. } in std::mem::take(&mut self.unsent) {
            self.return_unsent_task(task, Duration::ZERO);
        }
    }

    /// The task did nothing wrong: waiting here for room does not count towards the times that it may come back.
    pub(super) fn return_unsent_task(&mut self, task: LeasedTask, delay: Duration) {
        let LeasedTask { id, lease, .. } = task;
        self.give_back(LeaseKey { id, lease }, Outcome::NotSent { delay });
    }

    pub(super) fn hand_back(&mut self, key: LeaseKey, upload_id: String, delay: Duration) {
        self.give_back(key, Outcome::HandedBack { upload_id, delay });
    }

    fn give_back(&mut self, key: LeaseKey, outcome: Outcome) {
        let LeaseKey { id, lease } = key;
        self.counters.returned += 1;
        self.settles.hand_back(Settlement { id, lease, outcome });
    }
}
