//! The dispatch as a whole: streams over tonic, the reference queue, paused time.

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
    let held_up = house.dispatch.stats().outstanding_tasks;
    assert!(held_up < 3_000, "{held_up} tasks are stuck with a worker that does not read");
    assert_eq!(house.dispatch.stats().free_tasks, 0);

    let mut quick = house.worker("quick", 10_000).await;
    quick.take(3_000).await;
    drop(slow);
    quick.take(6_000 - 3_000 - usize::try_from(held_up).unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_tells_every_worker_and_ends_in_time_with_copies_running() {
    let settings = StreamSettings { drain_within: Duration::from_secs(20), ..StreamSettings::default() };
    let mut house = House::with(settings);
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let mut workers = Vec::new();
    for n in 0..20 {
        workers.push(house.worker(&format!("w{n}"), 5).await);
    }
    house.queue.put(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut copies = Vec::new();
    for worker in &mut workers {
        copies.push(worker.take(5).await);
    }
    eventually("all copies run", || house.dispatch.stats().counters.accepted == 100).await;

    let start = Instant::now();
    house.stop.cancel();
    let mut told = Vec::new();
    for worker in &mut workers {
        loop {
            if let FromDispatcher::Drain(drain) = worker.hear().await {
                assert_eq!(drain.reason(), pb::DrainReason::Shutdown);
                assert!(drain.within_ms <= 20_000 && drain.within_ms > 10_000, "{}", drain.within_ms);
                told.push(start.elapsed());
                break;
            }
        }
    }
    assert!(told.last().unwrap() > &Duration::from_secs(4), "not all at once: {told:?}");
    let refused = house.connect().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "SHUTTING_DOWN".into()));

    // Half of them finish and leave; the others stay to the end. Results count up to the last moment.
    for (worker, copies) in workers.iter_mut().zip(&copies).take(10) {
        worker.done(copies).await;
        assert_eq!(worker.confirms().await.len(), 5);
        worker.close();
        assert!(worker.end().await.is_ok());
    }
    for worker in &mut workers[10..] {
        let status = worker.end().await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "DRAINED".into()));
    }
    assert_eq!(house.ended().await, Ok(()));
    assert!(start.elapsed() <= Duration::from_secs(21), "{:?}", start.elapsed());
    let depths = house.queue.depths().await.unwrap();
    assert_eq!(
        (depths.done, depths.working, depths.pending),
        (50, 50, 0),
        "running copies keep their leases"
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_quick_when_every_worker_leaves() {
    let mut house = House::new();
    let mut workers = Vec::new();
    for n in 0..3 {
        workers.push(house.worker(&format!("w{n}"), 1).await);
    }
    house.stop.cancel();
    let start = Instant::now();
    for worker in &mut workers {
        assert!(matches!(worker.hear().await, FromDispatcher::Drain(_)));
        worker.close();
    }
    assert_eq!(house.ended().await, Ok(()));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_says_hello_does_not_hold_up_a_shutdown() {
    let mut house = House::new();
    let mut silent = house.connect().await.unwrap();
    house.stop.cancel();
    let status = silent.end().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(house.ended().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn fifty_idle_workers_cost_one_look_a_task_and_nothing_without_credit() {
    let house =
        House::with(StreamSettings { poll_every: Duration::from_secs(3_600), ..StreamSettings::default() });
    let mut workers = Vec::new();
    for n in 0..50 {
        workers.push(house.worker(&format!("w{n}"), 0).await);
    }
    house.queue.put(&["a"]).await;
    beat_for(&workers, 0, Duration::from_secs(60)).await;
    assert_eq!(house.queue.lease_calls().len(), 0, "without credit there is nothing to ask for");

    for worker in &workers {
        worker.say(FromWorker::Credit(pb::Credit { tasks: 5, bytes: 1 << 40 })).await;
    }
    eventually("it is taken", || house.dispatch.stats().outstanding_tasks == 1).await;
    beat_for(&workers, 100, Duration::from_secs(60)).await;
    let first = house.queue.lease_calls().len();
    assert!(first <= 4, "{first} looks for one task");
    house.queue.put(&["b"]).await;
    eventually("it is taken", || house.dispatch.stats().outstanding_tasks == 2).await;
    beat_for(&workers, 200, Duration::from_secs(60)).await;
    let second = house.queue.lease_calls().len() - first;
    assert!(second <= 4, "{second} looks for one more");
}

/// Keeps workers alive for a while.
async fn beat_for(workers: &[Worker], from: u64, duration: Duration) {
    let end = Instant::now() + duration;
    let mut seq = from;
    while Instant::now() < end {
        seq += 1;
        for worker in workers {
            worker.beat(seq, &[]).await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn few_tasks_are_spread_over_workers() {
    let house = House::new();
    let mut workers = Vec::new();
    for n in 0..4 {
        workers.push(house.worker(&format!("w{n}"), 100).await);
    }
    house.queue.put(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"]).await;
    for worker in &mut workers {
        assert!(!worker.tasks().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_answer_was_lost_is_asked_for_again_and_arrives_once() {
    let house = House::new();
    house.queue.lose_answers(true);
    let mut worker = house.worker("w1", 10).await;
    house.queue.put(&["a", "b"]).await;
    eventually("it was asked for twice", || house.queue.lease_calls().len() >= 2).await;
    let calls = house.queue.lease_calls();
    assert_eq!(calls[0], calls[1], "the same request, so that the queue can tell");
    house.queue.lose_answers(false);
    let tasks = worker.take(2).await;
    assert_eq!(tasks.len(), 2);
    assert_eq!(house.queue.depths().await.unwrap().working, 2);
}

#[tokio::test(start_paused = true)]
async fn while_the_queue_is_down_leases_are_unknown_and_results_are_put_off() {
    let house = House::new();
    let mut worker = house.worker("w1", 10).await;
    house.queue.put(&["a"]).await;
    let tasks = worker.take(1).await;
    house.queue.set_down(true);
    worker.beat(1, &tasks).await;
    assert_eq!(worker.verdicts().await, [pb::LeaseVerdict::Unknown]);
    worker.done(&tasks).await;
    assert_eq!(worker.confirms().await, [pb::ConfirmVerdict::TryAgain]);
    house.queue.set_down(false);
    worker.done(&tasks).await;
    assert_eq!(worker.confirms().await, [pb::ConfirmVerdict::Stored]);
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_assignment_goes_to_another_worker() {
    let house = House::new();
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

#[tokio::test(start_paused = true)]
async fn a_dead_sweeper_ends_the_dispatch_with_an_error() {
    let mut house = House::new();
    let mut worker = house.worker("w1", 1).await;
    house.queue.panic_in_sweep();
    assert_eq!(house.ended().await, Err(super::DispatchError::Died("sweeper")));
    assert_eq!(worker.end().await.unwrap_err().code(), Code::Unavailable);
    let mut again = tokio::task::JoinSet::new();
    let (dispatch, stop) = (house.dispatch.clone(), house.stop.clone());
    again.spawn(async move { dispatch.run(stop).await });
    assert_eq!(again.join_next().await.unwrap().unwrap(), Err(super::DispatchError::StartedTwice));
}

#[tokio::test(start_paused = true)]
async fn broken_rules_end_the_stream_with_the_status_that_the_contract_names() {
    let accept = pb::Accept { task_id: "000-0".into(), lease: vec![0; 15].into(), refusal: 0 };
    let beat = |seq, count| {
        let held =
            pb::HeldLease { task_id: "x".into(), lease: vec![0; 16].into(), ..pb::HeldLease::default() };
        FromWorker::Heartbeat(pb::Heartbeat { seq, held: vec![held; count] })
    };
    let table = [
        ("second hello", FromWorker::Hello(hello("w", 1)), Code::InvalidArgument, "PROTOCOL_VIOLATION"),
        (
            "short token",
            FromWorker::Accepts(pb::Accepts { accepts: vec![accept] }),
            Code::InvalidArgument,
            "PROTOCOL_VIOLATION",
        ),
        ("heartbeat number", beat(0, 0), Code::InvalidArgument, "PROTOCOL_VIOLATION"),
        ("too many leases", beat(1, 10_001), Code::ResourceExhausted, "LIMIT_EXCEEDED"),
        (
            "too much credit",
            FromWorker::Credit(pb::Credit { tasks: 10_001, bytes: 0 }),
            Code::ResourceExhausted,
            "LIMIT_EXCEEDED",
        ),
    ];
    let house = House::new();
    for (what, message, code, word) in table {
        let mut worker = house.worker("w", 1).await;
        worker.say(message).await;
        let status = worker.end().await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (code, word), "{what}: {status}");
    }
    let mut worker = house.connect().await.unwrap();
    worker.say(FromWorker::Hello(pb::Hello { protocol: 2, ..hello("w", 1) })).await;
    let status = worker.end().await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "UNSUPPORTED_PROTOCOL"));
    let mut worker = house.connect().await.unwrap();
    assert_eq!(worker.end().await.unwrap_err().code(), Code::DeadlineExceeded);
    eventually("nobody is left", || house.dispatch.stats().sessions == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_is_cut_off_and_one_that_leaves_is_not_blamed() {
    let house = House::new();
    let mut silent = house.worker("silent", 1).await;
    let start = Instant::now();
    let status = silent.end().await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::DeadlineExceeded, "WORKER_SILENT".into()));
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    let mut leaving = house.worker("leaving", 1).await;
    leaving.close();
    assert!(leaving.end().await.is_ok());
}
