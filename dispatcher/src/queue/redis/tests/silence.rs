//! Servers that do not answer, answer as somebody else, or are not asked any more.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::task::JoinSet;

use super::{Server, cluster::until, options, settings, task};
use crate::queue::{
    QueueClock, QueueError, SubmitOutcome, TaskId, TaskQueue as _,
    redis::{Durability, RedisOptions, RedisQueue, access::Address, map::Map},
};

const DURABLE: [&str; 6] =
    ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"];
/// Much longer than any test may take.
const NEVER: Duration = Duration::from_secs(3600);

/// A primary with a replica, and a queue that waits for the replica for ever.
async fn pair(response: Duration) -> (Server, Server, Arc<RedisQueue>) {
    let primary = Server::start_on_port(&DURABLE);
    let replica = Server::start(&DURABLE);
    replica.tell(&format!("REPLICAOF 127.0.0.1 {}", primary.port())).await;
    until("the replica is there", async || {
        primary.ask::<String>("INFO replication").await.unwrap().contains("state=online")
    })
    .await;
    let mut options = RedisOptions {
        durability: Durability::Replicas(1),
        durability_timeout: NEVER,
        writers: 1,
        ..options(&primary, 0)
    };
    options.timeouts.response = response;
    let queue = RedisQueue::connect(options, settings(), QueueClock::Server).await.unwrap();
    until("the queue is used", async || queue.submit(vec![task("t", 0)]).await.remove(0).is_ok()).await;
    (primary, replica, Arc::new(queue))
}

/// A submit that waits behind a barrier that cannot be met while the replica is frozen.
async fn waiting_submit(
    primary: &Server,
    queue: &Arc<RedisQueue>,
) -> JoinSet<Result<crate::queue::Submitted, QueueError>> {
    let queue = Arc::clone(queue);
    let mut submit = JoinSet::new();
    submit.spawn(async move { queue.submit(vec![task("t", 1)]).await.remove(0) });
    until("the submit waits for the replica", async || {
        primary.ask::<String>("INFO clients").await.unwrap().contains("blocked_clients:1")
    })
    .await;
    submit
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed_even_where_a_barrier_could_wait_for_ever() {
    let (primary, replica, queue) = pair(Duration::from_secs(6)).await;
    replica.freeze();
    let mut submit = waiting_submit(&primary, &queue).await;
    primary.freeze();
    let lost = submit.join_next().await.unwrap().unwrap();
    assert!(matches!(lost, Err(QueueError::Unavailable(_))), "{lost:?}");
    // From now on nobody waits for it at all.
    let refused = queue.submit(vec![task("t", 2)]).await.remove(0);
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
    primary.thaw();
    replica.thaw();
    let mut outcome = None;
    until("the server is used again", async || {
        outcome = queue.submit(vec![task("t", 1)]).await.remove(0).ok();
        outcome.is_some()
    })
    .await;
    assert_eq!(outcome.unwrap().outcome, SubmitOutcome::Duplicate, "stored, and not confirmed");
}

#[tokio::test]
async fn a_barrier_that_takes_long_is_waited_for_while_the_server_answers() {
    // The server may take half of this for each answer.
    let (primary, replica, queue) = pair(Duration::from_secs(20)).await;
    primary.tell("CONFIG RESETSTAT").await;
    replica.freeze();
    let mut submit = waiting_submit(&primary, &queue).await;
    until("it is asked whether it is still there, and answers", async || {
        primary.ask::<String>("INFO commandstats").await.unwrap().contains("cmdstat_ping:")
    })
    .await;
    assert!(submit.try_join_next().is_none());
    replica.thaw();
    submit.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_sent() {
    let (primary, replica, queue) = pair(NEVER).await;
    replica.freeze();
    let mut submit = waiting_submit(&primary, &queue).await;
    // Given up while the writer is busy with the batch before.
    assert!(queue.submit(vec![task("t", 2)]).now_or_never().is_none());
    replica.thaw();
    submit.join_next().await.unwrap().unwrap().unwrap();
    queue.submit(vec![task("t", 3)]).await.remove(0).unwrap();
    let given_up = TaskId::derive("t", &task("t", 2).spec.object);
    assert!(matches!(queue.get(&given_up).await, Err(QueueError::NotFound(_))));
}

#[tokio::test]
async fn what_a_replaced_primary_still_confirms_is_not_accepted() {
    let (primary, replica, queue) = pair(NEVER).await;
    replica.freeze();
    let mut submit = waiting_submit(&primary, &queue).await;
    let successor = Server::start_on_port(&DURABLE);
    queue.shared.nodes.follow(Map::single(Address::Tcp("127.0.0.1".into(), successor.port())));
    replica.thaw();
    let confirmed = submit.join_next().await.unwrap().unwrap();
    // Given to the successor instead, which is not fit for it.
    let is_refused = matches!(confirmed, Err(QueueError::Unavailable(_) | QueueError::Unfit(_)));
    assert!(is_refused, "{confirmed:?}");
    // The successor has no replica yet, and nobody has looked at it but the writer itself.
    let refused = queue.submit(vec![task("t", 1)]).await.remove(0);
    assert!(matches!(refused, Err(QueueError::Unfit(_))), "{refused:?}");
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_accepts_nothing_under_its_old_barrier() {
    let (primary, replica, queue) = pair(NEVER).await;
    replica.freeze();
    let mut submit = waiting_submit(&primary, &queue).await;
    let other = Server::start_on_port(&DURABLE);
    primary.tell(&format!("REPLICAOF 127.0.0.1 {}", other.port())).await;
    let unblocked = submit.join_next().await.unwrap().unwrap();
    assert!(matches!(unblocked, Err(QueueError::Unavailable(_))), "{unblocked:?}");
    for n in 1..20 {
        let refused = queue.submit(vec![task("t", n)]).await.remove(0);
        assert!(matches!(refused, Err(QueueError::Unavailable(_) | QueueError::Unfit(_))), "{refused:?}");
    }
    replica.thaw();
}

#[tokio::test]
async fn a_server_that_comes_back_with_worse_settings_is_looked_at_before_the_first_write() {
    let mut server = Server::start(&DURABLE);
    let durable = RedisOptions { durability: Durability::Local, ..options(&server, 0) };
    let queue = RedisQueue::connect(durable, settings(), QueueClock::Server).await.unwrap();
    queue.submit(vec![task("t", 1)]).await.remove(0).unwrap();
    server.kill();
    server.restart_with(&["--appendonly", "no"]);
    until("it is found out", async || match queue.submit(vec![task("t", 2)]).await.remove(0) {
        Err(QueueError::Unfit(why)) => {
            assert!(why.to_string().contains("appendonly"), "{why}");
            true
        }
        Err(QueueError::Unavailable(_)) => false,
        other => panic!("{other:?}"),
    })
    .await;
}
