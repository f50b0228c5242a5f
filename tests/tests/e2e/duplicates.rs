//! The same request, however often it comes, is one task and one copy; a request for what is newer is never swallowed.

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, SubmitOutcome, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    eventually,
    locations::ORIGIN_BUCKET,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_version_submitted_again_and_again_is_one_task_and_one_copy() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    env.uploads().keep_versions(ORIGIN_BUCKET).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let version = pb::ObjectRef { version: written.version.clone(), ..object("photo") };
    let submit = || env.submit_with(version.clone(), pb::SubmitOptions::default());

    // At the same moment, so that they meet in the queue and not in the dispatcher.
    let (one, two, three, four) = tokio::try_join!(submit(), submit(), submit(), submit())?;
    let answers = [one, two, three, four];
    let created = answers.iter().filter(|answer| answer.outcome() == SubmitOutcome::Created).count();
    ensure!(created == 1, "{answers:?}");
    ensure!(answers.iter().all(|a| a.task_id == answers[0].task_id && a.run == 1), "{answers:?}");
    ensure!(
        answers.iter().all(|a| [SubmitOutcome::Created, SubmitOutcome::Duplicate].contains(&a.outcome())),
        "{answers:?}"
    );

    let done = env.until(&answers[0].task_id, TaskState::Done).await?;
    env.prove(&done, &written).await?;
    let after = submit().await?;
    ensure!(
        after.outcome() == SubmitOutcome::Duplicate && after.run == 1,
        "it is backed up already: {after:?}"
    );
    ensure!(after.state() == TaskState::Done, "{after:?}");
    ensure!(env.list(&[]).await?.len() == 1, "there is one task");
    ensure!(env.kept().await?.len() == 1, "there is one copy");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_the_latest_version_coalesce_while_they_wait() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let first = env.submit("photo").await?;
    let second = env.submit("photo").await?;
    ensure!(second.task_id == first.task_id && second.outcome() == SubmitOutcome::Coalesced, "{second:?}");
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    env.add_worker().await?;
    env.prove(&env.until(&first.task_id, TaskState::Done).await?, &written).await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changes_while_it_is_copied_is_copied_again() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 300_000).await?;
    env.vault_gate().shut();
    let first = env.submit("photo").await?;
    eventually("it is being copied", async || {
        let task = env.task(&first.task_id).await?;
        ensure!(task.state() == TaskState::Working && !task.worker.is_empty(), "{task:?}");
        Ok(())
    })
    .await?;
    let newer = env.uploads().put_random(ORIGIN_BUCKET, "photo", 200_000).await?;
    let second = env.submit("photo").await?;
    ensure!(second.task_id == first.task_id && second.outcome() == SubmitOutcome::RunsAgain, "{second:?}");
    ensure!(env.task(&first.task_id).await?.runs_again, "it can be seen");

    env.vault_gate().open();
    let done = eventually("the newer object is backed up", async || {
        let task = env.task(&first.task_id).await?;
        let read = task.receipt.as_ref().and_then(|r| r.source.as_ref()).map(|s| s.etag.clone());
        ensure!(task.state() == TaskState::Done && read.as_ref() == Some(&newer.etag), "{task:?}");
        Ok(task)
    });
    let done = done.await?;
    env.prove(&done, &newer).await?;
    ensure!(!done.runs_again, "and that is all");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_already_there_is_success_and_is_not_written_again() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default()).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 100_000).await?;
    let id = env.submit("photo").await?.task_id;
    let first = env.prove(&env.until(&id, TaskState::Done).await?, &written).await?;

    // Everything that Redis knew is lost; the backup store knows it all.
    env.dispatcher().kill()?;
    let mut connection = env.redis().connect().await?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await?;
    env.restart_dispatcher().await?;
    let id = env.submit("photo").await?.task_id;
    let second = env.prove(&env.until(&id, TaskState::Done).await?, &written).await?;
    ensure!(second.already_present, "{second:?}");
    let key =
        |receipt: pb::Receipt| receipt.backup.map(|backup| backup.key).context("a receipt names the copy");
    ensure!(key(first)? == key(second)?, "it is the same copy");
    ensure!(env.kept().await?.len() == 1, "there is one copy");
    env.finish().await
}
