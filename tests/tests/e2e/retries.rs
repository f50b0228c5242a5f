//! A copy that fails is tried again, as long as that can help, and what became of it can always be told.

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::{Action, Operation, Rule};
use backhaul_proto::v1::{self as pb, SubmitOutcome, TaskReason, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    eventually,
    locations::{ORIGIN_BUCKET, Read},
};

/// The object changes all the time. Not an outage: that costs no attempt.
fn restless() -> Rule {
    Rule::new(
        Operation::GetObject,
        Action::Status { status: 412, code: "PreconditionFailed".to_owned(), retry_after: None },
    )
    .bucket(ORIGIN_BUCKET)
    .always()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_is_tried_again_until_it_succeeds() -> anyhow::Result<()> {
    let options = EnvOptions::default().dispatcher_flag("max-attempts", "100");
    let env = TestEnv::start(options).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 100_000).await?;
    let restless = env.origin_faults()?.add(restless());
    let id = env.submit("photo").await?.task_id;
    let failed = eventually("an attempt has failed", async || {
        let task = env.task(&id).await?;
        ensure!(task.attempts > 0 && task.state() == TaskState::Delayed, "{task:?}");
        Ok(task)
    });
    let failed = failed.await?;
    ensure!(failed.reason() == TaskReason::BackingOff && failed.process_at.is_some(), "{failed:?}");
    let failure = failed.last_failure.context("a failed attempt is told")?;
    ensure!(failure.class() == pb::FailureClass::Retry && !failure.code.is_empty(), "{failure:?}");

    env.origin_faults()?.remove(restless);
    let done = env.until(&id, TaskState::Done).await?;
    env.prove(&done, &written).await?;
    ensure!(
        done.last_failure.is_some() && done.attempts >= failed.attempts,
        "what went wrong stays to be seen: {done:?}"
    );
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_attempt_a_task_is_dead_until_it_is_submitted_again() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let restless = env.origin_faults()?.add(restless());
    let options = pb::SubmitOptions { max_attempts: 2, ..Default::default() };
    let id = env.submit_with(object("photo"), options).await?.task_id;
    let dead = env.until(&id, TaskState::Dead).await?;
    ensure!(
        dead.reason() == TaskReason::AttemptsUsedUp && dead.attempts == 2 && dead.max_attempts == 2,
        "{dead:?}"
    );
    ensure!(dead.last_failure.is_some() && dead.finished_at.is_some(), "{dead:?}");
    ensure!(env.list(&[TaskState::Dead]).await?.len() == 1, "the dead are listed");

    env.origin_faults()?.remove(restless);
    let again = env.submit("photo").await?;
    ensure!(again.task_id == id && again.run == 2 && again.outcome() == SubmitOutcome::Created, "{again:?}");
    let done = env.until(&id, TaskState::Done).await?;
    ensure!(done.run == 2, "{done:?}");
    env.prove(&done, &written).await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_retry_can_help_is_dead_at_once() -> anyhow::Result<()> {
    let reads = vec![Read::all_of(ORIGIN_BUCKET), Read::all_of("no-such-bucket")];
    let env = TestEnv::start(EnvOptions { reads, ..EnvOptions::default() }).await?;
    let missing = pb::ObjectRef { bucket: "no-such-bucket".to_owned(), ..object("photo") };
    let id = env.submit_with(missing, pb::SubmitOptions::default()).await?.task_id;
    let dead = env.until(&id, TaskState::Dead).await?;
    ensure!(dead.reason() == TaskReason::PermanentFailure, "{dead:?}");
    ensure!(
        dead.last_failure.is_some_and(|f| f.class() == pb::FailureClass::Permanent),
        "the failure says so"
    );
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_gone_cancels_its_task() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    let id = env.submit("never-uploaded").await?.task_id;
    let task = env.until(&id, TaskState::Cancelled).await?;
    ensure!(task.reason() == TaskReason::SourceGone, "{task:?}");
    ensure!(env.kept().await?.is_empty(), "there is nothing to keep");
    env.finish().await
}
