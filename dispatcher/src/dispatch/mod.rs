//! How due tasks find workers: [`Dispatch`] runs the feeder, the sweeper and the sessions, and ends them in order.
//!
//! ```text
//!  queue.ready() --> Feeder --lease--> TaskQueue            Sweeper --sweep--> TaskQueue
//!                      |  ^
//!              offers  v  |  room, standing
//!                     Roster <---- sessions (one task each, owned here)
//! ```
//!
//! Sessions report to the roster, the feeder asks it whom to lease for, and nobody waits for anybody: a mutex around plain data
//! and one wake-up. Nothing here may know tonic, protobuf messages or Redis.

mod feeder;
mod roster;
mod sweeper;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use backhaul_proto::v1::DrainReason;
use backhaul_runtime::locations::Locations;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use self::{feeder::Feeder, roster::Roster, sweeper::Sweeper};
pub use crate::session::{SessionCounters, StreamSettings};
use crate::{
    census::{Census, NoPlace, origin_of},
    queue::{LeaseToken, SweepReport, TaskId, TaskQueue},
    session::{CloseReason, DrainOrder, Excess, Floor, LeaseKey, Seat, SessionHandle, SessionId, Standing},
};

/// What part of a drain is used to tell workers one after the other, so that they do not all connect elsewhere at once.
const SPREAD_SHARE: u32 = 3;

/// Longest time over which workers are told.
const LONGEST_SPREAD: Duration = Duration::from_secs(10);

/// Moves tasks from the queue to workers. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Dispatch {
    shared: Arc<Shared>,
}

/// Why dispatching cannot go on. The process has to end: the queue is safe, but nothing moves any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// A loop that must never end has ended.
    #[error("the {0} has died")]
    Died(&'static str),
    /// `run` was called twice.
    #[error("dispatching has been started before")]
    StartedTwice,
}

/// Where dispatching stands: gauges of now, counters since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DispatchStats {
    /// Attached workers.
    pub sessions: usize,
    /// Of these, those that take no more tasks.
    pub draining: usize,
    /// Tasks that workers have room for.
    pub free_tasks: u64,
    /// Bytes that workers have room for.
    pub free_bytes: u64,
    /// Tasks that workers hold.
    pub outstanding_tasks: u64,
    /// Bytes by size hint that workers hold.
    pub outstanding_bytes: u64,
    /// What sessions have done since the start, those that have ended included.
    pub counters: SessionCounters,
    /// Accepted leases that ran out, as far as this dispatcher's sweeps found them.
    pub expired: u64,
    /// Scheduled and delayed tasks that became pending, likewise.
    pub promoted: u64,
}

#[derive(Debug)]
struct Shared {
    queue: Arc<dyn TaskQueue>,
    grants: Option<Arc<Locations>>,
    settings: Arc<StreamSettings>,
    hall: Arc<Hall>,
    counters: Arc<DispatchCounters>,
    streams: Arc<Census<IpAddr>>,
    identities: Arc<Census<Arc<str>>>,
    sessions: TaskTracker,
    /// Ends every stream at once.
    hard_stop: CancellationToken,
    is_started: AtomicBool,
}

/// Where sessions and feeder meet.
#[derive(Debug)]
struct Hall {
    roster: Mutex<Roster>,
    /// Told when it may be worth asking for tasks.
    room_changed: Notify,
    /// Set when the dispatcher begins to shut down: when the last stream has to be over.
    closing: OnceLock<Instant>,
}

/// What sweeps have found.
#[derive(Debug, Default)]
struct DispatchCounters {
    expired: AtomicU64,
    promoted: AtomicU64,
}

impl Dispatch {
    /// Makes the dispatch; nothing moves before [`Dispatch::run`].
    #[must_use]
    pub fn new(queue: Arc<dyn TaskQueue>, settings: StreamSettings) -> Self {
        Self::granted(queue, settings, None)
    }

    /// The same, but no worker gets a task whose tenant may not name its object any more: such a task dies.
    #[must_use]
    pub fn granted(
        queue: Arc<dyn TaskQueue>,
        settings: StreamSettings,
        grants: Option<Arc<Locations>>,
    ) -> Self {
        let hall = Hall {
            roster: Mutex::new(Roster::new(settings.lease_batch)),
            room_changed: Notify::new(),
            closing: OnceLock::new(),
        };
        let streams = Census::new(settings.max_streams, settings.max_streams_per_address);
        let identities = Census::new(settings.max_streams, settings.max_streams_per_identity);
        Self {
            shared: Arc::new(Shared {
                queue,
                grants,
                settings: Arc::new(settings),
                hall: Arc::new(hall),
                counters: Arc::new(DispatchCounters::default()),
                streams,
                identities,
                sessions: TaskTracker::new(),
                hard_stop: CancellationToken::new(),
                is_started: AtomicBool::new(false),
            }),
        }
    }

    /// Runs until `stop`, then drains: no more leases, every worker told to connect elsewhere, streams ended at the latest
    /// after `drain_within`. Returns when all sessions are over.
    ///
    /// # Errors
    /// [`DispatchError::Died`] when the feeder or the sweeper ended by itself: the process has to end.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), DispatchError> {
        let shared = &self.shared;
        if shared.is_started.swap(true, Ordering::SeqCst) {
            return Err(DispatchError::StartedTwice);
        }
        let feeder = Feeder {
            queue: Arc::clone(&shared.queue),
            settings: Arc::clone(&shared.settings),
            hall: Arc::clone(&shared.hall),
            grants: shared.grants.clone(),
        };
        let sweeper = Sweeper {
            queue: Arc::clone(&shared.queue),
            settings: Arc::clone(&shared.settings),
            counters: Arc::clone(&shared.counters),
        };
        let feeder_stop = CancellationToken::new();
        let sweeper_stop = CancellationToken::new();
        let mut loops = JoinSet::new();
        let feeder_id = loops.spawn(feeder.run(feeder_stop.clone())).id();
        loops.spawn(sweeper.run(sweeper_stop.clone()));

        let died = tokio::select! {
            () = stop.cancelled() => None,
            ended = loops.join_next_with_id() => ended,
        };
        let start = Instant::now();
        let deadline = *shared.hall.closing.get_or_init(|| start + shared.settings.drain_within);
        feeder_stop.cancel();
        if let Some(ended) = died {
            let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
            let name = if id == feeder_id { "feeder" } else { "sweeper" };
            error!(name, "a loop that must never end has ended");
            shared.hard_stop.cancel();
            sweeper_stop.cancel();
            return Err(DispatchError::Died(name));
        }
        self.drain(start, deadline).await;
        sweeper_stop.cancel();
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                error!(error = &error as &dyn std::error::Error, "a loop failed while it was stopped");
            }
        }
        Ok(())
    }

    /// Asks the worker that holds this lease to stop, if it is connected here; otherwise its next heartbeat will tell it.
    pub fn stop_copy(&self, session: &str, task: &TaskId, lease: LeaseToken) {
        let handle = self.shared.hall.roster().handle(session).cloned();
        if let Some(handle) = handle {
            let told = handle.stop_copy(LeaseKey { id: task.clone(), lease });
            if !told {
                info!(session, task_id = %task, "the session has too many orders to stop; its next heartbeat tells the worker");
            }
        }
    }

    /// The session to list a page of that location, if there is one.
    pub(crate) fn lister(&self, location: &str) -> Option<SessionHandle> {
        if self.shared.hall.closing.get().is_some() {
            return None;
        }
        self.shared.hall.roster().lister(location)
    }

    /// Where dispatching stands now.
    #[must_use]
    pub fn stats(&self) -> DispatchStats {
        DispatchStats {
            expired: self.shared.counters.expired.load(Ordering::Relaxed),
            promoted: self.shared.counters.promoted.load(Ordering::Relaxed),
            ..self.shared.hall.roster().stats()
        }
    }

    /// A place for a new stream from that address, of a worker with that name. `reauthenticate` says when its worker has to prove anew who it is.
    ///
    /// # Errors
    /// Why the stream is refused: too many, or the dispatcher is shutting down.
    pub(crate) fn admit(
        &self,
        address: IpAddr,
        identity: Arc<str>,
        reauthenticate: CancellationToken,
    ) -> Result<Seat, CloseReason> {
        let shared = &self.shared;
        if shared.hall.closing.get().is_some() {
            return Err(CloseReason::Stopping);
        }
        let place = shared.streams.enter(origin_of(address)).map_err(|full| match full {
            NoPlace::InAll => CloseReason::TooMuch(Excess::Streams),
            NoPlace::OfOrigin => CloseReason::TooMuch(Excess::StreamsOfAddress),
        })?;
        let identity = shared.identities.enter(identity).map_err(|full| match full {
            NoPlace::InAll => CloseReason::TooMuch(Excess::Streams),
            NoPlace::OfOrigin => CloseReason::TooMuch(Excess::StreamsOfIdentity),
        })?;
        Ok(Seat {
            id: SessionId::random().map_err(|_| CloseReason::NoRandomness)?,
            queue: Arc::clone(&shared.queue),
            floor: Arc::clone(&shared.hall) as Arc<dyn Floor>,
            settings: Arc::clone(&shared.settings),
            stop: shared.hard_stop.clone(),
            reauthenticate,
            _places: (place, identity),
        })
    }

    /// Runs a session as a task that a shutdown waits for.
    pub(crate) fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        drop(self.shared.sessions.spawn(session));
    }

    /// Moves workers elsewhere, one after the other, and waits until they have gone or their time is over.
    async fn drain(&self, start: Instant, deadline: Instant) {
        let shared = &self.shared;
        let sessions = shared.hall.roster().handles();
        let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX).max(1);
        info!(sessions = sessions.len(), within = ?shared.settings.drain_within, "draining");
        let step = (shared.settings.drain_within / SPREAD_SHARE).min(LONGEST_SPREAD) / count;
        shared.sessions.close();
        for (session, index) in sessions.iter().zip(0..) {
            if timeout_at(start + step * index, shared.sessions.wait()).await.is_ok() {
                return;
            }
            session.drain(shutdown_order(deadline));
        }
        if timeout_at(deadline, shared.sessions.wait()).await.is_ok() {
            return;
        }
        info!(left = shared.sessions.len(), "ending the streams that are left");
        shared.hard_stop.cancel();
        // Sessions only finish what they have asked of the queue, and that has a time limit of its own.
        let last = deadline + shared.settings.queue_timeout * 2;
        if timeout_at(last, shared.sessions.wait()).await.is_err() {
            warn!(left = shared.sessions.len(), "sessions did not end in time");
        }
    }
}

/// The order to move elsewhere because the dispatcher ends at `deadline`. Streams end a little before, each by itself.
fn shutdown_order(deadline: Instant) -> DrainOrder {
    let left = deadline.saturating_duration_since(Instant::now());
    let within = left - (left / 10).min(Duration::from_secs(1));
    DrainOrder { reason: DrainReason::Shutdown, within, taken_over: Arc::new([]) }
}

impl Hall {
    fn roster(&self) -> MutexGuard<'_, Roster> {
        // The roster is plain data that no panic can leave half changed in a way that matters more than going on.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Floor for Hall {
    fn attach(&self, session: SessionHandle, resumed: Arc<[LeaseToken]>) {
        if let Some(deadline) = self.closing.get() {
            session.drain(shutdown_order(*deadline));
        }
        let older = self.roster().attach(session);
        for old in older {
            info!(session = %old.id(), "replaced by a newer stream of the same worker");
            let reason = DrainReason::Superseded;
            old.drain(DrainOrder { reason, within: Duration::ZERO, taken_over: Arc::clone(&resumed) });
        }
    }

    fn stand(&self, session: &SessionId, standing: Standing) {
        if self.roster().stand(session, standing) {
            self.room_changed.notify_one();
        }
    }

    fn settled(&self) {
        self.roster().look_again();
        self.room_changed.notify_one();
    }

    fn leave(&self, session: &SessionId, counters: SessionCounters) {
        self.roster().leave(session, counters);
    }
}

impl DispatchCounters {
    fn note(&self, report: &SweepReport) {
        self.expired.fetch_add(report.expired, Ordering::Relaxed);
        self.promoted.fetch_add(report.promoted, Ordering::Relaxed);
    }
}
