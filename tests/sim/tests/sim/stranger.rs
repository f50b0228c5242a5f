//! A worker played by hand, which watches its credit and breaks what it may break: it refuses, stays silent, hands back, says things twice,
//! and claims, long after it has given a task back, to have finished it.

use std::{collections::BTreeMap, time::Duration};

use backhaul_proto::{
    WORKER_PROTOCOL,
    v1::{
        self as pb, from_dispatcher::Message as Told, from_worker::Message as Said,
        task_result::Outcome as Reported, worker_service_client::WorkerServiceClient,
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{callers::LOCATION, history::History, net, world::VAULT};

/// What a task without a size hint counts for.
const UNKNOWN_SIZE_BYTES: u64 = 16 << 20;

/// The stranger.
#[derive(Debug)]
pub(crate) struct Stranger {
    pub(crate) rng: fastrand::Rng,
    pub(crate) dispatchers: usize,
    pub(crate) history: History,
    /// When it leaves for good.
    pub(crate) until: Duration,
}

/// One stream of it.
struct Stream {
    say: mpsc::Sender<pb::FromWorker>,
    credit: pb::Credit,
    /// Assigned and not given back, by token, with what each counts for.
    held: BTreeMap<Vec<u8>, (pb::Assignment, u64)>,
    /// Given back, and known to be.
    gone: Vec<pb::Assignment>,
}

impl Stranger {
    /// Comes and goes until it leaves.
    pub(crate) async fn run(mut self) {
        while self.history.now() < self.until {
            sleep(Duration::from_millis(self.rng.u64(100..2_000))).await;
            let dispatcher = format!("dispatcher-{}", self.rng.usize(..self.dispatchers));
            let channel = timeout(Duration::from_secs(3), net::channel(&dispatcher)).await;
            if let Ok(Ok(channel)) = channel {
                self.stay(WorkerServiceClient::new(channel)).await;
            }
        }
    }

    /// One stream, for some seconds.
    async fn stay(&mut self, mut client: WorkerServiceClient<tonic::transport::Channel>) {
        let (say, said) = mpsc::channel(16);
        let credit = pb::Credit { tasks: self.rng.u32(1..=4), bytes: self.rng.u64(1..100 << 20) };
        let hello = pb::Hello {
            protocol: WORKER_PROTOCOL,
            instance: self.rng.u128(..).to_be_bytes().to_vec().into(),
            worker: "stranger".into(),
            credit: Some(credit),
            locations: vec![LOCATION.into()],
            ..Default::default()
        };
        let leaves = Instant::now() + Duration::from_millis(self.rng.u64(500..6_000));
        let mut stream = Stream { say, credit, held: BTreeMap::new(), gone: Vec::new() };
        if !stream.say(Said::Hello(hello)) {
            return;
        }
        let connecting = timeout(Duration::from_secs(3), client.connect(ReceiverStream::new(said)));
        let Ok(Ok(response)) = connecting.await else { return };
        let mut hear = response.into_inner();
        while let Ok(Ok(Some(told))) = tokio::time::timeout_at(leaves, hear.message()).await {
            match told.message {
                Some(Told::Assign(assign)) => {
                    for assignment in assign.assignments {
                        self.assigned(&mut stream, assignment);
                    }
                }
                Some(Told::Confirms(confirms)) => {
                    for confirm in confirms.confirms {
                        stream.confirmed(&confirm);
                    }
                }
                Some(Told::Cancel(cancel)) => {
                    for stopped in cancel.leases {
                        stream.is_over(&stopped.lease);
                    }
                }
                // It never says that it lists, so it is asked for no page.
                Some(Told::Welcome(_) | Told::LeaseUpdates(_) | Told::Drain(_) | Told::List(_)) | None => {}
            }
        }
    }

    fn assigned(&mut self, stream: &mut Stream, assignment: pb::Assignment) {
        let counts =
            if assignment.size_hint_bytes == 0 { UNKNOWN_SIZE_BYTES } else { assignment.size_hint_bytes };
        stream.held.insert(assignment.lease.to_vec(), (assignment.clone(), counts));
        let (tasks, bytes) = (stream.held.len(), stream.held.values().map(|(_, counts)| counts).sum::<u64>());
        let pb::Credit { tasks: most_tasks, bytes: most_bytes } = stream.credit;
        if tasks > most_tasks as usize || (tasks > 1 && bytes > most_bytes) {
            let what = format_args!(
                "stranger holds {tasks} tasks and {bytes} bytes with a credit of {most_tasks} and {most_bytes}"
            );
            self.history.violation(what);
        }
        let (task_id, lease) = (assignment.task_id.clone(), assignment.lease.clone());
        match self.rng.u32(..4) {
            // Says nothing; the dispatcher takes it back some time later.
            0 => drop(stream.held.remove(&*assignment.lease)),
            1 => {
                let refusal = pb::AcceptRefusal::Busy.into();
                stream.say(Said::Accepts(pb::Accepts {
                    accepts: vec![pb::Accept { task_id, lease, refusal }],
                }));
                stream.held.remove(&*assignment.lease);
            }
            _ => {
                let accept = pb::Accept { task_id, lease, refusal: 0 };
                stream.say(Said::Accepts(pb::Accepts { accepts: vec![accept] }));
                let back = Reported::HandedBack(pb::Stopped::default());
                for _ in 0..self.rng.u32(1..=2) {
                    stream
                        .say(Said::Results(pb::Results { results: vec![result(&assignment, back.clone())] }));
                }
            }
        }
        if self.rng.u32(..3) == 0 && !stream.gone.is_empty() {
            let old = stream.gone[self.rng.usize(..stream.gone.len())].clone();
            stream.say(Said::Results(pb::Results {
                results: vec![result(&old, Reported::Receipt(false_receipt()))],
            }));
        }
    }
}

impl Stream {
    fn confirmed(&mut self, confirm: &pb::Confirm) {
        let settled =
            !matches!(confirm.verdict(), pb::ConfirmVerdict::TryAgain | pb::ConfirmVerdict::Unspecified);
        if settled {
            self.is_over(&confirm.lease);
        }
    }

    /// The dispatcher does not count this lease any more.
    fn is_over(&mut self, lease: &[u8]) {
        if let Some((assignment, _)) = self.held.remove(lease) {
            self.gone.push(assignment);
        }
    }

    /// Says something, if there is room; a stranger does not wait.
    fn say(&self, message: Said) -> bool {
        self.say.try_send(pb::FromWorker { message: Some(message) }).is_ok()
    }
}

fn result(assignment: &pb::Assignment, outcome: Reported) -> pb::TaskResult {
    let pb::Assignment { task_id, lease, .. } = assignment.clone();
    pb::TaskResult { task_id, lease, outcome: Some(outcome) }
}

/// Of a copy that nobody made.
fn false_receipt() -> pb::Receipt {
    pb::Receipt {
        source: Some(pb::SourceVersion { version: "none".into(), etag: "none".into(), modified_at: None }),
        backup: Some(pb::BackupObject {
            location: "vault".into(),
            bucket: VAULT.into(),
            key: "nothing".into(),
            ..Default::default()
        }),
        size_bytes: 1,
        crc64nvme: 1,
        ..Default::default()
    }
}
