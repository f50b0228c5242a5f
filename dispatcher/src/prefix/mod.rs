//! Backups of prefixes: the `Walker` finds walks that nobody drives and drives them, a few at a time.
//!
//! ```text
//!  WalkStore <--look, claim, save--> Walker --> one drive for each walk --submit--> TaskQueue
//!                                                    |  ^
//!                                         page order v  | what is on the page
//!                                                  Listers (workers, over their streams)
//! ```
//!
//! Every dispatcher runs one. A claim in the walk's record keeps them apart, and ends by itself when its dispatcher dies. Nothing here may know
//! tonic, protobuf or Redis; what a walk's next step is, its record says.

mod drive;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use backhaul_runtime::metrics::Counter;
use tokio::{
    sync::Notify,
    task::{Id, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::drive::Drive;
use crate::{
    dispatch::Dispatch,
    queue::{
        LeaseToken, TaskQueue, UnixMs,
        walk::{Look, PageOrder, Step, Stored, WalkId, WalkLimits, WalkStore},
    },
    rules::LiveRules,
    session::PageAnswer,
};

/// Who can list pages.
#[async_trait]
pub(crate) trait Listers: Send + Sync + fmt::Debug + 'static {
    /// Whether anybody here lists pages of that location now.
    fn can_list(&self, location: &str) -> bool;

    /// Has a page listed; `None` when nobody did, so that somebody else may be asked. Dropping the call gives the page up.
    async fn list(&self, order: PageOrder) -> Option<PageAnswer>;
}

/// What drives of walks are told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WalkerSettings {
    /// How long a claim lasts without being renewed.
    pub claim: Duration,
    /// How often to look for walks that nobody drives.
    pub look_every: Duration,
    /// How often to look at open tasks while nothing is found out about them.
    pub follow_every: Duration,
    /// How long a worker may take for a page.
    pub page_within: Duration,
    /// Entries of a page, 1 to 1,000.
    pub page_entries: u32,
    /// Walks that are driven here at a time.
    pub at_once: usize,
    /// What bounds each walk.
    pub limits: WalkLimits,
}

/// What was done for walks since the start.
#[derive(Debug, Default)]
pub struct WalkCounters {
    /// Pages that were listed.
    pub pages: Counter,
    /// Pages that could not be.
    pub failed_pages: Counter,
    /// Objects that filters left out.
    pub skipped: Counter,
    /// Objects that were backed up already.
    pub backed_up: Counter,
    /// Objects that became tasks.
    pub submitted: Counter,
    /// Objects of which no task can be made.
    pub rejected: Counter,
}

/// Finds walks and drives them.
#[derive(Debug)]
pub(crate) struct Walker {
    pub(crate) walks: Arc<dyn WalkStore>,
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) listers: Arc<dyn Listers>,
    pub(crate) rules: LiveRules,
    pub(crate) settings: WalkerSettings,
    pub(crate) counters: Arc<WalkCounters>,
    /// Told when a walk may have something to do: it was made or resumed here.
    pub(crate) wake: Arc<Notify>,
}

/// The store's time between two looks at it.
#[derive(Debug, Clone, Copy)]
struct Clock {
    shown: UnixMs,
    at: Instant,
}

impl Walker {
    /// Drives walks until `stop`; then gives all of them up in order, so that others can go on at once.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let walker = Arc::new(self);
        let mut drives = JoinSet::new();
        let mut driven: HashMap<Id, WalkId> = HashMap::new();
        let mut fails = false;
        while !stop.is_cancelled() {
            match walker.walks.look(false).await {
                Ok(look) => {
                    if std::mem::take(&mut fails) {
                        info!("prefix backups can be looked at again");
                    }
                    let clock = Clock { shown: look.now, at: Instant::now() };
                    for stored in walker.wanted(look, &driven) {
                        let id = stored.id.clone();
                        let drive = Drive::new(Arc::clone(&walker), stored, clock, stop.clone());
                        let Some(drive) = drive else { continue };
                        let handle = drives.spawn(drive.run());
                        driven.insert(handle.id(), id);
                    }
                }
                Err(error) if !fails => {
                    fails = true;
                    warn!(error = &error as &dyn std::error::Error, "prefix backups cannot be looked at");
                }
                Err(error) => debug!(%error, "prefix backups still cannot be looked at"),
            }
            let pause = walker.settings.look_every.mul_f64(0.75 + 0.5 * fastrand::f64());
            tokio::select! {
                () = stop.cancelled() => {}
                () = walker.wake.notified() => {}
                () = sleep(pause) => {}
                Some(ended) = drives.join_next_with_id() => note_end(ended, &mut driven),
            }
        }
        while let Some(ended) = drives.join_next_with_id().await {
            note_end(ended, &mut driven);
        }
    }

    /// Walks that nobody drives, that are to be driven now, and that can be from here.
    fn wanted(&self, look: Look, driven: &HashMap<Id, WalkId>) -> Vec<Stored> {
        let now = look.now;
        let wanted = |stored: &Stored| {
            stored.walk.is_free(now)
                && !driven.values().any(|id| *id == stored.id)
                && match stored.walk.step(now, stored.open) {
                    Step::List => self.listers.can_list(&stored.walk.spec.location),
                    Step::Follow => true,
                    Step::Wait(_) | Step::Rest => false,
                }
        };
        let mut walks: Vec<Stored> = look.walks.into_iter().filter(wanted).collect();
        // The longest waiting first.
        walks.sort_by_key(|stored| stored.walk.created_at);
        walks.truncate(self.settings.at_once.saturating_sub(driven.len()));
        walks
    }
}

impl Clock {
    fn now(&self) -> UnixMs {
        self.shown.plus(self.at.elapsed())
    }
}

fn note_end(ended: Result<(Id, ()), tokio::task::JoinError>, driven: &mut HashMap<Id, WalkId>) {
    let id = match ended {
        Ok((id, ())) => id,
        Err(panic) => {
            let id = panic.id();
            // Its claim ends by itself; then it is tried again.
            error!(walk = driven.get(&id).map(tracing::field::display), error = %panic, "the drive of a prefix backup failed");
            id
        }
    };
    driven.remove(&id);
}

#[async_trait]
impl Listers for Dispatch {
    fn can_list(&self, location: &str) -> bool {
        self.lister(location).is_some()
    }

    async fn list(&self, order: PageOrder) -> Option<PageAnswer> {
        let session = self.lister(&order.spec.location)?;
        let lease = LeaseToken::random().ok()?;
        session.list(lease, order).await
    }
}
