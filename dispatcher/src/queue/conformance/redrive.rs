//! Running dead tasks again.

use std::time::Duration;

use tokio::time::timeout;

use super::harness::{Factory, Harness, done, exact, failed, latest, s};
use crate::queue::{
    FailureClass, LeasedTask, QueueError, Requeue, RequeueOutcome, SettleOutcome, SubmitOutcome, TaskId,
    TaskReason, TaskState,
};

/// A task that died, under its last lease.
async fn bury(h: &Harness, key: &str) -> LeasedTask {
    let leased = h.work_on(exact("t", key)).await;
    let buried = h.settle(&leased, failed(FailureClass::Permanent)).await;
    assert_eq!(buried, SettleOutcome::Stored(TaskState::Dead));
    leased
}

async fn try_requeue(h: &Harness, id: &TaskId, run: u32) -> Result<RequeueOutcome, QueueError> {
    let mut answers = h.queue.requeue(vec![Requeue { id: id.clone(), run }]).await;
    assert_eq!(answers.len(), 1, "one answer for one task");
    answers.remove(0)
}

async fn requeue(h: &Harness, id: &TaskId, run: u32) -> RequeueOutcome {
    try_requeue(h, id, run).await.unwrap_or_else(|error| panic!("requeue: {error}"))
}

pub(super) async fn a_dead_task_runs_again_as_a_new_run_of_the_same_spec(factory: Factory) {
    let h = factory.start().await;
    let mut task = exact("t", "a");
    task.spec.labels.insert("team".into(), "web".into());
    let id = h.submit(task).await.id;
    let leased = h.work().await;
    h.settle(&leased, failed(FailureClass::Permanent)).await;
    let dead = h.get(&id).await;
    h.clock.advance(s(7));
    assert_eq!(requeue(&h, &id, 1).await, RequeueOutcome::Requeued { run: 2 });
    let again = h.get(&id).await;
    assert_eq!((again.state, again.reason, again.run), (TaskState::Pending, TaskReason::None, 2));
    assert_eq!((again.spec, again.created_at), (dead.spec, h.now()));
    assert_eq!((again.attempts, again.crashes, again.returns), (0, 0, 0));
    assert_eq!((again.last_failure, again.lease, again.finished_at), (None, None, None));
    let leased = h.work().await;
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Stored(TaskState::Done));
    assert_eq!(h.depths().await.dead, 0);
}

pub(super) async fn a_repeated_requeue_begins_no_second_run(factory: Factory) {
    let h = factory.start().await;
    let id = bury(&h, "a").await.id;
    assert_eq!(requeue(&h, &id, 1).await, RequeueOutcome::Requeued { run: 2 });
    let other = RequeueOutcome::OtherRun { run: 2, state: TaskState::Pending };
    assert_eq!(requeue(&h, &id, 1).await, other);
    let twice = h.queue.requeue(vec![Requeue { id: id.clone(), run: 1 }; 2]).await;
    assert!(twice.iter().all(|one| one.as_ref().is_ok_and(|one| *one == other)), "{twice:?}");
    assert_eq!((h.get(&id).await.run, h.depths().await.pending), (2, 1));
}

pub(super) async fn a_task_that_was_submitted_again_meanwhile_is_left_alone(factory: Factory) {
    let h = factory.start().await;
    let id = bury(&h, "a").await.id;
    assert_eq!(h.submit(exact("t", "a")).await.outcome, SubmitOutcome::Created);
    let leased = h.work().await;
    let before = h.get(&id).await;
    let other = RequeueOutcome::OtherRun { run: 2, state: TaskState::Working };
    assert_eq!(requeue(&h, &id, 1).await, other);
    assert_eq!(h.get(&id).await, before);
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Stored(TaskState::Done));
}

pub(super) async fn only_dead_tasks_are_requeued(factory: Factory) {
    let h = factory.start().await;
    let mut later = exact("t", "scheduled");
    later.process_at = h.at(s(3600));
    let scheduled = h.submit(later).await.id;
    let finished = h.work_on(exact("t", "done")).await;
    h.settle(&finished, done()).await;
    let delayed = h.work_on(exact("t", "delayed")).await;
    h.settle(&delayed, failed(FailureClass::Retry)).await;
    let working = h.work_on(exact("t", "working")).await;
    let cancelled = h.submit(exact("t", "cancelled")).await.id;
    h.cancel(&cancelled).await;
    let pending = h.submit(exact("t", "pending")).await.id;
    for (id, state) in [
        (scheduled, TaskState::Scheduled),
        (finished.id, TaskState::Done),
        (delayed.id, TaskState::Delayed),
        (working.id, TaskState::Working),
        (cancelled, TaskState::Cancelled),
        (pending, TaskState::Pending),
    ] {
        let before = h.get(&id).await;
        assert_eq!(requeue(&h, &id, 1).await, RequeueOutcome::NotDead(state));
        assert_eq!(h.get(&id).await, before);
    }
}

pub(super) async fn a_late_success_of_the_run_that_died_is_fenced_after_a_requeue(factory: Factory) {
    let h = factory.start_with(|settings| settings.max_crashes = 1).await;
    let lost = h.work_on(latest("t", "a")).await;
    h.lose(&lost).await;
    assert_eq!(h.state(&lost.id).await, TaskState::Dead);
    assert_eq!(requeue(&h, &lost.id, 1).await, RequeueOutcome::Requeued { run: 2 });
    assert_eq!(h.settle(&lost, done()).await, SettleOutcome::Fenced);
    let again = h.work().await;
    assert_eq!(h.settle(&lost, done()).await, SettleOutcome::Fenced);
    assert_eq!(h.settle(&again, done()).await, SettleOutcome::Stored(TaskState::Done));
}

pub(super) async fn a_requeued_task_waits_behind_what_waits_already(factory: Factory) {
    let h = factory.start().await;
    let id = bury(&h, "a").await.id;
    for key in ["b", "c"] {
        h.submit(exact("t", key)).await;
    }
    requeue(&h, &id, 1).await;
    h.submit(exact("t", "d")).await;
    assert_eq!(h.drain_order().await, "b c a d");
}

pub(super) async fn a_requeue_needs_room_in_the_shard_and_none_in_the_tenants_count(factory: Factory) {
    let h = factory
        .start_with(|settings| {
            settings.shard_cap = 2;
            settings.tenant_cap = 2;
        })
        .await;
    let a = bury(&h, "a").await.id;
    let b = bury(&h, "b").await.id;
    assert!(matches!(h.try_submit(exact("t", "c")).await, Err(QueueError::TenantFull)));
    assert_eq!(requeue(&h, &a, 1).await, RequeueOutcome::Requeued { run: 2 });
    h.submit(exact("u", "other")).await;
    assert!(matches!(try_requeue(&h, &b, 1).await, Err(QueueError::Full)));
    assert_eq!(h.state(&b).await, TaskState::Dead);
    let leased = h.work().await;
    h.settle(&leased, done()).await;
    assert_eq!(requeue(&h, &b, 1).await, RequeueOutcome::Requeued { run: 2 });
}

pub(super) async fn requeues_are_answered_one_by_one_in_order(factory: Factory) {
    let h = factory.start_with(|settings| settings.shards = 4).await;
    let mut wanted = Vec::new();
    for n in 0..30 {
        let id = bury(&h, &n.to_string()).await.id;
        // Every third names a run that does not exist.
        wanted.push(Requeue { id, run: if n % 3 == 0 { 9 } else { 1 } });
    }
    let unknown = TaskId::from_hash(&"0".repeat(32)).unwrap_or_else(|error| panic!("{error}"));
    wanted.insert(7, Requeue { id: unknown, run: 1 });
    let answers = h.queue.requeue(wanted.clone()).await;
    assert_eq!(answers.len(), wanted.len());
    for (at, (task, answer)) in wanted.iter().zip(answers).enumerate() {
        match answer {
            Err(QueueError::NotFound(id)) => assert_eq!((at, id), (7, task.id.clone())),
            Ok(RequeueOutcome::Requeued { run: 2 }) => assert_eq!(task.run, 1),
            Ok(RequeueOutcome::OtherRun { run: 1, state: TaskState::Dead }) => assert_eq!(task.run, 9),
            other => panic!("{at}: {other:?}"),
        }
    }
    assert!(h.queue.requeue(Vec::new()).await.is_empty());
}

pub(super) async fn a_requeue_wakes_whoever_waits_for_tasks(factory: Factory) {
    let h = factory.start().await;
    let id = bury(&h, "a").await.id;
    let ready = h.queue.ready();
    // What was said before.
    while timeout(Duration::from_millis(1), ready.notified()).await.is_ok() {}
    requeue(&h, &id, 1).await;
    assert!(timeout(s(30), ready.notified()).await.is_ok(), "nobody was woken");
}

pub(super) async fn a_task_that_dies_again_can_be_requeued_again(factory: Factory) {
    let h = factory.start().await;
    let id = bury(&h, "a").await.id;
    for run in 1..4 {
        assert_eq!(requeue(&h, &id, run).await, RequeueOutcome::Requeued { run: run + 1 });
        let leased = h.work().await;
        h.settle(&leased, failed(FailureClass::Permanent)).await;
        let dead = h.get(&id).await;
        assert_eq!((dead.state, dead.attempts), (TaskState::Dead, 1));
    }
}
