//! How streams and the dispatch itself end.

use super::*;

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
async fn a_dead_sweeper_ends_the_dispatch_with_an_error() {
    let mut house = House::new();
    let mut worker = house.worker("w1", 1).await;
    house.queue.panic_in_sweep();
    assert_eq!(house.ended().await, Err(crate::dispatch::DispatchError::Died("sweeper")));
    assert_eq!(worker.end().await.unwrap_err().code(), Code::Unavailable);
    let mut again = tokio::task::JoinSet::new();
    let (dispatch, stop) = (house.dispatch.clone(), house.stop.clone());
    again.spawn(async move { dispatch.run(stop).await });
    assert_eq!(again.join_next().await.unwrap().unwrap(), Err(crate::dispatch::DispatchError::StartedTwice));
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

#[tokio::test(start_paused = true)]
async fn a_worker_that_introduces_itself_during_a_shutdown_is_told_at_once() {
    let mut house = House::new();
    let mut late = house.connect().await.unwrap();
    house.stop.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    late.say(FromWorker::Hello(hello("late", 5))).await;
    assert!(matches!(late.hear().await, FromDispatcher::Welcome(_)));
    let FromDispatcher::Drain(drain) = late.hear().await else { panic!("a Drain") };
    assert_eq!(drain.reason(), pb::DrainReason::Shutdown);
    late.close();
    assert!(late.end().await.is_ok());
    assert_eq!(house.ended().await, Ok(()));
}
