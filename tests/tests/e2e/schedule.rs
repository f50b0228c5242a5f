//! A task with a processing time waits for it.

use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, TaskReason, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    locations::ORIGIN_BUCKET,
};
use prost_types::Timestamp;

#[expect(clippy::disallowed_methods, reason = "a caller's clock, as a caller has it")]
fn in_seconds(seconds: i64) -> Timestamp {
    let mut at = Timestamp::from(SystemTime::now());
    at.seconds += seconds;
    at
}

fn at(process_at: Timestamp) -> pb::SubmitOptions {
    pb::SubmitOptions { process_at: Some(process_at), ..Default::default() }
}

fn as_ms(timestamp: &Timestamp) -> i64 {
    timestamp.seconds * 1000 + i64::from(timestamp.nanos) / 1_000_000
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_task_waits_in_working_and_starts_when_its_time_has_come() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let wanted = in_seconds(3);
    let submitted = env.submit_with(object("photo"), at(wanted)).await?;
    ensure!(submitted.state() == TaskState::Scheduled, "{submitted:?}");
    let task = env.task(&submitted.task_id).await?;
    if task.state() == TaskState::Scheduled {
        let process_at = task.process_at.context("a scheduled task says when")?;
        ensure!((as_ms(&process_at) - as_ms(&wanted)).abs() <= 1, "{process_at:?} is not {wanted:?}");
    }
    let done = env.until(&submitted.task_id, TaskState::Done).await?;
    env.prove(&done, &written).await?;
    let finished = done.finished_at.context("a done task says when")?;
    ensure!(as_ms(&finished) >= as_ms(&wanted), "it was finished at {finished:?}, before {wanted:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processing_time_in_the_past_means_now() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let submitted = env.submit_with(object("photo"), at(in_seconds(-1000))).await?;
    ensure!(submitted.state() == TaskState::Pending, "{submitted:?}");
    env.prove(&env.until(&submitted.task_id, TaskState::Done).await?, &written).await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_outlives_the_dispatcher_and_redis() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default()).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let submitted = env.submit_with(object("photo"), at(in_seconds(4))).await?;
    env.dispatcher().kill()?;
    env.redis().kill()?;
    env.redis().restart().await?;
    env.restart_dispatcher().await?;
    env.prove(&env.until(&submitted.task_id, TaskState::Done).await?, &written).await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_task_that_is_cancelled_never_runs() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let id = env.submit_with(object("photo"), at(in_seconds(3600))).await?.task_id;
    let task = env.cancel(&id).await?;
    ensure!(
        task.state() == TaskState::Cancelled && task.reason() == TaskReason::CancelledByCaller,
        "{task:?}"
    );
    ensure!(task.process_at.is_none(), "nothing will be done about it any more");
    ensure!(env.list(&[TaskState::Scheduled]).await?.is_empty(), "no schedule is left");
    ensure!(env.kept().await?.is_empty(), "there is no copy");
    env.finish().await
}
