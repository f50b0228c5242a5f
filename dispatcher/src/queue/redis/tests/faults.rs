//! What happens to Redis: forgotten scripts, full memory, a crash, silence.

use redis::AsyncCommands as _;

use super::{Server, done, options, queue, renewal, request, settings, task};
use crate::queue::{
    QueueClock, QueueError, QueueSettings, RenewOutcome, SettleOutcome, SubmitOutcome, TaskQueue as _,
    TaskState,
    conformance::START,
    redis::{Durability, RedisOptions, RedisQueue},
};

#[tokio::test]
async fn forgotten_scripts_are_loaded_again_in_the_middle_of_a_pipeline() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let mut flush = async || {
        let (): () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut client).await.unwrap();
    };
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, QueueSettings { shards: 8, ..settings() }, &clock).await;
    flush().await;
    assert!(queue.submit((0..500).map(|n| task("t", n)).collect()).await.iter().all(Result::is_ok));
    flush().await;
    let leased = queue.lease(&request("s", 1, 20)).await.unwrap();
    assert_eq!(leased.len(), 20);
    flush().await;
    let kept = queue.renew(&leased.iter().map(renewal).collect::<Vec<_>>()).await;
    assert!(kept.iter().all(|kept| matches!(kept, Ok(RenewOutcome::Keep(_)))), "{kept:?}");
    flush().await;
    let stored = queue.settle(leased.iter().map(done).collect()).await;
    assert!(stored.iter().all(|one| matches!(one, Ok(SettleOutcome::Stored(TaskState::Done)))), "{stored:?}");
    flush().await;
    queue.sweep().await.unwrap();
    flush().await;
    queue.cancel(&queue.lease(&request("s", 2, 1)).await.unwrap()[0].id).await.unwrap();
}

#[tokio::test]
async fn a_full_memory_refuses_submits_and_lets_everything_else_go_on() {
    let server = Server::start(&[]);
    let queue = queue(&server, settings(), &QueueClock::Server).await;
    assert!(queue.submit((0..20).map(|n| task("t", n)).collect()).await.iter().all(Result::is_ok));
    let mut client = server.client().await;
    let (): () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query_async(&mut client).await.unwrap();

    let refused = queue.submit(vec![task("t", 100)]).await.remove(0);
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
    let leased = queue.lease(&request("s", 1, 20)).await.unwrap();
    assert_eq!(leased.len(), 20);
    assert!(queue.renew(&leased.iter().map(renewal).collect::<Vec<_>>()).await.iter().all(Result::is_ok));
    queue.sweep().await.unwrap();
    queue.cancel(&leased[0].id).await.unwrap();
    let stored = queue.settle(leased.iter().map(done).collect()).await;
    assert!(stored.iter().all(|one| matches!(one, Ok(SettleOutcome::Stored(TaskState::Done)))), "{stored:?}");

    let (): () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).query_async(&mut client).await.unwrap();
    assert!(queue.submit(vec![task("t", 100)]).await.remove(0).is_ok());
}

#[tokio::test]
async fn what_was_accepted_survives_a_crash_of_the_server_and_leases_go_on() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let durable = RedisOptions { durability: Durability::Local, ..options(&server, 0) };
    let queue = RedisQueue::connect(durable, settings(), QueueClock::Server).await.unwrap();
    assert!(queue.submit((0..200).map(|n| task("t", n)).collect()).await.iter().all(Result::is_ok));
    let leased = queue.lease(&request("s", 1, 50)).await.unwrap();
    server.kill();
    let lost = queue.submit(vec![task("t", 1_000)]).await.remove(0);
    assert!(matches!(lost, Err(QueueError::Unavailable(_))), "{lost:?}");
    assert!(queue.sweep().await.is_err_and(|error| error.is_retryable()));
    server.restart();
    // The queue connects again by itself, when its backoff allows.
    while queue.depths().await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let depths = queue.depths().await.unwrap();
    assert_eq!((depths.pending, depths.working), (150, 50));
    assert_eq!(queue.lease(&request("s", 1, 50)).await.unwrap().len(), 50, "the same leases");
    let stored = queue.settle(leased.iter().map(done).collect()).await;
    assert!(stored.iter().all(|one| matches!(one, Ok(SettleOutcome::Stored(TaskState::Done)))), "{stored:?}");
    // Each writer finds out by itself that its connection is gone.
    let repeated = loop {
        let answers = queue.submit((0..200).map(|n| task("t", n)).collect()).await;
        if let Ok(submitted) = answers.into_iter().collect::<Result<Vec<_>, _>>() {
            break submitted;
        }
    };
    assert!(repeated.iter().all(|one| one.outcome == SubmitOutcome::Duplicate));
}

#[tokio::test]
async fn a_silent_server_is_unavailable_within_the_timeout_and_no_call_hangs() {
    let server = Server::start(&[]);
    let mut impatient = options(&server, 0);
    impatient.timeouts.response = std::time::Duration::from_millis(100);
    impatient.durability_timeout = std::time::Duration::from_millis(100);
    let queue = RedisQueue::connect(impatient, settings(), QueueClock::Server).await.unwrap();
    let mut client = server.client().await;
    let (): () =
        redis::cmd("CLIENT").arg(&["PAUSE", "600000", "ALL"]).query_async(&mut client).await.unwrap();
    let lost = queue.submit(vec![task("t", 1)]).await.remove(0);
    assert!(matches!(lost, Err(QueueError::Unavailable(_))), "{lost:?}");
    assert!(matches!(queue.depths().await, Err(QueueError::Unavailable(_))));
    queue.shutdown().await;
}

#[tokio::test]
async fn a_submit_on_one_dispatcher_wakes_another() {
    let server = Server::start(&[]);
    let (here, there) = (
        queue(&server, settings(), &QueueClock::Server).await,
        queue(&server, settings(), &QueueClock::Server).await,
    );
    let mut client = server.client().await;
    // Only hints that are listened to can be heard.
    loop {
        let listeners: Vec<(String, u32)> =
            redis::cmd("PUBSUB").arg(&["NUMSUB", "bh:ready"]).query_async(&mut client).await.unwrap();
        if listeners[0].1 == 2 {
            break;
        }
        tokio::task::yield_now().await;
    }
    here.submit(vec![task("t", 1)]).await.remove(0).unwrap();
    there.ready().notified().await;
    assert_eq!(there.lease(&request("s", 1, 5)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_queue_that_was_shut_down_says_so_and_leaves_no_task_behind() {
    let server = Server::start(&[]);
    let queue = queue(&server, settings(), &QueueClock::Server).await;
    queue.shutdown().await;
    let refused = queue.submit(vec![task("t", 1)]).await.remove(0);
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
    let mut client = server.client().await;
    let size: u64 = client.hlen("{bh:000}:tenants").await.unwrap();
    assert_eq!(size, 0);
}
