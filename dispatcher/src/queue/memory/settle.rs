//! The end of a lease: by its own report, or because it ran out.
//!
//! Here is who may still report, and where a verdict takes the task; the verdicts themselves are `policy`.

use bytes::Bytes;

use super::shard::{LeaseEnd, Shard, Task};
use crate::queue::{
    Outcome, Progress, QueueSettings, SettleOutcome, Settlement, TaskId, TaskRecord, TaskState, UnixMs,
    policy::{self, Verdict},
    state::Transition,
};

/// Which outcome was reported, without what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// [`Outcome::Done`].
    Done,
    /// [`Outcome::Failed`].
    Failed,
    /// [`Outcome::HandedBack`].
    HandedBack,
    /// [`Outcome::Cancelled`].
    Cancelled,
}

impl Shard {
    /// [`super::TaskQueue::settle`] of one lease.
    pub(super) fn settle(
        &mut self,
        settings: &QueueSettings,
        now: UnixMs,
        settlement: Settlement,
    ) -> SettleOutcome {
        let Settlement { id, lease, outcome } = settlement;
        let kind = Kind::of(&outcome);
        let Some(task) = self.task(&id) else { return SettleOutcome::Gone };
        if let Some((_, earlier)) = task.restarted_by.filter(|(by, _)| *by == lease) {
            return if earlier == kind { SettleOutcome::RunsAgain } else { SettleOutcome::Fenced };
        }
        if task.record.lease != Some(lease) {
            return match task.record.state {
                TaskState::Done => SettleOutcome::Superseded,
                TaskState::Cancelled => SettleOutcome::Cancelled,
                TaskState::Scheduled
                | TaskState::Pending
                | TaskState::Working
                | TaskState::Delayed
                | TaskState::Dead => SettleOutcome::Fenced,
            };
        }
        match task.ended {
            LeaseEnd::Reported(earlier) if earlier == kind => return SettleOutcome::Duplicate,
            LeaseEnd::Reported(_) => return SettleOutcome::Fenced,
            LeaseEnd::RanOut if task.record.state == TaskState::Cancelled => return SettleOutcome::Cancelled,
            LeaseEnd::RanOut if kind != Kind::Done => return SettleOutcome::Fenced,
            LeaseEnd::RanOut | LeaseEnd::Open => {}
        }
        let verdict = judge(task, settings, &outcome);
        let place = self.last_place();
        let ended = self.change(&id, |task| {
            task.note(outcome);
            task.ended = LeaseEnd::Reported(kind);
            task.record.accepted = true;
            // Whatever follows begins after every request made so far.
            task.record.dirty = false;
            task.restarted_by = if verdict.runs_again { Some((lease, kind)) } else { task.restarted_by };
            task.end_lease(now, &verdict, place);
            task.record.state
        });
        match ended {
            None => SettleOutcome::Gone,
            Some(_) if verdict.runs_again => SettleOutcome::RunsAgain,
            Some(state) => SettleOutcome::Stored(state),
        }
    }

    /// Ends a lease that ran out.
    pub(super) fn expire(&mut self, settings: &QueueSettings, now: UnixMs, id: &TaskId) {
        let place = self.last_place();
        self.change(id, |task| {
            let TaskRecord { run, spec, accepted, .. } = &task.record;
            let jitter = policy::spread(id, *run, task.counters());
            let verdict =
                policy::after_expiry(task.counters(), spec.max_attempts, *accepted, jitter, settings)
                    .given(task.requests());
            task.ended = LeaseEnd::RanOut;
            if verdict.runs_again {
                task.restarted_by = None;
            }
            task.end_lease(now, &verdict, place);
        });
    }
}

/// What a report that counts means for its task.
fn judge(task: &Task, settings: &QueueSettings, outcome: &Outcome) -> Verdict {
    let TaskRecord { id, run, spec, .. } = &task.record;
    let (counters, requests) = (task.counters(), task.requests());
    let returned = |delay| {
        let jitter = policy::spread(id, *run, counters);
        policy::after_return(counters, spec.max_attempts, delay, jitter, settings).given(requests)
    };
    match outcome {
        Outcome::Done { .. } => policy::after_success(counters, requests),
        Outcome::Failed { failure, jitter } => policy::after_failure(
            counters,
            spec.max_attempts,
            failure.class,
            failure.retry_after,
            *jitter,
            settings,
        )
        .given(requests),
        Outcome::HandedBack { delay, .. } => returned(*delay),
        Outcome::NotSent { delay } => policy::after_no_room(counters, *delay).given(requests),
        Outcome::Cancelled => returned(std::time::Duration::ZERO),
    }
}

impl Task {
    /// Keeps what a report brought.
    fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done { receipt } => {
                self.record.receipt = receipt;
                self.record.upload_id.clear();
            }
            Outcome::Failed { failure, .. } => self.record.last_failure = Some(failure),
            Outcome::HandedBack { upload_id, .. } if upload_id.is_empty() => {}
            Outcome::NotSent { .. } => {}
            Outcome::HandedBack { upload_id, .. } => self.record.upload_id = upload_id,
            Outcome::Cancelled => self.record.upload_id.clear(),
        }
    }

    /// Goes where the verdict says. `last_place` is used when that is the end of its tenant's line.
    fn end_lease(&mut self, now: UnixMs, verdict: &Verdict, last_place: u64) {
        if verdict.runs_again {
            self.begin_run(now, Transition::RunAgain, last_place);
            return;
        }
        let transition = match verdict.state {
            TaskState::Done => Transition::Succeed,
            TaskState::Dead => Transition::Bury,
            TaskState::Cancelled => Transition::Cancel,
            TaskState::Delayed => Transition::Delay,
            TaskState::Pending | TaskState::Scheduled | TaskState::Working => Transition::HandBack,
        };
        self.make(transition);
        let record = &mut self.record;
        record.reason = verdict.reason;
        record.attempts = verdict.counters.attempts;
        record.crashes = verdict.counters.crashes;
        record.returns = verdict.counters.returns;
        record.process_at = (record.state == TaskState::Delayed).then(|| now.plus(verdict.delay));
        record.finished_at = record.state.is_finished().then_some(now);
        record.progress = Progress::default();
        record.cancel_requested = false;
        if record.state != TaskState::Done {
            record.receipt = Bytes::new();
        }
    }
}

impl Kind {
    const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done { .. } => Self::Done,
            Outcome::Failed { .. } => Self::Failed,
            Outcome::HandedBack { .. } | Outcome::NotSent { .. } => Self::HandedBack,
            Outcome::Cancelled => Self::Cancelled,
        }
    }
}
