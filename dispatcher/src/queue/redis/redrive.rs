//! Running dead tasks again: which writes, and what their answers mean. `writer` makes them durable.

use super::{
    RedisQueue, codec, damaged, error,
    writer::{Write, Written},
};
use crate::queue::{QueueError, Requeue, RequeueOutcome, TaskId};

/// [`crate::queue::TaskQueue::requeue`].
pub(super) async fn requeue(
    queue: &RedisQueue,
    tasks: &[Requeue],
) -> Vec<Result<RequeueOutcome, QueueError>> {
    let writes = tasks.iter().map(|task| Write::Requeue(task.id.clone(), task.run)).collect();
    let mut written = queue.write(writes).await.into_iter();
    let answer = |task: &Requeue| {
        let written = written.next().unwrap_or_else(|| Err(error::unexpected("no answer")))?;
        requeued(&task.id, &written)
    };
    tasks.iter().map(answer).collect()
}

fn requeued(id: &TaskId, written: &Written) -> Result<RequeueOutcome, QueueError> {
    let Written::Requeue([code, state, run]) = *written else {
        return Err(error::unexpected("a requeue was answered as another write"));
    };
    let state =
        || codec::state_of(state).ok_or_else(|| error::unexpected("requeue.lua gave an unknown state"));
    let run = || u32::try_from(run).map_err(|_| error::unexpected("requeue.lua gave an unknown run"));
    match code {
        1 => Ok(RequeueOutcome::Requeued { run: run()? }),
        2 => Ok(RequeueOutcome::OtherRun { run: run()?, state: state()? }),
        3 => Ok(RequeueOutcome::NotDead(state()?)),
        15 => Err(QueueError::NotFound(id.clone())),
        -1 => Err(QueueError::Full),
        -3 => Err(damaged(id)),
        _ => Err(error::unexpected("requeue.lua gave an unknown answer")),
    }
}
