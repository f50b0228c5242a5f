//! Running dead tasks again.

use super::shard::Shard;
use crate::queue::{
    QueueError, QueueSettings, Requeue, RequeueOutcome, TaskState, UnixMs, state::Transition,
};

impl Shard {
    /// [`super::TaskQueue::requeue`] of one task.
    pub(super) fn requeue(
        &mut self,
        settings: &QueueSettings,
        now: UnixMs,
        Requeue { id, run }: &Requeue,
    ) -> Result<RequeueOutcome, QueueError> {
        let record = &self.task(id).ok_or_else(|| QueueError::NotFound(id.clone()))?.record;
        if record.run != *run {
            return Ok(RequeueOutcome::OtherRun { run: record.run, state: record.state });
        }
        if record.state != TaskState::Dead {
            return Ok(RequeueOutcome::NotDead(record.state));
        }
        let depths = self.depths();
        if depths.pending + depths.working + depths.scheduled + depths.delayed >= settings.shard_cap {
            return Err(QueueError::Full);
        }
        let place = self.last_place();
        let begun = self.change(id, |task| {
            task.restarted_by = None;
            task.begin_run(now, Transition::Renew, place);
            RequeueOutcome::Requeued { run: task.record.run }
        });
        begun.ok_or_else(|| QueueError::NotFound(id.clone()))
    }
}
