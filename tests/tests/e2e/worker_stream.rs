//! The stream as the network shows it to a worker that breaks the rules.

use anyhow::{Context as _, ensure};
use backhaul_proto::{
    WORKER_PROTOCOL,
    v1::{self as pb, from_dispatcher, from_worker},
};
use backhaul_tests::{TestEnv, env::EnvOptions, locations::ORIGIN};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Status};

fn hello() -> pb::Hello {
    pb::Hello {
        protocol: WORKER_PROTOCOL,
        instance: vec![7; 16].into(),
        worker: "stranger".to_owned(),
        credit: Some(pb::Credit { tasks: 1, bytes: 1 << 20 }),
        locations: vec![ORIGIN.to_owned()],
        ..Default::default()
    }
}

/// Sends `messages` and then nothing, with the stream kept open; gives what came and how it ended.
async fn converse(
    env: &TestEnv,
    messages: Vec<from_worker::Message>,
) -> anyhow::Result<(Vec<from_dispatcher::Message>, Status)> {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    for message in messages {
        sender.send(pb::FromWorker { message: Some(message) }).await?;
    }
    let mut came = Vec::new();
    let mut answers = match env.as_worker()?.connect(ReceiverStream::new(receiver)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Ok((came, status)),
    };
    loop {
        match answers.next().await.context("the stream ended without a status")? {
            Ok(message) => came.extend(message.message),
            Err(status) => return Ok((came, status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_does_not_begin_with_hello_is_ended() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let credit = from_worker::Message::Credit(pb::Credit { tasks: 1, bytes: 1 });
    let (came, status) = converse(&env, vec![credit]).await?;
    ensure!(status.code() == Code::InvalidArgument && came.is_empty(), "{status:?} after {came:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hello_ends_the_stream() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let (came, status) =
        converse(&env, vec![from_worker::Message::Hello(hello()), from_worker::Message::Hello(hello())])
            .await?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?} after {came:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_limit_ends_the_stream_and_costs_no_memory() -> anyhow::Result<()> {
    /// Sixteen times what a stream may bring at once.
    const HUGE_BYTES: usize = 256 << 20;
    let mut env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let before = env.dispatcher().resident_bytes()?;
    let huge = pb::Hello { worker: "x".repeat(HUGE_BYTES), ..hello() };
    let (came, status) =
        converse(&env, vec![from_worker::Message::Hello(hello()), from_worker::Message::Hello(huge)]).await?;
    ensure!(status.code() == Code::ResourceExhausted, "{status:?} after {came:?}");
    let growth = env.dispatcher().resident_bytes()?.saturating_sub(before);
    ensure!(growth < HUGE_BYTES as u64 / 4, "the dispatcher grew by {growth} bytes");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_says_nothing_is_not_waited_for() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let (came, status) = converse(&env, Vec::new()).await?;
    ensure!(status.code() == Code::DeadlineExceeded && came.is_empty(), "{status:?} after {came:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_not_accepted_goes_to_the_next_worker() -> anyhow::Result<()> {
    let mut env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let written = env.uploads().put_random(backhaul_tests::locations::ORIGIN_BUCKET, "photo", 1000).await?;
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    sender.send(pb::FromWorker { message: Some(from_worker::Message::Hello(hello())) }).await?;
    let mut answers = env.as_worker()?.connect(ReceiverStream::new(receiver)).await?.into_inner();
    let id = env.submit("photo").await?.task_id;
    let assigned = loop {
        let message = answers.next().await.context("the stream has ended")??.message;
        if let Some(from_dispatcher::Message::Assign(assign)) = message {
            break assign.assignments;
        }
    };
    ensure!(
        assigned.len() == 1 && assigned[0].task_id == id && assigned[0].lease.len() == 16,
        "{assigned:?}"
    );
    // It says nothing more: the assignment was sent and never accepted.
    env.add_worker().await?;
    let task = env.until(&id, pb::TaskState::Done).await?;
    ensure!(task.crashes == 0 && task.attempts == 0, "a task that nobody took costs nothing: {task:?}");
    env.prove(&task, &written).await?;
    drop(sender);
    env.finish().await
}
