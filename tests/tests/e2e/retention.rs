//! A location that asks for a retention: on a store that locks objects every copy is locked, whatever its size; elsewhere nothing is copied.

use anyhow::{Context as _, ensure};
use aws_sdk_s3::types::ObjectLockMode;
use backhaul_proto::v1::TaskState;
use backhaul_tests::{
    TestEnv,
    env::EnvOptions,
    locations::{ORIGIN_BUCKET, VAULT_BUCKET},
    store::StoreKind,
};

const MIB: usize = 1024 * 1024;
const DAY_SECONDS: i64 = 86_400;

/// Every copy has the retention, counted from when it was made, and can be deleted by nobody who has no special right.
async fn every_copy_is_locked(options: EnvOptions, sizes: &[usize]) -> anyhow::Result<()> {
    let terms = "retain = { mode = \"governance\", days = 2 }".to_owned();
    let options = EnvOptions { locks: true, terms, ..options.worker_flag("part-size", "5MiB") };
    let env = TestEnv::start(options).await?;
    for size in sizes {
        let key = format!("of-{size}");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, *size).await?;
        let done = env.until(&env.submit(&key).await?.task_id, TaskState::Done).await?;
        let receipt = env.prove(&done, &written).await?;
        ensure!(receipt.not_kept.is_empty(), "{receipt:?}");
        let copy = receipt.backup.context("a receipt names the copy")?;
        let head = env.copies().head(VAULT_BUCKET, &copy.key).await?.context("the copy is there")?;
        ensure!(head.object_lock_mode() == Some(&ObjectLockMode::Governance), "{head:?}");
        let until = head.object_lock_retain_until_date().context("a lock has an end")?.secs();
        let finished = done.finished_at.context("a done task has an end")?.seconds;
        let days = (until - finished) as f64 / DAY_SECONDS as f64;
        ensure!((1.9..=2.1).contains(&days), "locked for {days} days");
        let version = head.version_id().context("locked objects have versions")?;
        let delete = env.copies().sdk().delete_object().bucket(VAULT_BUCKET).key(&copy.key);
        let deleted = delete.version_id(version).send().await;
        ensure!(deleted.is_err(), "a locked copy was deleted");
        env.prove(&env.task(&done.task_id).await?, &written).await?;
    }
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_every_size_are_locked_on_seaweedfs() -> anyhow::Result<()> {
    let options = EnvOptions { vault: Some(StoreKind::Weed), ..EnvOptions::default() };
    Box::pin(every_copy_is_locked(options, &[0, 1000, 6 * MIB, 21 * MIB])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_inside_seaweedfs_are_locked() -> anyhow::Result<()> {
    let options = EnvOptions { origin: StoreKind::Weed, vault: None, ..EnvOptions::default() };
    Box::pin(every_copy_is_locked(options, &[1000, 6 * MIB])).await
}

async fn what_cannot_be_locked_is_not_copied(kind: StoreKind, why: &str) -> anyhow::Result<()> {
    let terms = "retain = { mode = \"compliance\", days = 2 }".to_owned();
    let env = TestEnv::start(EnvOptions { terms, ..EnvOptions::default().stores(kind) }).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let id = env.submit("photo").await?.task_id;
    let dead = env.until(&id, TaskState::Dead).await?;
    let failure = dead.last_failure.context("it has failed")?;
    ensure!(failure.message.contains(why), "it does not say why: {failure:?}");
    ensure!(env.kept().await?.is_empty(), "something was copied");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_be_locked_nothing_is_copied() -> anyhow::Result<()> {
    Box::pin(what_cannot_be_locked_is_not_copied(StoreKind::Embedded, "Object Lock")).await
}

/// It takes a retention and says nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn where_nothing_can_be_locked_nothing_is_copied_on_garage() -> anyhow::Result<()> {
    Box::pin(what_cannot_be_locked_is_not_copied(
        StoreKind::Garage,
        "does not keep (or not show) the retention",
    ))
    .await
}
