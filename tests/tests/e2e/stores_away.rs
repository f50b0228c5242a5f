//! A store that is away costs its tasks nothing and the others nothing either.

use anyhow::{Context as _, bail, ensure};
use backhaul_proto::v1::{self as pb, TaskState, submit_backup_result};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    eventually,
    locations::{ARCHIVE, ORIGIN_BUCKET},
    s3::Written,
};

/// As many as have to fail in a row for the store to be at fault, and some more.
const TASKS: usize = 24;

/// Submits objects with one call, so that a worker gets them together.
async fn submit_all(env: &TestEnv, keys: impl Iterator<Item = String>) -> anyhow::Result<Vec<String>> {
    let request = |key: String| pb::SubmitBackupRequest { object: Some(object(&key)), options: None };
    let requests = keys.map(request).collect();
    let answer = env.backups()?.submit_backups(pb::SubmitBackupsRequest { requests }).await?.into_inner();
    answer
        .results
        .into_iter()
        .map(|result| match result.result.context("an answer is empty")? {
            submit_backup_result::Result::Accepted(accepted) => Ok(accepted.task_id),
            submit_backup_result::Result::Error(error) => bail!("not accepted: {error:?}"),
        })
        .collect()
}

/// All of these tasks, none of which may have been charged for anything.
async fn unharmed(env: &TestEnv, ids: &[String]) -> anyhow::Result<Vec<pb::Backup>> {
    let mut tasks = Vec::new();
    for id in ids {
        let task = env.task(id).await?;
        ensure!(task.attempts == 0 && task.crashes == 0, "the outage has cost something: {task:?}");
        tasks.push(task);
    }
    Ok(tasks)
}

/// Whatever is away, what needs it waits at no cost, goes on when it is back, and holds nothing else up.
async fn is_survived(at_origin: bool) -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions { archive: true, ..EnvOptions::default() }).await?;
    let key = |n: usize| format!("photo-{n}");
    let mut written: Vec<Written> = Vec::new();
    for n in 0..TASKS {
        written.push(env.uploads().put_random(ORIGIN_BUCKET, &key(n), 1000).await?);
    }
    // The stores have been reached before: what is away is known by what it could do.
    let first = env.until(&env.submit(&key(0)).await?.task_id, TaskState::Done).await?;
    env.prove(&first, &written[0]).await?;

    let gate = if at_origin { env.origin_gate() } else { env.vault_gate() };
    gate.refuse();
    let ids = submit_all(&env, (1..TASKS).map(key)).await?;
    // Not while they are tried and tried again: the worker has given all back and takes none.
    eventually("the worker takes no more of them", async || {
        let tasks = unharmed(&env, &ids).await?;
        let held = tasks.iter().filter(|task| task.state() == TaskState::Working).count();
        let tried = tasks.iter().filter(|task| task.last_failure.is_some()).count();
        ensure!(held == 0 && tried > 0, "{held} are held, {tried} were tried");
        Ok(())
    })
    .await?;
    if at_origin {
        let archived = env.archived()?.put_random(ORIGIN_BUCKET, "elsewhere", 1000).await?;
        let elsewhere = pb::ObjectRef { location: ARCHIVE.to_owned(), ..object("elsewhere") };
        let id = env.submit_with(elsewhere, pb::SubmitOptions::default()).await?.task_id;
        let done = env.until(&id, TaskState::Done).await?;
        env.prove(&done, &archived).await.context("another location's task goes on")?;
        unharmed(&env, &ids).await?;
    }

    gate.open();
    for (id, written) in ids.iter().zip(&written[1..]) {
        let done = env.until(id, TaskState::Done).await?;
        env.prove(&done, written).await?;
    }
    unharmed(&env, &ids).await?;
    ensure!(env.kept().await?.len() >= TASKS, "something is missing");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_away_costs_no_attempt_and_holds_up_no_other() -> anyhow::Result<()> {
    Box::pin(is_survived(true)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_store_that_is_away_costs_no_attempt() -> anyhow::Result<()> {
    Box::pin(is_survived(false)).await
}
