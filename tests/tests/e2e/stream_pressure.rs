//! Workers that press on a stream: they send too much, read nothing or say nothing. Each gets its exact answer, nobody else is held up, and
//! the dispatcher's memory stays within bounds.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use backhaul_proto::{
    WORKER_PROTOCOL,
    v1::{self as pb, TaskState, from_dispatcher::Message as Told, from_worker::Message},
};
use backhaul_tests::{
    TestEnv,
    env::EnvOptions,
    eventually,
    locations::{ORIGIN, ORIGIN_BUCKET},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// More than an unoptimised dispatcher needs for what it may keep of one stream, far less than what is thrown at it.
const MOST_GROWTH_BYTES: u64 = 64 << 20;

struct Stranger {
    say: mpsc::Sender<pb::FromWorker>,
    hear: Streaming<pb::FromDispatcher>,
}

impl Stranger {
    /// Introduces itself with room for so many tasks.
    async fn connect(env: &TestEnv, tasks: u32) -> anyhow::Result<Self> {
        let (say, said) = mpsc::channel(64);
        let hello = pb::Hello {
            protocol: WORKER_PROTOCOL,
            instance: fastrand::u128(..).to_be_bytes().to_vec().into(),
            worker: "stranger".to_owned(),
            credit: Some(pb::Credit { tasks, bytes: u64::MAX }),
            locations: vec![ORIGIN.to_owned()],
            ..Default::default()
        };
        say.send(pb::FromWorker { message: Some(Message::Hello(hello)) }).await?;
        let hear = env.as_worker()?.connect(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, hear })
    }

    /// Reads until the stream ends; how it ended.
    async fn end(&mut self) -> anyhow::Result<Status> {
        loop {
            match self.hear.message().await {
                Ok(Some(_)) => {}
                Ok(None) => anyhow::bail!("it ended without a status"),
                Err(status) => return Ok(status),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_tiny_messages_is_ended_with_the_reason_and_costs_no_memory() -> anyhow::Result<()> {
    const MESSAGES: usize = 200_000;
    let mut env = TestEnv::start(EnvOptions::default()).await?;
    let before = env.dispatcher().resident_bytes()?;
    let mut stranger = Stranger::connect(&env, 1).await?;
    let say = stranger.say.clone();
    let mut flood = JoinSet::new();
    flood.spawn(async move {
        for _ in 0..MESSAGES {
            let credit = Message::Credit(pb::Credit { tasks: 1, bytes: 1 });
            if say.send(pb::FromWorker { message: Some(credit) }).await.is_err() {
                break;
            }
        }
    });
    let status = stranger.end().await?;
    ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    drop(stranger);
    flood.join_next().await.context("it was started")??;
    let growth = env.dispatcher().resident_bytes()?.saturating_sub(before);
    ensure!(growth < MOST_GROWTH_BYTES, "the dispatcher grew by {growth} bytes");
    // The others have not noticed.
    let written = env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let id = env.submit("photo").await?.task_id;
    env.prove(&env.until(&id, TaskState::Done).await?, &written).await?;
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_reads_holds_nobody_up_and_costs_no_memory() -> anyhow::Result<()> {
    const TASKS: usize = 1_000;
    let mut env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let mut stranger = Stranger::connect(&env, 10_000).await?;
    let Some(Told::Welcome(_)) = stranger.hear.message().await?.and_then(|told| told.message) else {
        anyhow::bail!("it was not welcomed");
    };
    let before = env.dispatcher().resident_bytes()?;
    // Objects that are not there: what matters is who is asked, and that somebody answers for every one of them.
    let request = |number: usize| pb::SubmitBackupRequest {
        object: Some(pb::ObjectRef {
            location: ORIGIN.to_owned(),
            bucket: ORIGIN_BUCKET.to_owned(),
            key: format!("{number}/{}", "k".repeat(900)),
            version: String::new(),
        }),
        options: None,
    };
    for first in (0..TASKS).step_by(500) {
        let requests = (first..first + 500).map(request).collect();
        let answers =
            env.backups()?.submit_backups(pb::SubmitBackupsRequest { requests }).await?.into_inner();
        ensure!(answers.results.len() == 500, "{answers:?}");
    }
    env.add_worker().await?;
    eventually("the other worker has seen every task", async || {
        let open =
            env.list(&[TaskState::Pending, TaskState::Working, TaskState::Delayed, TaskState::Dead]).await?;
        ensure!(open.is_empty(), "{} are not finished", open.len());
        Ok(())
    })
    .await?;
    let growth = env.dispatcher().resident_bytes()?.saturating_sub(before);
    ensure!(growth < MOST_GROWTH_BYTES, "the dispatcher grew by {growth} bytes");
    // It said nothing for the whole time of a lease.
    let status = stranger.end().await?;
    ensure!(status.code() == Code::DeadlineExceeded, "{status:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_writes_too_slowly_is_ended_with_the_reason() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().workers(0).dispatcher_flag("lease", "2s")).await?;
    let mut stranger = Stranger::connect(&env, 1).await?;
    let say = stranger.say.clone();
    let mut slow = JoinSet::new();
    slow.spawn(async move {
        // Twice as slow as a lease lasts.
        for seq in 1.. {
            tokio::time::sleep(Duration::from_secs(4)).await;
            let beat = Message::Heartbeat(pb::Heartbeat { seq, held: Vec::new() });
            if say.send(pb::FromWorker { message: Some(beat) }).await.is_err() {
                break;
            }
        }
    });
    let status = stranger.end().await?;
    ensure!(status.code() == Code::DeadlineExceeded, "{status:?}");
    env.finish().await
}
