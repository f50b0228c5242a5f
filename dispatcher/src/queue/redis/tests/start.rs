//! Right after the start, and right after something has moved: a call waits for what is about to be there, within bounds.

use std::{sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Server, cluster::Cluster, patient, settings, task};
use crate::queue::{
    CancelOutcome, NewTask, QueueClock, QueueSettings, SubmitOutcome, TaskId, TaskQueue as _,
    redis::{Durability, RedisOptions, RedisQueue, link::Link},
};

#[tokio::test]
async fn the_first_connection_is_waited_for_though_an_attempt_fails() {
    let server = Server::start(&[]);
    let port = server.listen().await;
    let door = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let options = patient(format!("redis://127.0.0.1:{}", door.local_addr().unwrap().port()));
    let (seeds, _, data) = options.servers().unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let link = Link::new(seeds[0].clone(), Arc::new(data), Arc::default(), &tasks, &stop);
    let through = async {
        // As a server does that is about to be ready.
        drop(door.accept().await.unwrap());
        let (mut near, _) = door.accept().await.unwrap();
        let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    };
    tokio::select! {
        opened = link.opened() => assert!(opened.is_ok(), "{:?}", opened.err()),
        ended = through => panic!("the connection ended: {ended:?}"),
    }
    stop.cancel();
}

/// Tasks of one shard of 16.
fn in_shard(shard: u16) -> impl Iterator<Item = NewTask> {
    let is_there = move |new: &NewTask| TaskId::derive("t", &new.spec.object).shard(16) == shard;
    (0..100_000).map(|n| task("t", n)).filter(is_there)
}

#[tokio::test]
async fn a_write_to_a_server_that_has_the_shard_no_more_is_made_at_the_one_that_has() {
    const SHARD: u16 = 3;
    let cluster = Cluster::without_replicas(&[]).await;
    // Nobody looks at the map unless something is wrong.
    let look_every = Duration::from_secs(3600);
    let options = RedisOptions { durability: Durability::None, look_every, ..cluster.options() };
    let shards = QueueSettings { shards: 16, ..settings() };
    let queue = RedisQueue::connect(options, shards, QueueClock::Server).await.unwrap();
    let mut tasks = in_shard(SHARD);
    let mut home = Cluster::home(SHARD);
    for _ in 0..3 {
        let next = (home + 1) % 3;
        cluster.move_shard(SHARD, home, next).await;
        home = next;
        let submitted = queue.submit(vec![tasks.next().unwrap()]).await.remove(0).unwrap();
        assert_eq!(submitted.outcome, SubmitOutcome::Created);
        let next = (home + 1) % 3;
        cluster.move_shard(SHARD, home, next).await;
        home = next;
        assert_eq!(queue.cancel(&submitted.id).await.unwrap(), CancelOutcome::Cancelled);
    }
}
