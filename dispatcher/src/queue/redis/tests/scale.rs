//! Many tasks, many tenants, more than one dispatcher.

use std::collections::BTreeSet;

use super::{Server, done, queue, request, settings, task};
use crate::queue::{
    ListQuery, QueueClock, QueueSettings, TaskQueue, TaskState, conformance::START, memory::MemoryQueue,
    redis::sweep::PASS,
};

#[tokio::test]
async fn a_hundred_thousand_due_tasks_are_promoted_in_bounded_passes() {
    const TASKS: u32 = 100_000;
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, QueueSettings { shards: 4, ..settings() }, &clock).await;
    let due = START.plus(settings().outage / 2);
    for first in (0..TASKS).step_by(2_000) {
        let batch = (first..first + 2_000).map(|n| {
            let mut task = task("t", n);
            task.process_at = Some(due);
            task
        });
        assert!(queue.submit(batch.collect()).await.iter().all(Result::is_ok));
    }
    assert_eq!(queue.depths().await.unwrap().scheduled, u64::from(TASKS));
    clock.set(due);
    let mut promoted = 0;
    loop {
        let report = queue.sweep().await.unwrap();
        assert!(report.promoted <= 4 * PASS as u64, "{report:?}");
        promoted += report.promoted;
        if !report.more {
            break;
        }
    }
    assert_eq!(promoted, u64::from(TASKS));
    let depths = queue.depths().await.unwrap();
    assert_eq!((depths.scheduled, depths.pending), (0, u64::from(TASKS)));
}

#[tokio::test]
async fn tenants_beyond_one_page_of_the_ring_take_turns_as_in_the_reference_queue() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let ours = queue(&server, QueueSettings { tenant_in_flight_cap: 3, ..settings() }, &clock).await;
    let reference = MemoryQueue::new(QueueSettings { tenant_in_flight_cap: 3, ..settings() }, clock.clone());
    let both: [&dyn TaskQueue; 2] = [&ours, &reference];
    let mut orders = [Vec::new(), Vec::new()];
    for (queue, order) in both.iter().zip(&mut orders) {
        // Every seventh tenant has many tasks, some only at a place that nobody asks for.
        let tasks = (0..400_u32).map(|n| {
            let mut task = task(&format!("tenant-{}", if n % 2 == 0 { n / 7 } else { n }), n);
            if n % 11 == 0 {
                task.spec.object.location = "elsewhere".into();
            }
            task
        });
        assert!(queue.submit(tasks.collect()).await.iter().all(Result::is_ok));
        for round in 1..=40 {
            let leased =
                queue.lease(&request("s", round, if round % 4 == 0 { 70 } else { 13 })).await.unwrap();
            order.extend(leased.iter().map(|task| task.spec.object.key.clone()));
            if round % 3 == 0 {
                queue.settle(leased.iter().map(done).collect()).await;
            }
        }
    }
    assert!(orders[0].len() > 250, "{}", orders[0].len());
    assert_eq!(orders[0], orders[1]);
}

#[tokio::test]
async fn two_dispatchers_never_lease_the_same_task_nor_count_a_sweep_twice() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let shards = QueueSettings { shards: 8, ..settings() };
    let (a, b) = (queue(&server, shards.clone(), &clock).await, queue(&server, shards, &clock).await);
    assert!(a.submit((0..600).map(|n| task("t", n)).collect()).await.iter().all(Result::is_ok));
    let mut seen = BTreeSet::new();
    let mut leases = 0;
    for n in 1.. {
        let (here, there) = (request("a", n, 7), request("b", n, 7));
        let (of_a, of_b) = tokio::join!(a.lease(&here), b.lease(&there));
        let leased = [of_a.unwrap(), of_b.unwrap()].concat();
        if leased.is_empty() {
            break;
        }
        leases += leased.len();
        seen.extend(leased.into_iter().map(|task| task.id));
    }
    assert_eq!((leases, seen.len()), (600, 600));
    a.sweep().await.unwrap();
    clock.advance(settings().lease);
    let mut ended = 0;
    for _ in 0..30 {
        let (of_a, of_b) = tokio::join!(a.sweep(), b.sweep());
        ended += of_a.unwrap().unaccepted + of_b.unwrap().unaccepted;
    }
    assert_eq!(ended, 600);
}

#[tokio::test]
async fn a_state_with_very_many_tasks_is_listed_whole_each_task_once() {
    const TASKS: u32 = 5_000;
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, QueueSettings { shards: 2, ..settings() }, &clock).await;
    let tasks = (0..TASKS).map(|n| {
        let mut task = task(if n % 5 == 0 { "u" } else { "t" }, n);
        // Many share their time.
        task.process_at = (n % 2 == 0).then_some(START.plus(settings().lease * (1 + n % 3)));
        task.spec.object.location = ["uploads", "archive"][n as usize % 2].into();
        task
    });
    assert!(queue.submit(tasks.collect()).await.iter().all(Result::is_ok));
    for state in [TaskState::Scheduled, TaskState::Pending] {
        let mut query =
            ListQuery { tenant: "t".into(), states: vec![state], limit: 333, ..ListQuery::default() };
        let mut seen = BTreeSet::new();
        loop {
            let page = queue.list(&query).await.unwrap();
            assert!(page.tasks.len() <= 333);
            for record in page.tasks {
                assert_eq!((record.state, record.spec.tenant.as_str()), (state, "t"));
                assert!(seen.insert(record.id), "listed twice");
            }
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen.len() as u64, u64::from(TASKS / 2 * 4 / 5));
    }
}
