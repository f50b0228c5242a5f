//! Workers as the benchmark plays them: the real stream, and copies that take no time.
//!
//! Each assignment is accepted and reported done at once, and again when the dispatcher asks for that, because a busy disk had kept Redis from
//! answering. A worker that the dispatcher treats otherwise than as a good one, or that gets any other verdict than "stored" in the
//! end, fails the run: its figures would be about something else.

use std::{collections::HashMap, time::Duration};

use anyhow::bail;
use backhaul_proto::{
    WORKER_PROTOCOL,
    v1::{
        Accept, Accepts, Assignment, BackupObject, ConfirmVerdict, Credit, FromWorker, Heartbeat, Hello,
        Receipt, Results, SourceVersion, TaskResult, from_dispatcher::Message as Told, from_worker::Message,
        task_result::Outcome, worker_service_client::WorkerServiceClient,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{servers::Dispatcher, submit::LOCATION};

/// Workers connected at a time.
const WORKERS: usize = 4;
/// Messages of a worker that wait for the connection.
const SEND_AHEAD: usize = 64;
/// Most entries in one message.
const MOST: usize = 1000;
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a result that could not be stored waits.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What all workers together have seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Tasks received.
    pub(crate) assigned: u64,
    /// When the newest of them was.
    pub(crate) assigned_at: Instant,
    /// Tasks reported done whose confirmation has come.
    pub(crate) confirmed: u64,
}

/// Connected workers. Dropping it closes their streams.
#[derive(Debug)]
pub(crate) struct Fleet {
    seen: watch::Receiver<Seen>,
    credit: watch::Sender<u32>,
    workers: JoinSet<anyhow::Result<()>>,
}

impl Fleet {
    /// Connects workers that may hold `credit` tasks each.
    pub(crate) async fn connect(dispatcher: &Dispatcher, credit: u32) -> anyhow::Result<Self> {
        let (told, seen) = watch::channel(Seen { assigned: 0, assigned_at: Instant::now(), confirmed: 0 });
        let credit = watch::Sender::new(credit);
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            let channel = dispatcher.connect().await?;
            workers.spawn(work(number, channel, credit.subscribe(), told.clone()));
        }
        Ok(Self { seen, credit, workers })
    }

    /// Changes how many tasks each worker may hold.
    pub(crate) fn set_credit(&self, credit: u32) {
        self.credit.send_replace(credit);
    }

    /// What they have seen so far.
    pub(crate) fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    /// Waits until they have seen enough; fails when a worker fails.
    pub(crate) async fn until(&mut self, enough: impl FnMut(&Seen) -> bool) -> anyhow::Result<Seen> {
        tokio::select! {
            seen = self.seen.wait_for(enough) => Ok(*seen?),
            Some(ended) = self.workers.join_next() => {
                ended??;
                bail!("a worker has ended before its time")
            }
        }
    }
}

async fn work(
    number: usize,
    channel: Channel,
    mut credit: watch::Receiver<u32>,
    seen: watch::Sender<Seen>,
) -> anyhow::Result<()> {
    let (out, messages) = mpsc::channel(SEND_AHEAD);
    let tasks = *credit.borrow_and_update();
    out.send(wrap(Message::Hello(hello(number, tasks)))).await?;
    let mut client = WorkerServiceClient::new(channel).max_decoding_message_size(16 << 20);
    let mut inbound = client.connect(ReceiverStream::new(messages)).await?.into_inner();
    let mut beat = interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unconfirmed = HashMap::new();
    let (mut again, mut repeat) = (Vec::new(), interval(AGAIN_AFTER));
    for seq in 1.. {
        loop {
            tokio::select! {
                told = inbound.message() => match told?.and_then(|told| told.message) {
                    Some(Told::Assign(assign)) => {
                        let count = assign.assignments.len() as u64;
                        seen.send_modify(|seen| {
                            (seen.assigned, seen.assigned_at) = (seen.assigned + count, Instant::now());
                        });
                        answer(assign.assignments, &out, &mut unconfirmed).await?;
                    }
                    Some(Told::Confirms(confirms)) => {
                        let mut confirmed = 0;
                        for confirm in confirms.confirms {
                            match confirm.verdict() {
                                // A repeat may find what an answer that came too late had stored.
                                ConfirmVerdict::Stored | ConfirmVerdict::Duplicate => {
                                    confirmed += u64::from(unconfirmed.remove(confirm.lease.as_ref()).is_some());
                                }
                                ConfirmVerdict::TryAgain => again.push(confirm.lease.to_vec()),
                                other @ (ConfirmVerdict::Unspecified
                                | ConfirmVerdict::RunsAgain
                                | ConfirmVerdict::Fenced
                                | ConfirmVerdict::Superseded
                                | ConfirmVerdict::Cancelled
                                | ConfirmVerdict::Gone) => bail!("{other:?}"),
                            }
                        }
                        seen.send_modify(|seen| seen.confirmed += confirmed);
                    }
                    Some(Told::Welcome(_) | Told::LeaseUpdates(_)) => {}
                    other => bail!("the dispatcher said {other:?}"),
                },
                changed = credit.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let tasks = *credit.borrow_and_update();
                    out.send(wrap(Message::Credit(Credit { tasks, bytes: u64::MAX }))).await?;
                }
                _ = repeat.tick(), if !again.is_empty() => {
                    let results = again.drain(..).filter_map(|lease| unconfirmed.get(&lease).cloned());
                    out.send(wrap(Message::Results(Results { results: results.collect() }))).await?;
                }
                _ = beat.tick() => break,
            }
        }
        // Nothing is held for as long as a beat takes.
        out.send(wrap(Message::Heartbeat(Heartbeat { seq, held: Vec::new() }))).await?;
    }
    Ok(())
}

async fn answer(
    assignments: Vec<Assignment>,
    out: &mpsc::Sender<FromWorker>,
    unconfirmed: &mut HashMap<Vec<u8>, TaskResult>,
) -> anyhow::Result<()> {
    for part in assignments.chunks(MOST) {
        let accept =
            |a: &Assignment| Accept { task_id: a.task_id.clone(), lease: a.lease.clone(), refusal: 0 };
        out.send(wrap(Message::Accepts(Accepts { accepts: part.iter().map(accept).collect() }))).await?;
        let results: Vec<TaskResult> = part.iter().cloned().map(done).collect();
        unconfirmed.extend(results.iter().map(|result| (result.lease.to_vec(), result.clone())));
        out.send(wrap(Message::Results(Results { results }))).await?;
    }
    Ok(())
}

/// The report of a good copy, as long as a real one.
fn done(assignment: Assignment) -> TaskResult {
    let object = assignment.object.unwrap_or_default();
    let key = format!("copies/{}/{}/{}~{}", object.location, object.bucket, object.key, object.version);
    let etag = "d41d8cd98f00b204e9800998ecf8427e";
    let receipt = Receipt {
        source: Some(SourceVersion { version: object.version, etag: etag.into(), modified_at: None }),
        backup: Some(BackupObject {
            location: "vault".into(),
            bucket: "backups".into(),
            key,
            version: String::new(),
            etag: etag.into(),
        }),
        size_bytes: 16_384,
        crc64nvme: 0x0123_4567_89ab_cdef,
        verified: 1,
        elapsed_ms: 1,
        worker: "bench".into(),
        ..Receipt::default()
    };
    TaskResult {
        task_id: assignment.task_id,
        lease: assignment.lease,
        outcome: Some(Outcome::Receipt(receipt)),
    }
}

fn hello(number: usize, tasks: u32) -> Hello {
    let mut instance = [0; 16];
    fastrand::fill(&mut instance);
    Hello {
        protocol: WORKER_PROTOCOL,
        instance: instance.to_vec().into(),
        worker: format!("bench-{number}"),
        credit: Some(Credit { tasks, bytes: u64::MAX }),
        locations: vec![LOCATION.into()],
        version: "bench".into(),
        ..Hello::default()
    }
}

const fn wrap(message: Message) -> FromWorker {
    FromWorker { message: Some(message) }
}
