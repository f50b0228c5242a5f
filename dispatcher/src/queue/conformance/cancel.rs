//! Cases on cancelling: waiting, running and finished tasks, and requests before and after.

use super::harness::{Factory, Harness, done, exact, failed, handed_back, latest, s};
use crate::queue::{
    CancelOutcome, FailureClass, NewTask, Outcome, RenewOutcome, Renewal, SettleOutcome, SubmitOutcome,
    TaskId, TaskReason, TaskState,
};

pub(super) async fn a_waiting_task_is_cancelled_at_once(make: Factory) {
    let h = make.start().await;
    let delayed = h.work_on(exact("t", "delayed")).await;
    h.settle(&delayed, failed(FailureClass::Retry)).await;
    let pending = h.submit(exact("t", "pending")).await.id;
    let later = NewTask { process_at: h.at(s(60)), ..exact("t", "scheduled") };
    let scheduled = h.submit(later).await.id;
    for id in [delayed.id, pending, scheduled] {
        assert_eq!(cancel(&h, &id).await, CancelOutcome::Cancelled);
        let record = h.get(&id).await;
        assert_eq!((record.state, record.reason), (TaskState::Cancelled, TaskReason::CancelledByCaller));
        assert_eq!((record.process_at, record.finished_at), (None, Some(h.now())));
        assert_eq!(cancel(&h, &id).await, CancelOutcome::Cancelled);
    }
    h.sweep_after(s(500)).await;
    assert_eq!(h.lease(9).await, []);
    assert_eq!(h.depths().await.cancelled, 3);
}

pub(super) async fn a_running_copy_is_asked_to_stop_and_cancelled_when_it_has(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    let (lease, session) = (leased.lease, "a".to_owned());
    for _ in 0..2 {
        let stopping = CancelOutcome::Stopping { lease, session: session.clone() };
        assert_eq!(cancel(&h, &leased.id).await, stopping);
    }
    let record = h.get(&leased.id).await;
    assert_eq!((record.state, record.cancel_requested), (TaskState::Working, true));
    let before = h.get(&leased.id).await;
    h.clock.advance(s(3));
    assert_eq!(h.renew(&leased, 5).await, RenewOutcome::Cancel);
    assert_eq!(h.get(&leased.id).await, before);
    assert_eq!(h.settle(&leased, Outcome::Cancelled).await, SettleOutcome::Stored(TaskState::Cancelled));
    let record = h.get(&leased.id).await;
    assert_eq!((record.state, record.reason), (TaskState::Cancelled, TaskReason::CancelledByCaller));
    assert!(!record.cancel_requested);
    assert_eq!(h.settle(&leased, Outcome::Cancelled).await, SettleOutcome::Duplicate);
}

pub(super) async fn a_lease_not_yet_accepted_is_asked_to_stop_too(make: Factory) {
    let h = make.start().await;
    let id = h.submit(exact("t", "a")).await.id;
    let leased = h.lease_next().await;
    assert!(matches!(cancel(&h, &id).await, CancelOutcome::Stopping { .. }));
    assert_eq!(h.renew(&leased, 0).await, RenewOutcome::Cancel);
    assert_eq!(h.sweep_after(h.settings.accept_within).await.unaccepted, 1);
    assert_eq!(h.state(&id).await, TaskState::Cancelled);
}

pub(super) async fn every_end_but_success_of_a_cancelled_copy_is_a_cancellation(make: Factory) {
    let h = make.start().await;
    let ends = [failed(FailureClass::Retry), failed(FailureClass::Permanent), handed_back()];
    for (n, outcome) in ends.into_iter().enumerate() {
        let leased = h.work_on(exact("t", &format!("task{n}"))).await;
        cancel(&h, &leased.id).await;
        assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::Stored(TaskState::Cancelled));
        assert_eq!(h.get(&leased.id).await.reason, TaskReason::CancelledByCaller);
    }
    let leased = h.work_on(exact("t", "vanishes")).await;
    cancel(&h, &leased.id).await;
    assert_eq!(h.sweep_after(h.settings.lease).await.expired, 1);
    assert_eq!(h.state(&leased.id).await, TaskState::Cancelled);
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Cancelled);
}

pub(super) async fn a_copy_that_succeeds_before_it_could_stop_is_done(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    cancel(&h, &leased.id).await;
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Stored(TaskState::Done));
    let record = h.get(&leased.id).await;
    assert_eq!((record.reason, record.cancel_requested), (TaskReason::None, false));
    assert!(!record.receipt.is_empty());
}

pub(super) async fn a_finished_task_is_too_late_to_cancel(make: Factory) {
    let h = make.start().await;
    for (key, outcome, state) in
        [("a", done(), TaskState::Done), ("b", failed(FailureClass::Permanent), TaskState::Dead)]
    {
        let leased = h.work_on(exact("t", key)).await;
        h.settle(&leased, outcome).await;
        let record = h.get(&leased.id).await;
        assert_eq!(cancel(&h, &leased.id).await, CancelOutcome::Finished(state));
        assert_eq!(h.get(&leased.id).await, record);
    }
}

pub(super) async fn reports_on_a_cancelled_task_are_told_so(make: Factory) {
    let h = make.start().await;
    let first = h.work_on(exact("t", "a")).await;
    h.lose(&first).await;
    h.await_due(&first.id).await;
    let second = h.work().await;
    h.lose(&second).await;
    cancel(&h, &first.id).await;
    let record = h.get(&first.id).await;
    for leased in [&first, &second] {
        for outcome in [done(), failed(FailureClass::Retry), handed_back(), Outcome::Cancelled] {
            assert_eq!(h.settle(leased, outcome).await, SettleOutcome::Cancelled);
        }
        assert_eq!(h.renew(leased, 1).await, RenewOutcome::Lost);
    }
    assert_eq!(h.get(&first.id).await, record);
}

pub(super) async fn a_cancel_withdraws_the_requests_before_it(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(latest("t", "a")).await;
    h.submit(latest("t", "a")).await;
    cancel(&h, &leased.id).await;
    assert!(!h.get(&leased.id).await.dirty);
    assert_eq!(h.settle(&leased, Outcome::Cancelled).await, SettleOutcome::Stored(TaskState::Cancelled));
    // And while it waits with a lease that may yet succeed.
    h.submit(latest("t", "a")).await;
    let leased = h.work().await;
    h.lose(&leased).await;
    h.submit(latest("t", "a")).await;
    cancel(&h, &leased.id).await;
    let record = h.get(&leased.id).await;
    assert_eq!((record.state, record.dirty), (TaskState::Cancelled, false));
}

pub(super) async fn a_request_after_the_cancel_runs_again(make: Factory) {
    let h = make.start().await;
    for (n, task) in [exact("t", "a"), latest("t", "b")].into_iter().enumerate() {
        for (m, outcome) in
            [Outcome::Cancelled, handed_back(), failed(FailureClass::Retry), done()].into_iter().enumerate()
        {
            let mut task = task.clone();
            task.spec.object.key = format!("{n}-{m}");
            let leased = h.work_on(task.clone()).await;
            cancel(&h, &leased.id).await;
            assert_eq!(h.submit(task).await.outcome, SubmitOutcome::RunsAgain);
            assert_eq!(h.renew(&leased, 1).await, RenewOutcome::Cancel);
            assert_eq!(h.settle(&leased, outcome).await, SettleOutcome::RunsAgain);
            let record = h.get(&leased.id).await;
            assert_eq!((record.state, record.run), (TaskState::Pending, 2));
            assert!(!record.cancel_requested);
            let second = h.work().await;
            assert_eq!(h.settle(&second, done()).await, SettleOutcome::Stored(TaskState::Done));
        }
    }
}

pub(super) async fn a_request_after_the_cancel_survives_a_vanished_worker(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    cancel(&h, &leased.id).await;
    h.submit(exact("t", "a")).await;
    h.lose(&leased).await;
    let record = h.get(&leased.id).await;
    assert_eq!((record.state, record.run, record.crashes), (TaskState::Pending, 2, 0));
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Fenced);
}

pub(super) async fn a_renewal_of_a_cancelled_copy_still_moves_it_to_its_session(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    cancel(&h, &leased.id).await;
    h.renew_as(Renewal { session: "b".into(), ..h.renewal(&leased, 1) }).await;
    let expected = CancelOutcome::Stopping { lease: leased.lease, session: "b".into() };
    assert_eq!(cancel(&h, &leased.id).await, expected);
}

async fn cancel(h: &Harness, id: &TaskId) -> CancelOutcome {
    h.queue.cancel(id).await.unwrap_or_else(|error| panic!("cancel: {error}"))
}
