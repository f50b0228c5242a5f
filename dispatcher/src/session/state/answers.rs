//! What a session makes of the queue's answers: Welcome, verdicts on leases, and Confirms. Nothing is promised to the worker
//! before the queue has answered.

use std::time::{Duration, Instant};

use backhaul_proto::v1::{ConfirmVerdict, LeaseUpdate, LeaseUpdates, LeaseVerdict, Welcome};

use super::{
    super::{LeaseKey, RenewFor, TaskName, leases::Stage, wire, work::Answered},
    Session, State,
};
use crate::queue::{LeaseToken, QueueError, RenewOutcome, SettleOutcome};

/// An answer of the queue to one renewal.
type Renewed = Result<RenewOutcome, QueueError>;

impl Session {
    /// Takes in the queue's answers to a Hello or a heartbeat.
    pub(super) fn on_renewed(&mut self, now: Instant, answers: Vec<Renewed>) {
        let Some((what, asked)) = self.beats.answered() else { return };
        let mut answers = answers.into_iter();
        let updates = asked
            .into_iter()
            .map(|(task, lease)| match task.with(lease) {
                // A missing answer is an unknown one.
                Some(key) => self.verdict(task, &key, answers.next()),
                None => wire::update(task, lease, LeaseVerdict::Lost, Duration::ZERO),
            })
            .collect();
        match what {
            RenewFor::Hello => self.welcome(now, updates),
            RenewFor::Heartbeat(seq) => self.answer_heartbeat(seq, updates),
            RenewFor::Accepts => {}
        }
    }

    fn answer_heartbeat(&mut self, seq: u64, updates: Vec<LeaseUpdate>) {
        if !self.is_mute {
            self.outbox.updates(LeaseUpdates { seq, updates });
        }
    }

    fn verdict(&mut self, task: TaskName, key: &LeaseKey, answer: Option<Renewed>) -> LeaseUpdate {
        let lease: LeaseToken = key.lease;
        match answer {
            Some(Ok(RenewOutcome::Keep(keep))) => {
                self.leases.renewed(key);
                wire::update(task, lease, LeaseVerdict::Keep, keep)
            }
            Some(Ok(RenewOutcome::Lost) | Err(QueueError::NotFound(_))) => {
                // A report that came meanwhile has its own answer.
                if !self.settles.is_settling(lease) {
                    let _lost = self.leases.remove(key);
                }
                wire::update(task, lease, LeaseVerdict::Lost, Duration::ZERO)
            }
            Some(Ok(RenewOutcome::Cancel)) => wire::update(task, lease, LeaseVerdict::Cancel, Duration::ZERO),
            None
            | Some(Err(
                QueueError::Full
                | QueueError::TenantFull
                | QueueError::Unavailable(_)
                | QueueError::NotDurable { .. }
                | QueueError::Unfit(_)
                | QueueError::Corrupt { .. }
                | QueueError::Rejected(_),
            )) => wire::update(task, lease, LeaseVerdict::Unknown, self.settings.lease),
        }
    }

    /// Welcomes the worker. It takes tasks from now on, unless the stream drains already.
    pub(super) fn welcome(&mut self, now: Instant, held: Vec<LeaseUpdate>) {
        if self.is_mute {
            return;
        }
        self.outbox.welcome(Welcome {
            session: self.id.as_str().to_owned(),
            lease_ms: wire::millis(self.settings.lease),
            heartbeat_every_ms: wire::millis(self.settings.heartbeat_every),
            accept_within_ms: wire::millis(self.settings.accept_within),
            held,
        });
        if self.state == State::Welcoming {
            self.state = State::Attached { rebalance_at: self.rebalance_after.map(|age| now + age) };
        }
    }

    /// Takes in the queue's answers to accepted leases. A lease that is not ours any more is stopped at once.
    pub(super) fn on_accepts_written(&mut self, now: Instant, answers: Vec<Renewed>) {
        let mut answers = answers.into_iter();
        let mut again = Vec::new();
        for key in self.accepts.answered() {
            match answers.next() {
                Some(Ok(RenewOutcome::Keep(_))) => {}
                Some(Ok(RenewOutcome::Lost | RenewOutcome::Cancel) | Err(QueueError::NotFound(_))) => {
                    if self.leases.get(&key).is_some_and(|lease| lease.stage == Stage::Accepted) {
                        self.outbox.cancel(wire::cancel(&key));
                    }
                }
                None
                | Some(Err(
                    QueueError::Full
                    | QueueError::TenantFull
                    | QueueError::Unavailable(_)
                    | QueueError::NotDurable { .. }
                    | QueueError::Unfit(_)
                    | QueueError::Corrupt { .. }
                    | QueueError::Rejected(_),
                )) => again.push(key),
            }
        }
        if !matches!(self.state, State::Closed { .. }) {
            self.accepts.again(now, again);
        }
    }

    /// Takes in the queue's answers to settlements, frees credit and confirms.
    pub(super) fn on_settled(&mut self, now: Instant, answers: Vec<Result<SettleOutcome, QueueError>>) {
        let mut answers = answers.into_iter();
        for (key, answered) in self.settles.answered() {
            let verdict = confirm_verdict(answers.next());
            if answered == Answered::No {
                continue;
            }
            if verdict == ConfirmVerdict::TryAgain {
                self.counters.postponed += 1;
                let _before = self.leases.advance(now, &key, Stage::Accepted);
            } else {
                self.counters.confirmed += 1;
                let _done = self.leases.remove(&key);
            }
            if !self.is_mute {
                let lease = key.lease;
                self.outbox.confirm(wire::confirm(TaskName::Known(key.id), lease, verdict));
            }
        }
    }
}

/// What a worker is told about its result.
fn confirm_verdict(answer: Option<Result<SettleOutcome, QueueError>>) -> ConfirmVerdict {
    match answer {
        Some(Ok(SettleOutcome::Stored(_))) => ConfirmVerdict::Stored,
        Some(Ok(SettleOutcome::Duplicate)) => ConfirmVerdict::Duplicate,
        Some(Ok(SettleOutcome::RunsAgain)) => ConfirmVerdict::RunsAgain,
        Some(Ok(SettleOutcome::Fenced)) => ConfirmVerdict::Fenced,
        Some(Ok(SettleOutcome::Superseded)) => ConfirmVerdict::Superseded,
        Some(Ok(SettleOutcome::Cancelled)) => ConfirmVerdict::Cancelled,
        // A damaged record stays so until a person looks; the worker's repeating would change nothing.
        Some(Ok(SettleOutcome::Gone) | Err(QueueError::NotFound(_) | QueueError::Corrupt { .. })) => {
            ConfirmVerdict::Gone
        }
        None
        | Some(Err(
            QueueError::Full
            | QueueError::TenantFull
            | QueueError::Unavailable(_)
            | QueueError::NotDurable { .. }
            | QueueError::Unfit(_)
            | QueueError::Rejected(_),
        )) => ConfirmVerdict::TryAgain,
    }
}
