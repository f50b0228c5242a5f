//! A Redis Cluster, and a Redis under Sentinels, for one test: real servers on the loopback interface, ended with the value.

use std::time::Duration;

use redis::Value;
use tokio::time::{Instant, sleep};

use super::{Server, patient};
use crate::queue::redis::{Layout, RedisOptions, keys};

/// Longest that a machine that is very busy may take for anything.
const PATIENCE: Duration = Duration::from_secs(90);

/// Three primaries with a replica each. Node `n + 3` begins as the replica of node `n`.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) nodes: Vec<Server>,
}

/// A primary with two replicas, watched by three Sentinels.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) servers: Vec<Server>,
    pub(super) sentinels: Vec<Server>,
}

/// Waits until something is so.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

impl Cluster {
    /// A cluster whose nodes take a silent one for failed after `node_timeout`.
    pub(super) async fn start(node_timeout: Duration, arguments: &[&str]) -> Self {
        let cluster = Self::meet(6, node_timeout, arguments).await;
        for n in 0..3 {
            let primary: String = cluster.nodes[n].ask("CLUSTER MYID").await.unwrap();
            // A replica is told whose it is only when the other has been introduced as a primary.
            until("a replica has its primary", async || {
                let told: redis::RedisResult<Value> =
                    cluster.nodes[n + 3].ask(&format!("CLUSTER REPLICATE {primary}")).await;
                told.is_ok()
            })
            .await;
        }
        until("the replicas are there", async || cluster.replicas_are_there().await).await;
        cluster
    }

    /// A cluster of the three primaries alone, in which none is ever taken for failed.
    pub(super) async fn without_replicas(arguments: &[&str]) -> Self {
        Self::meet(3, Duration::from_secs(600), arguments).await
    }

    async fn meet(count: usize, node_timeout: Duration, arguments: &[&str]) -> Self {
        let timeout = node_timeout.as_millis().to_string();
        let own = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            &timeout,
            "--cluster-require-full-coverage",
            "no",
            "--databases",
            "1",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let arguments: Vec<&str> = own.iter().chain(arguments).copied().collect();
        let nodes: Vec<Server> = (0..count).map(|_| Server::start_on_port(&arguments)).collect();
        for (n, range) in ["0 5460", "5461 10922", "10923 16383"].iter().enumerate() {
            nodes[n].tell(&format!("CLUSTER ADDSLOTSRANGE {range}")).await;
            nodes[n].tell(&format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1)).await;
        }
        // Everybody to everybody: waiting for gossip takes seconds.
        for (n, node) in nodes.iter().enumerate() {
            for other in &nodes[n + 1..] {
                node.tell(&format!("CLUSTER MEET 127.0.0.1 {}", other.port())).await;
            }
        }
        let cluster = Self { nodes };
        let known = format!("cluster_known_nodes:{count}");
        until("all nodes know each other", async || cluster.all_say(&known).await).await;
        // Without full coverage a node calls the cluster good before it has heard who has which slots.
        until("all know whose the slots are", async || cluster.all_say("cluster_slots_assigned:16384").await)
            .await;
        until("the cluster serves", async || cluster.all_say("cluster_state:ok").await).await;
        cluster
    }

    async fn all_say(&self, what: &str) -> bool {
        for node in &self.nodes {
            let info: String = node.ask("CLUSTER INFO").await.unwrap();
            if !info.contains(what) {
                return false;
            }
        }
        true
    }

    async fn replicas_are_there(&self) -> bool {
        for n in 0..3 {
            let info: String = self.nodes[n].ask("INFO replication").await.unwrap();
            let slots: Value = self.nodes[n].ask("CLUSTER SLOTS").await.unwrap();
            // A range that a replica is known for has four parts.
            let Value::Array(ranges) = slots else { return false };
            let known = ranges.len() == 3
                && ranges.iter().all(|range| matches!(range, Value::Array(parts) if parts.len() == 4));
            if !info.contains("state=online") || !known {
                return false;
            }
        }
        true
    }

    /// Options that name two of the nodes.
    pub(super) fn options(&self) -> RedisOptions {
        let url = format!("redis://127.0.0.1:{},127.0.0.1:{}", self.nodes[0].port(), self.nodes[2].port());
        RedisOptions { layout: Layout::Cluster, writers: 2, ..patient(url) }
    }

    /// Which of the first three nodes has a shard at the start.
    pub(super) fn home(shard: u16) -> usize {
        Self::node_of(&keys::meta(shard))
    }

    /// Which of them has a key at the start.
    pub(super) fn node_of(key: &str) -> usize {
        match keys::slot(key.as_bytes()) {
            0..=5460 => 0,
            5461..=10922 => 1,
            _ => 2,
        }
    }

    /// Forgets everything.
    pub(super) async fn clear(&self) {
        for node in &self.nodes[..3] {
            node.tell("FLUSHALL").await;
        }
    }

    /// Moves the slot of a shard from one primary to another, as an operator's tools do: key by key, with calls in between.
    pub(super) async fn move_shard(&self, shard: u16, from: usize, to: usize) {
        let slot = keys::slot(keys::meta(shard).as_bytes());
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let source_id: String = source.ask("CLUSTER MYID").await.unwrap();
        let target_id: String = target.ask("CLUSTER MYID").await.unwrap();
        target.tell(&format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}")).await;
        source.tell(&format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}")).await;
        let mut client = source.client().await;
        loop {
            let keys: Vec<String> = redis::cmd("CLUSTER")
                .arg("GETKEYSINSLOT")
                .arg(slot)
                .arg(5)
                .query_async(&mut client)
                .await
                .unwrap();
            if keys.is_empty() {
                break;
            }
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(target.port()).arg("").arg(0).arg(60_000).arg("KEYS").arg(keys);
            let (): () = migrate.query_async(&mut client).await.unwrap();
            tokio::task::yield_now().await;
        }
        for node in [target, source] {
            node.tell(&format!("CLUSTER SETSLOT {slot} NODE {target_id}")).await;
        }
    }
}

impl Watched {
    /// The name under which the Sentinels know the primary.
    pub(super) const NAME: &str = "queues";

    /// Starts all of them and waits until they know each other.
    /// A primary that is silent for `down_after` is replaced.
    pub(super) async fn start(down_after: Duration, arguments: &[&str]) -> Self {
        let own = ["--repl-diskless-sync-delay", "0"];
        let arguments: Vec<&str> = own.iter().chain(arguments).copied().collect();
        let servers: Vec<Server> = (0..3).map(|_| Server::start_on_port(&arguments)).collect();
        for replica in &servers[1..] {
            replica.tell(&format!("REPLICAOF 127.0.0.1 {}", servers[0].port())).await;
        }
        until("the replicas are there", async || {
            let info: String = servers[0].ask("INFO replication").await.unwrap();
            info.matches("state=online").count() == 2
        })
        .await;
        let name = Self::NAME;
        let lines = format!(
            "sentinel monitor {name} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {name} {}\n\
             sentinel failover-timeout {name} 20000\n",
            servers[0].port(),
            down_after.as_millis()
        );
        let sentinels: Vec<Server> = (0..3).map(|_| Server::start_sentinel(&lines)).collect();
        for sentinel in &sentinels {
            until("the Sentinels know each other and the replicas", async || {
                let fields: Vec<String> = sentinel.ask(&format!("SENTINEL MASTER {name}")).await.unwrap();
                let get = |wanted: &str| {
                    fields.iter().position(|field| field == wanted).map(|at| fields[at + 1].as_str())
                };
                get("num-other-sentinels") == Some("2") && get("num-slaves") == Some("2")
            })
            .await;
        }
        Self { servers, sentinels }
    }

    /// Options that name the Sentinels.
    pub(super) fn options(&self) -> RedisOptions {
        let ports: Vec<String> =
            self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
        let layout = Layout::Sentinel(Self::NAME.into());
        RedisOptions { layout, writers: 2, ..patient(format!("redis://{}", ports.join(","))) }
    }
}
