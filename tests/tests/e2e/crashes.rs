//! Workers and dispatchers vanish in the middle of their work; every accepted task ends all the same, once.

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::{Action, Operation, Rule};
use backhaul_proto::v1::{self as pb, TaskReason, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, worker_name},
    eventually,
    locations::{ORIGIN_BUCKET, VAULT_BUCKET},
    s3::Written,
};

const MIB: usize = 1024 * 1024;
const BIG: usize = 24 * MIB + 17;

/// An environment with one worker that stands still in the middle of copying `big`.
async fn in_mid_copy(options: EnvOptions) -> anyhow::Result<(TestEnv, String, Written)> {
    let env = TestEnv::start(options.worker_flag("part-size", "5MiB")).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "big", BIG).await?;
    let before = env.origin_gate().answered_bytes();
    env.origin_gate().shut_after(7 * MIB as u64);
    let id = env.submit("big").await?.task_id;
    eventually("the copy is under way", async || {
        let copied = env.origin_gate().answered_bytes() - before;
        ensure!(copied >= 7 * MIB as u64, "{copied} bytes have been read");
        Ok(())
    })
    .await?;
    let task = env.until(&id, TaskState::Working).await?;
    ensure!(task.worker == worker_name(0), "{task:?}");
    Ok((env, id, written))
}

/// One whole copy by `worker`, and nothing half-done beside it.
async fn finished_by(
    env: &TestEnv,
    id: &str,
    worker: usize,
    written: &Written,
) -> anyhow::Result<pb::Backup> {
    let task = env.until(id, TaskState::Done).await?;
    let receipt = env.prove(&task, written).await?;
    ensure!(receipt.worker == worker_name(worker), "{receipt:?}");
    ensure!(env.kept().await?.len() == 1, "there is one copy");
    eventually("no multipart upload is left", async || {
        let open = env.copies().open_uploads(VAULT_BUCKET).await?;
        ensure!(open.is_empty(), "{open:?}");
        Ok(())
    })
    .await?;
    Ok(task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_mid_copy_is_replaced_by_another() -> anyhow::Result<()> {
    let (mut env, id, written) = in_mid_copy(EnvOptions::default()).await?;
    env.worker(0).kill()?;
    env.origin_gate().open();
    let second = env.add_worker().await?;
    let task = finished_by(&env, &id, second, &written).await?;
    ensure!(task.crashes == 1 && task.attempts == 0, "a crash is not a failure: {task:?}");
    env.finish().await
}

/// Parts of the one upload in progress that the store has.
async fn parts_held(env: &TestEnv) -> anyhow::Result<usize> {
    let copies = env.copies();
    let uploads = copies.sdk().list_multipart_uploads().bucket(VAULT_BUCKET).send().await?;
    let [upload] = uploads.uploads() else { return Ok(0) };
    let key = upload.key().context("an upload has a key")?;
    let parts = copies.sdk().list_parts().bucket(VAULT_BUCKET).key(key);
    let listed = parts.set_upload_id(upload.upload_id().map(str::to_owned)).send().await?;
    Ok(listed.parts().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_had_uploaded_is_not_uploaded_again() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default().worker_flag("part-size", "5MiB")).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "big", BIG).await?;
    let parts = BIG.div_ceil(5 * MIB);
    // Two parts arrive; the others stand still on their way.
    env.vault_faults()?.add(Rule::new(Operation::UploadPart, Action::Hang).skip(2).always());
    let id = env.submit("big").await?.task_id;
    eventually("two parts are there", async || {
        let held = parts_held(&env).await?;
        ensure!(held == 2, "{held} parts");
        Ok(())
    })
    .await?;
    env.worker(0).kill()?;
    env.vault_faults()?.clear();
    env.vault_faults()?.reset_requests();
    let second = env.add_worker().await?;
    let task = finished_by(&env, &id, second, &written).await?;
    ensure!(task.crashes == 1 && task.attempts == 0, "{task:?}");
    let uploaded = env.vault_faults()?.requests(Operation::UploadPart);
    ensure!(uploaded == parts as u64 - 2, "{uploaded} of {parts} parts were uploaded by the second worker");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_asked_to_end_gives_its_task_back_at_no_cost() -> anyhow::Result<()> {
    let options = EnvOptions::default().worker_flag("drain-within", "2s");
    let (mut env, id, written) = in_mid_copy(options).await?;
    let status = env.worker(0).stop().await?;
    ensure!(status.success(), "it ended with {status}");
    env.origin_gate().open();
    let second = env.add_worker().await?;
    let task = finished_by(&env, &id, second, &written).await?;
    ensure!(task.crashes == 0 && task.attempts == 0, "a drain costs nothing: {task:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cut_off_from_the_dispatcher_loses_its_task_and_does_no_harm() -> anyhow::Result<()> {
    let (mut env, id, written) = in_mid_copy(EnvOptions::default()).await?;
    env.worker_gate(0).shut();
    let second = env.add_worker().await?;
    eventually("the task is taken from the first worker", async || {
        let task = env.task(&id).await?;
        ensure!(task.crashes == 1, "{task:?}");
        Ok(())
    })
    .await?;
    env.origin_gate().open();
    let task = finished_by(&env, &id, second, &written).await?;
    ensure!(task.crashes == 1 && task.attempts == 0, "{task:?}");
    env.worker_gate(0).open();
    // It comes back, learns that its lease is lost, and is of use again.
    env.worker(second).kill()?;
    let next = env.uploads().put_random(ORIGIN_BUCKET, "next", 1000).await?;
    let id = env.submit("next").await?.task_id;
    let receipt = env.prove(&env.until(&id, TaskState::Done).await?, &next).await?;
    ensure!(receipt.worker == worker_name(0), "{receipt:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_while_the_dispatcher_is_replaced() -> anyhow::Result<()> {
    let options = EnvOptions::default().dispatcher_flag("lease", "20s");
    let (mut env, id, written) = in_mid_copy(options).await?;
    env.dispatcher().kill()?;
    env.origin_gate().open();
    env.restart_dispatcher().await?;
    let task = finished_by(&env, &id, 0, &written).await?;
    ensure!(task.crashes == 0 && task.attempts == 0, "the lease moves to the new dispatcher: {task:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_when_the_dispatcher_is_killed() -> anyhow::Result<()> {
    const OBJECTS: usize = 60;
    let mut env = TestEnv::start(EnvOptions::default().workers(2)).await?;
    let mut tasks = Vec::new();
    for number in 0..OBJECTS {
        let key = format!("n/{number}");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, 4096).await?;
        tasks.push((env.submit(&key).await?.task_id, written));
        if number % 20 == 10 {
            env.dispatcher().kill()?;
            env.restart_dispatcher().await?;
        }
    }
    for (id, written) in &tasks {
        env.prove(&env.until(id, TaskState::Done).await?, written).await?;
    }
    ensure!(env.kept().await?.len() == OBJECTS, "one copy each");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_kills_its_workers_is_put_aside() -> anyhow::Result<()> {
    let (mut env, id, _) = in_mid_copy(EnvOptions::default().dispatcher_flag("lease", "1500ms")).await?;
    env.worker(0).kill()?;
    for crashes in 1..3 {
        eventually("the crash is counted", async || {
            let task = env.task(&id).await?;
            ensure!(task.crashes == crashes, "{task:?}");
            Ok(())
        })
        .await?;
        let number = env.add_worker().await?;
        eventually("the next worker has it", async || {
            let task = env.task(&id).await?;
            ensure!(task.state() == TaskState::Working && task.worker == worker_name(number), "{task:?}");
            ensure!(task.progress.is_some(), "it has been accepted and heard of: {task:?}");
            Ok(())
        })
        .await?;
        env.worker(number).kill()?;
    }
    let dead = env.until(&id, TaskState::Dead).await?;
    ensure!(
        dead.reason() == TaskReason::CrashedTooOften && dead.crashes == 3 && dead.attempts == 0,
        "{dead:?}"
    );
    env.finish().await
}
