//! Cases on accepting leases and keeping them.

use super::harness::{Factory, done, exact, failed, handed_back, s};
use crate::queue::{
    CancelOutcome, FailureClass, LeaseToken, LeasedTask, Outcome, Progress, RenewOutcome, Renewal, TaskState,
};

pub(super) async fn the_first_renewal_accepts_the_lease(make: Factory) {
    let h = make.start().await;
    h.submit(exact("t", "a")).await;
    let leased = h.lease_next().await;
    h.clock.advance(s(3));
    assert_eq!(h.renew(&leased, 0).await, RenewOutcome::Keep(h.settings.lease));
    let record = h.get(&leased.id).await;
    assert!(record.accepted);
    assert_eq!(record.process_at, h.at(h.settings.lease));
    assert_eq!(h.sweep_after(h.settings.accept_within).await.unaccepted, 0);
}

pub(super) async fn a_lease_lasts_as_long_as_it_is_renewed_with_progress(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    for step in 1..40 {
        assert_eq!(h.sweep_after(s(20)).await.expired, 0);
        assert_eq!(h.renew(&leased, step).await, RenewOutcome::Keep(h.settings.lease));
    }
    assert_eq!(h.state(&leased.id).await, TaskState::Working);
}

pub(super) async fn progress_shows_in_the_record_while_the_task_is_working(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    let progress = Progress { bytes_done: 5, bytes_total: 10, steps_done: 2 };
    h.renew_as(Renewal { progress, ..h.renewal(&leased, 0) }).await;
    assert_eq!(h.get(&leased.id).await.progress, progress);
    h.settle(&leased, failed(FailureClass::Retry)).await;
    assert_eq!(h.get(&leased.id).await.progress, Progress::default());
}

pub(super) async fn a_copy_without_progress_loses_its_lease_when_its_processing_time_is_over(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    for _ in 0..5 {
        h.clock.advance(s(20));
        assert!(matches!(h.renew(&leased, 0).await, RenewOutcome::Keep(_)));
    }
    // 100 s of 120 are over.
    assert_eq!(h.renew(&leased, 0).await, RenewOutcome::Keep(s(20)));
    assert_eq!(h.sweep_after(s(19)).await.expired, 0);
    h.clock.advance(s(1));
    assert_eq!(h.renew(&leased, 0).await, RenewOutcome::Lost);
    assert_eq!(h.sweep().await.expired, 1);
    assert_eq!(h.get(&leased.id).await.crashes, 1);
}

pub(super) async fn bytes_and_steps_start_the_processing_time_anew(make: Factory) {
    let h = make.start().await;
    let bytes = |bytes_done| Progress { bytes_done, ..Progress::default() };
    let steps = |steps_done| Progress { steps_done, ..Progress::default() };
    for (key, first, second) in [("bytes", bytes(1), bytes(2)), ("steps", steps(1), steps(2))] {
        let leased = h.work_on(exact("t", key)).await;
        for progress in [first, second, first] {
            for _ in 0..5 {
                h.clock.advance(s(20));
                h.renew_as(Renewal { progress, ..h.renewal(&leased, 0) }).await;
            }
        }
        // The last growth came at 120 s; what was seen before is no progress.
        assert_eq!(h.get(&leased.id).await.progress, second);
        let last = Renewal { progress: second, ..h.renewal(&leased, 0) };
        assert_eq!(h.renew_as(last.clone()).await, RenewOutcome::Lost);
        h.sweep().await;
        assert_eq!(h.state(&leased.id).await, TaskState::Delayed);
    }
}

pub(super) async fn a_lease_never_outlasts_the_processing_time(make: Factory) {
    let h = make.start().await;
    let mut task = exact("t", "a");
    task.spec.processing_timeout = s(7);
    h.submit(task).await;
    let leased = h.lease_next().await;
    assert_eq!(h.renew(&leased, 0).await, RenewOutcome::Keep(s(7)));
    h.clock.advance(s(2));
    assert_eq!(h.renew(&leased, 0).await, RenewOutcome::Keep(s(5)));
    assert_eq!(h.renew(&leased, 1).await, RenewOutcome::Keep(s(7)));
}

pub(super) async fn a_renewal_sent_twice_changes_nothing_more(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.clock.advance(s(5));
    let first = h.renew(&leased, 5).await;
    let record = h.get(&leased.id).await;
    assert_eq!(h.renew(&leased, 5).await, first);
    assert_eq!(h.get(&leased.id).await, record);
}

pub(super) async fn a_lease_that_ran_out_unseen_can_still_be_renewed(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.clock.advance(h.settings.lease + s(1));
    assert_eq!(h.renew(&leased, 0).await, RenewOutcome::Keep(h.settings.lease));
    assert_eq!(h.sweep().await.expired, 0);
    assert_eq!(h.state(&leased.id).await, TaskState::Working);
}

pub(super) async fn only_the_lease_at_work_can_be_renewed(make: Factory) {
    let h = make.start().await;
    let first = h.work_on(exact("t", "a")).await;
    let foreign = LeasedTask { lease: LeaseToken::from_bytes([7; 16]), ..first.clone() };
    assert_eq!(h.renew(&foreign, 1).await, RenewOutcome::Lost);
    h.lose(&first).await;
    assert_eq!(h.renew(&first, 1).await, RenewOutcome::Lost);
    h.await_due(&first.id).await;
    let second = h.work().await;
    let before = h.get(&first.id).await;
    assert_eq!(h.renew(&first, 99).await, RenewOutcome::Lost);
    assert_eq!(h.get(&first.id).await, before);
    h.settle(&second, done()).await;
    assert_eq!(h.renew(&second, 1).await, RenewOutcome::Lost);
    h.submit(exact("t", "b")).await;
    let other = h.lease_next().await;
    let crossed = LeasedTask { id: first.id.clone(), ..other };
    assert_eq!(h.renew(&crossed, 1).await, RenewOutcome::Lost);
}

pub(super) async fn renewals_are_answered_one_by_one_in_order(make: Factory) {
    let h = make.start().await;
    let kept = h.work_on(exact("t", "a")).await;
    let lost = h.work_on(exact("t", "b")).await;
    h.settle(&lost, handed_back()).await;
    let mut unknown = h.renewal(&kept, 0);
    unknown.id = crate::queue::TaskId::derive("nobody", &kept.spec.object);
    let batch = vec![h.renewal(&lost, 0), h.renewal(&kept, 0), unknown];
    let answers = h.queue.renew(&batch).await;
    use RenewOutcome::{Keep, Lost};
    assert!(matches!(&answers[..], [Ok(Lost), Ok(Keep(_)), Ok(Lost)]), "{answers:?}");
}

pub(super) async fn a_lease_moves_to_the_session_that_renews_it(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.renew_as(Renewal { session: "b".into(), ..h.renewal(&leased, 1) }).await;
    let (lease, session) = (leased.lease, "b".to_owned());
    let outcome = h.queue.cancel(&leased.id).await.unwrap_or_else(|error| panic!("cancel: {error}"));
    assert_eq!(outcome, CancelOutcome::Stopping { lease, session });
    h.renew_as(Renewal { session: "c".into(), ..h.renewal(&leased, 2) }).await;
    let outcome = h.queue.cancel(&leased.id).await.unwrap_or_else(|error| panic!("cancel: {error}"));
    assert_eq!(outcome, CancelOutcome::Stopping { lease, session: "c".into() });
}

pub(super) async fn an_upload_is_kept_for_the_next_attempt_until_the_copy_succeeds(make: Factory) {
    let h = make.start().await;
    let first = h.work_on(exact("t", "a")).await;
    h.renew_as(Renewal { upload_id: "upload-1".into(), ..h.renewal(&first, 1) }).await;
    h.renew(&first, 2).await;
    h.lose(&first).await;
    h.await_due(&first.id).await;
    let second = h.work().await;
    assert_eq!(second.upload_id, "upload-1");
    h.settle(&second, handed_back()).await;
    let third = h.work().await;
    assert_eq!(third.upload_id, "upload-1");
    h.settle(&third, Outcome::HandedBack { upload_id: "upload-2".into(), delay: s(0) }).await;
    let fourth = h.work().await;
    assert_eq!(fourth.upload_id, "upload-2");
    h.settle(&fourth, done()).await;
    assert_eq!(h.get(&first.id).await.upload_id, "");
}

pub(super) async fn progress_forgives_earlier_returns(make: Factory) {
    let h = make.start().await;
    let first = h.work_on(exact("t", "a")).await;
    h.settle(&first, handed_back()).await;
    let second = h.work().await;
    assert_eq!(h.get(&first.id).await.returns, 1);
    h.renew(&second, 0).await;
    assert_eq!(h.get(&first.id).await.returns, 1);
    h.renew(&second, 1).await;
    assert_eq!(h.get(&first.id).await.returns, 0);
}
