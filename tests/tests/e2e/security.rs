//! Programs that prove who they are: whole journeys over TLS, certificates that are replaced meanwhile, and who is not let in.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{
    self as pb, TaskState, backup_service_client::BackupServiceClient,
    worker_service_client::WorkerServiceClient,
};
use backhaul_tests::{
    TestEnv,
    certificates::{Certificates, Holder},
    env::{EnvOptions, object},
    eventually,
    locations::ORIGIN_BUCKET,
    process::Process,
};
use tonic::{Code, Request, Status, transport::Channel};

/// Waits until a program has taken that many new sets of files.
async fn until_taken(process: &Process, sets: usize) -> anyhow::Result<()> {
    eventually("the new files are in use", async || {
        let log = process.log()?;
        let taken = log.matches("revocation lists read anew").count();
        ensure!(taken >= sets, "{taken} of {sets} sets");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_while_all_certificates_and_their_authority_are_replaced() -> anyhow::Result<()> {
    let certificates = Arc::new(Certificates::new()?);
    let mut env = TestEnv::start(EnvOptions::default().secured(&certificates)).await?;
    let old = certificates.channel(&env.dispatcher_address(), Holder::Caller)?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1_000_000).await?;
    env.vault_gate().shut();
    let id = env.submit("photo").await?.task_id;
    env.until(&id, TaskState::Working).await?;

    // As authorities are replaced without an outage: trusted first, then used, then the only one.
    let steps: [&dyn Fn() -> anyhow::Result<()>; 3] =
        [&|| certificates.introduce_authority(), &|| certificates.renew(), &|| {
            certificates.forget_other_authorities()
        }];
    for (taken, step) in steps.iter().enumerate() {
        step()?;
        until_taken(env.dispatcher(), taken + 1).await?;
        until_taken(env.worker(0), taken + 1).await?;
    }
    let log = env.dispatcher().log()?;
    ensure!(log.contains("the peer has to connect anew"), "who was let in before is asked again: {log}");
    ensure!(submit(old, "photo").await.is_err(), "its authority is not trusted any more");

    env.vault_gate().open();
    let task = env.until(&id, TaskState::Done).await?;
    env.prove(&task, &written).await?;
    ensure!(task.attempts == 0 && task.crashes == 0, "it was copied once: {task:?}");
    // And the worker is there for the next task.
    let written = env.uploads().put_random(ORIGIN_BUCKET, "next", 1000).await?;
    let id = env.submit("next").await?.task_id;
    let task = env.until(&id, TaskState::Done).await?;
    env.prove(&task, &written).await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_does_what_its_name_is_for_and_nothing_else() -> anyhow::Result<()> {
    let certificates = Arc::new(Certificates::new()?);
    let env = TestEnv::start(EnvOptions::default().workers(0).secured(&certificates)).await?;
    let address = env.dispatcher_address();
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    for (holder, may_call, may_work) in
        [(Holder::Caller, true, false), (Holder::Worker, false, true), (Holder::Stranger, false, false)]
    {
        let channel = certificates.channel(&address, holder)?;
        let called = submit(channel.clone(), "photo").await;
        let worked = work(channel).await;
        for (answer, may) in [(called, may_call), (worked, may_work)] {
            let code = answer.as_ref().err().map(Status::code);
            ensure!(code == (!may).then_some(Code::PermissionDenied), "{holder:?}: {answer:?}");
        }
    }
    let strangers = Certificates::new()?;
    for channel in [
        strangers.channel_to(&address, &certificates, Holder::Caller)?,
        Channel::from_shared(format!("http://{address}"))?.connect_lazy(),
    ] {
        let refused = submit(channel, "photo").await.err().context("it has proved nothing")?;
        ensure!(refused.code() != Code::PermissionDenied, "it is told nothing at all: {refused:?}");
    }
    ensure!(env.list(&[]).await?.len() == 1, "one call was let in");
    env.finish().await
}

async fn submit(channel: Channel, key: &str) -> Result<(), Status> {
    let request = pb::SubmitBackupRequest { object: Some(object(key)), options: None };
    BackupServiceClient::new(channel).submit_backup(request).await.map(drop)
}

async fn work(channel: Channel) -> Result<(), Status> {
    WorkerServiceClient::new(channel).connect(Request::new(tokio_stream::pending())).await.map(drop)
}
