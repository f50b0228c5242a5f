//! The worst moments to lose a process: a worker frozen as it completes a copy, a dispatcher killed under a hundred of them.

use std::time::Duration;

use anyhow::ensure;
use backhaul_embedded_s3::{Action, Operation, Rule};
use backhaul_proto::v1::{self as pb, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object, worker_name},
    eventually,
    locations::{ORIGIN_BUCKET, VAULT_BUCKET},
    process::Signal,
};

const MIB: usize = 1024 * 1024;

/// Freezes a worker that has sent the last request of its copy, to which this happens, lets another finish the task, and thaws it.
async fn frozen_as_it_completes(last: Action) -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default().worker_flag("part-size", "5MiB")).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "big", 20 * MIB + 5).await?;
    let completion = env.vault_faults()?.add(Rule::new(Operation::CompleteMultipartUpload, last).times(1));
    let id = env.submit("big").await?.task_id;
    eventually("the first worker completes its copy", async || {
        ensure!(env.vault_faults()?.fired(completion) == 1, "not yet");
        Ok(())
    })
    .await?;
    env.worker(0).signal(Signal::Stop)?;
    let second = env.add_worker().await?;
    let task = env.until(&id, TaskState::Done).await?;
    let receipt = env.prove(&task, &written).await?;
    ensure!(receipt.worker == worker_name(second), "{receipt:?}");
    ensure!(task.crashes == 1 && task.attempts == 0, "{task:?}");

    env.worker(0).signal(Signal::Continue)?;
    // It learns that it was too late, and is of use again.
    env.worker(second).kill()?;
    let next = env.uploads().put_random(ORIGIN_BUCKET, "next", 1000).await?;
    let next_id = env.submit("next").await?.task_id;
    let receipt = env.prove(&env.until(&next_id, TaskState::Done).await?, &next).await?;
    ensure!(receipt.worker == worker_name(0), "{receipt:?}");
    eventually("no multipart upload is left", async || {
        let open = env.copies().open_uploads(VAULT_BUCKET).await?;
        ensure!(open.is_empty(), "{open:?}");
        Ok(())
    })
    .await?;
    let after = env.task(&id).await?;
    ensure!(after.receipt == task.receipt && after.crashes == 1, "what was done stays as it was: {after:?}");
    ensure!(env.kept().await?.len() == 2, "one copy each");
    env.prove(&after, &written).await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_just_before_it_completes_is_fenced() -> anyhow::Result<()> {
    Box::pin(frozen_as_it_completes(Action::Hang)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_while_its_completion_is_under_way_is_fenced() -> anyhow::Result<()> {
    Box::pin(frozen_as_it_completes(Action::Delay(Duration::from_secs(1)))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_copies_go_on_when_their_dispatcher_is_killed_and_none_is_repeated() -> anyhow::Result<()> {
    const COPIES: usize = 100;
    let options = EnvOptions::default()
        .workers(0)
        .dispatcher_flag("lease", "30s")
        .dispatcher_flag("processing-timeout", "10m")
        .worker_flag("max-tasks", "100");
    let mut env = TestEnv::start(options).await?;
    let second = env.add_dispatcher(&[]).await?;
    for _ in 0..2 {
        env.add_worker().await?;
    }
    let mut tasks = Vec::new();
    for number in 0..COPIES {
        let key = format!("n/{number}");
        tasks.push((key.clone(), env.uploads().put_random(ORIGIN_BUCKET, &key, 20_000).await?));
    }
    env.origin_gate().shut();
    let mut ids = Vec::new();
    for (key, written) in tasks {
        // A size that is known: unknown ones count for a whole part each, and a worker has memory for thirty-two.
        let options = pb::SubmitOptions { size_hint_bytes: 20_000, ..Default::default() };
        ids.push((env.submit_with(object(&key), options).await?.task_id, written));
    }
    eventually("a hundred copies are under way", async || {
        let running = env.list(&[TaskState::Working]).await?;
        let accepted = running.iter().filter(|task| task.progress.is_some()).count();
        ensure!(accepted == COPIES, "{accepted} are");
        Ok(())
    })
    .await?;
    env.dispatcher().kill()?;
    env.call(second);
    env.origin_gate().open();
    for (id, written) in &ids {
        let task = env.until(id, TaskState::Done).await?;
        let receipt = env.prove(&task, written).await?;
        let repeated = receipt.already_present || task.crashes > 0 || task.attempts > 0;
        ensure!(!repeated, "the copy went on: {task:?}");
    }
    ensure!(env.kept().await?.len() == COPIES, "one copy each");
    let reads = env.origin_faults()?.requests(Operation::GetObject);
    ensure!(reads == COPIES as u64, "each object was read once, not {reads} times in all");
    env.finish().await
}
