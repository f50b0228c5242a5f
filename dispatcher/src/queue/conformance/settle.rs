//! Cases on the end of a lease: every outcome, repeated, late, stale and foreign.

use std::time::Duration;

use super::harness::{Factory, Harness, done, exact, failed, failed_for, handed_back, latest, s};
use crate::queue::{
    FailureClass, LeaseToken, LeasedTask, Outcome, Progress, SettleOutcome, Settlement, TaskId, TaskReason,
    TaskState, policy,
};

pub(super) async fn success_finishes_the_task_and_keeps_the_receipt_as_it_is(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.renew(&leased, 9).await;
    h.clock.advance(s(4));
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Stored(TaskState::Done));
    let record = h.get(&leased.id).await;
    assert_eq!((record.state, record.reason), (TaskState::Done, TaskReason::None));
    assert_eq!((record.finished_at, record.process_at), (Some(h.now()), None));
    assert_eq!(&record.receipt[..], b"receipt\0\xff\r\n");
    assert_eq!((record.attempts, record.crashes, record.returns), (0, 0, 0));
    assert_eq!(record.progress, Progress::default());
    assert_eq!((record.lease, record.accepted), (Some(leased.lease), true));
    assert_eq!(record.worker, "worker-of-a");
}

pub(super) async fn an_outcome_reported_twice_counts_once(make: Factory) {
    let h = make.start().await;
    let outcomes = [done(), failed(FailureClass::Retry), failed(FailureClass::Permanent), handed_back()];
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let leased = h.work_on(exact("t", &format!("task{n}"))).await;
        let first = h.settle(&leased, outcome.clone()).await;
        assert!(matches!(first, SettleOutcome::Stored(_)), "{first:?}");
        let record = h.get(&leased.id).await;
        h.clock.advance(s(1));
        assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::Duplicate);
        assert_eq!(h.get(&leased.id).await, record);
        if record.state == TaskState::Pending {
            h.queue.cancel(&leased.id).await.unwrap_or_else(|error| panic!("cancel: {error}"));
        }
    }
}

pub(super) async fn a_lease_cannot_report_two_different_things(make: Factory) {
    let h = make.start().await;
    for (n, first) in [done(), failed(FailureClass::Retry), handed_back()].into_iter().enumerate() {
        let leased = h.work_on(exact("t", &format!("task{n}"))).await;
        h.settle(&leased, first.clone()).await;
        let record = h.get(&leased.id).await;
        for second in [done(), failed(FailureClass::Retry), handed_back(), Outcome::Cancelled] {
            let same = std::mem::discriminant(&first) == std::mem::discriminant(&second);
            let expected = if same { SettleOutcome::Duplicate } else { SettleOutcome::Fenced };
            assert_eq!(h.settle(&leased, second).await, expected);
        }
        assert_eq!(h.get(&leased.id).await, record);
        if record.state == TaskState::Pending {
            h.queue.cancel(&leased.id).await.unwrap_or_else(|error| panic!("cancel: {error}"));
        }
    }
}

pub(super) async fn a_late_success_of_the_newest_lease_counts_in_delay(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.lose(&leased).await;
    assert_eq!(h.state(&leased.id).await, TaskState::Delayed);
    late_success(&h, &leased).await;
}

pub(super) async fn a_late_success_of_the_newest_lease_counts_in_pending(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.lose(&leased).await;
    h.await_due(&leased.id).await;
    late_success(&h, &leased).await;
}

pub(super) async fn a_late_success_of_a_lease_that_was_never_accepted_counts(make: Factory) {
    let h = make.start().await;
    h.submit(exact("t", "a")).await;
    let leased = h.lease_next().await;
    h.lose(&leased).await;
    assert_eq!(h.state(&leased.id).await, TaskState::Pending);
    late_success(&h, &leased).await;
}

pub(super) async fn a_late_success_of_the_newest_lease_counts_in_dead(make: Factory) {
    let h = make.start_with(|settings| settings.max_crashes = 1).await;
    let leased = h.work_on(exact("t", "a")).await;
    h.lose(&leased).await;
    assert_eq!(h.state(&leased.id).await, TaskState::Dead);
    late_success(&h, &leased).await;
}

pub(super) async fn a_stale_token_cannot_complete(make: Factory) {
    let h = make.start().await;
    let stale = h.work_on(exact("t", "a")).await;
    h.lose(&stale).await;
    h.await_due(&stale.id).await;
    let newest = h.work().await;
    for outcome in [done(), failed(FailureClass::Permanent), handed_back(), Outcome::Cancelled] {
        let record = h.get(&stale.id).await;
        assert_eq!(h.settle(&stale, outcome).await, SettleOutcome::Fenced);
        assert_eq!(h.get(&stale.id).await, record);
    }
    assert_eq!(h.settle(&newest, done()).await, SettleOutcome::Stored(TaskState::Done));
    for outcome in [done(), failed(FailureClass::Retry)] {
        assert_eq!(h.settle(&stale, outcome).await, SettleOutcome::Superseded);
    }
    assert_eq!(h.settle(&newest, done()).await, SettleOutcome::Duplicate);
}

pub(super) async fn a_failure_after_the_lease_ran_out_counts_for_nothing(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.lose(&leased).await;
    let record = h.get(&leased.id).await;
    for outcome in [failed(FailureClass::Permanent), handed_back(), Outcome::Cancelled] {
        assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::Fenced);
    }
    assert_eq!(h.get(&leased.id).await, record);
    late_success(&h, &leased).await;
}

pub(super) async fn a_foreign_token_is_fenced_and_an_unknown_task_is_gone(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    let other = h.work_on(exact("t", "b")).await;
    let record = h.get(&leased.id).await;
    for lease in [LeaseToken::from_bytes([0; 16]), other.lease] {
        let crossed = LeasedTask { lease, ..leased.clone() };
        assert_eq!(h.settle(&crossed, done()).await, SettleOutcome::Fenced);
    }
    assert_eq!(h.get(&leased.id).await, record);
    let id = TaskId::derive("nobody", &leased.spec.object);
    assert_eq!(h.settle(&LeasedTask { id, ..leased }, done()).await, SettleOutcome::Gone);
}

pub(super) async fn settlements_are_answered_one_by_one_in_order(make: Factory) {
    let h = make.start().await;
    let (a, b) = (h.work_on(exact("t", "a")).await, h.work_on(exact("t", "b")).await);
    let settlement =
        |leased: &LeasedTask, outcome| Settlement { id: leased.id.clone(), lease: leased.lease, outcome };
    let unknown = TaskId::derive("nobody", &a.spec.object);
    let batch = vec![
        settlement(&LeasedTask { lease: b.lease, ..a.clone() }, done()),
        settlement(&b, failed(FailureClass::Retry)),
        settlement(&LeasedTask { id: unknown, ..a.clone() }, done()),
        settlement(&a, done()),
        settlement(&a, done()),
    ];
    let answers: Vec<_> = h.queue.settle(batch).await.into_iter().map(Result::ok).collect();
    let expected = [
        SettleOutcome::Fenced,
        SettleOutcome::Stored(TaskState::Delayed),
        SettleOutcome::Gone,
        SettleOutcome::Stored(TaskState::Done),
        SettleOutcome::Duplicate,
    ];
    assert_eq!(answers, expected.map(Some));
}

pub(super) async fn a_failed_attempt_is_counted_and_backs_off_longer_each_time(make: Factory) {
    let h = make.start().await;
    let mut leased = h.work_on(exact("t", "a")).await;
    for (attempt, jitter) in [(1, 0.0), (2, 0.999), (3, 0.5)] {
        let outcome = failed_for(FailureClass::Retry, Duration::ZERO, jitter);
        assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::Stored(TaskState::Delayed));
        let record = h.get(&leased.id).await;
        assert_eq!((record.attempts, record.crashes, record.returns), (attempt, 0, 0));
        assert_eq!(record.reason, TaskReason::BackingOff);
        assert_eq!(record.last_failure.map(|failure| failure.code), Some("some_code".into()));
        assert_eq!(record.process_at, h.at(h.settings.retry.backoff(attempt - 1, jitter)));
        h.await_due(&leased.id).await;
        assert_eq!(h.get(&leased.id).await.reason, TaskReason::None);
        leased = h.work().await;
    }
    h.settle(&leased, done()).await;
    let record = h.get(&leased.id).await;
    assert_eq!((record.attempts, record.last_failure.is_some()), (3, true));
}

pub(super) async fn a_task_is_dead_when_its_attempts_are_used_up(make: Factory) {
    let h = make.start().await;
    let mut task = exact("t", "a");
    task.spec.max_attempts = 2;
    let leased = h.work_on(task).await;
    h.settle(&leased, failed(FailureClass::Retry)).await;
    h.await_due(&leased.id).await;
    let leased = h.work().await;
    let outcome = h.settle(&leased, failed(FailureClass::Retry)).await;
    assert_eq!(outcome, SettleOutcome::Stored(TaskState::Dead));
    let record = h.get(&leased.id).await;
    assert_eq!((record.reason, record.attempts), (TaskReason::AttemptsUsedUp, 2));
    assert_eq!((record.finished_at, record.process_at), (Some(h.now()), None));
    h.sweep_after(s(3000)).await;
    assert_eq!(h.lease(1).await, []);
}

pub(super) async fn a_permanent_failure_is_dead_at_once(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    let outcome = h.settle(&leased, failed(FailureClass::Permanent)).await;
    assert_eq!(outcome, SettleOutcome::Stored(TaskState::Dead));
    let record = h.get(&leased.id).await;
    assert_eq!((record.reason, record.attempts), (TaskReason::PermanentFailure, 1));
}

pub(super) async fn a_source_that_is_gone_cancels_the_task(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    let outcome = h.settle(&leased, failed(FailureClass::SourceGone)).await;
    assert_eq!(outcome, SettleOutcome::Stored(TaskState::Cancelled));
    let record = h.get(&leased.id).await;
    assert_eq!((record.reason, record.finished_at), (TaskReason::SourceGone, Some(h.now())));
}

pub(super) async fn throttling_costs_no_attempt_and_waits_as_long_as_the_store_asked(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    let outcome = failed_for(FailureClass::Throttled, s(77), 0.0);
    assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::Stored(TaskState::Delayed));
    let record = h.get(&leased.id).await;
    assert_eq!((record.reason, record.process_at), (TaskReason::Throttled, h.at(s(77))));
    assert_eq!((record.attempts, record.crashes, record.returns), (0, 0, 1));
    h.await_due(&leased.id).await;
    let leased = h.work().await;
    h.settle(&leased, failed_for(FailureClass::Throttled, s(999_999), 0.0)).await;
    assert_eq!(h.get(&leased.id).await.process_at, h.at(h.settings.retry.max));
}

pub(super) async fn coming_back_too_often_without_progress_costs_attempts(make: Factory) {
    let h = make.start_with(|settings| settings.max_returns = 2).await;
    let mut task = exact("t", "a");
    task.spec.max_attempts = 2;
    let id = h.submit(task).await.id;
    let throttled = || failed_for(FailureClass::Throttled, Duration::ZERO, 0.0);
    let steps = [
        (throttled(), TaskState::Delayed, TaskReason::Throttled, 0, 1),
        (handed_back(), TaskState::Pending, TaskReason::HandedBack, 0, 2),
        (handed_back(), TaskState::Delayed, TaskReason::BackingOff, 1, 2),
        (throttled(), TaskState::Dead, TaskReason::AttemptsUsedUp, 2, 2),
    ];
    for (outcome, state, reason, attempts, returns) in steps {
        let leased = h.lease_next().await;
        assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::Stored(state));
        let record = h.get(&id).await;
        assert_eq!((record.reason, record.attempts, record.returns), (reason, attempts, returns));
        if state == TaskState::Delayed {
            h.await_due(&id).await;
        }
    }
}

pub(super) async fn a_hand_back_costs_nothing_and_waits_as_long_as_asked(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    let outcome = Outcome::HandedBack { upload_id: "left".into(), delay: s(9) };
    assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::Stored(TaskState::Delayed));
    let record = h.get(&leased.id).await;
    assert_eq!((record.reason, record.process_at), (TaskReason::HandedBack, h.at(s(9))));
    assert_eq!((record.attempts, record.crashes, record.returns), (0, 0, 1));
    assert_eq!(record.upload_id, "left");
}

pub(super) async fn a_task_that_was_never_sent_comes_back_at_no_cost_however_often(make: Factory) {
    let h = make.start_with(|settings| settings.max_returns = 0).await;
    let id = h.submit(exact("t", "a")).await.id;
    let known = Outcome::HandedBack { upload_id: "left".into(), delay: Duration::ZERO };
    for _ in 0..3 {
        let leased = h.lease_next().await;
        let outcome = Outcome::NotSent { delay: Duration::ZERO };
        let stored = SettleOutcome::Stored(TaskState::Pending);
        assert_eq!(h.settle(&leased, outcome.clone()).await, stored);
        assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::Duplicate);
    }
    let leased = h.lease_next().await;
    let outcome = Outcome::NotSent { delay: s(9) };
    assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::Stored(TaskState::Delayed));
    let record = h.get(&id).await;
    assert_eq!((record.reason, record.process_at), (TaskReason::HandedBack, h.at(s(9))));
    assert_eq!((record.attempts, record.crashes, record.returns), (0, 0, 0));

    h.await_due(&id).await;
    h.settle(&h.lease_next().await, known).await;
    h.await_due(&id).await;
    h.settle(&h.lease_next().await, Outcome::NotSent { delay: Duration::ZERO }).await;
    assert_eq!(h.get(&id).await.upload_id, "left", "it says nothing of an upload, so what is known stays");
}

pub(super) async fn a_hand_back_too_many_backs_off_by_its_spread(make: Factory) {
    let h = make.start_with(|settings| settings.max_returns = 0).await;
    let leased = h.work_on(exact("t", "a")).await;
    h.settle(&leased, handed_back()).await;
    let jitter = policy::spread(&leased.id, 1, policy::Counters::default());
    assert_eq!(h.get(&leased.id).await.process_at, h.at(h.settings.retry.backoff(0, jitter)));
}

pub(super) async fn a_report_on_a_lease_that_was_never_accepted_counts(make: Factory) {
    let h = make.start().await;
    h.submit(exact("t", "a")).await;
    let leased = h.lease_next().await;
    assert_eq!(
        h.settle(&leased, failed(FailureClass::Retry)).await,
        SettleOutcome::Stored(TaskState::Delayed)
    );
    let record = h.get(&leased.id).await;
    assert_eq!((record.attempts, record.accepted), (1, true));
}

pub(super) async fn a_copy_that_stopped_without_a_cancel_is_handed_back(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.renew_as(crate::queue::Renewal { upload_id: "gone".into(), ..h.renewal(&leased, 0) }).await;
    let outcome = h.settle(&leased, Outcome::Cancelled).await;
    assert_eq!(outcome, SettleOutcome::Stored(TaskState::Pending));
    let record = h.get(&leased.id).await;
    assert_eq!((record.reason, record.returns), (TaskReason::HandedBack, 1));
    assert_eq!(record.upload_id, "");
}

pub(super) async fn a_report_that_began_a_new_run_may_be_repeated(make: Factory) {
    let h = make.start().await;
    let ends = [done(), failed(FailureClass::Permanent), failed(FailureClass::SourceGone)];
    for (n, outcome) in ends.into_iter().enumerate() {
        let task = latest("t", &format!("task{n}"));
        let leased = h.work_on(task.clone()).await;
        h.submit(task).await;
        assert_eq!(h.settle(&leased, outcome.clone()).await, SettleOutcome::RunsAgain);
        let record = h.get(&leased.id).await;
        assert_eq!((record.state, record.run), (TaskState::Pending, 2));
        assert_eq!((record.attempts, record.last_failure, record.lease), (0, None, None));
        assert_eq!(h.settle(&leased, outcome.clone()).await, SettleOutcome::RunsAgain);
        assert_eq!(h.settle(&leased, handed_back()).await, SettleOutcome::Fenced);
        let second = h.work().await;
        assert_eq!(h.settle(&leased, outcome.clone()).await, SettleOutcome::RunsAgain);
        assert_eq!(h.settle(&second, done()).await, SettleOutcome::Stored(TaskState::Done));
        assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::RunsAgain);
    }
}

pub(super) async fn the_last_failed_attempt_does_not_swallow_a_newer_request(make: Factory) {
    let h = make.start().await;
    let mut task = latest("t", "a");
    task.spec.max_attempts = 1;
    let leased = h.work_on(task.clone()).await;
    h.submit(task).await;
    assert_eq!(h.settle(&leased, failed(FailureClass::Retry)).await, SettleOutcome::RunsAgain);
    assert_eq!(h.state(&leased.id).await, TaskState::Pending);
}

pub(super) async fn a_retry_serves_a_newer_request_by_itself(make: Factory) {
    let h = make.start().await;
    for (n, outcome) in [failed(FailureClass::Retry), handed_back()].into_iter().enumerate() {
        let task = latest("t", &format!("task{n}"));
        let leased = h.work_on(task.clone()).await;
        h.submit(task).await;
        let outcome = h.settle(&leased, outcome).await;
        assert!(matches!(outcome, SettleOutcome::Stored(_)), "{outcome:?}");
        let record = h.get(&leased.id).await;
        assert_eq!((record.dirty, record.run), (false, 1));
        if record.state == TaskState::Delayed {
            h.await_due(&leased.id).await;
        }
        let second = h.work().await;
        assert_eq!(h.settle(&second, done()).await, SettleOutcome::Stored(TaskState::Done));
    }
}

pub(super) async fn a_new_run_forgets_which_report_began_the_one_before(make: Factory) {
    let h = make.start().await;
    let first = h.work_on(latest("t", "a")).await;
    h.submit(latest("t", "a")).await;
    h.settle(&first, done()).await;
    let second = h.work().await;
    h.settle(&second, done()).await;
    assert_eq!(h.submit(latest("t", "a")).await.run, 3);
    for old in [&first, &second] {
        assert_eq!(h.settle(old, done()).await, SettleOutcome::Fenced);
    }
}

/// Reports success on a lease that ran out: it counts once, and nothing of the task is left in a queue.
async fn late_success(h: &Harness, leased: &LeasedTask) {
    assert_eq!(h.settle(leased, done()).await, SettleOutcome::Stored(TaskState::Done));
    let record = h.get(&leased.id).await;
    assert_eq!((record.reason, record.process_at), (TaskReason::None, None));
    assert_eq!((record.finished_at, record.accepted), (Some(h.now()), true));
    assert!(!record.receipt.is_empty());
    assert_eq!(h.settle(leased, done()).await, SettleOutcome::Duplicate);
    assert_eq!(h.settle(leased, failed(FailureClass::Retry)).await, SettleOutcome::Fenced);
    h.sweep_after(s(400)).await;
    assert_eq!(h.lease(1).await, []);
    let depths = h.depths().await;
    assert_eq!((depths.pending, depths.delayed, depths.dead, depths.done), (0, 0, 0, 1));
}
