//! Following tasks: who watches is shown each task as it is, whenever the queue's log of changes names it.
//!
//! One task of the process reads the log as long as anybody watches ([`Watches::run`]); each [`Watch`] is a place in that log and no
//! more. Nothing is buffered for a watcher that is slow: it reads on from its place in the log when it comes back, and when the log
//! does not reach back that far it is told so and looks at everything anew. So a watcher costs the same however slow it is, and
//! every dispatcher can go on where another has stopped.
//!
//! Nothing here may know tonic, protobuf or Redis.

mod reader;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::reader::Stage;
use crate::census::{Census, Place};
use crate::queue::{EventCursor, Events, QueueError, TaskId, TaskQueue, TaskRecord};

/// Most watchers at a time.
pub const MOST_WATCHES: u32 = 1000;
/// How often the log is read while it has nothing new.
const READ_EVERY: Duration = Duration::from_millis(100);
/// How soon the log is read again after it could not be.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Everybody who watches. Clones are the same.
#[derive(Debug, Clone)]
pub struct Watches {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Arc<dyn TaskQueue>,
    /// The newest part of the log, for all who have read up to where it begins.
    newest: watch::Sender<Arc<Part>>,
    places: Arc<Semaphore>,
    identities: Arc<Census<Arc<str>>>,
    /// Somebody has begun to watch.
    wanted: Notify,
    ending: CancellationToken,
}

/// A part of the log.
#[derive(Debug, Default)]
struct Part {
    /// Where it begins; `None` when it is only an end.
    from: Option<EventCursor>,
    events: Option<Events>,
}

/// Which tasks to follow, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchFilter {
    /// Only of this tenant.
    pub tenant: String,
    /// Only these tasks; any when empty.
    pub ids: Vec<TaskId>,
    /// Only with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Show no task because it exists, only because it has changed.
    pub only_changes: bool,
}

/// One watcher's place in the log.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    filter: WatchFilter,
    newest: watch::Receiver<Arc<Part>>,
    stage: Stage,
    /// A part of the queue could not be asked for its changes, and whether that was told.
    incomplete: bool,
    told_incomplete: bool,
    _place: (OwnedSemaphorePermit, Place<Arc<str>>),
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// Tasks as they are now.
    pub records: Vec<TaskRecord>,
    /// Tasks of the filter that do not exist, or are another tenant's.
    pub gone: Vec<TaskId>,
    /// Where to go on after this; `None` while more belongs to it.
    pub cursor: Option<EventCursor>,
    /// Changes are lost: everything that matches follows, up to the next cursor, unless only changes are wanted.
    pub missed: bool,
    /// A part of the queue cannot be asked now: what changes there is told when it can. Told once when it begins and once when it
    /// ends, if nothing else is to be told.
    pub incomplete: bool,
}

/// Why a watch ends.
#[derive(Debug, thiserror::Error)]
pub enum WatchEnd {
    /// The dispatcher stops. Another one can go on.
    #[error("the dispatcher is stopping")]
    Stopping,
    /// The queue could not be asked.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Why nobody may begin to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchRefusal {
    /// There are as many watchers as there may be.
    #[error("too many watchers")]
    TooMany,
    /// There are as many of this one as there may be.
    #[error("too many watches of one caller")]
    TooManyOfIdentity,
    /// The dispatcher stops.
    #[error("the dispatcher is stopping")]
    Stopping,
}

impl Watches {
    /// Nobody yet.
    #[must_use]
    pub fn new(queue: Arc<dyn TaskQueue>) -> Self {
        Self::limited(queue, MOST_WATCHES as usize)
    }

    /// The same, with at most `most_of_each` watches of one caller.
    #[must_use]
    pub fn limited(queue: Arc<dyn TaskQueue>, most_of_each: usize) -> Self {
        let (newest, _) = watch::channel(Arc::default());
        let shared = Shared {
            queue,
            newest,
            places: Arc::new(Semaphore::new(MOST_WATCHES as usize)),
            identities: Census::new(MOST_WATCHES as usize, most_of_each),
            wanted: Notify::new(),
            ending: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Begins to follow tasks for that caller, from a place in the log if one is given. Nothing is read before [`Watch::next`].
    ///
    /// # Errors
    /// [`WatchRefusal`].
    pub fn watch(
        &self,
        caller: Arc<str>,
        filter: WatchFilter,
        cursor: Option<EventCursor>,
    ) -> Result<Watch, WatchRefusal> {
        if self.shared.ending.is_cancelled() {
            return Err(WatchRefusal::Stopping);
        }
        let places = Arc::clone(&self.shared.places);
        let place = places.try_acquire_owned().map_err(|_| WatchRefusal::TooMany)?;
        let of_caller = self.shared.identities.enter(caller).map_err(|_| WatchRefusal::TooManyOfIdentity)?;
        let watch = Watch {
            shared: Arc::clone(&self.shared),
            filter,
            newest: self.shared.newest.subscribe(),
            stage: cursor.map_or(Stage::Begin, Stage::Following),
            incomplete: false,
            told_incomplete: false,
            _place: (place, of_caller),
        };
        self.shared.wanted.notify_one();
        Ok(watch)
    }

    /// Reads the log for everybody until `stop`; then every watch ends, and this when all have.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.shared.read_log()).await;
        self.shared.ending.cancel();
        // All places are free when nobody watches any more. They are never closed.
        drop(self.shared.places.acquire_many(MOST_WATCHES).await);
    }
}

impl Shared {
    /// Reads the log as long as anybody watches, and shows its newest part.
    async fn read_log(&self) {
        let (mut cursor, mut incomplete) = (None::<EventCursor>, false);
        loop {
            if self.newest.receiver_count() == 0 {
                cursor = None;
                self.wanted.notified().await;
                continue;
            }
            let wait = match self.queue.events(cursor.as_ref()).await {
                Ok(events) => {
                    let is_new =
                        events.missed || !events.changed.is_empty() || events.incomplete != incomplete;
                    incomplete = events.incomplete;
                    let wait = if events.more { Duration::ZERO } else { READ_EVERY };
                    let from = cursor.replace(events.next.clone());
                    if is_new {
                        self.newest.send_replace(Arc::new(Part { from, events: Some(events) }));
                    }
                    wait
                }
                Err(error) => {
                    debug!(%error, "the log of changes cannot be read");
                    READ_AGAIN
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}
