//! The worker against a scripted dispatcher, over a real socket: what the state machines promise, with everything between.

use std::{sync::Arc, time::Duration};

use backhaul_proto::v1::{
    AcceptRefusal, ConfirmVerdict, DrainReason, LeaseVerdict, from_worker::Message, task_result::Outcome,
};
use tokio::task::JoinSet;
use tonic::Status;

use super::*;
use crate::runner::fake::{FakeCopier, StartedCopies, StartedCopy};

mod script;

use script::{Lease, ScriptedDispatcher, Talk, soon};

/// A worker that runs in the background of a test, with short timers.
struct Worker {
    stop: CancellationToken,
    copies: StartedCopies,
    runs: JoinSet<Departure>,
}

impl Worker {
    fn start(dispatchers: &[&ScriptedDispatcher], adjust: impl FnOnce(&mut LinkSettings)) -> Self {
        let (copier, copies) = FakeCopier::obedient();
        let settings = WorkerSettings {
            dispatchers: dispatchers.iter().map(|d| d.url()).collect(),
            name: "worker".to_owned(),
            origins: ["media".to_owned()].into(),
            retention_classes: [].into(),
            max_tasks: 3,
            memory_bytes: 64 << 20,
            part_bytes: 16 << 20,
            drain_within: Duration::from_secs(20),
            security: None,
        };
        settings.check().expect("the settings hold together");
        let mut link = link_settings(&settings).expect("the system has random bytes");
        link.backoff = Backoff::try_new(Duration::from_millis(1), Duration::from_millis(20))
            .expect("the bounds make sense");
        link.retry_after = Duration::from_millis(20);
        adjust(&mut link);
        let runner = Runner::new(runner_settings(&settings), copier as Arc<dyn Copier>);
        let dialer =
            Dialer::new(settings.dispatchers.clone(), Arc::new(TcpConnector), Duration::from_secs(5), 1);
        let driver = LinkDriver::new(link, dialer, runner, settings.drain_within);
        let stop = CancellationToken::new();
        let mut runs = JoinSet::new();
        runs.spawn(driver.run(stop.clone()));
        Self { stop, copies, runs }
    }

    /// Tells the worker to leave and waits until it has, with the stream in good order.
    async fn leave(&mut self, talk: Talk) -> Departure {
        self.stop.cancel();
        let (departure, in_order) = tokio::join!(self.left(), talk.closed());
        assert!(in_order, "the worker ends its side before it goes");
        departure
    }

    /// Waits for the worker to leave.
    async fn left(&mut self) -> Departure {
        soon(self.runs.join_next()).await.expect("it runs once").expect("it does not panic")
    }
}

/// A worker that holds one lease, its stream, and its copy.
async fn holding_one(dispatcher: &mut ScriptedDispatcher) -> (Worker, Talk, Lease, StartedCopy) {
    let mut worker = Worker::start(&[dispatcher], |_| {});
    let mut talk = dispatcher.next_talk().await;
    talk.greet().await;
    let lease = Lease::new("task", 1);
    talk.assign(&[&lease]).await;
    assert_eq!(talk.refusals().await, [AcceptRefusal::Unspecified]);
    let copy = worker.copies.next().await;
    (worker, talk, lease, copy)
}

const CLEAN: Departure = Departure { leases: 0, unconfirmed: 0 };

#[tokio::test]
async fn a_task_goes_from_assignment_to_confirmed_receipt() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let (mut worker, mut talk, lease, copy) = holding_one(&mut dispatcher).await;
    assert_eq!((copy.request.location.as_str(), copy.request.key.as_str()), ("media", "task"));
    copy.end_well();
    let results = talk.results().await;
    assert!(
        matches!(results.as_slice(), [r] if r.task_id == "task" && matches!(r.outcome, Some(Outcome::Receipt(_))))
    );
    talk.confirm(&lease, ConfirmVerdict::Stored).await;
    assert_eq!(worker.leave(talk).await, CLEAN);
}

#[tokio::test]
async fn a_lost_stream_leaves_the_copy_alone_and_the_lease_is_resumed() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let (_worker, talk, lease, copy) = holding_one(&mut dispatcher).await;
    copy.progress.add_bytes(42);
    copy.progress.set_upload_id("upload");
    talk.end(Status::unavailable("going away")).await;
    let mut talk = dispatcher.next_talk().await;
    let hello = talk.hello().await;
    let [held] = hello.held.as_slice() else { panic!("{hello:?} holds one lease") };
    assert_eq!((held.task_id.as_str(), &held.lease, held.bytes_done), ("task", &lease.token, 42));
    assert_eq!(held.upload_id, "upload");
    talk.welcome(&[(&lease, LeaseVerdict::Keep)]).await;
    assert!(!copy.stop.abort.is_cancelled() && !copy.stop.hand_back.is_cancelled());
    copy.end_well();
    assert_eq!(talk.results().await.len(), 1);
}

#[tokio::test]
async fn a_result_is_kept_over_two_connections_until_it_is_confirmed() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let (mut worker, mut talk, lease, copy) = holding_one(&mut dispatcher).await;
    copy.end_well();
    let first = talk.results().await;
    talk.cut();
    let mut talk = dispatcher.next_talk().await;
    let hello = talk.hello().await;
    assert_eq!((hello.held.len(), &hello.unconfirmed), (0, &first));
    talk.welcome(&[]).await;
    talk.confirm(&lease, ConfirmVerdict::TryAgain).await;
    assert_eq!(talk.results().await, first);
    talk.end(Status::unavailable("again")).await;
    let mut talk = dispatcher.next_talk().await;
    assert_eq!(talk.greet().await.unconfirmed, first);
    talk.confirm(&lease, ConfirmVerdict::Duplicate).await;
    assert_eq!(worker.leave(talk).await, CLEAN);
}

#[tokio::test]
async fn a_lost_lease_stops_its_copy_and_reports_nothing() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let (mut worker, mut talk, lease, copy) = holding_one(&mut dispatcher).await;
    talk.answer_heartbeat(&[(&lease, LeaseVerdict::Lost)]).await;
    soon(copy.stop.hand_back.cancelled()).await;
    copy.gone().await;
    assert_eq!(talk.answer_heartbeat(&[]).await, 0, "the lease is not held any more");
    assert_eq!(worker.leave(talk).await, CLEAN);
}

#[tokio::test]
async fn a_lease_that_nobody_renews_is_over_before_its_time() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let mut worker = Worker::start(&[&dispatcher], |_| {});
    let mut talk = dispatcher.next_talk().await;
    talk.greet().await;
    let lease = Lease { lease_ms: 300, ..Lease::new("task", 1) };
    talk.assign(&[&lease]).await;
    let copy = worker.copies.next().await;
    soon(copy.stop.hand_back.cancelled()).await;
    copy.gone().await;
}

#[tokio::test]
async fn a_cancelled_copy_is_aborted_and_reported_as_cancelled() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let (_worker, mut talk, lease, copy) = holding_one(&mut dispatcher).await;
    talk.cancel(&lease).await;
    soon(copy.stop.abort.cancelled()).await;
    let results = talk.results().await;
    assert!(matches!(results[0].outcome, Some(Outcome::Cancelled(_))), "{results:?}");
}

#[tokio::test]
async fn a_worker_told_to_leave_hands_back_what_has_not_started_and_finishes_what_has() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let mut worker = Worker::start(&[&dispatcher], |_| {});
    let mut talk = dispatcher.next_talk().await;
    talk.greet().await;
    // Two parts fit into the memory, so the third task waits.
    let leases: Vec<_> =
        (0..3).map(|n| Lease { size: 32 << 20, ..Lease::new(&format!("t{n}"), 1) }).collect();
    talk.assign(&leases.iter().collect::<Vec<_>>()).await;
    let (first, second) = (worker.copies.next().await, worker.copies.next().await);
    worker.stop.cancel();
    let within =
        talk.until(|m| if let Message::Draining(d) = m { Some(d.finish_within_ms) } else { None }).await;
    assert!((19_000..=20_000).contains(&within), "{within}");
    let results = talk.results().await;
    assert!(
        matches!(results.as_slice(), [r] if r.task_id == "t2" && matches!(r.outcome, Some(Outcome::HandedBack(_))))
    );
    talk.confirm(&leases[2], ConfirmVerdict::Stored).await;
    talk.assign(&[&Lease::new("late", 1)]).await;
    assert_eq!(talk.refusals().await.last(), Some(&AcceptRefusal::Draining));
    for (copy, lease) in [(first, &leases[0]), (second, &leases[1])] {
        copy.end_well();
        assert_eq!(talk.results().await.len(), 1);
        talk.confirm(lease, ConfirmVerdict::Stored).await;
    }
    let (departure, in_order) = tokio::join!(worker.left(), talk.closed());
    assert_eq!((departure, in_order), (CLEAN, true));
}

#[test]
fn a_worker_is_given_what_it_has_memory_to_copy_and_no_more() {
    let settings = WorkerSettings {
        dispatchers: Vec::new(),
        name: "worker".to_owned(),
        origins: [].into(),
        retention_classes: [].into(),
        max_tasks: 128,
        memory_bytes: 512 << 20,
        part_bytes: 16 << 20,
        drain_within: Duration::from_secs(20),
        security: None,
    };
    let copied = runner_settings(&settings).budget;
    assert_eq!((copied.tasks, copied.memory_bytes), (128, 384 << 20), "a quarter is for reading back");
    assert_eq!(credit(&settings), CreditLimit { tasks: 128, bytes: 384 << 20 });
}

#[tokio::test]
async fn a_drain_hands_running_copies_back_with_their_upload_when_time_is_short() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let (copier, mut copies) = FakeCopier::obedient();
    let settings = WorkerSettings {
        dispatchers: vec![dispatcher.url()],
        name: "worker".to_owned(),
        origins: ["media".to_owned()].into(),
        retention_classes: [].into(),
        max_tasks: 3,
        memory_bytes: 64 << 20,
        part_bytes: 16 << 20,
        drain_within: Duration::from_secs(1),
        security: None,
    };
    let stop = CancellationToken::new();
    let mut runs = JoinSet::new();
    runs.spawn(run_with(settings, copier, Arc::default(), stop.clone()));
    let mut talk = dispatcher.next_talk().await;
    talk.greet().await;
    let lease = Lease::new("task", 1);
    talk.assign(&[&lease]).await;
    let copy = copies.next().await;
    copy.progress.set_upload_id("upload");
    stop.cancel();
    let results = talk.results().await;
    let handed_back = Outcome::HandedBack(backhaul_proto::v1::Stopped { upload_id: "upload".into() });
    assert_eq!(results[0].outcome, Some(handed_back));
    talk.confirm(&lease, ConfirmVerdict::Stored).await;
    let (ended, _) = tokio::join!(soon(runs.join_next()), talk.closed());
    let ended = ended.expect("it runs once").expect("it does not panic");
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn a_worker_without_a_dispatcher_leaves_all_the_same() {
    let dispatcher = ScriptedDispatcher::start().await;
    let mut worker = Worker::start(&[&dispatcher], |_| {});
    dispatcher.shut_down().await;
    worker.stop.cancel();
    assert_eq!(worker.left().await, CLEAN);
}

#[tokio::test]
async fn a_dispatcher_that_never_answers_heartbeats_is_left_and_the_copy_goes_on() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let mut worker = Worker::start(&[&dispatcher], |link| link.answer_within = Duration::from_millis(100));
    let mut silent = dispatcher.next_talk().await;
    silent.greet().await;
    let lease = Lease::new("task", 1);
    silent.assign(&[&lease]).await;
    let copy = worker.copies.next().await;
    let mut talk = dispatcher.next_talk().await;
    assert_eq!(talk.greet().await.held.len(), 1);
    assert!(!copy.stop.abort.is_cancelled());
    silent.closed().await;
}

#[tokio::test]
async fn a_dispatcher_that_never_welcomes_is_left_for_another() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let _worker = Worker::start(&[&dispatcher], |link| link.welcome_within = Duration::from_millis(50));
    let mut mute = dispatcher.next_talk().await;
    mute.hello().await;
    dispatcher.next_talk().await.greet().await;
    mute.closed().await;
}

#[tokio::test]
async fn a_worker_asked_to_move_greets_another_dispatcher_and_keeps_its_copies() {
    let (mut one, mut two) = (ScriptedDispatcher::start().await, ScriptedDispatcher::start().await);
    let mut worker = Worker::start(&[&one, &two], |_| {});
    let (mut old, next) = tokio::select! {
        talk = one.next_talk() => (talk, &mut two),
        talk = two.next_talk() => (talk, &mut one),
    };
    old.greet().await;
    let lease = Lease::new("task", 1);
    old.assign(&[&lease]).await;
    let copy = worker.copies.next().await;
    old.drain(DrainReason::Shutdown).await;
    let mut new = next.next_talk().await;
    let hello = new.hello().await;
    assert_eq!(hello.held.len(), 1);
    new.welcome(&[(&lease, LeaseVerdict::Keep)]).await;
    old.closed().await;
    copy.end_well();
    assert_eq!(new.results().await.len(), 1);
}

#[tokio::test]
async fn assignments_beyond_credit_and_of_unknown_locations_are_refused() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let mut worker = Worker::start(&[&dispatcher], |_| {});
    let mut talk = dispatcher.next_talk().await;
    assert_eq!(talk.greet().await.credit.map(|c| c.tasks), Some(3));
    let mut leases: Vec<_> = (0..5).map(|n| Lease::new(&format!("t{n}"), 1)).collect();
    leases[0].location = "elsewhere";
    talk.assign(&leases.iter().collect::<Vec<_>>()).await;
    let taken = AcceptRefusal::Unspecified;
    assert_eq!(
        talk.refusals().await,
        [AcceptRefusal::UnknownLocation, taken, taken, taken, AcceptRefusal::Busy]
    );
    for _ in 0..3 {
        worker.copies.next().await;
    }
    assert!(worker.copies.none());
}

#[tokio::test]
async fn hostile_messages_are_dropped_and_the_stream_goes_on() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let (_worker, mut talk, lease, copy) = holding_one(&mut dispatcher).await;
    talk.send_hostile(&lease).await;
    assert_eq!(talk.answer_heartbeat(&[(&lease, LeaseVerdict::Unspecified)]).await, 1);
    assert!(!copy.stop.abort.is_cancelled());
    copy.end_well();
    assert_eq!(talk.results().await.len(), 1);
}

#[tokio::test]
async fn a_dispatcher_that_reads_late_gets_every_answer() {
    let mut dispatcher = ScriptedDispatcher::start().await;
    let _worker = Worker::start(&[&dispatcher], |_| {});
    let mut talk = dispatcher.next_talk().await;
    talk.hello().await;
    // No heartbeat comes to the rescue: room on the stream must wake the worker.
    talk.welcome_with(&[], 60_000).await;
    let lease = Lease { location: "elsewhere", ..Lease::new("task", 1) };
    for _ in 0..15 {
        talk.assign(&vec![&lease; 1_000]).await;
    }
    let mut answers = 0;
    while answers < 15_000 {
        answers += talk.refusals().await.len();
    }
    assert_eq!(answers, 15_000);
}
