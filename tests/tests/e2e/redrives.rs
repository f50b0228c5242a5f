//! Dead tasks are found by what they have in common and run again, once, however often that is asked for.

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::{Action, Operation, Rule};
use backhaul_proto::v1::{self as pb, RetryOutcome, TaskReason, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    locations::ORIGIN_BUCKET,
    programs::program,
};

/// Submits `key` with a label, for one attempt.
async fn submit(env: &TestEnv, key: &str, team: &str) -> anyhow::Result<String> {
    let options = pb::SubmitOptions {
        max_attempts: 1,
        labels: [("team".to_owned(), team.to_owned())].into(),
        ..Default::default()
    };
    Ok(env.submit_with(object(key), options).await?.task_id)
}

async fn retry(
    env: &TestEnv,
    request: pb::RetryBackupsRequest,
) -> anyhow::Result<Vec<(String, RetryOutcome, u32)>> {
    let answer = env.backups()?.retry_backups(request).await?.into_inner();
    ensure!(answer.next_page_token.is_empty(), "few tasks are one answer");
    let told = |task: &pb::RetriedBackup| (task.task_id.clone(), task.outcome(), task.run);
    Ok(answer.tasks.iter().map(told).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_tasks_run_again_by_filter_and_by_id_and_never_twice() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    let mut written = Vec::new();
    for key in ["a/1", "a/2", "b/1", "c/1"] {
        written.push(env.uploads().put_random(ORIGIN_BUCKET, key, 1_000).await?);
    }
    // The objects change all the time. Not an outage: that costs no attempt, and nobody dies of it.
    let restless = Rule::new(
        Operation::GetObject,
        Action::Status { status: 412, code: "PreconditionFailed".to_owned(), retry_after: None },
    )
    .bucket(ORIGIN_BUCKET)
    .always();
    let restless = env.origin_faults()?.add(restless);
    let one = submit(&env, "a/1", "web").await?;
    let two = submit(&env, "a/2", "app").await?;
    let three = submit(&env, "b/1", "web").await?;
    let four = submit(&env, "c/1", "web").await?;
    for id in [&one, &two, &three, &four] {
        env.until(id, TaskState::Dead).await?;
    }
    env.origin_faults()?.remove(restless);

    // Shown, not done.
    let web = [("team".to_owned(), "web".to_owned())];
    let filter = pb::RetryBackupsRequest {
        key_prefix: "a/".into(),
        labels: web.into(),
        bucket: ORIGIN_BUCKET.into(),
        reasons: vec![TaskReason::AttemptsUsedUp.into()],
        ..Default::default()
    };
    let dry = retry(&env, pb::RetryBackupsRequest { dry_run: true, ..filter.clone() }).await?;
    ensure!(dry == [(one.clone(), RetryOutcome::WouldRetry, 1)], "{dry:?}");
    ensure!(env.list(&[TaskState::Dead]).await?.len() == 4, "a dry run changes nothing");

    // By filter; what was retried is dead no more, so a repeat finds nothing.
    let told = retry(&env, filter.clone()).await?;
    ensure!(told == [(one.clone(), RetryOutcome::Retried, 2)], "{told:?}");
    ensure!(retry(&env, filter).await?.is_empty(), "nothing is left to be retried");
    let done = env.until(&one, TaskState::Done).await?;
    ensure!(done.run == 2 && done.labels["team"] == "web", "it is the same request: {done:?}");
    env.prove(&done, &written[0]).await?;

    // By id, with a task that was submitted again meanwhile, one that is done, and one that nobody knows.
    let again = env.submit("c/1").await?;
    ensure!(again.task_id == four && again.run == 2, "{again:?}");
    let unknown = format!("000-{}", "0".repeat(32));
    let ids = vec![two.clone(), four.clone(), one.clone(), unknown.clone()];
    let by_id = pb::RetryBackupsRequest { task_ids: ids, ..Default::default() };
    let told = retry(&env, by_id).await?;
    ensure!(told[0] == (two.clone(), RetryOutcome::Retried, 2), "{told:?}");
    ensure!(told[1] == (four.clone(), RetryOutcome::NotDead, 2), "{told:?}");
    ensure!(told[2] == (one.clone(), RetryOutcome::NotDead, 2), "{told:?}");
    ensure!(told[3] == (unknown, RetryOutcome::NotFound, 0), "{told:?}");
    for (id, written) in [(&two, &written[1]), (&four, &written[3])] {
        let done = env.until(id, TaskState::Done).await?;
        ensure!(done.run == 2, "{done:?}");
        env.prove(&done, written).await?;
    }

    // From a shell.
    let mut command = program("backhaul")?;
    command.args(["retry", "--json", "--label", "team=web", "--died-from", "-1h", "--dispatcher"]);
    command.arg(format!("http://{}", env.dispatcher_address()));
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{output:?}");
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).context("one JSON line")?;
    ensure!(line["task_id"] == three && line["outcome"] == "retried" && line["run"] == 2, "{line}");
    env.until(&three, TaskState::Done).await?;
    env.finish().await
}
