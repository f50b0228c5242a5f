//! Redis is killed or stands still; what was accepted stays accepted, and what was not is said to be not.

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    eventually,
    locations::ORIGIN_BUCKET,
};
use tonic::Code;
use tonic_types::StatusExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_survives_a_kill_of_redis() -> anyhow::Result<()> {
    const OBJECTS: usize = 40;
    let mut env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let mut tasks = Vec::new();
    for number in 0..OBJECTS {
        let key = format!("n/{number}");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, 1000).await?;
        tasks.push((env.submit(&key).await?.task_id, written));
    }
    env.redis().kill()?;
    env.redis().restart().await?;
    env.add_worker().await?;
    for (id, written) in &tasks {
        env.prove(&eventually_done(&env, id).await?, written).await?;
    }
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_redis_in_the_middle_of_copies_loses_and_repeats_nothing() -> anyhow::Result<()> {
    const OBJECTS: usize = 40;
    let mut env = TestEnv::start(EnvOptions::default().workers(2)).await?;
    let mut tasks = Vec::new();
    for number in 0..OBJECTS {
        let key = format!("n/{number}");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, 100_000).await?;
        tasks.push((env.submit(&key).await?.task_id, written));
    }
    env.redis().kill()?;
    env.redis().restart().await?;
    for (id, written) in &tasks {
        let task = eventually_done(&env, id).await?;
        ensure!(task.attempts == 0, "an outage is no attempt: {task:?}");
        env.prove(&task, written).await?;
    }
    ensure!(env.kept().await?.len() == OBJECTS, "one copy each");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_submit_is_refused_and_may_be_repeated() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default()).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    env.redis().kill()?;
    let request = || pb::SubmitBackupRequest { object: Some(object("photo")), options: None };
    let refused = env.backups()?.submit_backup(request()).await.err().context("nothing can be stored now")?;
    ensure!(refused.code() == Code::Unavailable, "{refused:?}");
    let details = refused.get_error_details();
    ensure!(details.retry_info().is_some_and(|info| info.retry_delay.is_some()), "it says when to try again");
    ensure!(details.error_info().is_some_and(|info| info.domain == "backhaul"), "{details:?}");
    ensure!(!format!("{refused:?}").contains("127.0.0.1"), "callers do not learn where Redis is");

    env.redis().restart().await?;
    let accepted = eventually("it is accepted", async || {
        Ok(env.backups()?.submit_backup(request()).await?.into_inner())
    })
    .await?;
    env.prove(&eventually_done(&env, &accepted.task_id).await?, &written).await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_longer_than_a_lease_costs_no_crash() -> anyhow::Result<()> {
    let options = EnvOptions::default().dispatcher_flag("lease", "1500ms");
    let mut env = TestEnv::start(options).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1_000_000).await?;
    env.vault_gate().shut();
    let id = env.submit("photo").await?.task_id;
    env.until(&id, TaskState::Working).await?;
    env.redis().pause()?;
    // The outage has to be longer than the lease: nothing can be observed while Redis stands still.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    env.redis().resume()?;
    env.vault_gate().open();
    let task = eventually_done(&env, &id).await?;
    env.prove(&task, &written).await?;
    ensure!(task.crashes == 0, "nobody could renew, so nobody is to blame: {task:?}");
    env.finish().await
}

/// As `until(.., Done)`, while calls may still fail because Redis has just come back.
async fn eventually_done(env: &TestEnv, id: &str) -> anyhow::Result<pb::Backup> {
    eventually("the dispatcher reads tasks again", async || env.task(id).await).await?;
    env.until(id, TaskState::Done).await
}
