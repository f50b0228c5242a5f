//! The conformance suite on a Redis Cluster and behind Sentinels, and what is special about them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    cluster::{Cluster, Watched, until},
    patient, renewal, request, settings, task,
};
use crate::queue::{
    QueueClock, QueueSettings, RenewOutcome, TaskQueue,
    conformance::{CASES, Factory, random_history, run_parts},
    redis::{ConnectError, Durability, RedisOptions, RedisQueue, Unfit, keys},
};

/// Long enough that no busy machine takes a node for dead.
const NEVER: Duration = Duration::from_secs(600);

/// Queues on one cluster, which is emptied for each.
fn factory(cluster: Cluster) -> Factory {
    let cluster = Arc::new(cluster);
    Factory::new(move |settings: QueueSettings, clock: QueueClock| {
        let cluster = Arc::clone(&cluster);
        async move {
            cluster.clear().await;
            let options = RedisOptions { durability: Durability::None, ..cluster.options() };
            let queue = RedisQueue::connect(options, settings, clock).await.unwrap();
            let queue: Arc<dyn TaskQueue> = Arc::new(queue);
            queue
        }
    })
}

/// A test for some parts of the suite each, because all of it takes longer on a busy machine than a test may.
macro_rules! suite_on_a_cluster {
    ($($name:ident: $parts:expr;)*) => {
        const TESTED: &[&[&str]] = &[$($parts),*];

        $(
            #[tokio::test]
            async fn $name() {
                run_parts(factory(Cluster::without_replicas(&[]).await), $parts).await;
            }
        )*
    };
}

suite_on_a_cluster! {
    submits_hold_on_a_cluster: &["submit"];
    limits_and_lists_hold_on_a_cluster: &["limits", "list"];
    the_order_holds_on_a_cluster: &["order"];
    leases_and_renewals_hold_on_a_cluster: &["lease", "renew"];
    reports_hold_on_a_cluster: &["settle"];
    sweeps_hold_on_a_cluster: &["sweep"];
    cancels_and_redrives_hold_on_a_cluster: &["cancel", "redrive"];
    statistics_and_the_log_hold_on_a_cluster: &["stats", "events"];
}

#[test]
fn every_part_of_the_suite_is_tried_on_a_cluster() {
    let tested: BTreeSet<_> = TESTED.iter().copied().flatten().copied().collect();
    let all: BTreeSet<_> = CASES.iter().map(|case| case.part).collect();
    assert_eq!(tested, all);
}

#[tokio::test]
async fn random_histories_hold_on_a_cluster() {
    let factory = factory(Cluster::start(NEVER, &[]).await);
    for seed in 401..404 {
        random_history(&factory, seed).await;
    }
}

#[tokio::test]
async fn random_histories_hold_behind_sentinels() {
    let watched = Arc::new(Watched::start(NEVER, &["--databases", "100"]).await);
    let next = Arc::new(AtomicU32::new(0));
    let factory = Factory::new(move |settings: QueueSettings, clock: QueueClock| {
        let (watched, db) = (Arc::clone(&watched), next.fetch_add(1, Ordering::Relaxed));
        async move {
            let options = watched.options();
            let url = format!("{}/{db}", options.url);
            let options = RedisOptions { url, durability: Durability::None, ..options };
            let queue = RedisQueue::connect(options, settings, clock).await.unwrap();
            let queue: Arc<dyn TaskQueue> = Arc::new(queue);
            queue
        }
    });
    for seed in 301..304 {
        random_history(&factory, seed).await;
    }
}

#[tokio::test]
async fn a_submit_on_one_dispatcher_of_a_cluster_wakes_all_others() {
    let cluster = Cluster::without_replicas(&[]).await;
    let shards = QueueSettings { shards: 16, ..settings() };
    let options = RedisOptions { durability: Durability::None, ..cluster.options() };
    let mut queues = Vec::new();
    for _ in 0..3 {
        queues.push(RedisQueue::connect(options.clone(), shards.clone(), QueueClock::Server).await.unwrap());
    }
    until("all listen", async || {
        let mut listeners = 0;
        for node in &cluster.nodes {
            let counts: Vec<(String, u32)> = node.ask("PUBSUB NUMSUB bh:ready").await.unwrap();
            listeners += counts[0].1;
        }
        listeners == 3
    })
    .await;
    // Each tenant begins to wait anew, in whichever shard its task is.
    for n in 0..8 {
        queues[0].submit(vec![task(&format!("tenant-{n}"), n)]).await.remove(0).unwrap();
        queues[1].ready().notified().await;
        queues[2].ready().notified().await;
    }
    assert_eq!(queues[2].lease(&request("s", 1, 20)).await.unwrap().len(), 8);
}

#[tokio::test]
async fn time_goes_on_and_leases_are_spared_after_a_failover_to_a_clock_that_is_behind() {
    let watched = Watched::start(NEVER, &[]).await;
    let options = RedisOptions { durability: Durability::None, ..watched.options() };
    // Any failover is an outage here.
    let settings = QueueSettings {
        sweep_every: Duration::from_millis(10),
        outage: Duration::from_millis(500),
        lease: Duration::from_secs(3600),
        ..settings()
    };
    let queue = RedisQueue::connect(options, settings, QueueClock::Server).await.unwrap();
    let mut long = task("t", 0);
    long.spec.processing_timeout = Duration::from_secs(24 * 3600);
    queue.submit(vec![long]).await.remove(0).unwrap();
    let leased = queue.lease(&request("s", 1, 1)).await.unwrap();
    assert!(matches!(
        queue.renew(&leased.iter().map(renewal).collect::<Vec<_>>()).await.remove(0),
        Ok(RenewOutcome::Keep(_))
    ));
    queue.sweep().await.unwrap();
    // As if the server had been an hour ahead of the one that takes over.
    let meta: Vec<u8> = redis::cmd("GET")
        .arg(keys::meta(0))
        .query_async(&mut watched.servers[0].client().await)
        .await
        .unwrap();
    let clock = meta[..6].iter().fold(0_u64, |clock, byte| clock << 8 | u64::from(*byte)) + 3_600_000;
    let ahead = [&clock.to_be_bytes()[2..], &meta[6..]].concat();
    let mut client = watched.servers[0].client().await;
    let (): () = redis::cmd("SET").arg(keys::meta(0)).arg(ahead).query_async(&mut client).await.unwrap();
    let copied: u32 = redis::cmd("WAIT").arg(2).arg(60_000).query_async(&mut client).await.unwrap();
    assert_eq!(copied, 2);
    watched.sentinels[0].tell(&format!("SENTINEL FAILOVER {}", Watched::NAME)).await;
    let mut amnesty = false;
    until("the successor is swept", async || {
        // A server whose role changes closes its connections, this one too.
        let info: redis::RedisResult<String> = watched.servers[0].ask("INFO replication").await;
        let swept = queue.sweep().await;
        amnesty |= swept.as_ref().is_ok_and(|report| report.amnesty);
        info.is_ok_and(|info| info.contains("role:slave")) && swept.is_ok() && amnesty
    })
    .await;
    // Scripts are not replicated: they were loaded anew.
    let mut created = None;
    until("the successor takes tasks", async || {
        created = queue.submit(vec![task("t", 9)]).await.remove(0).ok();
        created.is_some()
    })
    .await;
    let created_at = queue.get(&created.unwrap().id).await.unwrap().created_at;
    assert!(created_at.0 >= clock, "{} < {clock}", created_at.0);
    let kept = queue.renew(&leased.iter().map(renewal).collect::<Vec<_>>()).await.remove(0);
    assert!(matches!(kept, Ok(RenewOutcome::Keep(_))), "{kept:?}");
}

#[tokio::test]
async fn settings_that_name_the_wrong_kind_of_server_are_refused_with_the_one_to_change() {
    let cluster = Cluster::without_replicas(&[]).await;
    let none = |options: RedisOptions| RedisOptions { durability: Durability::None, ..options };
    let one = patient(format!("redis://127.0.0.1:{}", cluster.nodes[0].port()));
    let refused = RedisQueue::connect(none(one), settings(), QueueClock::Server).await;
    assert!(matches!(refused, Err(ConnectError::Unfit(Unfit::InCluster))), "{refused:?}");
    let two = patient(format!("redis://127.0.0.1:{},127.0.0.1:1", cluster.nodes[0].port()));
    let refused = RedisQueue::connect(none(two), settings(), QueueClock::Server).await;
    assert!(matches!(refused, Err(ConnectError::Url(_))), "{refused:?}");
    let connect = async |shards| {
        let settings = QueueSettings { shards, ..settings() };
        RedisQueue::connect(none(cluster.options()), settings, QueueClock::Server).await
    };
    // A look at the servers may take too long on a busy machine; a program looks again then.
    until("the queue is made", async || connect(16).await.is_ok()).await;
    until("another count is refused", async || {
        matches!(connect(8).await, Err(ConnectError::Unfit(Unfit::OtherShards { .. })))
    })
    .await;
}
