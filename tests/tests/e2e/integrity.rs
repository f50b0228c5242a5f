//! Bytes change on their way or where they are kept; no copy that differs from its object is ever called a backup.

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::{Action, Operation, Rule};
use backhaul_proto::v1::{self as pb, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    locations::{ORIGIN_BUCKET, VAULT_BUCKET},
};

const SIZE: usize = 300_000;

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_change_or_are_cut_off_on_their_way_are_copied_again() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    for (key, action) in [
        ("flipped", Action::FlipResponseBit { at: 77_777 }),
        ("cut", Action::CutBody { after: 100_000 }),
        ("longer", Action::ExtraByte),
    ] {
        let written = env.uploads().put_random(ORIGIN_BUCKET, key, SIZE).await?;
        env.origin_faults()?.add(Rule::new(Operation::GetObject, action).key(key));
        let id = env.submit(key).await?.task_id;
        env.prove(&env.until(&id, TaskState::Done).await?, &written).await.context(key)?;
    }
    for (key, action) in [
        ("mangled", Action::FlipRequestBit { at: 4242 }),
        ("unanswered", Action::LostAnswer),
        ("busy", Action::Status { status: 503, code: "SlowDown".to_owned(), retry_after: None }),
    ] {
        let written = env.uploads().put_random(ORIGIN_BUCKET, key, SIZE).await?;
        env.vault_faults()?.add(Rule::new(Operation::PutObject, action).bucket(VAULT_BUCKET));
        let id = env.submit(key).await?.task_id;
        env.prove(&env.until(&id, TaskState::Done).await?, &written).await.context(key)?;
    }
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_rots_in_the_store_is_found_by_reading_it_back_and_made_anew() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", SIZE).await?;
    env.vault_faults()?
        .add(Rule::new(Operation::PutObject, Action::CorruptStored { at: 9 }).bucket(VAULT_BUCKET));
    let options = pb::SubmitOptions { verify: pb::VerifyLevel::Readback.into(), ..Default::default() };
    let id = env.submit_with(object("photo"), options).await?.task_id;
    let task = env.until(&id, TaskState::Done).await?;
    let receipt = env.prove(&task, &written).await?;
    ensure!(receipt.verified() == pb::VerifyLevel::Readback, "{receipt:?}");
    env.finish().await
}
