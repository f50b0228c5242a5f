//! What streams cost a dispatcher: memory for each, processor time when nothing happens, and one that never reads.

use std::time::Duration;

use anyhow::Context as _;
use backhaul_proto::{
    WORKER_PROTOCOL,
    v1::{
        self as pb, from_dispatcher::Message as Told, from_worker::Message,
        worker_service_client::WorkerServiceClient,
    },
};
use serde_json::json;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    WORKERS,
    crew::Crew,
    figures::{Report, cpu_s, mib},
    servers::{LOCATION, Servers},
};

/// A stream with nothing behind it.
struct Bare {
    _say: mpsc::Sender<pb::FromWorker>,
    _hear: Streaming<pb::FromDispatcher>,
}

impl Bare {
    /// Introduces itself over a connection of its own and is welcomed.
    async fn connect(servers: &Servers, number: usize, tasks: u32) -> anyhow::Result<Self> {
        let (say, said) = mpsc::channel(4);
        let hello = pb::Hello {
            protocol: WORKER_PROTOCOL,
            instance: (number as u128 + 1).to_be_bytes().to_vec().into(),
            worker: format!("bare-{number}"),
            credit: Some(pb::Credit { tasks, bytes: u64::MAX }),
            locations: vec![LOCATION.into()],
            ..Default::default()
        };
        say.send(pb::FromWorker { message: Some(Message::Hello(hello)) }).await?;
        let mut client = WorkerServiceClient::new(servers.channel(0).await?);
        let mut hear = client.connect(ReceiverStream::new(said)).await?.into_inner();
        match hear.message().await?.and_then(|told| told.message) {
            Some(Told::Welcome(_)) => Ok(Self { _say: say, _hear: hear }),
            other => anyhow::bail!("it was not welcomed: {other:?}"),
        }
    }
}

/// Memory of a dispatcher with many streams that are silent, beside its memory without.
pub(crate) async fn of_streams(
    servers: &mut Servers,
    count: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    // A new process, whose memory nothing has stretched yet.
    servers.stop(0).await?;
    servers.launch(0).await?;
    let before = servers.process(0)?.resident_bytes()?;
    let mut streams = Vec::new();
    for number in 0..count {
        streams.push(Bare::connect(servers, number, 0).await.context("a bare stream")?);
    }
    let after = servers.process(0)?.resident_bytes()?;
    let each = after.saturating_sub(before) / count as u64;
    report.add(
        "memory_per_stream",
        &format!(
            "a dispatcher has {:.1} MiB resident without streams and {:.1} MiB with {count}: {:.1} KiB for each, its connection included",
            mib(before),
            mib(after),
            mib(each * 1024)
        ),
        json!({ "streams": count, "before_mib": mib(before), "after_mib": mib(after), "bytes_each": each }),
    )
}

/// Processor time of everything while nothing happens.
pub(crate) async fn of_waiting(servers: &Servers, idle: Duration, report: &mut Report) -> anyhow::Result<()> {
    let crew = Crew::hire(servers.urls(), WORKERS, Duration::from_millis(1)).await?;
    sleep(Duration::from_secs(3)).await;
    let pids = [servers.process(0)?.id(), servers.process(1)?.id(), std::process::id()];
    let spent = || pids.iter().map(|pid| cpu_s(*pid)).collect::<Result<Vec<_>, _>>();
    let before = spent()?;
    sleep(idle).await;
    let shares: Vec<f64> = spent()?
        .iter()
        .zip(&before)
        .map(|(after, before)| 100.0 * (after - before) / idle.as_secs_f64())
        .collect();
    let resident: Vec<f64> = [0, 1]
        .map(|number| Ok(mib(servers.process(number)?.resident_bytes()?)))
        .into_iter()
        .collect::<anyhow::Result<_>>()?;
    report.add(
        "idle",
        &format!(
            "nothing happens for {idle:?} with {WORKERS} workers connected: the dispatchers take {:.2} and {:.2} % of a core, all \
             workers together {:.2} %; the dispatchers have {:.1} and {:.1} MiB resident",
            shares[0], shares[1], shares[2], resident[0], resident[1]
        ),
        json!({ "seconds": idle.as_secs(), "cpu_percent": shares, "resident_mib": resident }),
    )?;
    crew.leave().await
}

/// Memory of a dispatcher with a stream that takes everything and reads nothing, while others do the work.
pub(crate) async fn of_one_that_never_reads(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    const TASKS: usize = 20_000;
    let crew = Crew::hire(servers.urls(), WORKERS, Duration::from_millis(1)).await?;
    let unread = Bare::connect(servers, 1_000_000, 10_000).await?;
    let before = mib(servers.process(0)?.resident_bytes()?);
    servers.submit(0, "unread", TASKS).await?;
    crew.until("everything is done", |seen| seen.finished >= TASKS).await?;
    let after = mib(servers.process(0)?.resident_bytes()?);
    report.add(
        "never_reads",
        &format!(
            "one worker more with a credit of 10,000 tasks that never reads, {TASKS} tasks later: {before:.1} MiB before, {after:.1} after"
        ),
        json!({ "before_mib": before, "after_mib": after }),
    )?;
    drop(unread);
    crew.leave().await
}
