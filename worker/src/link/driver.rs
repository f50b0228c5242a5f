//! The driver of the link: the one place where socket, clock, copies and the shutdown signal meet the state machine.
//!
//! It carries out effects, sends messages while there is room for them, and never waits for anything but the next thing to happen:
//! a full stream must not keep it from reading, and a slow copy must not keep it from renewing leases. It decides nothing.

use std::{collections::BTreeSet, future::pending, net::SocketAddr, sync::Arc, time::Duration};

use backhaul_proto::v1::{self, worker_service_client::WorkerServiceClient};
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{
    debug,
    field::{DisplayValue, display},
    info, warn,
};

use super::{
    dial::{DialError, Dialer, Dialled},
    gauges::LinkGauges,
    pages::{PageLister, Pages},
    state::{Departure, Effect, Event, HangupReason, Link, LinkSettings},
    task::{Finished, StopReason},
    wire::{Decoded, decode},
    workload::Workload,
};

/// Runs a link until it has left.
#[derive(Debug)]
pub struct LinkDriver<W> {
    link: Link,
    workload: W,
    dialer: Dialer,
    dial: Dial,
    dialled: Option<Dialled>,
    stream: Stream,
    drain_within: Duration,
    paused: Option<watch::Receiver<BTreeSet<String>>>,
    pages: Option<Pages>,
    gauges: Arc<LinkGauges>,
}

/// The connection that is being made.
enum Dial {
    None,
    Running(BoxFuture<'static, Result<Dialled, DialError>>),
}

/// The stream in use.
#[derive(Debug)]
struct Stream {
    inbound: Inbound,
    outbound: Option<mpsc::Sender<v1::FromWorker>>,
    dispatcher: Option<SocketAddr>,
}

enum Inbound {
    None,
    /// The dispatcher sends its headers when it likes, perhaps only after Hello.
    Opening(BoxFuture<'static, Result<Streaming<v1::FromDispatcher>, Status>>),
    Open(Box<Streaming<v1::FromDispatcher>>),
}

/// What the driver was woken by.
enum Woken {
    Heard(Option<Result<v1::FromDispatcher, Status>>),
    Dialled(Result<Dialled, DialError>),
    Finished(Finished),
    Listed(v1::ListedPage),
    Paused(BTreeSet<String>),
    Stop,
    Time,
    Room,
}

impl<W: Workload> LinkDriver<W> {
    /// Messages between the state machine and the socket. Few, so that what waits stays state and can still gather.
    const OUTBOUND: usize = 4;
    /// How long the dispatcher may take to end its side after this worker ended its own.
    const GOODBYE: Duration = Duration::from_secs(1);

    /// A driver for one process. `drain_within` is the time that its end may take.
    #[must_use]
    pub fn new(settings: LinkSettings, dialer: Dialer, workload: W, drain_within: Duration) -> Self {
        Self {
            link: Link::new(settings),
            workload,
            dialer,
            dial: Dial::None,
            dialled: None,
            stream: Stream::none(),
            drain_within,
            paused: None,
            pages: None,
            gauges: Arc::default(),
        }
    }

    /// Takes no tasks of the locations that `paused` names, for as long as it does.
    #[must_use]
    pub fn with_paused(mut self, mut paused: watch::Receiver<BTreeSet<String>>) -> Self {
        paused.mark_changed();
        self.paused = Some(paused);
        self
    }

    /// Lists pages too.
    #[must_use]
    pub fn with_lister(mut self, lister: Arc<dyn PageLister>) -> Self {
        self.link = self.link.listing_pages();
        self.pages = Some(Pages::new(lister));
        self
    }

    /// Shows on `gauges` where the link stands.
    #[must_use]
    pub fn shown_on(mut self, gauges: Arc<LinkGauges>) -> Self {
        self.gauges = gauges;
        self
    }

    /// Works for dispatchers until `stop` is cancelled and the drain that follows is over.
    pub async fn run(mut self, stop: CancellationToken) -> Departure {
        let mut stopping = false;
        loop {
            let departure = self.carry_out();
            self.gauges.show(&self.link);
            if let Some(departure) = departure {
                self.stream.close(Self::GOODBYE).await;
                return departure;
            }
            let full = self.speak();
            let woken = self.wait(&stop, stopping, full).await;
            let now = Instant::now();
            let event = match woken {
                Woken::Heard(heard) => self.heard(heard, now),
                Woken::Dialled(dialled) => Some(self.dialled(dialled, now)),
                Woken::Finished(finished) => Some(Event::Finished(finished)),
                Woken::Listed(page) => Some(Event::Listed(Box::new(page))),
                Woken::Paused(locations) => Some(Event::Paused(locations)),
                Woken::Stop => {
                    stopping = true;
                    info!(within = ?self.drain_within, leases = self.link.held(), "draining");
                    Some(Event::DrainAsked { within: self.drain_within })
                }
                Woken::Time | Woken::Room => None,
            };
            let more = matches!(event, Some(Event::Finished(_)));
            if let Some(event) = event {
                self.link.handle_event(now.into_std(), event);
            }
            if more {
                self.take_finished(now);
            }
            self.link.handle_timeout(now.into_std());
        }
    }

    /// Takes in what else has ended by now, so that copies that end together travel together.
    fn take_finished(&mut self, now: Instant) {
        const MOST: usize = 100;
        for _ in 0..MOST {
            match self.workload.next_finished().now_or_never() {
                Some(finished) => self.link.handle_event(now.into_std(), Event::Finished(finished)),
                None => break,
            }
        }
    }

    async fn wait(&mut self, stop: &CancellationToken, stopping: bool, full: bool) -> Woken {
        let timer = self.link.poll_timeout();
        // What cannot be sent for want of room is sent when there is room, not when its time has come.
        let speaking = self.stream.outbound.is_some() && !full;
        let message = if speaking { self.link.poll_message() } else { None };
        let wake = timer.into_iter().chain(message).min().map(Instant::from_std);
        tokio::select! {
            heard = self.stream.inbound.next() => Woken::Heard(heard),
            finished = self.workload.next_finished() => Woken::Finished(finished),
            dialled = self.dial.next() => Woken::Dialled(dialled),
            page = next_page(self.pages.as_mut()) => Woken::Listed(page),
            paused = next_paused(self.paused.as_mut()) => Woken::Paused(paused),
            () = stop.cancelled(), if !stopping => Woken::Stop,
            () = room(self.stream.outbound.as_ref()), if full => Woken::Room,
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => Woken::Time,
        }
    }

    /// Carries out all effects; the departure when the link has left.
    fn carry_out(&mut self) -> Option<Departure> {
        while let Some(effect) = self.link.next_effect() {
            match effect {
                Effect::Dial => self.dial = Dial::Running(self.dialer.dial(Instant::now())),
                Effect::Open => self.open(),
                Effect::Hangup(reason) => self.hang_up(reason),
                Effect::Start(assignment) => self.workload.start(*assignment),
                Effect::Stop(lease, reason) => {
                    match reason {
                        StopReason::Lost => {
                            self.gauges.lost.inc();
                            warn!(task_id = %lease.task_id, "lease lost, copy stopped");
                        }
                        StopReason::Cancelled => debug!(task_id = %lease.task_id, "copy cancelled"),
                        StopReason::HandBack => debug!(task_id = %lease.task_id, "copy handed back"),
                    }
                    self.workload.stop(&lease, reason);
                }
                Effect::List(page) => {
                    if let Some(pages) = &mut self.pages {
                        pages.start(*page);
                    }
                }
                Effect::DropPages => {
                    if let Some(pages) = &mut self.pages {
                        pages.drop_all();
                    }
                }
                Effect::Pause(locations) => self.workload.pause(&locations),
                Effect::Drain => self.workload.drain(),
                Effect::Leave(departure) => return Some(departure),
            }
        }
        None
    }

    /// Sends what there is to say; true when the stream has no room.
    fn speak(&mut self) -> bool {
        while let Some(outbound) = &self.stream.outbound {
            let permit = match outbound.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return true,
                // Nobody takes messages any more. The response ends too, or an unanswered heartbeat ends the stream.
                Err(mpsc::error::TrySendError::Closed(())) => break,
            };
            let now = Instant::now().into_std();
            match self.link.next_message(now, |lease| self.workload.progress(lease)) {
                Some(message) => permit.send(message),
                None => return false,
            }
        }
        self.stream.outbound = None;
        false
    }

    fn open(&mut self) {
        let Some(Dialled { address, channel }) = self.dialled.take() else { return };
        let (outbound, requests) = mpsc::channel(Self::OUTBOUND);
        let mut client = WorkerServiceClient::new(channel);
        let response = async move { client.connect(ReceiverStream::new(requests)).await };
        self.stream = Stream {
            inbound: Inbound::Opening(Box::pin(
                async move { response.await.map(tonic::Response::into_inner) },
            )),
            outbound: Some(outbound),
            dispatcher: Some(address),
        };
    }

    fn hang_up(&mut self, reason: HangupReason) {
        info!(dispatcher = self.stream.address(), %reason, leases = self.link.held(), "stream given up");
        self.leave_stream(Instant::now());
    }

    fn leave_stream(&mut self, now: Instant) {
        if let Some(address) = self.stream.dispatcher {
            self.dialer.avoid(address, now);
        }
        self.stream = Stream::none();
    }

    fn heard(&mut self, heard: Option<Result<v1::FromDispatcher, Status>>, now: Instant) -> Option<Event> {
        let status = match heard {
            Some(Ok(message)) => {
                let Decoded { event, malformed } = decode(message);
                if malformed > 0 {
                    warn!(dispatcher = self.stream.address(), malformed, "broken entries dropped");
                }
                self.note(event.as_ref(), now);
                return event;
            }
            Some(Err(status)) => Some(status),
            None => None,
        };
        info!(
            dispatcher = self.stream.address(),
            code = status.as_ref().map(|status| tracing::field::debug(status.code())),
            status = status.as_ref().map(Status::message),
            leases = self.link.held(),
            unconfirmed = self.link.unconfirmed(),
            "stream ended"
        );
        self.leave_stream(now);
        Some(Event::StreamEnded)
    }

    /// Logs what changes the state of the stream.
    fn note(&mut self, event: Option<&Event>, now: Instant) {
        match event {
            Some(Event::Welcome(welcome)) => {
                self.gauges.welcomes.inc();
                info!(dispatcher = self.stream.address(), session = welcome.session, "attached");
            }
            Some(Event::MoveAsked { superseded }) => {
                info!(dispatcher = self.stream.address(), superseded, "asked to connect elsewhere");
                if let Some(address) = self.stream.dispatcher {
                    self.dialer.avoid(address, now);
                }
            }
            Some(
                Event::Dialled
                | Event::DialFailed
                | Event::StreamEnded
                | Event::Assigned(_)
                | Event::LeaseUpdates { .. }
                | Event::Confirmed(_)
                | Event::CancelAsked(_)
                | Event::ListAsked(_)
                | Event::Listed(_)
                | Event::Finished(_)
                | Event::Paused(_)
                | Event::DrainAsked { .. },
            )
            | None => {}
        }
    }

    fn dialled(&mut self, dialled: Result<Dialled, DialError>, now: Instant) -> Event {
        self.dial = Dial::None;
        match dialled {
            Ok(dialled) => {
                self.dialled = Some(dialled);
                Event::Dialled
            }
            Err(error) => {
                info!(error = &error as &dyn std::error::Error, "no dispatcher reached");
                if let DialError::Connect { address, .. } = error {
                    self.dialer.avoid(address, now);
                }
                Event::DialFailed
            }
        }
    }
}

impl Stream {
    const fn none() -> Self {
        Self { inbound: Inbound::None, outbound: None, dispatcher: None }
    }

    /// The dispatcher's address, for logs.
    fn address(&self) -> Option<DisplayValue<SocketAddr>> {
        self.dispatcher.map(display)
    }

    /// Ends this side and gives the other one a moment to end its own.
    async fn close(&mut self, within: Duration) {
        self.outbound = None;
        let ended = async { while matches!(self.inbound.next_or_end().await, Some(Ok(_))) {} };
        if timeout(within, ended).await.is_err() {
            debug!(dispatcher = self.address(), "the dispatcher did not end the stream");
        }
    }
}

impl Inbound {
    /// The next message or the end; for ever when there is no stream.
    async fn next(&mut self) -> Option<Result<v1::FromDispatcher, Status>> {
        if matches!(self, Self::None) {
            pending::<()>().await;
        }
        self.next_or_end().await
    }

    async fn next_or_end(&mut self) -> Option<Result<v1::FromDispatcher, Status>> {
        loop {
            match self {
                Self::None => return None,
                Self::Opening(response) => match response.await {
                    Ok(streaming) => *self = Self::Open(Box::new(streaming)),
                    Err(status) => {
                        *self = Self::None;
                        return Some(Err(status));
                    }
                },
                Self::Open(streaming) => return streaming.message().await.transpose(),
            }
        }
    }
}

impl Dial {
    async fn next(&mut self) -> Result<Dialled, DialError> {
        match self {
            Self::None => pending().await,
            Self::Running(dial) => dial.await,
        }
    }
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Running(_) => "Running",
        })
    }
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Opening(_) => "Opening",
            Self::Open(_) => "Open",
        })
    }
}

/// The next page that was listed; for ever where none can be.
async fn next_page(pages: Option<&mut Pages>) -> v1::ListedPage {
    match pages {
        Some(pages) => pages.next().await,
        None => pending().await,
    }
}

/// The paused locations when they have changed; for ever when they cannot.
async fn next_paused(paused: Option<&mut watch::Receiver<BTreeSet<String>>>) -> BTreeSet<String> {
    if let Some(paused) = paused
        && paused.changed().await.is_ok()
    {
        return paused.borrow_and_update().clone();
    }
    pending().await
}

/// Waits for room on the stream, or for its end.
async fn room(outbound: Option<&mpsc::Sender<v1::FromWorker>>) {
    match outbound {
        Some(outbound) => drop(outbound.reserve().await),
        None => pending().await,
    }
}
