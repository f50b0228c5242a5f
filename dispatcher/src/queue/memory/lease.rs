//! Giving leases and keeping them.
//!
//! What the end of a lease means is `settle`'s business; nothing here decides it.

use crate::queue::{
    DEFAULT_COST_BYTES, LeaseRequest, LeaseToken, LeasedTask, Progress, QueueError, QueueSettings,
    RenewOutcome, Renewal, TaskId, TaskReason, TaskSpec, TaskState, UnixMs, state::Transition,
};

use super::{
    State,
    shard::{LeaseEnd, Shard, Task},
};

/// The newest answer with leases to one session.
#[derive(Debug)]
pub(super) struct Memo {
    request: u64,
    pub(super) at: UnixMs,
    leases: Vec<(TaskId, LeaseToken)>,
}

/// What may still be given to a request.
struct Budget {
    tasks: u32,
    bytes: u64,
    first: bool,
    /// A task did not fit: the request ends, or big tasks would wait for ever behind small ones.
    over: bool,
}

impl State {
    /// [`super::TaskQueue::lease`].
    pub(super) fn lease(
        &mut self,
        settings: &QueueSettings,
        request: &LeaseRequest,
    ) -> Result<Vec<LeasedTask>, QueueError> {
        if let Some(memo) = self.memos.get(&request.session) {
            if request.request == memo.request {
                return Ok(self.replay(memo));
            }
            if request.request < memo.request {
                return Ok(Vec::new());
            }
        }
        let mut budget =
            Budget { tasks: request.max_tasks, bytes: request.max_bytes, first: true, over: false };
        let mut leased = Vec::new();
        for band in 0..3 {
            for turn in 0..self.shards.len() {
                let shard = (self.first_shard + turn) % self.shards.len();
                self.shards[shard].lease(settings, self.now, request, band, &mut budget, &mut leased)?;
            }
        }
        self.first_shard = (self.first_shard + 1) % self.shards.len();
        if !leased.is_empty() {
            let leases = leased.iter().map(|task| (task.id.clone(), task.lease)).collect();
            let memo = Memo { request: request.request, at: self.now, leases };
            self.memos.insert(request.session.clone(), memo);
        }
        Ok(leased)
    }

    /// Those of the remembered leases that still hold.
    fn replay(&self, memo: &Memo) -> Vec<LeasedTask> {
        let holds = |(id, lease): &(TaskId, LeaseToken)| {
            let shards = u16::try_from(self.shards.len()).ok()?;
            let task = self.shards.get(usize::from(id.shard(shards)))?.task(id)?;
            task.holds(*lease).then(|| task.as_leased(*lease, self.now))
        };
        memo.leases.iter().filter_map(holds).collect()
    }
}

impl Shard {
    /// Leases tasks of one band as far as the budget goes.
    fn lease(
        &mut self,
        settings: &QueueSettings,
        now: UnixMs,
        request: &LeaseRequest,
        band: usize,
        budget: &mut Budget,
        leased: &mut Vec<LeasedTask>,
    ) -> Result<(), QueueError> {
        while budget.tasks > 0 && !budget.over {
            let may_have_more = |tenant: &str| self.leases_of(tenant) < settings.tenant_in_flight_cap;
            let Some(id) = self.lines[band].first(&request.locations, may_have_more).cloned() else { break };
            let Some(task) = self.task(&id) else { break };
            if !budget.take(cost_bytes(&task.record.spec)) {
                break;
            }
            let tenant = task.record.spec.tenant.clone();
            let lease = LeaseToken::random().map_err(|error| QueueError::Unavailable(Box::new(error)))?;
            leased.extend(self.change(&id, |task| {
                task.take(lease, now.plus(settings.accept_within), request);
                task.as_leased(lease, now)
            }));
            self.lines[band].serve(&tenant);
        }
        Ok(())
    }

    /// [`super::TaskQueue::renew`] of one lease.
    pub(super) fn renew(&mut self, settings: &QueueSettings, now: UnixMs, renewal: &Renewal) -> RenewOutcome {
        if !self.task(&renewal.id).is_some_and(|task| task.holds(renewal.lease)) {
            return RenewOutcome::Lost;
        }
        let outcome = self.change(&renewal.id, |task| {
            if task.record.cancel_requested {
                task.session.clone_from(&renewal.session);
                return RenewOutcome::Cancel;
            }
            let known = task.record.progress;
            let grown = renewal.progress.bytes_done > known.bytes_done
                || renewal.progress.steps_done > known.steps_done;
            let deadline = if grown || !task.record.accepted {
                now.plus(task.record.spec.processing_timeout)
            } else {
                task.progress_deadline
            };
            if deadline <= now {
                return RenewOutcome::Lost;
            }
            task.progress_deadline = deadline;
            let ends_at = now.plus(settings.lease).min(deadline);
            task.session.clone_from(&renewal.session);
            let record = &mut task.record;
            record.process_at = Some(ends_at);
            record.accepted = true;
            record.progress = Progress {
                bytes_done: known.bytes_done.max(renewal.progress.bytes_done),
                steps_done: known.steps_done.max(renewal.progress.steps_done),
                bytes_total: renewal.progress.bytes_total,
            };
            if grown {
                record.returns = 0;
            }
            if !renewal.upload_id.is_empty() {
                record.upload_id.clone_from(&renewal.upload_id);
            }
            RenewOutcome::Keep(ends_at.since(now))
        });
        outcome.unwrap_or(RenewOutcome::Lost)
    }
}

impl Task {
    /// True when `lease` is the one under which the task is being worked on.
    fn holds(&self, lease: LeaseToken) -> bool {
        self.record.state == TaskState::Working && self.record.lease == Some(lease)
    }

    fn take(&mut self, lease: LeaseToken, ends_at: UnixMs, request: &LeaseRequest) {
        self.make(Transition::Lease);
        self.ended = LeaseEnd::Open;
        self.progress_deadline = ends_at;
        self.session.clone_from(&request.session);
        let record = &mut self.record;
        record.reason = TaskReason::None;
        record.process_at = Some(ends_at);
        record.worker.clone_from(&request.worker);
        record.lease = Some(lease);
        record.accepted = false;
        // This copy begins after every request made so far, so it serves them all.
        record.dirty = false;
    }

    fn as_leased(&self, lease: LeaseToken, now: UnixMs) -> LeasedTask {
        LeasedTask {
            id: self.record.id.clone(),
            lease,
            spec: self.record.spec.clone(),
            attempts: self.record.attempts,
            accept_within: self.record.process_at.unwrap_or_default().since(now),
            upload_id: self.record.upload_id.clone(),
        }
    }
}

impl Budget {
    /// Takes one task of this cost, if it still fits.
    const fn take(&mut self, bytes: u64) -> bool {
        if !self.first && bytes > self.bytes {
            self.over = true;
            return false;
        }
        self.first = false;
        self.tasks -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

const fn cost_bytes(spec: &TaskSpec) -> u64 {
    if spec.size_hint_bytes == 0 { DEFAULT_COST_BYTES } else { spec.size_hint_bytes }
}
