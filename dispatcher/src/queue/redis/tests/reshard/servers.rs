//! Changes where the data is on several servers: with and without replicas, and behind Sentinels.

use std::time::Duration;

use redis::AsyncCommands as _;

use super::{
    super::cluster::{Cluster, Watched},
    scene::{asked, change, connect, end, filled, is_clean, look, new, nobody_listens, works_on},
};
use crate::queue::redis::{
    ConnectError, Durability, RedisOptions, Unfit, keys,
    reshard::{ReshardError, ReshardOptions, reshard},
};
use crate::queue::{QueueError, TaskQueue as _};

/// Long enough that no busy machine takes a node for dead.
const NEVER: Duration = Duration::from_secs(600);
/// What makes an answer a proof.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test]
async fn the_shards_of_a_cluster_are_changed_too() {
    let cluster = Cluster::without_replicas(&DURABLE).await;
    let options = RedisOptions { durability: Durability::Local, ..cluster.options() };
    let (ids, before) = filled(&options, 2).await;
    for to in [16, 3] {
        nobody_listens(&cluster.nodes).await;
        assert!(change(&options, to).await.unwrap().moved > 0);
        is_clean(&options).await;
        let queue = connect(&options, to).await.unwrap();
        assert_eq!(look(&queue, &ids).await, before);
        end(queue).await;
    }
    let queue = connect(&options, 3).await.unwrap();
    works_on(&queue, &ids).await;
    is_clean(&options).await;
}

#[tokio::test]
async fn a_dispatcher_that_was_cut_off_all_the_while_takes_nothing_once_it_has_looked() {
    let cluster = Cluster::without_replicas(&DURABLE).await;
    let options = RedisOptions { durability: Durability::Local, ..cluster.options() };
    let queue = connect(&options, 2).await.unwrap();
    queue.submit(vec![new(1)]).await.remove(0).unwrap();
    // What a change leaves.
    let marked = &cluster.nodes[Cluster::node_of(keys::CONFIG)];
    marked.tell("HSET bh:config shards 3").await;
    assert!(matches!(queue.check().await, Err(QueueError::Rejected(_))));
    let refused = queue.submit(vec![new(2)]).await.remove(0);
    assert!(matches!(refused, Err(QueueError::Unfit(_))), "{refused:?}");
    marked.tell("HSET bh:config shards 2").await;
    queue.check().await.unwrap();
    queue.submit(vec![new(2)]).await.remove(0).unwrap();
}

#[tokio::test]
async fn what_no_replica_has_is_not_let_go() {
    let cluster = Cluster::start(NEVER, &DURABLE).await;
    let options = RedisOptions { durability: Durability::Replicas(1), ..cluster.options() };
    let (ids, before) = filled(&options, 2).await;
    nobody_listens(&cluster.nodes).await;
    // A node that has shards to come, and neither those that there are nor the mark.
    let busy = [0, 1].map(Cluster::home);
    let marked = Cluster::node_of(keys::CONFIG);
    let there = |node: &usize| (2..16).any(|shard| Cluster::home(shard) == *node);
    let silent = (0..3).find(|node| !busy.contains(node) && *node != marked && there(node));
    let silent = silent.expect("there is such a node");
    cluster.nodes[silent + 3].freeze();
    let hasty = ReshardOptions { patience: Duration::from_millis(300), ..asked(16) };
    let missed = reshard(&options, &hasty, &mut |_| {}).await;
    assert!(matches!(missed, Err(ReshardError::NotDurable(_))), "{missed:?}");
    for id in ids.iter().filter(|id| Cluster::home(id.shard(16)) == silent) {
        let mut client = cluster.nodes[busy[usize::from(id.shard(2))]].client().await;
        let there: bool = client.exists(keys::record(id.shard(2), id)).await.unwrap();
        assert!(there, "{id} was let go");
    }
    let started = connect(&options, 2).await;
    assert!(matches!(started, Err(ConnectError::Unfit(Unfit::Resharding { .. }))), "{started:?}");
    cluster.nodes[silent + 3].thaw();
    nobody_listens(&cluster.nodes).await;
    change(&options, 16).await.unwrap();
    let queue = connect(&options, 16).await.unwrap();
    assert_eq!(look(&queue, &ids).await, before);
    end(queue).await;
    is_clean(&options).await;
}

#[tokio::test]
async fn the_shards_behind_sentinels_are_changed_too() {
    let watched = Watched::start(NEVER, &DURABLE).await;
    let options = RedisOptions { durability: Durability::Replicas(2), ..watched.options() };
    let (ids, before) = filled(&options, 2).await;
    nobody_listens(&watched.servers).await;
    assert!(change(&options, 5).await.unwrap().moved > 0);
    let queue = connect(&options, 5).await.unwrap();
    assert_eq!(look(&queue, &ids).await, before);
    end(queue).await;
    is_clean(&options).await;
}
