//! The suite on the reference queue itself, and what it cannot ask of every queue: real time, and a clock that jumps back.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::queue::{
    LeaseRequest, ObjectRef, Outcome, Priority, Renewal, TaskSpec, TaskState,
    conformance::{Factory, START, random_settings, test_settings},
};

crate::queue_conformance!(Factory::memory());

fn task(key: &str, process_at: Option<UnixMs>) -> NewTask {
    NewTask {
        spec: TaskSpec {
            tenant: "t".into(),
            object: ObjectRef {
                location: "uploads".into(),
                bucket: "photos".into(),
                key: key.into(),
                version: None,
            },
            priority: Priority::Normal,
            max_attempts: 3,
            labels: BTreeMap::new(),
            size_hint_bytes: 1,
            verify: None,
            processing_timeout: Duration::from_secs(60),
            traceparent: String::new(),
            retention_class: String::new(),
        },
        process_at,
    }
}

fn request(number: u64) -> LeaseRequest {
    LeaseRequest {
        session: "s".into(),
        request: number,
        worker: "w".into(),
        max_tasks: 1000,
        max_bytes: u64::MAX,
        locations: Arc::new(["uploads".to_owned()]),
    }
}

#[tokio::test]
async fn it_works_in_real_time_too() {
    let settings = QueueSettings {
        accept_within: Duration::from_millis(1),
        lease: Duration::from_millis(1),
        sweep_every: Duration::from_millis(1),
        ..test_settings()
    };
    let queue = MemoryQueue::new(settings, QueueClock::Server);
    queue.submit(vec![task("a", None)]).await;
    let leased = queue.lease(&request(1)).await.unwrap();
    let begun = queue.get(&leased[0].id).await.unwrap();
    assert!(begun.process_at > Some(begun.created_at));
    // The lease ends by itself, after the first amnesty.
    while queue.state.lock().unwrap().shards[0].depths().working > 0 {
        queue.sweep().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(queue.get(&leased[0].id).await.unwrap().returns, 1);
}

#[tokio::test]
async fn its_time_never_runs_backwards() {
    let clock = QueueClock::starting_at(START);
    let queue = MemoryQueue::new(test_settings(), clock.clone());
    queue.submit(vec![task("a", None)]).await;
    clock.set(UnixMs(5));
    queue.submit(vec![task("b", Some(UnixMs(START.0 - 1)))]).await;
    let id = TaskId::derive("t", &task("b", None).spec.object);
    let record = queue.get(&id).await.unwrap();
    assert_eq!((record.state, record.created_at), (TaskState::Pending, START));
}

#[tokio::test]
async fn a_wake_up_is_kept_for_who_comes_to_wait_later() {
    let queue = MemoryQueue::new(test_settings(), QueueClock::starting_at(START));
    queue.submit(vec![task("a", None)]).await;
    timeout(Duration::from_secs(30), queue.ready().notified()).await.unwrap();
}

#[tokio::test]
async fn what_is_remembered_of_lease_requests_is_forgotten_in_time() {
    let clock = QueueClock::starting_at(START);
    let queue = MemoryQueue::new(test_settings(), clock.clone());
    queue.submit(vec![task("a", None)]).await;
    assert_eq!(queue.lease(&request(1)).await.unwrap().len(), 1);
    clock.advance(Duration::from_secs(60));
    queue.sweep().await.unwrap();
    assert_eq!(queue.state.lock().unwrap().memos.len(), 1);
    clock.advance(Duration::from_secs(3600));
    queue.sweep().await.unwrap();
    assert!(queue.state.lock().unwrap().memos.is_empty());
}

#[tokio::test]
async fn nothing_is_kept_of_tenants_without_tasks() {
    let clock = QueueClock::starting_at(START);
    let queue = MemoryQueue::new(test_settings(), clock.clone());
    queue.submit((0..50).map(|n| task(&n.to_string(), None)).collect()).await;
    for leased in queue.lease(&request(1)).await.unwrap() {
        let renewal = Renewal {
            id: leased.id.clone(),
            lease: leased.lease,
            progress: Default::default(),
            upload_id: String::new(),
            session: "s".into(),
        };
        queue.renew(&[renewal]).await;
        let outcome = Outcome::Done { receipt: Default::default() };
        queue.settle(vec![Settlement { id: leased.id, lease: leased.lease, outcome }]).await;
    }
    clock.advance(Duration::from_secs(3 * 3600));
    assert_eq!(queue.sweep().await.unwrap().reaped, 50);
    let state = queue.state.lock().unwrap();
    assert_eq!(state.shards[0].tasks().count(), 0);
    assert_eq!(state.shards[0].leases_of("t"), 0);
}

#[test]
fn the_settings_of_random_histories_are_valid() {
    for seed in 0..1000 {
        assert_eq!(random_settings(seed).validate(), Ok(()));
    }
}
