//! What a server must be like, and what it means that an answer is durable.

use std::{sync::Arc, time::Duration};

use super::{Server, hopeless, options, request, settings, task};
use crate::queue::{
    LeaseRequest, QueueClock, QueueError, QueueSettings, Requeue, RequeueOutcome, TaskId, TaskQueue as _,
    redis::{ConnectError, Durability, RedisOptions, RedisQueue, Unfit},
};

async fn connect(server: &Server, durability: Durability) -> Result<RedisQueue, ConnectError> {
    let options = RedisOptions {
        durability,
        durability_timeout: Duration::from_millis(200),
        writers: 1,
        ..options(server, 0)
    };
    RedisQueue::connect(options, settings(), QueueClock::Server).await
}

/// Submits a task that dies at once. Nothing else of its tenant may wait.
async fn bury(queue: &RedisQueue, n: u32) -> TaskId {
    let mut new = task("buried", n);
    new.spec.object.location = "archive".into();
    while queue.submit(vec![new.clone()]).await.remove(0).is_err() {}
    let only = LeaseRequest { locations: Arc::new(["archive".into()]), ..request("s", u64::from(n), 1) };
    let leased = queue.lease(&only).await.unwrap().remove(0);
    assert!(queue.settle(vec![hopeless(&leased)]).await[0].is_ok());
    leased.id
}

fn refusal(result: Result<RedisQueue, ConnectError>) -> Unfit {
    match result {
        Err(ConnectError::Unfit(unfit)) => unfit,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_forgets_or_evicts_is_refused_with_the_setting_to_change() {
    let server = Server::start(&[]);
    assert_eq!(refusal(connect(&server, Durability::Local).await), Unfit::NoAof);
    let server = Server::start(&["--maxmemory-policy", "allkeys-lru"]);
    assert_eq!(refusal(connect(&server, Durability::None).await), Unfit::Evicts("allkeys-lru".into()));
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    assert_eq!(
        refusal(connect(&server, Durability::Replicas(2)).await),
        Unfit::TooFewReplicas { connected: 0, wanted: 2 }
    );
    assert!(connect(&server, Durability::Local).await.is_ok());
}

#[tokio::test]
async fn a_setting_that_goes_wrong_later_is_found_by_the_next_check() {
    let server = Server::start(&[]);
    let queue = connect(&server, Durability::None).await.unwrap();
    queue.check().await.unwrap();
    let mut client = server.client().await;
    let (): () = redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory-policy", "allkeys-lru"])
        .query_async(&mut client)
        .await
        .unwrap();
    let failure = queue.check().await.unwrap_err();
    assert!(matches!(failure, QueueError::Rejected(_)), "{failure:?}");
}

#[tokio::test]
async fn a_server_found_unfit_is_given_no_more_tasks_until_it_is_fit_again() {
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let queue = connect(&server, Durability::Local).await.unwrap();
    let id = queue.submit(vec![task("t", 1)]).await.remove(0).unwrap().id;
    let mut client = server.client().await;
    let mut aof = redis::cmd("CONFIG");
    let (): () = aof.arg(&["SET", "appendonly", "no"]).query_async(&mut client).await.unwrap();
    assert!(queue.check().await.is_err());
    let refused = queue.submit(vec![task("t", 2)]).await.remove(0);
    assert!(matches!(refused, Err(QueueError::Unfit(_))), "{refused:?}");
    assert!(matches!(queue.cancel(&id).await, Err(QueueError::Unfit(_))));
    assert_eq!(queue.depths().await.unwrap().pending, 1, "nothing was stored or taken out");
    let mut aof = redis::cmd("CONFIG");
    let (): () = aof.arg(&["SET", "appendonly", "yes"]).query_async(&mut client).await.unwrap();
    queue.check().await.unwrap();
    queue.submit(vec![task("t", 2)]).await.remove(0).unwrap();
}

#[tokio::test]
async fn the_shard_count_and_the_schema_are_fixed_when_the_data_is_created() {
    let server = Server::start(&[]);
    connect(&server, Durability::None).await.unwrap();
    let other = QueueSettings { shards: 3, ..settings() };
    let result = RedisQueue::connect(options(&server, 0), other, QueueClock::Server).await;
    assert_eq!(refusal(result), Unfit::OtherShards { found: "1".into(), wanted: 3 });
    let mut client = server.client().await;
    let (): () =
        redis::cmd("HSET").arg(&["bh:config", "schema", "9"]).query_async(&mut client).await.unwrap();
    assert_eq!(refusal(connect(&server, Durability::None).await), Unfit::OtherSchema("9".into()));
}

#[tokio::test]
async fn a_submit_that_no_replica_confirms_is_not_durable_and_can_be_repeated() {
    let server =
        Server::start(&["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"]);
    // From 7.2 on, a replica confirms what is on its disk.
    let mut replica = Server::start(&["--appendonly", "yes"]);
    let port = server.listen().await;
    let mut client = replica.client().await;
    let (): () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).query_async(&mut client).await.unwrap();
    let queue = loop {
        match connect(&server, Durability::Replicas(1)).await {
            Ok(queue) => break queue,
            Err(ConnectError::Unfit(Unfit::TooFewReplicas { .. })) => tokio::task::yield_now().await,
            Err(other) => panic!("{other:?}"),
        }
    };
    // The replica may still be loading its first copy.
    while queue.submit(vec![task("t", 1)]).await.remove(0).is_err() {}
    let role: String = redis::cmd("INFO").arg("replication").query_async(&mut client).await.unwrap();
    assert!(role.contains("role:slave"));
    // Of two tasks that died, one is run again while the replica can confirm it, the other when it cannot.
    let mut died = Vec::new();
    for n in [11, 12] {
        let buried = bury(&queue, n).await;
        died.push(Requeue { id: buried, run: 1 });
    }
    let confirmed = queue.requeue(died[..1].to_vec()).await.remove(0);
    assert!(matches!(confirmed, Ok(RequeueOutcome::Requeued { run: 2 })), "{confirmed:?}");
    replica.kill();
    for _ in 0..2 {
        let unconfirmed = queue.requeue(died[1..].to_vec()).await.remove(0);
        assert!(matches!(unconfirmed, Err(QueueError::NotDurable { .. })), "{unconfirmed:?}");
    }
    assert_eq!(queue.get(&died[1].id).await.unwrap().run, 2, "once, however often it is repeated");
    let unconfirmed = queue.submit(vec![task("t", 2)]).await.remove(0);
    assert!(matches!(unconfirmed, Err(QueueError::NotDurable { reached: 0, wanted: 1 })), "{unconfirmed:?}");
    assert_eq!(queue.depths().await.unwrap().pending, 4, "stored all the same");
    assert!(matches!(queue.check().await, Err(QueueError::Rejected(_))));
}
