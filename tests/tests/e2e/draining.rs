//! Programs that are asked to end with work in hand: in order at the first signal, at once at the second.

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::Operation;
use backhaul_proto::v1::{self as pb, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    eventually,
    locations::ORIGIN_BUCKET,
    process::{Process, Signal},
};

/// As a shell tells of a program that SIGTERM has ended.
const TERMINATED: i32 = 143;

/// Submits so many objects that cannot be read yet, and waits until all are being copied. Open the origin's gate to let them go on.
async fn in_hand(env: &TestEnv, count: usize) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    let options = pb::SubmitOptions { size_hint_bytes: 20_000, ..Default::default() };
    for number in 0..count {
        env.uploads().put_random(ORIGIN_BUCKET, &format!("n/{number}"), 20_000).await?;
    }
    env.origin_gate().shut();
    for number in 0..count {
        ids.push(env.submit_with(object(&format!("n/{number}")), options.clone()).await?.task_id);
    }
    eventually("all of them are being copied", async || {
        let working = env.list(&[TaskState::Working]).await?;
        let accepted = working.iter().filter(|task| task.progress.is_some()).count();
        ensure!(accepted == count, "{accepted} are");
        Ok(())
    })
    .await?;
    Ok(ids)
}

async fn has_said(process: &mut Process, what: &str) -> anyhow::Result<()> {
    eventually(what, async || {
        process.ensure_running()?;
        ensure!(process.log()?.contains(what), "not yet");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_is_asked_to_end_leaves_its_copies_to_another_at_no_cost() -> anyhow::Result<()> {
    const COPIES: usize = 20;
    const WORKERS: usize = 4;
    let options = EnvOptions::default()
        .workers(0)
        .dispatcher_flag("lease", "30s")
        .dispatcher_flag("processing-timeout", "10m")
        .dispatcher_flag("drain-within", "25s")
        .worker_flag("max-tasks", "5");
    let mut env = TestEnv::start(options).await?;
    let second = env.add_dispatcher(&[]).await?;
    for _ in 0..WORKERS {
        env.add_worker().await?;
    }
    let ids = in_hand(&env, COPIES).await?;
    ensure!(env.dispatcher().stop().await?.success(), "it ends in order, with copies running");
    env.call(second);
    env.origin_gate().open();
    for id in &ids {
        let task = env.until(id, TaskState::Done).await?;
        ensure!((task.attempts, task.crashes) == (0, 0), "{task:?}");
    }
    let reads = env.origin_faults()?.requests(Operation::GetObject);
    ensure!(reads == COPIES as u64, "each object was read once, not {reads} times in all");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_worker_at_once() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default().worker_flag("drain-within", "10m")).await?;
    in_hand(&env, 1).await?;
    env.worker(0).signal(Signal::Terminate)?;
    has_said(env.worker(0), "signal received").await?;
    env.worker(0).signal(Signal::Terminate)?;
    let status = env.worker(0).wait().await?;
    ensure!(status.code().context("it ended by itself")? == TERMINATED, "{status}");
    env.origin_gate().open();
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_dispatcher_at_once() -> anyhow::Result<()> {
    let options = EnvOptions::default().dispatcher_flag("drain-within", "10m").dispatcher_flag("lease", "5m");
    let mut env = TestEnv::start(options).await?;
    in_hand(&env, 1).await?;
    // It keeps its stream and does not leave.
    env.worker(0).signal(Signal::Stop)?;
    env.dispatcher().signal(Signal::Terminate)?;
    has_said(env.dispatcher(), "signal received").await?;
    env.dispatcher().signal(Signal::Terminate)?;
    let status = env.dispatcher().wait().await?;
    ensure!(status.code().context("it ended by itself")? == TERMINATED, "{status}");
    env.worker(0).signal(Signal::Continue)?;
    env.worker(0).kill()?;
    env.finish().await
}
