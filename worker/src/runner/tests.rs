//! What the runner does with copies that end, stop, hang and panic.

use std::{sync::Arc, time::Duration};

use backhaul_proto::v1::{self, task_result::Outcome};
use futures_util::FutureExt as _;

use super::{
    Budget, Runner, RunnerSettings,
    fake::{FakeCopier, StartedCopies},
};
use crate::{
    link::{Assignment, Finished, LeaseKey, StopReason, Workload as _},
    transfer::{Copier, TransferErrorKind},
};

const MIB: u64 = 1 << 20;

fn key(task: &str, token: u8) -> LeaseKey {
    LeaseKey::from_wire(task, &[token; 16]).expect("it is well formed")
}

fn assignment(task: &str, token: u8) -> Assignment {
    Assignment {
        lease: key(task, token),
        lease_for: Duration::from_secs(30),
        object: v1::ObjectRef {
            location: "media".into(),
            bucket: "photos".into(),
            key: task.into(),
            version: String::new(),
        },
        tenant: "tenant".into(),
        attempt: 2,
        verify: v1::VerifyLevel::Unspecified,
        size_hint_bytes: Some(MIB),
        resume_upload_id: "left-over".into(),
        retention_class: "long".to_owned(),
        traceparent: String::new(),
        priority: v1::Priority::Normal,
    }
}

fn runner(copier: Arc<dyn Copier>, tasks: usize) -> Runner {
    let budget = Budget { tasks, memory_bytes: 64 * MIB, part_bytes: 16 * MIB, parts_in_flight: 2 };
    let settings = RunnerSettings { worker: "worker".into(), budget, stop_within: Duration::from_secs(3600) };
    Runner::new(settings, copier)
}

fn with_fake(tasks: usize) -> (Runner, StartedCopies) {
    let (copier, copies) = FakeCopier::obedient();
    (runner(copier, tasks), copies)
}

async fn finished(runner: &mut Runner) -> (LeaseKey, Outcome) {
    let finished = tokio::time::timeout(Duration::from_secs(20), runner.next_finished()).await;
    let Finished { lease, outcome } = finished.expect("an end comes soon");
    (lease, *outcome)
}

fn failure(outcome: Outcome) -> v1::Failure {
    let Outcome::Failure(failure) = outcome else { panic!("{outcome:?} is no failure") };
    failure
}

#[tokio::test]
async fn a_finished_copy_leaves_its_receipt() {
    let (mut runner, mut copies) = with_fake(4);
    runner.start(assignment("a", 1));
    let copy = copies.next().await;
    assert_eq!(copy.request.resume_upload_id, "left-over");
    assert_eq!(copy.request.retention_class.as_deref(), Some("long"));
    assert_eq!((copy.request.version.as_deref(), copy.request.verify), (None, None));
    copy.end_well();
    let (lease, outcome) = finished(&mut runner).await;
    let Outcome::Receipt(receipt) = outcome else { panic!("{outcome:?} is no receipt") };
    assert_eq!(lease, key("a", 1));
    assert_eq!((receipt.worker.as_str(), receipt.verified()), ("worker", v1::VerifyLevel::Head));
    assert_eq!((receipt.sha256.len(), receipt.elapsed_ms), (32, 12));
    assert_eq!(receipt.backup.expect("it says where").key, "media/a");
    assert_eq!(receipt.source.and_then(|s| s.modified_at).expect("it says when").nanos, 5);
}

#[tokio::test]
async fn a_failed_copy_is_reported_with_its_class() {
    let (mut runner, mut copies) = with_fake(4);
    runner.start(assignment("a", 1));
    copies.next().await.fail(TransferErrorKind::Denied);
    let denied = failure(finished(&mut runner).await.1);
    assert_eq!((denied.class(), denied.code.as_str()), (v1::FailureClass::Retry, "denied"));
    runner.start(Assignment { attempt: 3, ..assignment("a", 2) });
    copies.next().await.fail(TransferErrorKind::Denied);
    let failure = failure(finished(&mut runner).await.1);
    assert_eq!((failure.class(), failure.code.as_str()), (v1::FailureClass::Permanent, "denied"));
    assert_eq!(failure.message, "write: as told");
}

#[tokio::test]
async fn a_panic_of_one_copy_is_a_failure_of_that_task_only() {
    let (mut runner, mut copies) = with_fake(4);
    runner.start(assignment("a", 1));
    runner.start(assignment("b", 1));
    let (first, second) = (copies.next().await, copies.next().await);
    first.panic();
    let (lease, outcome) = finished(&mut runner).await;
    let failure = failure(outcome);
    assert_eq!((lease, failure.code.as_str()), (key("a", 1), "panic"));
    assert_eq!((failure.class(), failure.message.as_str()), (v1::FailureClass::Retry, "as told"));
    second.end_well();
    assert!(matches!(finished(&mut runner).await.1, Outcome::Receipt(_)));
}

#[tokio::test]
async fn a_lost_lease_stops_its_copy_and_is_not_reported() {
    let (mut runner, mut copies) = with_fake(4);
    runner.start(assignment("a", 1));
    runner.start(assignment("b", 1));
    let (lost, other) = (copies.next().await, copies.next().await);
    runner.stop(&key("a", 1), StopReason::Lost);
    assert!(lost.stop.hand_back.is_cancelled(), "it stops");
    assert!(!lost.stop.abort.is_cancelled(), "the next holder of the task may be using its upload");
    other.end_well();
    assert_eq!(finished(&mut runner).await.0, key("b", 1));
    assert!(runner.next_finished().now_or_never().is_none());
}

#[tokio::test]
async fn a_cancelled_copy_is_aborted_and_reported_as_cancelled() {
    let (mut runner, mut copies) = with_fake(4);
    runner.start(assignment("a", 1));
    let copy = copies.next().await;
    runner.stop(&key("a", 1), StopReason::Cancelled);
    assert!(copy.stop.abort.is_cancelled() && !copy.stop.hand_back.is_cancelled());
    let cancelled = Outcome::Cancelled(v1::Stopped { upload_id: String::new() });
    assert_eq!(finished(&mut runner).await, (key("a", 1), cancelled));
}

#[tokio::test]
async fn a_copy_handed_back_names_the_upload_it_leaves() {
    let (mut runner, mut copies) = with_fake(4);
    runner.start(assignment("a", 1));
    let copy = copies.next().await;
    copy.progress.set_upload_id("upload-7");
    copy.progress.add_bytes(5);
    copy.progress.set_total(9);
    copy.progress.add_step();
    let progress = runner.progress(&key("a", 1));
    assert_eq!((progress.bytes_done, progress.bytes_total, progress.steps_done), (5, 9, 1));
    runner.stop(&key("a", 1), StopReason::HandBack);
    assert!(copy.stop.hand_back.is_cancelled() && !copy.stop.abort.is_cancelled());
    let handed_back = Outcome::HandedBack(v1::Stopped { upload_id: "upload-7".into() });
    assert_eq!(finished(&mut runner).await, (key("a", 1), handed_back));
}

#[tokio::test]
async fn a_copy_that_finishes_while_it_is_stopped_is_still_a_success() {
    for reason in [StopReason::Cancelled, StopReason::HandBack] {
        let (copier, mut copies) = FakeCopier::deaf();
        let mut runner = runner(copier, 4);
        runner.start(assignment("a", 1));
        let copy = copies.next().await;
        runner.stop(&key("a", 1), reason);
        copy.end_well();
        assert!(matches!(finished(&mut runner).await.1, Outcome::Receipt(_)), "{reason:?}");
    }
}

#[tokio::test]
async fn a_failure_of_its_own_is_not_disguised_as_a_hand_back() {
    let (copier, mut copies) = FakeCopier::deaf();
    let mut runner = runner(copier, 4);
    runner.start(assignment("a", 1));
    let copy = copies.next().await;
    runner.stop(&key("a", 1), StopReason::HandBack);
    copy.fail(TransferErrorKind::Integrity);
    assert_eq!(failure(finished(&mut runner).await.1).code, "integrity");
}

#[tokio::test]
async fn a_copy_that_does_not_stop_is_dropped_and_its_room_is_free_again() {
    let (copier, mut copies) = FakeCopier::deaf();
    let mut runner = runner(copier, 1);
    runner.settings.stop_within = Duration::ZERO;
    runner.start(assignment("a", 1));
    runner.start(assignment("b", 1));
    let hung = copies.next().await;
    hung.progress.set_upload_id("upload-7");
    runner.stop(&key("a", 1), StopReason::HandBack);
    let handed_back = Outcome::HandedBack(v1::Stopped { upload_id: "upload-7".into() });
    assert_eq!(finished(&mut runner).await, (key("a", 1), handed_back));
    hung.gone().await;
    assert_eq!(copies.next().await.request.task_id, "b");
}

#[tokio::test]
async fn tasks_beyond_the_room_wait_and_can_be_cancelled_or_lost_while_they_wait() {
    let (mut runner, mut copies) = with_fake(1);
    for task in ["a", "b", "c", "d"] {
        runner.start(assignment(task, 1));
    }
    let first = copies.next().await;
    runner.stop(&key("b", 1), StopReason::Cancelled);
    runner.stop(&key("c", 1), StopReason::Lost);
    let cancelled = Outcome::Cancelled(v1::Stopped { upload_id: String::new() });
    assert_eq!(finished(&mut runner).await, (key("b", 1), cancelled));
    assert!(copies.none());
    first.end_well();
    assert_eq!(finished(&mut runner).await.0, key("a", 1));
    assert_eq!(copies.next().await.request.task_id, "d");
    assert_eq!(runner.progress(&key("c", 1)), crate::link::Progress::default());
}

#[tokio::test]
async fn a_pause_hands_back_what_waits_of_those_locations_only() {
    let (mut runner, mut copies) = with_fake(1);
    let of = |task: &str, location: &str| {
        let mut assignment = assignment(task, 1);
        location.clone_into(&mut assignment.object.location);
        assignment
    };
    for (task, location) in [("runs", "media"), ("goes", "media"), ("stays", "papers")] {
        runner.start(of(task, location));
    }
    let running = copies.next().await;
    runner.pause(&["media".to_owned()].into());
    let handed_back = Outcome::HandedBack(v1::Stopped { upload_id: "left-over".into() });
    assert_eq!(finished(&mut runner).await, (key("goes", 1), handed_back));
    running.end_well();
    assert!(matches!(finished(&mut runner).await.1, Outcome::Receipt(_)), "what runs goes on");
    assert_eq!(copies.next().await.request.task_id, "stays");
}

#[tokio::test]
async fn a_drain_hands_back_what_waits_and_lets_run_what_runs() {
    let (mut runner, mut copies) = with_fake(1);
    runner.start(assignment("a", 1));
    runner.start(assignment("b", 1));
    let running = copies.next().await;
    runner.drain();
    let handed_back = Outcome::HandedBack(v1::Stopped { upload_id: "left-over".into() });
    assert_eq!(finished(&mut runner).await, (key("b", 1), handed_back.clone()));
    assert!(!running.stop.hand_back.is_cancelled());
    running.end_well();
    assert!(matches!(finished(&mut runner).await.1, Outcome::Receipt(_)));
    runner.start(assignment("late", 1));
    assert_eq!(finished(&mut runner).await, (key("late", 1), handed_back));
    assert!(copies.none());
}

#[tokio::test]
async fn a_newer_lease_of_a_task_waits_until_the_older_copy_is_gone() {
    let (copier, mut copies) = FakeCopier::deaf();
    let mut runner = runner(copier, 4);
    runner.start(assignment("a", 1));
    let older = copies.next().await;
    runner.stop(&key("a", 1), StopReason::Lost);
    runner.start(assignment("a", 2));
    assert_eq!(runner.running.keys().collect::<Vec<_>>(), [&key("a", 1)]);
    older.fail(TransferErrorKind::Cancelled);
    let newer = tokio::select! {
        copy = copies.next() => copy,
        _ = runner.next_finished() => panic!("the older lease is not reported"),
    };
    newer.end_well();
    assert_eq!(finished(&mut runner).await.0, key("a", 2));
}
