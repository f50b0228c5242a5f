//! What an operator wants to know about all tasks together: how many, how old, how quickly they move.
//!
//! Apart from [`TaskQueue`], because nobody who works with tasks needs it, and because it is only a look: a little old, cheap, and the
//! same whichever dispatcher is asked. [`Watched`] sees to it that many who ask cost the store no more than one.

use std::{collections::BTreeMap, fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{Depths, QueueError, TaskQueue};

/// Something that can be looked at.
#[async_trait]
pub trait Observe: Send + Sync + fmt::Debug + 'static {
    /// How much there is to do for workers. Costs a command or two for each shard.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn load(&self) -> Result<Load, QueueError>;

    /// Everything. Costs some hundred small reads for each shard.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    async fn snapshot(&self) -> Result<Snapshot, QueueError>;
}

/// How much there is to do for workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Tasks in pending.
    pub pending: u64,
    /// Tasks under a lease.
    pub working: u64,
}

/// A look at the queues.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// How much is in each queue.
    pub depths: Depths,
    /// How long ago the oldest task of each queue was asked for; `None` when it is empty or nobody looked.
    pub oldest: Oldest,
    /// Moves of each kind since the data was created, whoever made them.
    pub moves: BTreeMap<String, u64>,
    /// How long ago the shard was swept that has waited longest; `None` before the first sweep.
    pub swept_ago: Option<Duration>,
    /// How far the queue's time is ahead of the clock of its server, where it is furthest; `None` where nobody looked.
    pub clock_ahead: Option<Duration>,
    /// What events left beside the tasks; `None` where nobody looked.
    pub aside: Option<Aside>,
}

/// How much of what origins told is kept that is no task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aside {
    /// Bodies that were not understood.
    pub quarantined: u64,
    /// Notes of removals.
    pub removals: u64,
}

/// Ages of the oldest tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oldest {
    /// Of those in pending.
    pub pending: Option<Duration>,
    /// Of those under a lease.
    pub working: Option<Duration>,
    /// Of those that wait for their next attempt.
    pub delayed: Option<Duration>,
}

/// Looks at a queue through its contract alone: there are no ages in it.
#[derive(Debug)]
pub struct DepthsOnly(pub Arc<dyn TaskQueue>);

/// A queue that is looked at now and then, whoever asks how often.
#[derive(Debug)]
pub struct Watched {
    observe: Arc<dyn Observe>,
    load: Kept<Load>,
    snapshot: Kept<Arc<Snapshot>>,
}

/// A look that did not succeed. Shared by all who asked for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Blind {
    /// The queue could not be asked.
    #[error("the queue cannot be looked at")]
    Failed(#[source] Arc<QueueError>),
    /// It did not answer in time.
    #[error("the queue did not answer in time")]
    TimedOut,
}

/// The last look, and when it was.
#[derive(Debug)]
struct Kept<T>(Mutex<Option<(Instant, Result<T, Blind>)>>);

impl Load {
    /// What workers have to do or are doing.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.pending.saturating_add(self.working)
    }
}

impl Watched {
    /// A load is given that is at most this old: who scales workers wants to know within a second.
    pub const LOAD_AGE: Duration = Duration::from_millis(400);
    /// A snapshot is given that is at most this old.
    pub const SNAPSHOT_AGE: Duration = Duration::from_secs(5);
    /// Longest time for a look.
    const PATIENCE: Duration = Duration::from_secs(3);

    /// Looks at `observe`, when asked.
    #[must_use]
    pub fn new(observe: Arc<dyn Observe>) -> Self {
        Self { observe, load: Kept::default(), snapshot: Kept::default() }
    }

    /// How much there is to do.
    ///
    /// # Errors
    /// [`Blind`]: never a made-up number.
    pub async fn load(&self) -> Result<Load, Blind> {
        self.load.get(Self::LOAD_AGE, Self::PATIENCE, self.observe.load()).await
    }

    /// Everything.
    ///
    /// # Errors
    /// [`Blind`].
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, Blind> {
        let look = async { self.observe.snapshot().await.map(Arc::new) };
        self.snapshot.get(Self::SNAPSHOT_AGE, Self::PATIENCE, look).await
    }
}

impl<T: Clone> Kept<T> {
    /// The last look if it is young enough, else a new one; those who ask meanwhile wait for it. A failure is kept as well: a store
    /// that is down must not be asked once for each who wants to know.
    async fn get(
        &self,
        most_age: Duration,
        patience: Duration,
        look: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, Blind> {
        let mut kept = self.0.lock().await;
        if let Some((at, look)) = &*kept
            && at.elapsed() < most_age
        {
            return look.clone();
        }
        let seen = match timeout(patience, look).await {
            Ok(seen) => seen.map_err(|error| Blind::Failed(Arc::new(error))),
            Err(_) => Err(Blind::TimedOut),
        };
        *kept = Some((Instant::now(), seen.clone()));
        seen
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

#[async_trait]
impl Observe for DepthsOnly {
    async fn load(&self) -> Result<Load, QueueError> {
        let depths = self.0.depths().await?;
        Ok(Load { pending: depths.pending, working: depths.working })
    }

    async fn snapshot(&self) -> Result<Snapshot, QueueError> {
        Ok(Snapshot { depths: self.0.depths().await?, ..Snapshot::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Counts how often it is looked at, and says so; every third look fails.
    #[derive(Debug, Default)]
    struct Looks(AtomicU64);

    #[async_trait]
    impl Observe for Looks {
        async fn load(&self) -> Result<Load, QueueError> {
            let looks = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            if looks.is_multiple_of(3) {
                return Err(QueueError::Unavailable("told to fail".into()));
            }
            Ok(Load { pending: looks, working: 0 })
        }

        async fn snapshot(&self) -> Result<Snapshot, QueueError> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_cost_one_look() {
        let looks = Arc::new(Looks::default());
        let watched = Watched::new(Arc::<Looks>::clone(&looks));
        let asked = futures_util::future::join_all((0..100).map(|_| watched.load())).await;
        assert!(asked.iter().all(|load| load.as_ref().is_ok_and(|load| load.pending == 1)));
        tokio::time::advance(Watched::LOAD_AGE).await;
        assert_eq!(watched.load().await.unwrap().pending, 2);
        assert_eq!(looks.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_to_all_and_tried_again_when_it_is_old() {
        let watched = Watched::new(Arc::new(Looks::default()));
        for _ in 0..2 {
            watched.load().await.unwrap();
            tokio::time::advance(Watched::LOAD_AGE).await;
        }
        for _ in 0..10 {
            assert!(matches!(watched.load().await, Err(Blind::Failed(_))));
        }
        tokio::time::advance(Watched::LOAD_AGE).await;
        assert_eq!(watched.load().await.unwrap().pending, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_does_not_end_is_given_up() {
        let watched = Watched::new(Arc::new(Looks::default()));
        assert!(matches!(watched.snapshot().await, Err(Blind::TimedOut)));
    }
}
