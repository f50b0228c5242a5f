//! Runs one [`Session`]: reads the worker's messages, calls the queue, sends what the session composes, keeps its timer.
//!
//! The only place with a `select!`, and no decision is made here. The inbound stream is read straight into the state machine;
//! no answer of the queue is ever awaited before reading on. Calls of the queue are futures owned by the driver, at most one
//! of each kind, each with a time limit. What is sent goes through a small bounded channel: when the worker does not read,
//! nothing piles up but what the state machine keeps, and that is bounded.

use std::{
    collections::HashMap,
    future::pending,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use backhaul_proto::v1 as pb;
use futures_util::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{Span, debug, error, info, warn};

use super::{
    CloseReason, Credit, DrainOrder, Effect, Event, Excess, Floor, PageAnswer, RenewFor, SessionHandle,
    SessionId, Standing, StreamSettings, Violation,
    handle::{Offer, PageCall, SessionInbox},
    state::Session,
    wire,
};
use crate::{
    census::Place,
    queue::{LeaseToken, QueueError, Renewal, Settlement, TaskQueue},
};

/// Messages composed ahead of what the connection takes. Few, so that later ones are composed together.
const SEND_AHEAD: usize = 4;

/// Messages read before the queue is called and answers are sent.
const READ_AT_ONCE: usize = 32;

/// A place for one stream, and what the session there needs.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The session's id.
    pub(crate) id: SessionId,
    /// The queue.
    pub(crate) queue: Arc<dyn TaskQueue>,
    /// Who feeds the session.
    pub(crate) floor: Arc<dyn Floor>,
    /// Settings of all streams.
    pub(crate) settings: Arc<StreamSettings>,
    /// Ends the stream at once.
    pub(crate) stop: CancellationToken,
    /// Cancelled when the worker has to prove anew who it is.
    pub(crate) reauthenticate: CancellationToken,
    /// Counts the stream, as long as it lives, against the most there may be.
    pub(crate) _places: (Place<IpAddr>, Place<Arc<str>>),
}

/// Runs one stream until it is over.
#[derive(Debug)]
pub(crate) struct Driver<S> {
    inbound: S,
    seat: Seat,
    session: Session,
    inbox: Option<SessionInbox>,
    outbound: Option<mpsc::Sender<pb::FromDispatcher>>,
    end: Option<oneshot::Sender<Option<Status>>>,
    calls: FuturesUnordered<Call>,
    published: Option<Standing>,
    /// Who waits for pages.
    pages: HashMap<LeaseToken, oneshot::Sender<PageAnswer>>,
    jitter: fastrand::Rng,
    queue_fails: bool,
    is_asked_to_prove: bool,
}

/// The response stream: what the driver sends, and the status at its end.
#[derive(Debug)]
pub(crate) struct Outbound {
    messages: mpsc::Receiver<pb::FromDispatcher>,
    end: Option<oneshot::Receiver<Option<Status>>>,
}

/// A call of the queue under way. Answers with the event, and with the first error among its items.
struct Call(BoxFuture<'static, (Event, Option<QueueFault>)>);

/// A word of the rest of the dispatcher.
enum Order {
    Event(Event),
    Page(PageCall),
}

/// Why a call of the queue failed, for the log.
#[derive(Debug, thiserror::Error)]
enum QueueFault {
    #[error("no answer in time")]
    TimedOut,
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Damaged(String),
}

/// Makes a driver and the response stream that it feeds.
pub(crate) fn open<S>(inbound: S, seat: Seat) -> (Driver<S>, Outbound)
where
    S: Stream<Item = Result<pb::FromWorker, Status>> + Unpin,
{
    let (outbound, messages) = mpsc::channel(SEND_AHEAD);
    let (end, end_in) = oneshot::channel();
    let mut jitter = fastrand::Rng::new();
    let now = Instant::now().into_std();
    let session = Session::new(now, seat.id.clone(), Arc::clone(&seat.settings), jitter.f64());
    let driver = Driver {
        inbound,
        seat,
        session,
        inbox: None,
        outbound: Some(outbound),
        end: Some(end),
        calls: FuturesUnordered::new(),
        published: None,
        pages: HashMap::new(),
        jitter,
        queue_fails: false,
        is_asked_to_prove: false,
    };
    (driver, Outbound { messages, end: Some(end_in) })
}

impl<S> Driver<S>
where
    S: Stream<Item = Result<pb::FromWorker, Status>> + Unpin,
{
    /// Runs the stream. Ends when everything that the worker reported and accepted is written, or could not be in time.
    pub(crate) async fn run(mut self) {
        loop {
            self.carry_out();
            self.transmit();
            self.wind_up();
            self.publish();
            if self.session.is_over() {
                break;
            }
            self.turn().await;
        }
        let reason = self.session.close_reason().unwrap_or(CloseReason::Stopping);
        if reason.is_misbehaviour() {
            warn!(reason = %reason, "stream ended");
        } else {
            info!(reason = %reason, "stream ended");
        }
    }

    /// Waits for one thing to happen, and takes it in.
    async fn turn(&mut self) {
        let is_open = self.session.close_reason().is_none();
        let may_be_asked = self.inbox.is_some() && !self.is_asked_to_prove;
        let deadline = self.session.poll_timeout().map(Instant::from_std);
        // Also wakes when the connection takes messages again, because the worker earns credit from then on.
        let awaits_send = self.session.has_message() || self.is_full();
        let sender = if awaits_send { self.outbound.clone() } else { None };
        let event = tokio::select! {
            () = self.seat.stop.cancelled(), if is_open => Event::Stop,
            () = self.seat.reauthenticate.cancelled(), if is_open && may_be_asked => {
                self.is_asked_to_prove = true;
                let within = self.seat.settings.drain_within;
                Event::Drain(DrainOrder { reason: pb::DrainReason::Reauthenticate, within, taken_over: Arc::new([]) })
            }
            message = self.inbound.next(), if is_open => return self.read(message),
            Some((event, fault)) = self.calls.next() => {
                self.note_fault(fault);
                if matches!(event, Event::Settled(_)) {
                    self.seat.floor.settled();
                }
                event
            }
            order = next_order(self.inbox.as_mut()) => match order {
                Order::Event(event) => event,
                Order::Page(call) => self.page_asked(call),
            },
            permit = reserve(sender), if awaits_send => {
                let now = now();
                match permit {
                    Some(permit) => {
                        if let Some(message) = self.session.next_message(now) {
                            let _sender = permit.send(message);
                        }
                        return;
                    }
                    None => Event::PeerLost,
                }
            }
            () = closed(self.outbound.as_ref()) => Event::PeerLost,
            () = sleep_to(deadline) => return self.session.handle_timeout(now()),
        };
        if matches!(event, Event::PeerLost) {
            self.outbound = None;
        }
        self.session.handle_event(now(), event);
    }

    /// Notes who waits for a page. Those who have given up make room.
    fn page_asked(&mut self, call: PageCall) -> Event {
        let given_up: Vec<LeaseToken> =
            self.pages.iter().filter(|(_, reply)| reply.is_closed()).map(|(lease, _)| *lease).collect();
        for lease in given_up {
            self.pages.remove(&lease);
            self.session.handle_event(now(), Event::PageGivenUp(lease));
        }
        self.pages.insert(call.lease, call.reply);
        Event::List(call.lease, call.order)
    }

    /// Takes in a message, and those that have arrived behind it.
    fn read(&mut self, first: Option<Result<pb::FromWorker, Status>>) {
        let now = now();
        let mut next = Some(first);
        for _ in 0..READ_AT_ONCE {
            let Some(message) = next else { break };
            let event = match message {
                Some(Ok(message)) => wire::decode(message, &mut self.jitter),
                Some(Err(status)) => broken_inbound(&status),
                None => Event::PeerClosed,
            };
            self.session.handle_event(now, event);
            if self.session.close_reason().is_some() {
                break;
            }
            next = self.inbound.next().now_or_never();
        }
    }

    /// Does what the session asks for.
    fn carry_out(&mut self) {
        while let Some(effect) = self.session.next_effect() {
            let call = match effect {
                Effect::Attach(worker, resumed) => {
                    Span::current().record("worker", &*worker.name);
                    info!(worker = &*worker.name, version = %worker.version, resumed = resumed.len(), "worker connected");
                    let (handle, inbox) = SessionHandle::new(self.seat.id.clone(), worker);
                    self.inbox = Some(inbox);
                    self.seat.floor.attach(handle, resumed);
                    continue;
                }
                Effect::Renew(what, renewals) => renew(&self.seat, what, renewals),
                Effect::Settle(settlements) => settle(&self.seat, settlements),
                Effect::Listed(lease, answer) => {
                    if let (Some(reply), Some(answer)) = (self.pages.remove(&lease), answer) {
                        // Whoever gave up asks for the page again.
                        drop(reply.send(answer));
                    }
                    continue;
                }
            };
            self.calls.push(call);
        }
    }

    /// Sends while there is room.
    fn transmit(&mut self) {
        let Some(outbound) = &self.outbound else { return };
        while self.session.has_message() {
            let Ok(permit) = outbound.try_reserve() else { break };
            let Some(message) = self.session.next_message(now()) else { break };
            permit.send(message);
        }
    }

    /// Ends the response stream, once the session is closed and has said what it has to say.
    fn wind_up(&mut self) {
        let Some(reason) = self.session.close_reason() else { return };
        self.pages.clear();
        if let Some(inbox) = &mut self.inbox {
            inbox.pages.close();
            while inbox.pages.try_recv().is_ok() {}
            inbox.offers.close();
            while let Ok(Offer { request, tasks }) = inbox.offers.try_recv() {
                self.session.handle_event(now(), Event::Offered { request, tasks });
            }
            self.carry_out();
        }
        if self.session.can_end_stream()
            && let Some(end) = self.end.take()
        {
            if end.send(reason.status()).is_err() {
                debug!("the worker was gone before it could be told");
            }
            self.outbound = None;
            self.session.mute();
        }
    }

    /// Tells whoever feeds the session where it stands, if that has changed.
    fn publish(&mut self) {
        if self.inbox.is_none() {
            return;
        }
        let mut standing = self.session.standing();
        if self.is_full() {
            standing.room = Credit::default();
        }
        if self.published.as_ref().is_none_or(|published| published.differs(&standing)) {
            self.seat.floor.stand(&self.seat.id, standing.clone());
            self.published = Some(standing);
        }
    }

    /// True when the connection has not taken what was sent ahead.
    fn is_full(&self) -> bool {
        self.outbound.as_ref().is_some_and(|outbound| outbound.capacity() == 0)
    }

    /// Logs when the queue begins to fail for this stream and when it works again; not every call between.
    fn note_fault(&mut self, fault: Option<QueueFault>) {
        match fault {
            Some(QueueFault::Damaged(what)) => error!(error = %what, "a stored task is damaged"),
            Some(fault) if !self.queue_fails => {
                self.queue_fails = true;
                warn!(error = %fault, "the queue cannot be asked");
            }
            Some(fault) => debug!(error = %fault, "the queue still cannot be asked"),
            None if self.queue_fails => {
                self.queue_fails = false;
                info!("the queue answers again");
            }
            None => {}
        }
    }
}

impl<S> Drop for Driver<S> {
    /// Leaves the floor however the driver ends, a panic included.
    fn drop(&mut self) {
        self.seat.floor.leave(&self.seat.id, self.session.standing().counters);
    }
}

impl Stream for Outbound {
    type Item = Result<pb::FromDispatcher, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = std::task::ready!(self.messages.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(message)));
        }
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        // A driver that vanished without a word has failed; the worker should try again.
        let status = std::task::ready!(end.poll_unpin(cx)).unwrap_or_else(|_| CloseReason::Stopping.status());
        self.end = None;
        Poll::Ready(status.map(Err))
    }
}

impl Future for Call {
    type Output = (Event, Option<QueueFault>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx)
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}

fn renew(seat: &Seat, what: RenewFor, renewals: Vec<Renewal>) -> Call {
    let queue = Arc::clone(&seat.queue);
    // A heartbeat is answered before the next one is due, so that an outage of the queue is told in time to be waited out.
    let limit = seat.settings.queue_timeout.min(seat.settings.heartbeat_every / 2);
    let call = async move {
        let (answers, fault) = answers(timeout(limit, queue.renew(&renewals)).await);
        (Event::Renewed(what, answers), fault)
    };
    Call(call.boxed())
}

fn settle(seat: &Seat, settlements: Vec<Settlement>) -> Call {
    let queue = Arc::clone(&seat.queue);
    let limit = seat.settings.queue_timeout;
    let call = async move {
        let (answers, fault) = answers(timeout(limit, queue.settle(settlements)).await);
        (Event::Settled(answers), fault)
    };
    Call(call.boxed())
}

/// The answers of a call, none at all when it took too long, and the first of its errors that somebody should know of.
fn answers<T>(
    answered: Result<Vec<Result<T, QueueError>>, tokio::time::error::Elapsed>,
) -> (Vec<Result<T, QueueError>>, Option<QueueFault>) {
    let Ok(answers) = answered else { return (Vec::new(), Some(QueueFault::TimedOut)) };
    let fault = answers.iter().filter_map(|answer| answer.as_ref().err()).find_map(|error| match error {
        QueueError::NotFound(_) => None,
        QueueError::Corrupt { .. } => Some(QueueFault::Damaged(with_sources(error))),
        QueueError::Full
        | QueueError::TenantFull
        | QueueError::Unavailable(_)
        | QueueError::NotDurable { .. }
        | QueueError::Unfit(_)
        | QueueError::Rejected(_) => Some(QueueFault::Failed(with_sources(error))),
    });
    (answers, fault)
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The event that a failed inbound stream stands for: a message that is no message of ours, or a lost connection.
fn broken_inbound(status: &Status) -> Event {
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => Event::Broken(Excess::MessageSize.into()),
        Code::Internal | Code::InvalidArgument | Code::Unimplemented => {
            Event::Broken(Violation::Undecodable.into())
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => Event::PeerLost,
    }
}

/// The next word of the rest of the dispatcher. Never ready when there can be none.
async fn next_order(inbox: Option<&mut SessionInbox>) -> Order {
    let Some(inbox) = inbox else { return pending().await };
    loop {
        return tokio::select! {
            Some(Offer { request, tasks }) = inbox.offers.recv() => Order::Event(Event::Offered { request, tasks }),
            Some(lease) = inbox.stops.recv() => Order::Event(Event::StopCopy(lease)),
            Some(call) = inbox.pages.recv() => Order::Page(call),
            Ok(()) = inbox.drains.changed() => {
                let order = inbox.drains.borrow_and_update().clone();
                match order {
                    Some(order) => Order::Event(Event::Drain(order)),
                    None => continue,
                }
            }
            else => pending().await,
        };
    }
}

async fn reserve(
    outbound: Option<mpsc::Sender<pb::FromDispatcher>>,
) -> Option<mpsc::OwnedPermit<pb::FromDispatcher>> {
    match outbound {
        Some(outbound) => outbound.reserve_owned().await.ok(),
        None => pending().await,
    }
}

async fn closed(outbound: Option<&mpsc::Sender<pb::FromDispatcher>>) {
    match outbound {
        Some(outbound) => outbound.closed().await,
        None => pending().await,
    }
}

async fn sleep_to(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests;
