//! Cases on accepting requests: identity, dedup, coalescing, runs, schedules.

use super::harness::{Factory, done, exact, failed, latest, s};
use crate::queue::{
    FailureClass, NewTask, Priority, QueueError, RenewOutcome, SettleOutcome, SubmitOutcome, Submitted,
    TaskId, TaskReason, TaskRecord, TaskState, UnixMs,
};

pub(super) async fn a_task_that_is_due_is_pending_at_once(make: Factory) {
    let h = make.start().await;
    let task = exact("t", "a");
    let submitted = h.submit(task.clone()).await;
    let id = TaskId::derive("t", &task.spec.object);
    let outcome = SubmitOutcome::Created;
    assert_eq!(submitted, Submitted { id: id.clone(), run: 1, state: TaskState::Pending, outcome });
    let record = h.get(&id).await;
    assert_eq!(record, fresh(id, 1, task, h.now(), TaskState::Pending));
}

pub(super) async fn a_task_for_later_waits_in_working_until_its_time(make: Factory) {
    let h = make.start().await;
    let task = NewTask { process_at: h.at(s(60)), ..exact("t", "a") };
    let id = h.submit(task.clone()).await.id;
    assert_eq!(h.get(&id).await, fresh(id.clone(), 1, task, h.now(), TaskState::Scheduled));
    assert_eq!(h.sweep_after(s(59)).await.promoted, 0);
    assert_eq!(h.lease(1).await, []);
    assert_eq!(h.sweep_after(s(1)).await.promoted, 1);
    let record = h.get(&id).await;
    assert_eq!((record.state, record.process_at), (TaskState::Pending, None));
    assert_eq!(h.lease_next().await.id, id);
}

pub(super) async fn a_time_that_has_passed_means_now(make: Factory) {
    let h = make.start().await;
    for (key, process_at) in [("a", Some(UnixMs(0))), ("b", Some(h.now()))] {
        let submitted = h.submit(NewTask { process_at, ..exact("t", key) }).await;
        assert_eq!(submitted.state, TaskState::Pending);
        assert_eq!(h.get(&submitted.id).await.process_at, None);
    }
}

pub(super) async fn an_exact_version_is_one_task_in_every_unfinished_state(make: Factory) {
    let h = make.start().await;
    let scheduled = h.submit(NewTask { process_at: h.at(s(900)), ..exact("t", "s") }).await;
    let delayed = h.work_on(exact("t", "d")).await;
    h.settle(&delayed, failed(FailureClass::Retry)).await;
    let working = h.work_on(exact("t", "w")).await;
    let pending = h.submit(exact("t", "p")).await;
    let expected = [
        (pending.id, "p", TaskState::Pending),
        (working.id, "w", TaskState::Working),
        (delayed.id, "d", TaskState::Delayed),
        (scheduled.id, "s", TaskState::Scheduled),
    ];
    for (id, key, state) in expected {
        let before = h.get(&id).await;
        let again = h.submit(NewTask { process_at: h.at(s(900)), ..exact("t", key) }).await;
        let outcome = SubmitOutcome::Duplicate;
        assert_eq!(again, Submitted { id: id.clone(), run: 1, state, outcome });
        assert_eq!(h.get(&id).await, before);
    }
}

pub(super) async fn an_exact_version_is_recognised_until_its_dedup_window_ends(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.settle(&leased, done()).await;
    h.sweep_after(h.settings.dedup_window - s(1)).await;
    let again = h.submit(exact("t", "a")).await;
    assert_eq!((again.outcome, again.state), (SubmitOutcome::Duplicate, TaskState::Done));
    h.clock.advance(s(1));
    let again = h.submit(exact("t", "a")).await;
    assert_eq!((again.outcome, again.run), (SubmitOutcome::Created, 2));
    assert_eq!(h.state(&again.id).await, TaskState::Pending);
}

pub(super) async fn a_finished_latest_is_a_new_run_at_once(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(latest("t", "a")).await;
    h.settle(&leased, done()).await;
    let again = h.submit(latest("t", "a")).await;
    let (id, outcome) = (leased.id.clone(), SubmitOutcome::Created);
    assert_eq!(again, Submitted { id, run: 2, state: TaskState::Pending, outcome });
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Fenced);
}

pub(super) async fn a_dead_task_that_is_submitted_again_starts_over(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    let renewal = crate::queue::Renewal { upload_id: "left".into(), ..h.renewal(&leased, 7) };
    h.renew_as(renewal).await;
    h.settle(&leased, failed(FailureClass::Permanent)).await;
    assert_eq!(h.state(&leased.id).await, TaskState::Dead);
    h.clock.advance(s(5));
    let mut task = exact("t", "a");
    task.spec.priority = Priority::Low;
    task.spec.max_attempts = 9;
    task.spec.labels.insert("why".into(), "second try".into());
    let again = h.submit(task.clone()).await;
    assert_eq!((again.outcome, again.run), (SubmitOutcome::Created, 2));
    let expected = fresh(leased.id.clone(), 2, task, h.now(), TaskState::Pending);
    assert_eq!(h.get(&again.id).await, TaskRecord { upload_id: "left".into(), ..expected });
    assert_eq!(h.lease_next().await.upload_id, "left");
}

pub(super) async fn a_cancelled_task_that_is_submitted_again_starts_over(make: Factory) {
    let h = make.start().await;
    let id = h.submit(exact("t", "a")).await.id;
    h.queue.cancel(&id).await.unwrap_or_else(|error| panic!("cancel: {error}"));
    let task = NewTask { process_at: h.at(s(30)), ..exact("t", "a") };
    let again = h.submit(task.clone()).await;
    assert_eq!((again.outcome, again.run), (SubmitOutcome::Created, 2));
    assert_eq!(h.get(&id).await, fresh(id, 2, task, h.now(), TaskState::Scheduled));
}

pub(super) async fn a_new_run_fences_every_older_lease(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    // Quarantined by a lease that could still have reported success.
    let mut last = leased.clone();
    for crash in 1..=h.settings.max_crashes {
        h.lose(&last).await;
        if crash < h.settings.max_crashes {
            h.await_due(&last.id).await;
            last = h.work().await;
        }
    }
    assert_eq!(h.state(&last.id).await, TaskState::Dead);
    h.submit(exact("t", "a")).await;
    for old in [&leased, &last] {
        assert_eq!(h.settle(old, done()).await, SettleOutcome::Fenced);
        assert_eq!(h.renew(old, 1).await, RenewOutcome::Lost);
    }
    assert_eq!(h.state(&last.id).await, TaskState::Pending);
}

pub(super) async fn latest_rides_on_a_task_that_waits_and_the_first_request_stays(make: Factory) {
    let h = make.start().await;
    let first = h.submit(latest("t", "a")).await;
    let before = h.get(&first.id).await;
    let mut other = latest("t", "a");
    other.spec.priority = Priority::High;
    other.spec.max_attempts = 77;
    let again = h.submit(other).await;
    assert_eq!((again.outcome, again.run), (SubmitOutcome::Coalesced, 1));
    assert_eq!(h.get(&first.id).await, before);
    let leased = h.work().await;
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Stored(TaskState::Done));
}

pub(super) async fn latest_during_the_copy_runs_again_afterwards(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(latest("t", "a")).await;
    for _ in 0..2 {
        let again = h.submit(latest("t", "a")).await;
        let (id, outcome) = (leased.id.clone(), SubmitOutcome::RunsAgain);
        assert_eq!(again, Submitted { id, run: 1, state: TaskState::Working, outcome });
    }
    assert!(h.get(&leased.id).await.dirty);
    h.clock.advance(s(3));
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::RunsAgain);
    let expected = fresh(leased.id.clone(), 2, latest("t", "a"), h.now(), TaskState::Pending);
    assert_eq!(h.get(&leased.id).await, expected);
    let second = h.work().await;
    assert_eq!(h.settle(&second, done()).await, SettleOutcome::Stored(TaskState::Done));
}

pub(super) async fn latest_after_the_copy_began_is_not_swallowed_by_its_late_success(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(latest("t", "a")).await;
    h.lose(&leased).await;
    let again = h.submit(latest("t", "a")).await;
    assert_eq!((again.outcome, again.state), (SubmitOutcome::Coalesced, TaskState::Delayed));
    assert!(h.get(&leased.id).await.dirty);
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::RunsAgain);
    assert_eq!(h.state(&leased.id).await, TaskState::Pending);
    assert_eq!(h.get(&leased.id).await.run, 2);
}

pub(super) async fn latest_that_a_later_lease_serves_does_not_run_twice(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(latest("t", "a")).await;
    h.submit(latest("t", "a")).await;
    h.lose(&leased).await;
    assert!(h.get(&leased.id).await.dirty);
    h.await_due(&leased.id).await;
    let second = h.work().await;
    assert!(!h.get(&leased.id).await.dirty);
    assert_eq!(h.settle(&second, done()).await, SettleOutcome::Stored(TaskState::Done));
}

pub(super) async fn a_repeat_within_one_batch_is_one_task(make: Factory) {
    let h = make.start().await;
    let batch = vec![exact("t", "a"), latest("t", "b"), exact("t", "a"), latest("t", "b")];
    let answers = h.queue.submit(batch).await;
    let outcomes: Vec<_> = answers.into_iter().map(|answer| answer.map(|task| task.outcome)).collect();
    use SubmitOutcome::{Coalesced, Created, Duplicate};
    assert!(matches!(outcomes[..], [Ok(Created), Ok(Created), Ok(Duplicate), Ok(Coalesced)]), "{outcomes:?}");
    assert_eq!(h.depths().await.pending, 2);
}

pub(super) async fn an_empty_batch_has_an_empty_answer(make: Factory) {
    let h = make.start().await;
    assert!(h.queue.submit(Vec::new()).await.is_empty());
    assert!(h.queue.renew(&[]).await.is_empty());
    assert!(h.queue.settle(Vec::new()).await.is_empty());
}

pub(super) async fn a_repeat_that_wants_it_sooner_pulls_a_scheduled_task_forward(make: Factory) {
    let h = make.start().await;
    let at = |time| NewTask { process_at: time, ..exact("t", "a") };
    let id = h.submit(at(h.at(s(600)))).await.id;
    let sooner = h.submit(at(h.at(s(60)))).await;
    assert_eq!((sooner.outcome, sooner.state), (SubmitOutcome::Duplicate, TaskState::Scheduled));
    assert_eq!(h.get(&id).await.process_at, h.at(s(60)));
    h.submit(at(h.at(s(300)))).await;
    assert_eq!(h.get(&id).await.process_at, h.at(s(60)));
    let now = h.submit(at(None)).await;
    assert_eq!((now.outcome, now.state), (SubmitOutcome::Duplicate, TaskState::Pending));
    assert_eq!(h.get(&id).await.process_at, None);
    assert_eq!(h.lease_next().await.id, id);
}

pub(super) async fn a_repeat_does_not_shorten_a_backoff(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(latest("t", "a")).await;
    h.settle(&leased, failed(FailureClass::Retry)).await;
    let before = h.get(&leased.id).await;
    let again = h.submit(latest("t", "a")).await;
    assert_eq!((again.outcome, again.state), (SubmitOutcome::Coalesced, TaskState::Delayed));
    assert_eq!(h.get(&leased.id).await, before);
}

pub(super) async fn tenants_do_not_share_tasks(make: Factory) {
    let h = make.start().await;
    let (a, b) = (h.submit(exact("t", "a")).await, h.submit(exact("u", "a")).await);
    assert_eq!((a.outcome, b.outcome), (SubmitOutcome::Created, SubmitOutcome::Created));
    assert_ne!(a.id, b.id);
}

pub(super) async fn every_field_comes_back_as_it_was_given(make: Factory) {
    let h = make.start().await;
    let keys = ["a b", "a//b", "ü/日本/🦀", "a\nb\r\0c", "-1", "{tag}", ":", "%2F", "\u{feff}"];
    let long = "k".repeat(1024);
    for key in keys.into_iter().chain([long.as_str()]) {
        let mut task = exact("tenant-1", key);
        task.spec.object.version = Some(String::from(key));
        task.spec.labels.insert("name".into(), key.into());
        task.spec.labels.insert("empty".into(), String::new());
        task.spec.size_hint_bytes = 1 << 50;
        task.spec.processing_timeout = s(86_400);
        task.spec.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
        task.spec.verify = None;
        let id = h.submit(task.clone()).await.id;
        assert_eq!(h.get(&id).await.spec, task.spec);
        assert_eq!(h.lease_next().await.spec, task.spec);
    }
}

pub(super) async fn an_unknown_task_is_not_found(make: Factory) {
    let h = make.start().await;
    let id = TaskId::derive("t", &exact("t", "a").spec.object);
    assert!(matches!(h.queue.get(&id).await, Err(QueueError::NotFound(unknown)) if unknown == id));
    assert!(matches!(h.queue.cancel(&id).await, Err(QueueError::NotFound(unknown)) if unknown == id));
}

pub(super) async fn a_submit_wakes_whoever_waits_for_tasks(make: Factory) {
    let h = make.start().await;
    let ready = h.queue.ready();
    // A submit of the past may have left its mark.
    let waiting = ready.notified();
    tokio::pin!(waiting);
    waiting.as_mut().enable();
    h.submit(exact("t", "a")).await;
    woken(waiting).await;
    h.work().await;
}

pub(super) async fn a_promotion_wakes_whoever_waits_for_tasks(make: Factory) {
    let h = make.start().await;
    let id = h.submit(NewTask { process_at: h.at(s(5)), ..exact("t", "a") }).await.id;
    let ready = h.queue.ready();
    let waiting = ready.notified();
    tokio::pin!(waiting);
    waiting.as_mut().enable();
    h.await_due(&id).await;
    woken(waiting).await;
}

/// Waits for a wake-up that has to come; patient, because the only thing at stake is how a failure looks.
async fn woken(waiting: impl Future<Output = ()>) {
    let patience = tokio::time::timeout(s(30), waiting);
    assert!(patience.await.is_ok(), "nobody was woken");
}

/// The record of a run that has only been accepted.
fn fresh(id: TaskId, run: u32, task: NewTask, created_at: UnixMs, state: TaskState) -> TaskRecord {
    TaskRecord {
        id,
        run,
        spec: task.spec,
        state,
        reason: TaskReason::None,
        attempts: 0,
        crashes: 0,
        returns: 0,
        created_at,
        process_at: task.process_at,
        finished_at: None,
        progress: Default::default(),
        last_failure: None,
        receipt: Default::default(),
        worker: String::new(),
        lease: None,
        accepted: false,
        dirty: false,
        cancel_requested: false,
        upload_id: String::new(),
    }
}
