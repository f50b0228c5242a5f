//! `RetryBackups`: finds dead tasks, runs them again, and says of each what came of it.
//!
//! A task is read first, and the run that was seen dead is what is asked to be followed by a new one: between the two the task may
//! succeed late or be submitted again, and nothing is done twice.

use backhaul_proto::v1 as pb;
use futures_util::{StreamExt as _, stream};

use super::Backups;
use crate::{
    grpc::{identity::Caller, page_token, present, status::ApiError, validate::retry::Retry},
    queue::{QueueError, Requeue, RequeueOutcome, TaskId, TaskRecord, TaskState},
};

/// Tasks that are read at a time.
const READS: usize = 32;
/// What is found in this many bytes of answer is enough for one.
const ANSWER_BYTES: usize = 1024 * 1024;

impl Backups {
    /// Runs again what is dead of what is wanted.
    pub(super) async fn retry(
        &self,
        caller: &Caller,
        wanted: Retry,
    ) -> Result<pb::RetryBackupsResponse, ApiError> {
        let Retry { ids, mut dead, dry_run } = wanted;
        let (mut tasks, mut bytes, mut incomplete) = (Vec::new(), 0, false);
        if ids.is_empty() {
            incomplete = self
                .read_page(&mut dead, |record| {
                    let entry = entry(&record, pb::RetryOutcome::WouldRetry);
                    bytes += prost::Message::encoded_len(&entry);
                    tasks.push(entry);
                    bytes < ANSWER_BYTES
                })
                .await?;
        } else {
            let mut reads = stream::iter(ids)
                .map(|id| async move {
                    let read = self.own_task(caller, &id).await;
                    (id, read)
                })
                .buffered(READS);
            while let Some((id, read)) = reads.next().await {
                tasks.push(match read {
                    Ok(record) if record.state != TaskState::Dead => {
                        entry(&record, pb::RetryOutcome::NotDead)
                    }
                    Ok(record) if dead.matches(&record) => entry(&record, pb::RetryOutcome::WouldRetry),
                    Ok(record) => entry(&record, pb::RetryOutcome::NotMatched),
                    Err(ApiError::NoSuchTask(_)) => not_found(&id),
                    Err(error) => failed(&id, error),
                });
            }
        }
        if !dry_run {
            self.requeue(&mut tasks).await?;
        }
        let next_page_token = dead.cursor.as_ref().map(|next| page_token::encode(&dead, next));
        let next_page_token = next_page_token.unwrap_or_default();
        Ok(pb::RetryBackupsResponse { tasks, next_page_token, incomplete })
    }

    /// Runs again what would be, and changes the answers accordingly.
    async fn requeue(&self, tasks: &mut [pb::RetriedBackup]) -> Result<(), ApiError> {
        let mut dead: Vec<&mut pb::RetriedBackup> =
            tasks.iter_mut().filter(|task| task.outcome() == pb::RetryOutcome::WouldRetry).collect();
        let mut wanted = Vec::with_capacity(dead.len());
        for task in &dead {
            let id = TaskId::parse(&task.task_id).map_err(|_| ApiError::Bug("a record without an id"))?;
            wanted.push(Requeue { id, run: task.run });
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut answers = self.queue.requeue(wanted).await.into_iter();
        for task in &mut dead {
            let answer = answers.next().ok_or(ApiError::Bug("the queue gave too few answers"))?;
            told(task, answer);
        }
        Ok(())
    }
}

fn entry(record: &TaskRecord, outcome: pb::RetryOutcome) -> pb::RetriedBackup {
    pb::RetriedBackup {
        task_id: record.id.to_string(),
        outcome: outcome.into(),
        run: record.run,
        state: present::state(record.state).into(),
        object: Some(present::object(record.spec.object.clone())),
        error: None,
    }
}

fn not_found(id: &TaskId) -> pb::RetriedBackup {
    pb::RetriedBackup {
        task_id: id.to_string(),
        outcome: pb::RetryOutcome::NotFound.into(),
        ..pb::RetriedBackup::default()
    }
}

/// A task that could not be read: it says nothing of the others, which may be in other parts of the queue.
fn failed(id: &TaskId, error: ApiError) -> pb::RetriedBackup {
    pb::RetriedBackup {
        task_id: id.to_string(),
        outcome: pb::RetryOutcome::Failed.into(),
        error: Some(error.into_submit_error()),
        ..pb::RetriedBackup::default()
    }
}

/// Puts what came of it into the entry of a task.
fn told(task: &mut pb::RetriedBackup, answer: Result<RequeueOutcome, QueueError>) {
    let (outcome, run, state) = match answer {
        Ok(RequeueOutcome::Requeued { run }) => (pb::RetryOutcome::Retried, run, TaskState::Pending),
        Ok(RequeueOutcome::OtherRun { run, state }) => (pb::RetryOutcome::RunsAlready, run, state),
        Ok(RequeueOutcome::NotDead(state)) => (pb::RetryOutcome::NotDead, task.run, state),
        // It was there a moment ago: its retention is over.
        Err(QueueError::NotFound(id)) => {
            *task = not_found(&id);
            return;
        }
        Err(error) => {
            task.error = Some(ApiError::from(error).into_submit_error());
            task.set_outcome(pb::RetryOutcome::Failed);
            return;
        }
    };
    task.set_outcome(outcome);
    task.run = run;
    task.set_state(present::state(state));
}
