//! A Redis that a test owns keeps what it promised through kills, and is heard when it cannot start.

use std::time::Duration;

use backhaul_tests::{
    eventually::within,
    redis::{Fsync, Persistence, RedisOptions, RedisServer},
    settings,
};
use redis::AsyncCommands as _;

async fn set(server: &RedisServer, key: &str) -> redis::RedisResult<()> {
    server.connect().await?.set(key, "kept").await
}

async fn get(server: &RedisServer, key: &str) -> redis::RedisResult<Option<String>> {
    server.connect().await?.get(key).await
}

#[tokio::test]
async fn what_was_answered_survives_a_kill_with_the_append_only_file() {
    let mut server = RedisServer::start(RedisOptions::durable().unwrap()).await.unwrap();
    let url = server.url();
    for round in 0..3 {
        set(&server, &format!("key-{round}")).await.unwrap();
        server.kill().unwrap();
        assert!(server.connect().await.is_err(), "a killed server answers nobody");
        server.restart().await.unwrap();
        assert_eq!(server.url(), url, "clients find it where it was");
    }
    for round in 0..3 {
        assert_eq!(get(&server, &format!("key-{round}")).await.unwrap().as_deref(), Some("kept"));
    }
}

#[tokio::test]
async fn without_persistence_a_kill_forgets_everything() {
    let options = RedisOptions::durable().unwrap().persistence(Persistence::Nothing);
    let mut server = RedisServer::start(options).await.unwrap();
    set(&server, "key").await.unwrap();
    server.kill().unwrap();
    server.restart().await.unwrap();
    assert_eq!(get(&server, "key").await.unwrap(), None);
}

#[tokio::test]
async fn a_paused_server_holds_connections_and_answers_after_it_resumes() {
    let mut server = RedisServer::start(RedisOptions::durable().unwrap()).await.unwrap();
    let mut connection = server.connect().await.unwrap();
    server.pause().unwrap();
    let ping = async { redis::cmd("PING").query_async::<String>(&mut connection).await };
    let (answer, resumed) = tokio::join!(ping, async { server.resume() });
    resumed.unwrap();
    assert_eq!(answer.unwrap(), "PONG");
}

#[tokio::test]
async fn settings_reach_the_server() {
    let options = RedisOptions::durable()
        .unwrap()
        .persistence(Persistence::AppendOnly(Fsync::EverySecond))
        .setting("maxmemory-policy", "noeviction")
        .setting("maxmemory", "64mb");
    let server = RedisServer::start(options).await.unwrap();
    let mut connection = server.connect().await.unwrap();
    let (_, fsync): (String, String) =
        redis::cmd("CONFIG").arg("GET").arg("appendfsync").query_async(&mut connection).await.unwrap();
    let (_, memory): (String, String) =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory").query_async(&mut connection).await.unwrap();
    assert_eq!((fsync.as_str(), memory.as_str()), ("everysec", "67108864"));
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_and_at_once() {
    let options = RedisOptions::durable().unwrap().setting("no-such-setting", "1");
    let error = RedisServer::start(options).await.unwrap_err();
    let told = format!("{error:#}");
    assert!(told.contains("no-such-setting"), "{told}");
}

#[tokio::test]
async fn a_newer_redis_can_take_its_place() {
    let Some(binary) = settings::redis_server_8() else {
        println!("not run: there is no Redis 8 or Valkey 8 on this machine (see tests/setup/redis8.sh)");
        return;
    };
    let server = RedisServer::start(RedisOptions::with_binary(binary)).await.unwrap();
    let version = server.version().await.unwrap();
    assert!(version.starts_with('8') || version.starts_with("7.2"), "{version}: Valkey 8 calls itself 7.2");
}

#[tokio::test]
async fn two_servers_run_side_by_side() {
    let one = RedisServer::start(RedisOptions::durable().unwrap()).await.unwrap();
    let two = RedisServer::start(RedisOptions::durable().unwrap()).await.unwrap();
    set(&one, "key").await.unwrap();
    assert_eq!(get(&two, "key").await.unwrap(), None);
    let url = one.url();
    drop(one);
    let gone = within(Duration::ZERO, "it answers", async || {
        Ok(redis::Client::open(url.as_str())?.get_connection()?)
    });
    assert!(gone.await.is_err(), "a dropped server is gone");
    assert_eq!(get(&two, "key").await.unwrap(), None, "and the other is not");
}
