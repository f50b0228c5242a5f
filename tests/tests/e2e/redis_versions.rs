//! Backhaul on the Redis versions that it promises to work with, each with the durability that it can give.

use anyhow::ensure;
use backhaul_proto::v1::TaskState;
use backhaul_tests::{
    TestEnv,
    env::EnvOptions,
    locations::ORIGIN_BUCKET,
    redis::{Fsync, Persistence, RedisOptions, RedisServer},
    settings,
};

/// Submit, fail, retry, succeed, and a kill of Redis in between: every script and the barrier of an accepted submit.
async fn journey_on(redis: RedisOptions, durability: &str) -> anyhow::Result<()> {
    let options = EnvOptions::default()
        .redis(redis)
        .dispatcher_flag("durability", durability)
        .dispatcher_flag("max-attempts", "100");
    let mut env = TestEnv::start(options).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 100_000).await?;
    env.vault_gate().refuse();
    let id = env.submit("photo").await?.task_id;
    env.until(&id, TaskState::Delayed).await?;
    if durability != "none" {
        env.redis().kill()?;
        env.redis().restart().await?;
    }
    env.vault_gate().open();
    backhaul_tests::eventually("the dispatcher reads tasks again", async || env.task(&id).await).await?;
    let done = env.until(&id, TaskState::Done).await?;
    env.prove(&done, &written).await?;
    ensure!(done.attempts > 0, "{done:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn this_machines_redis_keeps_what_it_accepted_with_fsync_always() -> anyhow::Result<()> {
    journey_on(RedisOptions::durable()?, "local").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_persistence_serves_who_asks_for_no_durability() -> anyhow::Result<()> {
    journey_on(RedisOptions::durable()?.persistence(Persistence::Nothing), "none").await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_8_or_valkey_8_keeps_what_it_accepted_with_fsync_every_second() -> anyhow::Result<()> {
    let Some(binary) = settings::redis_server_8() else {
        println!("not run: there is no Redis 8 or Valkey 8 on this machine (see tests/setup/redis8.sh)");
        return Ok(());
    };
    let redis = RedisOptions::with_binary(binary).persistence(Persistence::AppendOnly(Fsync::EverySecond));
    journey_on(redis, "local").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_may_evict_tasks_is_not_served() -> anyhow::Result<()> {
    let redis =
        RedisOptions::durable()?.setting("maxmemory", "64mb").setting("maxmemory-policy", "allkeys-lru");
    let server = RedisServer::start(redis.clone()).await?;
    ensure!(server.version().await?.starts_with(char::is_numeric), "the server itself is well");
    drop(server);
    let refused = TestEnv::start(EnvOptions::default().redis(redis)).await;
    ensure!(refused.is_err(), "tasks could vanish: the dispatcher must not serve on it");
    Ok(())
}
