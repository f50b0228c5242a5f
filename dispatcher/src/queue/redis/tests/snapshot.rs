//! The look at all tasks: counts, ages and moves as the server has them.

use std::time::Duration;

use super::{done, queue, request, server::Server, settings, task};
use crate::queue::{
    Failure, FailureClass, Outcome, QueueClock, Settlement, TaskQueue as _, UnixMs,
    snapshot::{Load, Observe as _},
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn counts_and_ages_follow_tasks_through_the_queues() {
    let (server, clock) = (Server::start(&[]), QueueClock::starting_at(UnixMs(1_000_000_000)));
    let queue = queue(&server, settings(), &clock).await;
    let empty = queue.snapshot().await.unwrap();
    assert_eq!((empty.oldest.pending, empty.swept_ago, empty.moves.len()), (None, None, 0));
    assert_eq!(queue.load().await.unwrap(), Load::default());

    for (tenant, n) in [("a", 1), ("b", 2), ("a", 3)] {
        queue.submit(vec![task(tenant, n)]).await.remove(0).unwrap();
        clock.advance(10 * SECOND);
    }
    assert_eq!(queue.load().await.unwrap(), Load { pending: 3, working: 0 });
    let snapshot = queue.snapshot().await.unwrap();
    assert_eq!(snapshot.oldest.pending, Some(30 * SECOND));
    assert_eq!((snapshot.oldest.working, snapshot.oldest.delayed), (None, None));
    assert_eq!(snapshot.moves.get("created"), Some(&3));

    let leased = queue.lease(&request("s", 1, 3)).await.unwrap();
    assert_eq!(leased.len(), 3);
    let failure = Failure {
        class: FailureClass::Retry,
        code: "io".into(),
        message: String::new(),
        retry_after: SECOND,
    };
    let failed = Outcome::Failed { failure, jitter: 0.5 };
    let failed = Settlement { id: leased[0].id.clone(), lease: leased[0].lease, outcome: failed };
    for answer in queue.settle(vec![failed, done(&leased[1])]).await {
        answer.unwrap();
    }
    queue.sweep().await.unwrap();
    clock.advance(7 * SECOND);
    let snapshot = queue.snapshot().await.unwrap();
    assert_eq!(queue.load().await.unwrap(), Load { pending: 0, working: 1 });
    assert_eq!((snapshot.depths.working, snapshot.depths.delayed, snapshot.depths.done), (1, 1, 1));
    assert_eq!(snapshot.oldest.pending, None);
    let ages = [snapshot.oldest.working, snapshot.oldest.delayed].map(Option::unwrap);
    assert!(ages.iter().all(|age| (17 * SECOND..=37 * SECOND).contains(age)), "{ages:?}");
    assert_eq!(snapshot.swept_ago, Some(7 * SECOND));
    assert_eq!(snapshot.moves.get("done"), Some(&1));
}

#[tokio::test]
async fn a_success_after_its_lease_is_counted_as_late() {
    let (server, clock) = (Server::start(&[]), QueueClock::starting_at(UnixMs(1_000_000_000)));
    let queue = queue(&server, settings(), &clock).await;
    queue.sweep().await.unwrap();
    queue.submit(vec![task("a", 1)]).await.remove(0).unwrap();
    let leased = queue.lease(&request("s", 1, 1)).await.unwrap();
    // No sweep sees the gap as an outage: they go on while the lease runs out.
    let lease = settings().lease;
    let mut passed = Duration::ZERO;
    while queue.load().await.unwrap().working > 0 && passed < 20 * lease + 4 * settings().outage {
        clock.advance(SECOND * 2);
        passed += SECOND * 2;
        queue.sweep().await.unwrap();
    }
    assert_eq!(queue.load().await.unwrap().working, 0);
    queue.settle(vec![done(&leased[0])]).await.remove(0).unwrap();
    assert_eq!(queue.snapshot().await.unwrap().moves.get("late"), Some(&1));
}

#[tokio::test]
async fn a_server_that_is_gone_gives_an_error_and_no_number() {
    let server = Server::start(&[]);
    let queue = queue(&server, settings(), &QueueClock::Server).await;
    drop(server);
    assert!(queue.load().await.is_err());
    assert!(queue.snapshot().await.is_err());
}
