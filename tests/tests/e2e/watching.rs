//! Whoever follows tasks misses nothing, whichever dispatcher answers, and is told when it is over.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    locations::ORIGIN_BUCKET,
    process::Process,
    programs::program,
    settings::patience,
};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

type Updates = Streaming<pb::WatchBackupsResponse>;

async fn next(updates: &mut Updates) -> Result<pb::WatchBackupsResponse, Status> {
    let message = tokio::time::timeout(patience(), updates.message()).await;
    let message = message.map_err(|_| Status::deadline_exceeded("no message in time"))??;
    message.ok_or_else(|| Status::cancelled("the stream has ended"))
}

/// Reads on until `id` is shown in `state`. Gives the newest cursor.
async fn until(updates: &mut Updates, id: &str, state: TaskState) -> anyhow::Result<String> {
    let (mut cursor, mut shown) = (String::new(), false);
    loop {
        let message = next(updates).await?;
        ensure!(!message.missed, "nothing is missed");
        shown |= message.backups.iter().any(|task| task.task_id == id && task.state() == state);
        if !message.cursor.is_empty() {
            cursor = message.cursor;
        }
        if shown && !cursor.is_empty() {
            return Ok(cursor);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_at_another_dispatcher_when_one_is_killed() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let second = env.add_dispatcher(&[]).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 1_000).await?;
    let labels = [("team".to_owned(), "web".to_owned())];
    let request = pb::WatchBackupsRequest { labels: labels.clone().into(), ..Default::default() };
    let mut updates = env.backups()?.watch_backups(request.clone()).await?.into_inner();

    // A change made through one dispatcher is heard at the other.
    let options = pb::SubmitOptions { labels: labels.into(), ..Default::default() };
    let submit = pb::SubmitBackupRequest { object: Some(object("photo")), options: Some(options) };
    let mut through_second = env.backups_at(second)?;
    let id = through_second.submit_backup(submit).await?.into_inner().task_id;
    let cursor = until(&mut updates, &id, TaskState::Pending).await?;

    env.dispatcher().kill()?;
    let broken = loop {
        match next(&mut updates).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    ensure!(broken.code() != Code::DeadlineExceeded, "the stream breaks: {broken:?}");
    let cancel = pb::CancelBackupRequest { task_id: id.clone() };
    through_second.cancel_backup(cancel).await?;

    // What happened in between is told by the other one, and nothing that was seen before.
    let request = pb::WatchBackupsRequest { cursor, ..request };
    let mut updates = through_second.watch_backups(request).await?.into_inner();
    let message = next(&mut updates).await?;
    ensure!(!message.missed && message.backups.len() == 1, "{message:?}");
    ensure!(message.backups[0].task_id == id, "{message:?}");
    ensure!(message.backups[0].state() == TaskState::Cancelled, "{message:?}");
    drop(updates);
    env.restart_dispatcher().await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_stops_ends_its_watches_and_says_so() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let id = env.submit("photo").await?.task_id;
    let request = pb::WatchBackupsRequest { task_ids: vec![id.clone()], ..Default::default() };
    let mut updates = env.backups()?.watch_backups(request).await?.into_inner();
    until(&mut updates, &id, TaskState::Pending).await?;
    ensure!(env.dispatcher().stop().await?.success(), "it stops in order");
    let ended = loop {
        match next(&mut updates).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    let details = ended.get_error_details();
    ensure!(ended.code() == Code::Unavailable, "{ended:?}");
    ensure!(details.error_info().is_some_and(|info| info.reason == "STOPPING"), "{ended:?}");
    ensure!(details.retry_info().is_some(), "{ended:?}");
    env.restart_dispatcher().await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_follows_a_task_through_a_restart_of_the_dispatcher() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 100_000).await?;
    let id = env.submit("photo").await?.task_id;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("watch.log");
    let mut command = program("backhaul")?;
    command.args(["watch", "--timeout", "120s", &id, "--dispatcher"]);
    command.arg(format!("http://{}", env.dispatcher_address()));
    let mut watch = Process::start("watch", &mut command, &log)?;
    backhaul_tests::eventually("it shows the task", async || {
        watch.ensure_running()?;
        ensure!(watch.log()?.contains("pending"), "{}", watch.log()?);
        Ok(())
    })
    .await?;
    env.dispatcher().kill()?;
    env.restart_dispatcher().await?;
    env.add_worker().await?;
    let status = tokio::time::timeout(patience() + Duration::from_secs(60), watch.wait())
        .await
        .context("it ends when the task has")??;
    let said = watch.log()?;
    ensure!(status.success() && said.contains("done"), "{status}: {said}");
    env.finish().await
}
