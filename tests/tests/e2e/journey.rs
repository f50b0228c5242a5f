//! The main job: what is uploaded is backed up, whole, and can be proved.

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, SubmitOutcome, TaskState, submit_backup_result};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object, worker_name},
    locations::{ORIGIN_BUCKET, VAULT_BUCKET},
    s3::Written,
    store::StoreKind,
};

const MIB: usize = 1024 * 1024;

/// Submits one object and follows it to its proof.
async fn journey(env: &TestEnv, key: &str, written: &Written) -> anyhow::Result<pb::Receipt> {
    let submitted = env.submit(key).await?;
    ensure!(submitted.outcome() == SubmitOutcome::Created && submitted.run == 1, "{submitted:?}");
    let task = env.until(&submitted.task_id, TaskState::Done).await?;
    ensure!(task.attempts == 0 && task.crashes == 0 && task.last_failure.is_none(), "{task:?}");
    ensure!(task.finished_at.is_some() && task.process_at.is_none(), "{task:?}");
    let receipt = env.prove(&task, written).await?;
    ensure!(receipt.worker == worker_name(0) && !receipt.already_present, "{receipt:?}");
    Ok(receipt)
}

async fn every_size_arrives(kind: StoreKind) -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().stores(kind).worker_flag("part-size", "5MiB")).await?;
    for (name, size) in [
        ("empty", 0),
        ("one", 1),
        ("small.bin", 16 * 1024),
        ("in one piece", 20 * MIB),
        ("parts", 20 * MIB + 1),
    ] {
        let key = format!("users/7/{name}");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, size).await?;
        let receipt = journey(&env, &key, &written).await.with_context(|| key.clone())?;
        ensure!((receipt.parts > 0) == (size > 20 * MIB), "{size} bytes went in {} parts", receipt.parts);
    }
    ensure!(env.copies().open_uploads(VAULT_BUCKET).await?.is_empty(), "multipart uploads are left");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_size_arrive_whole_on_seaweedfs() -> anyhow::Result<()> {
    every_size_arrives(StoreKind::Weed).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn objects_of_every_size_arrive_whole_on_garage() -> anyhow::Result<()> {
    every_size_arrives(StoreKind::Garage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_size_arrive_whole_on_the_embedded_store() -> anyhow::Result<()> {
    every_size_arrives(StoreKind::Embedded).await
}

async fn every_key_is_kept(kind: StoreKind) -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().stores(kind)).await?;
    for key in
        ["a b+c%2Fd", "é/日本/🦀", "a//b", "-", "x=1&y=<2>'\"", "a~b", "ends-with-slash/", "..hidden/..."]
    {
        let written = env.uploads().put(ORIGIN_BUCKET, key, key.as_bytes().to_vec().into()).await?;
        journey(&env, key, &written).await.with_context(|| format!("key {key:?}"))?;
    }
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_kept_exactly_as_it_is() -> anyhow::Result<()> {
    every_key_is_kept(StoreKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn a_key_is_kept_exactly_as_it_is_on_garage() -> anyhow::Result<()> {
    every_key_is_kept(StoreKind::Garage).await
}

async fn what_belongs_to_an_object_is_kept(kind: StoreKind) -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().stores(kind)).await?;
    let put =
        env.uploads().sdk().put_object().bucket(ORIGIN_BUCKET).key("photo").body(b"jpeg".to_vec().into());
    let put = put.content_type("image/jpeg").cache_control("max-age=60").content_disposition("inline");
    put.metadata("owner", "seven").metadata("camera", "x100").send().await?;

    let task = env.until(&env.submit("photo").await?.task_id, TaskState::Done).await?;
    let receipt = task.receipt.context("a done task has a receipt")?;
    ensure!(receipt.not_kept.is_empty(), "not kept: {:?}", receipt.not_kept);
    let copy = receipt.backup.context("a receipt names the copy")?;
    let head =
        env.copies().head(&copy.bucket, &copy.key).await?.context("the copy is where the receipt says")?;
    ensure!(head.content_type() == Some("image/jpeg"), "{head:?}");
    ensure!(
        head.cache_control() == Some("max-age=60") && head.content_disposition() == Some("inline"),
        "{head:?}"
    );
    let metadata = head.metadata().context("user metadata is kept")?;
    ensure!(metadata.get("owner").map(String::as_str) == Some("seven"), "{metadata:?}");
    ensure!(metadata.get("camera").map(String::as_str) == Some("x100"), "{metadata:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_an_object_is_backed_up_with_it() -> anyhow::Result<()> {
    Box::pin(what_belongs_to_an_object_is_kept(StoreKind::Embedded)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn what_belongs_to_an_object_is_backed_up_with_it_on_garage() -> anyhow::Result<()> {
    Box::pin(what_belongs_to_an_object_is_kept(StoreKind::Garage)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_version_is_backed_up_though_it_is_not_the_latest() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    env.uploads().keep_versions(ORIGIN_BUCKET).await?;
    let old = env.uploads().put(ORIGIN_BUCKET, "doc", b"old".to_vec().into()).await?;
    let new = env.uploads().put(ORIGIN_BUCKET, "doc", b"the new one".to_vec().into()).await?;
    ensure!(!old.version.is_empty() && old.version != new.version, "the origin keeps versions");

    let versioned = pb::ObjectRef { version: old.version.clone(), ..object("doc") };
    let submitted = env.submit_with(versioned, pb::SubmitOptions::default()).await?;
    let first = env.until(&submitted.task_id, TaskState::Done).await?;
    let receipt = env.prove(&first, &old).await?;
    ensure!(
        receipt.source.is_some_and(|source| source.version == old.version),
        "the receipt names the version"
    );

    let latest = env.until(&env.submit("doc").await?.task_id, TaskState::Done).await?;
    env.prove(&latest, &new).await?;
    env.prove(&first, &old).await.context("the older copy is untouched")?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_store_on_both_sides_copies_by_itself() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions { vault: None, ..EnvOptions::default() }).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "big", 3 * MIB).await?;
    let through = env.origin_gate().answered_bytes();
    let receipt = journey(&env, "big", &written).await?;
    ensure!(receipt.server_side_copy, "{receipt:?}");
    let through = env.origin_gate().answered_bytes() - through;
    ensure!(through < MIB as u64, "{through} bytes came to the worker");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proof_that_is_asked_for_is_given() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    for level in [pb::VerifyLevel::Receipt, pb::VerifyLevel::Head, pb::VerifyLevel::Readback] {
        let key = level.as_str_name();
        let written = env.uploads().put_random(ORIGIN_BUCKET, key, MIB).await?;
        let options = pb::SubmitOptions { verify: level.into(), ..Default::default() };
        let submitted = env.submit_with(object(key), options).await?;
        let receipt = env.prove(&env.until(&submitted.task_id, TaskState::Done).await?, &written).await?;
        ensure!(receipt.verified() >= level, "{key} was asked for, {:?} was given", receipt.verified());
    }
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_one_by_one_and_all_of_it_arrives() -> anyhow::Result<()> {
    const OBJECTS: usize = 300;
    let env = TestEnv::start(EnvOptions::default().workers(2)).await?;
    let mut written = Vec::new();
    for number in 0..OBJECTS {
        written.push(env.uploads().put_random(ORIGIN_BUCKET, &format!("n/{number:04}"), number * 7).await?);
    }
    let mut requests: Vec<_> = (0..OBJECTS)
        .map(|number| pb::SubmitBackupRequest {
            object: Some(object(&format!("n/{number:04}"))),
            options: None,
        })
        .collect();
    requests.insert(1, pb::SubmitBackupRequest { object: Some(object("")), options: None });
    let answers =
        env.backups()?.submit_backups(pb::SubmitBackupsRequest { requests }).await?.into_inner().results;
    ensure!(answers.len() == OBJECTS + 1, "{} answers", answers.len());

    let mut ids = Vec::new();
    for (number, answer) in answers.into_iter().enumerate() {
        match answer.result.context("each request has an answer")? {
            submit_backup_result::Result::Accepted(accepted) => ids.push(accepted.task_id),
            submit_backup_result::Result::Error(error) => {
                ensure!(number == 1 && error.violations[0].field == "object.key", "{number}: {error:?}");
            }
        }
    }
    ensure!(ids.len() == OBJECTS, "only the bad one is refused");
    for (id, written) in ids.iter().zip(&written) {
        env.prove(&env.until(id, TaskState::Done).await?, written).await?;
    }
    let listed = env.list(&[TaskState::Done]).await?;
    ensure!(listed.len() == OBJECTS, "{} of {OBJECTS} are listed as done", listed.len());
    ensure!(env.kept().await?.len() == OBJECTS, "one copy each");
    env.finish().await
}
