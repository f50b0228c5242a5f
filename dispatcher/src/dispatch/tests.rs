//! The dispatch as a whole: streams over tonic, the reference queue, paused time.

mod ending;
mod feeding;

use std::time::Duration;

use backhaul_proto::v1::{
    self as pb, from_dispatcher::Message as FromDispatcher, from_worker::Message as FromWorker,
};
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{
    StreamSettings,
    testing::{House, Worker, eventually, held, hello, result},
};
use crate::queue::{CancelOutcome, LeaseToken, TaskId, TaskQueue as _, TaskState};

fn key(task: &pb::Assignment) -> &str {
    &task.object.as_ref().unwrap().key
}

fn id(task: &pb::Assignment) -> TaskId {
    TaskId::parse(&task.task_id).unwrap()
}

/// Settings under which only hints make the feeder look.
fn without_polls() -> StreamSettings {
    StreamSettings { poll_every: Duration::from_secs(1_000_000), ..StreamSettings::default() }
}

fn reason(status: &tonic::Status) -> String {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "backhaul");
    info.reason
}

#[tokio::test(start_paused = true)]
async fn a_task_goes_out_comes_back_done_and_is_confirmed() {
    let house = House::new();
    let mut worker = house.worker("w1", 10).await;
    let ids = house.queue.put(&["a:5"]).await;
    let tasks = worker.tasks().await;
    assert_eq!((key(&tasks[0]), tasks[0].attempt, tasks[0].size_hint_bytes), ("a", 1, 5 << 20));
    worker.accept(&tasks).await;
    worker.done(&tasks).await;
    assert_eq!(worker.confirms().await, [pb::ConfirmVerdict::Stored]);
    assert_eq!(house.queue.state(&ids[0]).await, TaskState::Done);
    eventually("the credit is free again", || house.dispatch.stats().free_tasks == 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_submit_reaches_an_idle_worker_without_waiting_for_any_timer() {
    let house = House::new();
    let mut worker = house.worker("w1", 10).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = Instant::now();
    house.queue.put(&["a"]).await;
    worker.tasks().await;
    assert_eq!(before.elapsed(), Duration::ZERO, "paused time moves only when somebody waits for it");
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_keeps_accepted_leases_and_gives_back_the_others_at_once() {
    let house = House::new();
    let mut worker = house.worker("w1", 2).await;
    let ids = house.queue.put(&["a", "b"]).await;
    let mut tasks = worker.tasks().await;
    while tasks.len() < 2 {
        tasks.extend(worker.tasks().await);
    }
    worker.accept(&tasks[..1]).await;
    eventually("the accept has arrived", || house.dispatch.stats().counters.accepted == 1).await;
    drop(worker);
    let mut other = house.worker("w2", 10).await;
    assert_eq!(key(&other.take(1).await[0]), key(&tasks[1]));
    assert_eq!(house.queue.state(&id(&tasks[0])).await, TaskState::Working);
    assert!(
        house.queue.get(&id(&tasks[0])).await.unwrap().accepted,
        "the accept is written although the stream is gone"
    );
    assert_eq!(ids.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn leases_and_results_survive_a_lost_stream() {
    let house = House::new();
    let mut worker = house.worker("w1", 10).await;
    house.queue.put(&["a", "b"]).await;
    let tasks = worker.take(2).await;
    eventually("both are accepted", || house.dispatch.stats().counters.accepted == 2).await;
    drop(worker);
    eventually("the stream is over", || house.dispatch.stats().sessions == 0).await;

    // The answer to the second Hello is lost as well, so the third brings the same result again.
    for verdict in [pb::ConfirmVerdict::Stored, pb::ConfirmVerdict::Duplicate] {
        let mut again = house.connect().await.unwrap();
        let hello = pb::Hello {
            held: vec![held(&tasks[0])],
            unconfirmed: vec![result(&tasks[1])],
            ..hello("w1", 10)
        };
        again.say(FromWorker::Hello(hello)).await;
        let FromDispatcher::Welcome(welcome) = again.hear().await else { panic!("Welcome comes first") };
        assert_eq!(welcome.held[0].verdict(), pb::LeaseVerdict::Keep);
        assert_eq!(again.confirms().await, [verdict]);
        assert_eq!(house.dispatch.stats().outstanding_tasks, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_stream_of_an_instance_takes_over() {
    let house = House::new();
    let mut old = house.worker("w1", 10).await;
    house.queue.put(&["a", "b"]).await;
    let mut tasks = old.tasks().await;
    while tasks.len() < 2 {
        tasks.extend(old.tasks().await);
    }
    // Nothing is accepted on the old stream: what the new one resumes must not go back when the old one ends.
    let mut new = house.connect().await.unwrap();
    let hello = pb::Hello { held: tasks.iter().map(held).collect(), ..hello("w1", 10) };
    new.say(FromWorker::Hello(hello)).await;
    let FromDispatcher::Welcome(welcome) = new.hear().await else { panic!("Welcome comes first") };
    assert!(welcome.held.iter().all(|update| update.verdict() == pb::LeaseVerdict::Keep));

    let FromDispatcher::Drain(drain) = old.hear().await else { panic!("the old stream is told") };
    assert_eq!(drain.reason(), pb::DrainReason::Superseded);
    let status = old.end().await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, "SUPERSEDED".into()));

    new.beat(1, &tasks).await;
    assert_eq!(new.verdicts().await, [pb::LeaseVerdict::Keep; 2]);
    eventually("one session is left", || house.dispatch.stats().sessions == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_read_gets_few_tasks_and_others_get_the_rest() {
    let house = House::new();
    let slow = house.worker("slow", 10_000).await;
    let keys: Vec<String> = (0..6_000).map(|n| format!("{}{n}:1", "k".repeat(900))).collect();
    house.queue.put(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // What fits into the connection's buffers, and no more.
    eventually("the slow worker holds some", || house.dispatch.stats().outstanding_tasks > 100).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let looks = house.queue.lease_calls().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        house.queue.lease_calls().len(),
        looks,
        "nothing is leased for a worker that cannot be sent to"
    );
    let held_up = house.dispatch.stats().outstanding_tasks;
    assert!(held_up < 1_500, "{held_up} tasks are stuck with a worker that does not read");
    assert_eq!(house.dispatch.stats().free_tasks, 0);

    let mut quick = house.worker("quick", 10_000).await;
    let taken = quick.take(6_000 - usize::try_from(held_up).unwrap()).await.len();
    drop(slow);
    quick.take(6_000 - taken).await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_assignment_goes_to_another_worker() {
    let house = House::with(without_polls());
    let mut frozen = house.worker("frozen", 1).await;
    house.queue.put(&["a"]).await;
    let tasks = frozen.tasks().await;
    let mut other = house.worker("other", 1).await;
    let start = Instant::now();
    assert_eq!(other.take(1).await[0].task_id, tasks[0].task_id);
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(matches!(frozen.hear().await, FromDispatcher::Cancel(_)));
    frozen.accept(&tasks).await;
    frozen.done(&tasks).await;
    assert_eq!(frozen.confirms().await, [pb::ConfirmVerdict::Fenced]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ran_out_is_swept_and_given_to_another_worker() {
    let house =
        House::with(StreamSettings { lease: Duration::from_secs(3_600), ..StreamSettings::default() });
    let mut lost = house.worker("lost", 1).await;
    house.queue.put(&["a"]).await;
    let tasks = lost.take(1).await;
    eventually("it is accepted", || house.dispatch.stats().counters.accepted == 1).await;
    // The queue's clock is its own; between two moves of it a sweep has to happen, or it would see an outage.
    let mut other = house.worker("other", 1).await;
    let mut moved = Duration::ZERO;
    while house.dispatch.stats().expired == 0 || house.dispatch.stats().promoted == 0 {
        house.queue.advance(Duration::from_secs(1));
        moved += Duration::from_secs(1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(moved < Duration::from_secs(1_800), "the lease never ended");
    }
    assert_eq!(other.take(1).await[0].task_id, tasks[0].task_id);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_worker_that_copies() {
    let house = House::new();
    let mut worker = house.worker("w1", 1).await;
    let ids = house.queue.put(&["a"]).await;
    let tasks = worker.take(1).await;
    eventually("it is accepted", || house.dispatch.stats().counters.accepted == 1).await;
    let CancelOutcome::Stopping { lease, session } = house.queue.cancel(&ids[0]).await.unwrap() else {
        panic!("a copy is running")
    };
    house.dispatch.stop_copy("0123", &ids[0], lease);
    house.dispatch.stop_copy(&session, &ids[0], LeaseToken::from_bytes([0; 16]));
    house.dispatch.stop_copy(&session, &ids[0], lease);
    let FromDispatcher::Cancel(cancel) = worker.hear().await else { panic!("a Cancel") };
    assert_eq!(cancel.leases[0].lease, tasks[0].lease);
    let stopped = pb::task_result::Outcome::Cancelled(pb::Stopped::default());
    let stopped = pb::TaskResult { outcome: Some(stopped), ..result(&tasks[0]) };
    worker.say(FromWorker::Results(pb::Results { results: vec![stopped] })).await;
    assert_eq!(worker.confirms().await, [pb::ConfirmVerdict::Stored]);
    assert_eq!(house.queue.state(&ids[0]).await, TaskState::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn one_address_has_only_its_share_of_the_streams() {
    // The connections of these tests have no address, so that all count as one.
    let house = House::with(StreamSettings { max_streams_per_address: 1, ..StreamSettings::default() });
    let first = house.worker("w1", 1).await;
    let refused = house.connect().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "TOO_MANY_STREAMS".into()));
    assert!(refused.message().contains("address"), "{refused}");
    assert!(refused.get_details_retry_info().is_some());
    drop(first);
    eventually("the first is over", || house.dispatch.stats().sessions == 0).await;
    house.worker("w2", 1).await;
}

#[tokio::test(start_paused = true)]
async fn one_identity_has_only_its_share_of_the_streams() {
    // The workers of these tests have no certificates, so that all have one name.
    let house = House::with(StreamSettings { max_streams_per_identity: 1, ..StreamSettings::default() });
    let first = house.worker("w1", 1).await;
    let refused = house.connect().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "TOO_MANY_STREAMS".into()));
    assert!(refused.message().contains("identity"), "{refused}");
    assert!(refused.get_details_retry_info().is_some());
    drop(first);
    eventually("the first is over", || house.dispatch.stats().sessions == 0).await;
    house.worker("w2", 1).await;
}

#[tokio::test(start_paused = true)]
async fn only_so_many_streams_are_open_at_a_time() {
    let house = House::with(StreamSettings { max_streams: 2, ..StreamSettings::default() });
    let first = house.worker("w1", 1).await;
    let _second = house.worker("w2", 1).await;
    let refused = house.connect().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "TOO_MANY_STREAMS".into()));
    assert!(refused.get_details_retry_info().is_some());
    drop(first);
    eventually("the first is over", || house.dispatch.stats().sessions == 1).await;
    house.worker("w3", 1).await;
}
