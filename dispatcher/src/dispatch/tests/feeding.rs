//! What is asked of the queue, how often, and what happens when it does not answer.

use std::sync::Arc;

use backhaul_runtime::locations::Locations;

use super::*;

#[tokio::test(start_paused = true)]
async fn fifty_idle_workers_cost_one_look_a_task_and_nothing_without_credit() {
    let house = House::with(StreamSettings { accept_within: Duration::from_secs(3_600), ..without_polls() });
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
async fn a_queue_that_hangs_holds_up_nobody_for_longer_than_its_time_limit() {
    let mut house = House::new();
    let mut worker = house.worker("w1", 10).await;
    house.queue.put(&["a"]).await;
    let tasks = worker.take(1).await;
    eventually("it is accepted", || house.dispatch.stats().counters.accepted == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    house.queue.set_hanging(true);
    let start = Instant::now();
    for seq in 1..=3 {
        worker.beat(seq, &tasks).await;
    }
    worker.done(&tasks).await;
    worker.say(FromWorker::Credit(pb::Credit { tasks: 7, bytes: 1 << 30 })).await;
    eventually("it is read all the same", || house.dispatch.stats().free_tasks == 6).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(worker.confirms().await, [pb::ConfirmVerdict::TryAgain]);
    assert_eq!(worker.verdicts().await, [pb::LeaseVerdict::Unknown]);
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert!(house.connect().await.is_ok());
    house.stop.cancel();
    assert!(matches!(worker.end().await, Err(status) if status.code() == Code::Unavailable));
    assert_eq!(house.ended().await, Ok(()));
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn tasks_leased_for_a_worker_that_has_gone_are_handed_to_another_at_once() {
    let house = House::with(without_polls());
    let gone = house.worker("gone", 10).await;
    house.queue.hold_leases(true);
    house.queue.put(&["a"]).await;
    eventually("it is asked for", || house.queue.lease_calls().len() == 1).await;
    drop(gone);
    eventually("it has gone", || house.dispatch.stats().sessions == 0).await;
    let mut other = house.worker("other", 10).await;
    house.queue.hold_leases(false);
    assert_eq!(key(&other.take(1).await[0]), "a");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_one_worker_refuses_goes_to_another_without_a_poll() {
    let house = House::with(without_polls());
    let mut busy = house.worker("busy", 1).await;
    house.queue.put(&["a"]).await;
    let tasks = busy.tasks().await;
    let mut other = house.worker("other", 1).await;
    let accepts = vec![pb::Accept {
        task_id: tasks[0].task_id.clone(),
        lease: tasks[0].lease.clone(),
        refusal: pb::AcceptRefusal::Busy.into(),
    }];
    let start = Instant::now();
    busy.say(FromWorker::Accepts(pb::Accepts { accepts })).await;
    assert_eq!(other.take(1).await[0].task_id, tasks[0].task_id);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_grant_was_taken_away_while_it_waited_dies_and_is_sent_to_nobody() {
    let text = r#"
        [location.uploads]
        endpoint = "http://127.0.0.1:1"
        credentials = "anonymous"
        read = [{ bucket = "photos", prefixes = ["kept/"], tenants = ["t"] }]
        backup = { location = "vault", bucket = "backups" }
        [location.vault]
        endpoint = "http://127.0.0.1:1"
        credentials = "anonymous"
    "#;
    let grants = Locations::parse(text, std::path::Path::new("l.toml")).unwrap();
    let house = House::granted(without_polls(), Some(Arc::new(grants)));
    let ids = house.queue.put(&["kept", "lost/1", "kept/1", "kept/../lost"]).await;
    let mut worker = house.worker("w1", 10).await;
    let mut sent = worker.take(2).await;
    sent.sort_by(|a, b| key(a).cmp(key(b)));
    // What a prefix means is decided on the bytes of the key, as the store has it.
    assert_eq!(sent.iter().map(key).collect::<Vec<_>>(), ["kept/../lost", "kept/1"]);
    for id in &ids[..2] {
        let ended = async || house.queue.get(id).await.unwrap();
        loop {
            let task = ended().await;
            if task.state == TaskState::Dead {
                assert_eq!(task.last_failure.unwrap().code, "grant_revoked");
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
