//! A Redis that is watched by a Sentinel and dies: another one takes over, and nothing accepted is lost or copied twice.

use std::process::Command;

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::TaskState;
use backhaul_tests::{
    TestEnv,
    env::EnvOptions,
    eventually,
    locations::ORIGIN_BUCKET,
    ports::Port,
    process::Process,
    redis::{RedisOptions, RedisServer},
    settings,
};
use tempfile::TempDir;

/// The name under which the Sentinel knows the primary.
const NAME: &str = "queues";

/// A Redis with a replica, and a Sentinel that watches both. Dropping it ends all.
struct Watched {
    primary: RedisServer,
    replica: RedisServer,
    sentinel: Port,
    _process: Process,
    _folder: TempDir,
}

impl Watched {
    async fn start() -> anyhow::Result<Self> {
        let options = RedisOptions::durable()?.setting("repl-diskless-sync-delay", "0");
        let primary = RedisServer::start(options.clone()).await?;
        let replica = RedisServer::start(options).await?;
        follow(&replica, primary.port()).await?;
        until_info(&primary, "state=online").await?;
        let (sentinel, folder) = (Port::lease()?, TempDir::with_prefix("backhaul-sentinel-")?);
        let file = folder.path().join("sentinel.conf");
        let lines = format!(
            "bind 127.0.0.1\nport {}\nsentinel monitor {NAME} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {NAME} 3000\n",
            sentinel.number(),
            primary.port()
        );
        std::fs::write(&file, lines)?;
        let mut command = Command::new(settings::redis_server()?);
        command.arg(&file).arg("--sentinel").current_dir(folder.path());
        let process = Process::start("redis-sentinel", &mut command, &folder.path().join("sentinel.log"))?;
        let watched = Self { primary, replica, sentinel, _process: process, _folder: folder };
        eventually("the Sentinel knows the replica", async || {
            let client = redis::Client::open(watched.url())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let fields: Vec<String> =
                redis::cmd("SENTINEL").arg("MASTER").arg(NAME).query_async(&mut connection).await?;
            let at = fields.iter().position(|field| field == "num-slaves").context("no such field")?;
            ensure!(fields.get(at + 1).is_some_and(|count| count == "1"), "{fields:?}");
            Ok(())
        })
        .await?;
        Ok(watched)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.sentinel.number())
    }
}

async fn follow(replica: &RedisServer, primary: u16) -> anyhow::Result<()> {
    let mut connection = replica.connect().await?;
    let (): () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(primary).query_async(&mut connection).await?;
    Ok(())
}

async fn until_info(server: &RedisServer, wanted: &str) -> anyhow::Result<()> {
    eventually(wanted, async || {
        let mut connection = server.connect().await?;
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
        ensure!(info.contains(wanted), "{info}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_and_replaced_in_the_middle_of_copies_loses_and_repeats_nothing()
-> anyhow::Result<()> {
    const OBJECTS: usize = 40;
    let mut redis = Watched::start().await?;
    let options = EnvOptions::default()
        .workers(2)
        .dispatcher_flag("redis-url", &redis.url())
        .dispatcher_flag("redis-sentinel-master", NAME)
        .dispatcher_flag("durability", "replicas=1");
    let env = TestEnv::start(options).await?;
    let mut tasks = Vec::new();
    for number in 0..OBJECTS {
        let key = format!("n/{number}");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, 100_000).await?;
        tasks.push((env.submit(&key).await?.task_id, written));
    }
    redis.primary.kill()?;
    until_info(&redis.replica, "role:master").await?;
    // It comes back as the replica that the new primary needs before it may confirm anything.
    redis.primary.restart().await?;
    follow(&redis.primary, redis.replica.port()).await?;
    for (id, written) in &tasks {
        eventually("the dispatcher reads tasks again", async || env.task(id).await).await?;
        let task = env.until(id, TaskState::Done).await?;
        ensure!(task.attempts == 0, "a failover is no attempt: {task:?}");
        env.prove(&task, written).await?;
    }
    ensure!(env.kept().await?.len() == OBJECTS, "one copy each");
    let written = env.uploads().put_random(ORIGIN_BUCKET, "after", 1000).await?;
    let accepted = eventually("the new primary accepts", async || env.submit("after").await).await?;
    env.prove(&env.until(&accepted.task_id, TaskState::Done).await?, &written).await?;
    env.finish().await
}
