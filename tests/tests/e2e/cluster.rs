//! A Redis Cluster under the shipped programs: a primary dies in the middle of copies, its replica takes over, and nothing accepted is
//! lost or copied twice; the shards of the other primaries go on all the while.

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::TaskState;
use backhaul_tests::{
    TestEnv,
    env::EnvOptions,
    eventually,
    locations::ORIGIN_BUCKET,
    ports::Port,
    redis::{Persistence, RedisOptions, RedisServer},
};
use redis::{FromRedisValue, Value};

const PRIMARIES: usize = 3;
const SLOTS: usize = 16_384;

/// Three primaries with a replica each: node `n + 3` begins as the replica of node `n`.
struct Cluster {
    nodes: Vec<Node>,
}

struct Node {
    server: RedisServer,
    /// Where the nodes talk among themselves.
    bus: Port,
}

impl Cluster {
    async fn start() -> anyhow::Result<Self> {
        let mut nodes = Vec::new();
        for _ in 0..2 * PRIMARIES {
            let bus = Port::lease()?;
            let options = RedisOptions::durable()?
                .setting("cluster-enabled", "yes")
                .setting("cluster-port", &bus.number().to_string())
                .setting("cluster-node-timeout", "5000")
                .setting("cluster-require-full-coverage", "no")
                .setting("repl-diskless-sync-delay", "0");
            nodes.push(Node { server: RedisServer::start(options).await?, bus });
        }
        for (n, node) in nodes.iter().enumerate() {
            if n < PRIMARIES {
                let (first, end) = (n * SLOTS / PRIMARIES, (n + 1) * SLOTS / PRIMARIES);
                let _: () = ask(node, &format!("CLUSTER ADDSLOTSRANGE {first} {}", end - 1)).await?;
            }
            let _: () = ask(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1)).await?;
        }
        for (n, node) in nodes.iter().enumerate() {
            // Everybody to everybody: waiting for gossip takes seconds.
            for other in &nodes[n + 1..] {
                let (port, bus) = (other.server.port(), other.bus.number());
                let _: () = ask(node, &format!("CLUSTER MEET 127.0.0.1 {port} {bus}")).await?;
            }
        }
        let cluster = Self { nodes };
        cluster.until_all_say(&format!("cluster_known_nodes:{}", 2 * PRIMARIES)).await?;
        for n in 0..PRIMARIES {
            let primary: String = ask(&cluster.nodes[n], "CLUSTER MYID").await?;
            eventually("a replica has its primary", async || {
                ask::<()>(&cluster.nodes[n + PRIMARIES], &format!("CLUSTER REPLICATE {primary}")).await
            })
            .await?;
        }
        // Without full coverage a node calls the cluster good before it has heard who has which slots.
        cluster.until_all_say(&format!("cluster_slots_assigned:{SLOTS}")).await?;
        cluster.until_all_say("cluster_state:ok").await?;
        for n in 0..PRIMARIES {
            cluster.until_info(n, "state=online").await?;
        }
        Ok(cluster)
    }

    async fn until_all_say(&self, wanted: &str) -> anyhow::Result<()> {
        eventually(wanted, async || {
            for node in &self.nodes {
                let info: String = ask(node, "CLUSTER INFO").await?;
                ensure!(info.contains(wanted), "{info}");
            }
            Ok(())
        })
        .await
    }

    async fn until_info(&self, n: usize, wanted: &str) -> anyhow::Result<()> {
        eventually(wanted, async || {
            let info: String = ask(&self.nodes[n], "INFO replication").await?;
            ensure!(info.contains(wanted), "{info}");
            Ok(())
        })
        .await
    }

    /// Names two of the nodes.
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{},127.0.0.1:{}", self.nodes[0].server.port(), self.nodes[2].server.port())
    }
}

async fn ask<T: FromRedisValue>(node: &Node, command: &str) -> anyhow::Result<T> {
    let mut words = command.split(' ');
    let mut built = redis::cmd(words.next().unwrap_or_default());
    words.for_each(|word| {
        built.arg(word);
    });
    let mut connection = node.server.connect().await?;
    let value: Value = built.query_async(&mut connection).await.with_context(|| command.to_owned())?;
    Ok(redis::from_redis_value(value)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_of_a_cluster_that_dies_in_the_middle_of_copies_loses_and_repeats_nothing()
-> anyhow::Result<()> {
    const OBJECTS: usize = 40;
    let mut cluster = Cluster::start().await?;
    let options = EnvOptions::default()
        .workers(2)
        .redis(RedisOptions::durable()?.persistence(Persistence::Nothing))
        .dispatcher_flag("redis-url", &cluster.url())
        .dispatcher_flag("redis-cluster", "")
        .dispatcher_flag("shards", "16")
        .dispatcher_flag("durability", "replicas=1");
    let env = TestEnv::start(options).await?;
    // Copies begin and cannot end, until the primary is dead.
    env.vault_gate().shut();
    let mut tasks = Vec::new();
    for number in 0..OBJECTS {
        let key = format!("n/{number}");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, 100_000).await?;
        tasks.push((env.submit(&key).await?.task_id, written));
    }
    eventually("copies are at work", async || {
        let working = env.list(&[TaskState::Working]).await?;
        ensure!(!working.is_empty(), "none is");
        Ok(())
    })
    .await?;
    cluster.nodes[0].server.kill()?;
    env.vault_gate().open();

    // What belongs to the others is accepted meanwhile; the rest when the dead one's successor has a replica to confirm with.
    let mut waiting = Vec::new();
    for number in 0..10 {
        let key = format!("meanwhile/{number}");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, 1000).await?;
        waiting.push((key, written));
    }
    let begun = tasks.len();
    eventually("others go on", async || {
        let (key, written) = waiting.pop().context("there is nothing left to submit")?;
        match env.submit(&key).await {
            Ok(accepted) => tasks.push((accepted.task_id, written)),
            Err(_) => waiting.insert(0, (key, written)),
        }
        ensure!(tasks.len() > begun, "nothing is accepted");
        Ok(())
    })
    .await?;
    cluster.until_info(PRIMARIES, "role:master").await?;
    cluster.nodes[0].server.restart().await?;
    cluster.until_info(0, "role:slave").await?;
    for (key, written) in waiting {
        let accepted = eventually("it is accepted", async || env.submit(&key).await).await?;
        tasks.push((accepted.task_id, written));
    }
    for (id, written) in &tasks {
        eventually("the dispatcher reads tasks again", async || env.task(id).await).await?;
        let task = env.until(id, TaskState::Done).await?;
        ensure!(task.attempts == 0, "a failover is no attempt: {task:?}");
        env.prove(&task, written).await?;
    }
    ensure!(env.kept().await?.len() == tasks.len(), "one copy each");
    env.finish().await
}
