//! What a session shows to the rest of the dispatcher: a [`SessionHandle`] to offer it tasks and orders, and the [`Floor`] on
//! which it reports where it stands. Both hide the channels behind them; all of those are bounded.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backhaul_proto::v1::DrainReason;
use tokio::sync::{mpsc, oneshot, watch};

use super::{LeaseKey, PageAnswer, SessionCounters, SessionId, Standing, WorkerInfo};
use crate::queue::{LeaseToken, LeasedTask, walk::PageOrder};

/// Orders to stop a copy that may wait for a session. More are dropped: the next heartbeat gives the same verdict.
const STOP_ORDERS: usize = 256;

/// Pages that may be unanswered on a stream, by the contract.
pub(crate) const MOST_PAGES: usize = 4;

/// Who feeds sessions, as a session sees it. Called from the session's own task; must not block.
pub(crate) trait Floor: Send + Sync + fmt::Debug + 'static {
    /// A worker has introduced itself. Older sessions of its instance end, and lose `resumed` to this one.
    fn attach(&self, session: SessionHandle, resumed: Arc<[LeaseToken]>);

    /// Where an attached session stands now.
    fn stand(&self, session: &SessionId, standing: Standing);

    /// Leases have ended, so that tasks held back by a cap may be free.
    fn settled(&self);

    /// The session is over, attached or not.
    fn leave(&self, session: &SessionId, counters: SessionCounters);
}

/// A way to reach one session.
#[derive(Debug, Clone)]
pub(crate) struct SessionHandle {
    id: SessionId,
    worker: Arc<WorkerInfo>,
    offers: mpsc::Sender<Offer>,
    stops: mpsc::Sender<LeaseKey>,
    drains: watch::Sender<Option<DrainOrder>>,
    pages: mpsc::Sender<PageCall>,
    /// Pages that somebody waits for.
    asked: Arc<AtomicUsize>,
}

/// The session's end of a handle.
#[derive(Debug)]
pub(crate) struct SessionInbox {
    pub(super) offers: mpsc::Receiver<Offer>,
    pub(super) stops: mpsc::Receiver<LeaseKey>,
    pub(super) drains: watch::Receiver<Option<DrainOrder>>,
    pub(super) pages: mpsc::Receiver<PageCall>,
}

/// A page that somebody wants listed, and where the answer goes. Without an answer it was not listed.
#[derive(Debug)]
pub(crate) struct PageCall {
    /// Names the page on this stream.
    pub(crate) lease: LeaseToken,
    /// What to list.
    pub(crate) order: Box<PageOrder>,
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<PageAnswer>,
}

/// Tasks leased for a session.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Number of the session's request that they answer.
    pub(crate) request: u64,
    /// The tasks.
    pub(crate) tasks: Vec<LeasedTask>,
}

/// The order to move a worker elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DrainOrder {
    /// Why.
    pub(crate) reason: DrainReason,
    /// The stream ends after this.
    pub(crate) within: Duration,
    /// Leases that another session holds now, so that this one must not hand them back.
    pub(crate) taken_over: Arc<[LeaseToken]>,
}

/// Counts somebody who waits for a page.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(asked: &'a AtomicUsize) -> Self {
        asked.fetch_add(1, Ordering::Relaxed);
        Self(asked)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SessionHandle {
    /// A handle and the inbox it fills.
    pub(crate) fn new(id: SessionId, worker: Arc<WorkerInfo>) -> (Self, SessionInbox) {
        // Only one request of a session is under way at a time, so one place for its answer is enough.
        let (offers, offers_in) = mpsc::channel(1);
        let (stops, stops_in) = mpsc::channel(STOP_ORDERS);
        let (drains, drains_in) = watch::channel(None);
        let (pages, pages_in) = mpsc::channel(MOST_PAGES);
        let inbox = SessionInbox { offers: offers_in, stops: stops_in, drains: drains_in, pages: pages_in };
        (Self { id, worker, offers, stops, drains, pages, asked: Arc::default() }, inbox)
    }

    /// The session's id.
    pub(crate) const fn id(&self) -> &SessionId {
        &self.id
    }

    /// Who is on the other side.
    pub(crate) const fn worker(&self) -> &Arc<WorkerInfo> {
        &self.worker
    }

    /// Gives the session the tasks that its request got.
    ///
    /// # Errors
    /// The tasks come back when the session is over, or still has an offer to look at.
    pub(crate) fn offer(&self, offer: Offer) -> Result<(), Vec<LeasedTask>> {
        self.offers.try_send(offer).map_err(|refused| refused.into_inner().tasks)
    }

    /// How many pages somebody waits for here.
    pub(crate) fn pages_asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Has the worker list a page; `None` when it does not, because the stream ended or takes no pages. Dropping the call gives the
    /// page up.
    pub(crate) async fn list(&self, lease: LeaseToken, order: PageOrder) -> Option<PageAnswer> {
        let _waits = Waits::new(&self.asked);
        let (reply, answer) = oneshot::channel();
        let call = PageCall { lease, order: Box::new(order), reply };
        self.pages.try_send(call).ok()?;
        answer.await.ok()
    }

    /// Asks the worker to stop a copy. False when the session cannot be told.
    pub(crate) fn stop_copy(&self, lease: LeaseKey) -> bool {
        self.stops.try_send(lease).is_ok()
    }

    /// Asks the worker to connect elsewhere. An order that replaces the stream by a newer one is never withdrawn.
    pub(crate) fn drain(&self, order: DrainOrder) {
        self.drains.send_if_modified(|current| {
            let final_order = current.as_ref().is_some_and(|old| old.reason == DrainReason::Superseded);
            if !final_order {
                *current = Some(order);
            }
            !final_order
        });
    }
}
