//! A task can be cancelled at any time before it is finished, and then leaves nothing behind.

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, TaskReason, TaskState};
use backhaul_tests::{
    TestEnv,
    env::EnvOptions,
    eventually,
    locations::{ORIGIN_BUCKET, VAULT_BUCKET},
};
use tonic::Code;
use tonic_types::StatusExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_task_is_cancelled_and_the_call_may_be_repeated() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let id = env.submit("photo").await?.task_id;
    for _ in 0..2 {
        let task = env.cancel(&id).await?;
        ensure!(
            task.state() == TaskState::Cancelled && task.reason() == TaskReason::CancelledByCaller,
            "{task:?}"
        );
    }
    ensure!(env.list(&[TaskState::Pending]).await?.is_empty(), "nothing waits");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_copy_is_stopped_and_leaves_nothing() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().worker_flag("part-size", "5MiB")).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "big", 24 << 20).await?;
    env.origin_gate().shut_after(7 << 20);
    let id = env.submit("big").await?.task_id;
    eventually("it is being copied", async || {
        let task = env.task(&id).await?;
        ensure!(task.state() == TaskState::Working && !task.worker.is_empty(), "{task:?}");
        Ok(())
    })
    .await?;
    let answer = env.cancel(&id).await?;
    ensure!([TaskState::Working, TaskState::Cancelled].contains(&answer.state()), "{answer:?}");
    let task = env.until(&id, TaskState::Cancelled).await?;
    ensure!(task.reason() == TaskReason::CancelledByCaller && task.receipt.is_none(), "{task:?}");
    env.origin_gate().open();
    ensure!(env.kept().await?.is_empty(), "there is no copy");
    ensure!(env.copies().open_uploads(VAULT_BUCKET).await?.is_empty(), "and no upload");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_task_cannot_be_cancelled() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let id = env.submit("photo").await?.task_id;
    let before = env.until(&id, TaskState::Done).await?;
    let request = pb::CancelBackupRequest { task_id: id.clone() };
    let refused = env.backups()?.cancel_backup(request).await.err().context("it is done")?;
    ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
    let details = refused.get_error_details();
    let info = details.error_info().context("the error says why")?;
    ensure!((info.domain.as_str(), info.reason.as_str()) == ("backhaul", "TASK_FINISHED"), "{info:?}");
    ensure!(details.resource_info().is_some_and(|resource| resource.resource_name == id), "it says which");
    ensure!(env.task(&id).await? == before, "nothing has changed");
    env.finish().await
}
