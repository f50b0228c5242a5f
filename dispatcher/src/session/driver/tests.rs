//! The driver by itself: a stream of messages in, the response stream out, and a floor that only remembers.

use std::{sync::Mutex, time::Duration};

use backhaul_proto::v1::{from_dispatcher::Message as FromDispatcher, from_worker::Message as FromWorker};
use tokio::{task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::{
    census::Census,
    dispatch::testing::{Probe, hello},
    queue::{LeaseRequest, LeaseToken, TaskState},
    session::SessionCounters,
};

/// Remembers handles and standings.
#[derive(Debug, Default)]
struct Notebook {
    handle: Mutex<Option<SessionHandle>>,
    left: Mutex<Option<SessionCounters>>,
}

impl Floor for Notebook {
    fn attach(&self, session: SessionHandle, _resumed: Arc<[LeaseToken]>) {
        *self.handle.lock().unwrap() = Some(session);
    }

    fn stand(&self, _session: &SessionId, _standing: Standing) {}

    fn settled(&self) {}

    fn leave(&self, _session: &SessionId, counters: SessionCounters) {
        *self.left.lock().unwrap() = Some(counters);
    }
}

struct Rig {
    queue: Arc<Probe>,
    floor: Arc<Notebook>,
    stop: CancellationToken,
    to_driver: mpsc::Sender<Result<pb::FromWorker, Status>>,
    outbound: Outbound,
    driver: JoinSet<()>,
}

impl Rig {
    fn new() -> Self {
        let queue = Arc::new(Probe::new());
        let floor = Arc::new(Notebook::default());
        let stop = CancellationToken::new();
        let (to_driver, inbound) = mpsc::channel(8);
        let seat = Seat {
            id: SessionId::random().unwrap(),
            queue: Arc::clone(&queue) as Arc<dyn TaskQueue>,
            floor: Arc::clone(&floor) as Arc<dyn Floor>,
            settings: Arc::new(StreamSettings::default()),
            stop: stop.clone(),
            reauthenticate: CancellationToken::new(),
            _places: (
                Census::new(1, 1).enter(IpAddr::from([127, 0, 0, 1])).unwrap(),
                Census::new(1, 1).enter("worker".into()).unwrap(),
            ),
        };
        let (run, outbound) = open(ReceiverStream::new(inbound), seat);
        let mut driver = JoinSet::new();
        driver.spawn(run.run());
        Self { queue, floor, stop, to_driver, outbound, driver }
    }

    async fn attached() -> Self {
        let mut rig = Self::new();
        let hello = pb::FromWorker { message: Some(FromWorker::Hello(hello("w", 10))) };
        rig.to_driver.send(Ok(hello)).await.unwrap();
        let welcome = rig.outbound.next().await.unwrap().unwrap();
        assert!(matches!(welcome.message, Some(FromDispatcher::Welcome(_))));
        rig
    }

    fn handle(&self) -> SessionHandle {
        self.floor.handle.lock().unwrap().clone().unwrap()
    }

    async fn over(&mut self) {
        timeout(Duration::from_secs(60), self.driver.join_next()).await.unwrap().unwrap().unwrap();
        assert!(self.floor.left.lock().unwrap().is_some(), "who is over has left the floor");
    }

    async fn offer(&self) -> Offer {
        self.queue.put(&["a"]).await;
        let request = LeaseRequest {
            session: self.handle().id().as_str().to_owned(),
            request: 1,
            worker: "w".into(),
            max_tasks: 1,
            max_bytes: u64::MAX,
            locations: Arc::new(["uploads".to_owned()]),
        };
        Offer { request: 1, tasks: self.queue.lease(&request).await.unwrap() }
    }
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_meets_the_end_of_the_stream_goes_back() {
    // Which of the two the driver sees first is left to chance, so both are seen in a few rounds.
    for _ in 0..20 {
        let mut rig = Rig::attached().await;
        let offer = rig.offer().await;
        let id = offer.tasks[0].id.clone();
        rig.handle().offer(offer).unwrap();
        rig.stop.cancel();
        rig.over().await;
        assert_eq!(rig.queue.state(&id).await, TaskState::Pending);
    }
}

#[tokio::test(start_paused = true)]
async fn an_offer_to_a_session_that_is_over_comes_back_to_who_made_it() {
    let mut rig = Rig::attached().await;
    let offer = rig.offer().await;
    rig.stop.cancel();
    rig.over().await;
    assert_eq!(rig.handle().offer(offer).unwrap_err().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_decoded_is_the_workers_fault_and_a_reset_is_nobodys() {
    let table = [
        (Status::internal("failed to decode"), Some(Code::InvalidArgument)),
        (Status::out_of_range("message too large"), Some(Code::ResourceExhausted)),
        (Status::unknown("connection reset"), None),
    ];
    for (failed, expected) in table {
        let mut rig = Rig::attached().await;
        rig.to_driver.send(Err(failed)).await.unwrap();
        rig.over().await;
        let end = rig.outbound.next().await.map(|end| end.unwrap_err().code());
        assert_eq!(end, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_stream_that_is_dropped_ends_the_session() {
    let rig = Rig::attached().await;
    let Rig { floor, outbound, mut driver, to_driver, .. } = rig;
    let start = Instant::now();
    drop(outbound);
    timeout(Duration::from_secs(60), driver.join_next()).await.unwrap().unwrap().unwrap();
    assert!(floor.left.lock().unwrap().is_some());
    assert_eq!(start.elapsed(), Duration::ZERO, "at once, not when the worker has been silent for long");
    drop(to_driver);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_vanishes_leaves_the_floor_and_tells_the_worker_to_come_again() {
    let mut rig = Rig::attached().await;
    rig.driver.shutdown().await;
    assert!(rig.floor.left.lock().unwrap().is_some());
    let end = rig.outbound.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    assert!(rig.outbound.next().await.is_none());
}
