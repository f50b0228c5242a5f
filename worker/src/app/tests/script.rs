//! A dispatcher that says what a test tells it to, on a real socket.
//!
//! It answers nothing by itself. Every wait is for an event, and gives up only so late that a slow machine does not matter.

use std::{future::Future, net::SocketAddr, time::Duration};

use backhaul_proto::v1::{
    self, AcceptRefusal, ConfirmVerdict, DrainReason, FromDispatcher, FromWorker, LeaseVerdict, TaskResult,
    from_dispatcher::Message as Say,
    from_worker::Message,
    worker_service_server::{WorkerService, WorkerServiceServer},
};
use prost::bytes::Bytes;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::link::DispatcherUrl;

pub(super) const LEASE_MS: u64 = 600_000;
pub(super) const BEAT_MS: u64 = 20;

/// Waits for what must happen.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it happens soon")
}

pub(super) struct ScriptedDispatcher {
    address: SocketAddr,
    talks: mpsc::Receiver<Talk>,
    stop: CancellationToken,
    serving: JoinSet<()>,
}

/// One stream of a worker.
pub(super) struct Talk {
    heard: Streaming<FromWorker>,
    say: mpsc::Sender<Result<FromDispatcher, Status>>,
    /// A heartbeat that was read while something else was looked for.
    beat: Option<(u64, usize)>,
}

/// A lease as a test hands it out.
#[derive(Clone)]
pub(super) struct Lease {
    pub(super) task_id: String,
    pub(super) token: Bytes,
    pub(super) location: &'static str,
    pub(super) size: u64,
    pub(super) lease_ms: u64,
}

struct Door {
    talks: mpsc::Sender<Talk>,
}

impl ScriptedDispatcher {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let (sender, talks) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let serve = Server::builder()
            .add_service(WorkerServiceServer::new(Door { talks: sender }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let mut serving = JoinSet::new();
        let stopped = stop.clone().cancelled_owned();
        serving.spawn(async move {
            tokio::select! {
                served = serve => served.expect("the listener works"),
                () = stopped => {}
            }
        });
        Self { address, talks, stop, serving }
    }

    pub(super) fn url(&self) -> DispatcherUrl {
        format!("http://{}", self.address).parse().expect("it is well formed")
    }

    /// The next stream that a worker opens.
    pub(super) async fn next_talk(&mut self) -> Talk {
        soon(self.talks.recv()).await.expect("the door is open")
    }

    /// Closes the door and waits until it is closed.
    pub(super) async fn shut_down(mut self) {
        self.stop.cancel();
        while self.serving.join_next().await.is_some() {}
    }
}

#[tonic::async_trait]
impl WorkerService for Door {
    type ConnectStream = ReceiverStream<Result<FromDispatcher, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<FromWorker>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (say, said) = mpsc::channel(64);
        let talk = Talk { heard: request.into_inner(), say, beat: None };
        self.talks.send(talk).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(said)))
    }
}

impl Lease {
    pub(super) fn new(task_id: &str, token: u8) -> Self {
        let token = Bytes::copy_from_slice(&[token; 16]);
        Self { task_id: task_id.to_owned(), token, location: "media", size: 0, lease_ms: LEASE_MS }
    }

    fn assignment(&self) -> v1::Assignment {
        v1::Assignment {
            task_id: self.task_id.clone(),
            lease: self.token.clone(),
            object: Some(v1::ObjectRef {
                location: self.location.to_owned(),
                bucket: "photos".to_owned(),
                key: self.task_id.clone(),
                version: String::new(),
            }),
            tenant: "tenant".to_owned(),
            attempt: 1,
            lease_ms: self.lease_ms,
            processing_timeout_ms: LEASE_MS,
            size_hint_bytes: self.size,
            ..Default::default()
        }
    }
}

impl Talk {
    /// Reads on until `wanted` finds what it looks for. Heartbeats on the way are remembered, other messages dropped.
    pub(super) async fn until<T>(&mut self, mut wanted: impl FnMut(Message) -> Option<T>) -> T {
        loop {
            let heard = soon(self.heard.message()).await.expect("the stream is well");
            let message = heard.expect("the worker stays").message.expect("an arm is set");
            if let Message::Heartbeat(beat) = &message {
                self.beat = Some((beat.seq, beat.held.len()));
            }
            if let Some(found) = wanted(message) {
                return found;
            }
        }
    }

    pub(super) async fn hello(&mut self) -> v1::Hello {
        self.until(|m| if let Message::Hello(hello) = m { Some(hello) } else { panic!("{m:?} before Hello") })
            .await
    }

    pub(super) async fn welcome(&mut self, held: &[(&Lease, LeaseVerdict)]) {
        self.welcome_with(held, BEAT_MS).await;
    }

    pub(super) async fn welcome_with(&mut self, held: &[(&Lease, LeaseVerdict)], heartbeat_every_ms: u64) {
        let held = held.iter().map(update).collect();
        self.say(Say::Welcome(v1::Welcome {
            session: "scripted".to_owned(),
            lease_ms: LEASE_MS,
            heartbeat_every_ms,
            accept_within_ms: 10_000,
            held,
        }))
        .await;
    }

    pub(super) async fn greet(&mut self) -> v1::Hello {
        let hello = self.hello().await;
        self.welcome(&[]).await;
        hello
    }

    pub(super) async fn assign(&mut self, leases: &[&Lease]) {
        let assignments = leases.iter().map(|lease| lease.assignment()).collect();
        self.say(Say::Assign(v1::Assign { assignments })).await;
    }

    /// The answers in the next Accepts.
    pub(super) async fn refusals(&mut self) -> Vec<AcceptRefusal> {
        let accepts = self.until(|m| if let Message::Accepts(a) = m { Some(a.accepts) } else { None }).await;
        accepts.iter().map(v1::Accept::refusal).collect()
    }

    /// The outcomes in the next Results.
    pub(super) async fn results(&mut self) -> Vec<TaskResult> {
        self.until(|m| if let Message::Results(r) = m { Some(r.results) } else { None }).await
    }

    pub(super) async fn confirm(&mut self, lease: &Lease, verdict: ConfirmVerdict) {
        let confirm = v1::Confirm {
            task_id: lease.task_id.clone(),
            lease: lease.token.clone(),
            verdict: verdict.into(),
        };
        self.say(Say::Confirms(v1::Confirms { confirms: vec![confirm] })).await;
    }

    pub(super) async fn cancel(&mut self, lease: &Lease) {
        let lease = v1::CancelLease { task_id: lease.task_id.clone(), lease: lease.token.clone() };
        self.say(Say::Cancel(v1::Cancel { leases: vec![lease] })).await;
    }

    pub(super) async fn drain(&mut self, reason: DrainReason) {
        self.say(Say::Drain(v1::Drain { reason: reason.into(), within_ms: 10_000 })).await;
    }

    /// Answers the next heartbeat; how many leases it carried.
    pub(super) async fn answer_heartbeat(&mut self, updates: &[(&Lease, LeaseVerdict)]) -> usize {
        self.beat = None;
        self.until(|m| matches!(m, Message::Heartbeat(_)).then_some(())).await;
        let (seq, held) = self.beat.take().expect("one was just read");
        let updates = updates.iter().map(update).collect();
        self.say(Say::LeaseUpdates(v1::LeaseUpdates { seq, updates })).await;
        held
    }

    /// Everything that breaks the contract without ending the stream.
    pub(super) async fn send_hostile(&mut self, lease: &Lease) {
        let short = Bytes::from_static(b"short");
        let mut broken = lease.assignment();
        broken.lease = short.clone();
        let nameless = v1::Assignment { task_id: String::new(), ..lease.assignment() };
        self.say(Say::Assign(v1::Assign { assignments: vec![broken, nameless] })).await;
        let strange =
            |verdict| v1::Confirm { task_id: lease.task_id.clone(), lease: lease.token.clone(), verdict };
        let confirms = vec![strange(99), strange(-1), v1::Confirm { lease: short.clone(), ..strange(1) }];
        self.say(Say::Confirms(v1::Confirms { confirms })).await;
        let update = v1::LeaseUpdate { verdict: 77, ..update(&(lease, LeaseVerdict::Unspecified)) };
        self.say(Say::LeaseUpdates(v1::LeaseUpdates { seq: u64::MAX, updates: vec![update] })).await;
        let cancel = v1::CancelLease { task_id: lease.task_id.clone(), lease: short };
        self.say(Say::Cancel(v1::Cancel { leases: vec![cancel] })).await;
        self.say.send(Ok(FromDispatcher { message: None })).await.expect("the worker stays");
    }

    /// Ends the stream with a status.
    pub(super) async fn end(self, status: Status) {
        self.say.send(Err(status)).await.expect("the worker stays");
    }

    /// Ends the stream without a word.
    pub(super) fn cut(self) {
        drop(self);
    }

    /// Waits until the worker has ended the stream; whether it did so in good order.
    pub(super) async fn closed(mut self) -> bool {
        loop {
            match soon(self.heard.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    async fn say(&mut self, message: Say) {
        self.say.send(Ok(FromDispatcher { message: Some(message) })).await.expect("the worker stays");
    }
}

fn update((lease, verdict): &(&Lease, LeaseVerdict)) -> v1::LeaseUpdate {
    v1::LeaseUpdate {
        task_id: lease.task_id.clone(),
        lease: lease.token.clone(),
        verdict: (*verdict).into(),
        lease_ms: LEASE_MS,
    }
}
