//! One server that holds data: the connection for everything that needs no barrier, the writers, and whether it may be given tasks.
//!
//! Its address never changes: after a failover there is another primary, which has to prove itself from the start.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    access::Address,
    check::{Barrier, Unfit, inspect},
    endpoint::Endpoint,
    error,
    link::Link,
    nodes::Maker,
    options::Durability,
    writer::{Writer, WriterLoop},
};
use crate::queue::QueueError;

/// A server and our connections to it.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) address: Address,
    pub(super) link: Arc<Link>,
    writers: Vec<Writer>,
    next_writer: AtomicUsize,
    fitness: Arc<Fitness>,
    retired: CancellationToken,
    _end: DropGuard,
}

/// How a primary is written to.
#[derive(Debug, Clone)]
pub(super) struct WriterSettings {
    /// Connections for writes.
    pub(super) count: usize,
    /// What they are opened with.
    pub(super) endpoint: Arc<Endpoint>,
    /// What must be true of a write before it is answered.
    pub(super) durability: Durability,
    /// How long to wait for that.
    pub(super) patience: Duration,
    /// The server is to be a node of a cluster.
    pub(super) in_cluster: bool,
    /// Shards that its data must have, where it is the only server.
    pub(super) shards: u16,
}

/// What was last found out about a server, by whichever connection.
#[derive(Debug)]
pub(super) struct Fitness {
    address: Address,
    /// How often it has changed, and what it is.
    last: Mutex<(u64, Option<Result<Barrier, Unfit>>)>,
}

impl Primary {
    pub(super) fn new(address: Address, maker: &Maker) -> Self {
        let end = maker.stop.child_token();
        let retired = CancellationToken::new();
        let link = |endpoint: &Arc<Endpoint>| {
            Link::new(address.clone(), Arc::clone(endpoint), Arc::clone(&maker.trouble), &maker.tasks, &end)
        };
        let fitness = Arc::new(Fitness { address: address.clone(), last: Mutex::default() });
        let main = Arc::new(link(&maker.endpoint));
        let mut writers = Vec::new();
        if let Some((context, settings)) = &maker.writers {
            for _ in 0..settings.count.max(1) {
                let (writer, work) = WriterLoop::new(
                    link(&settings.endpoint),
                    Arc::clone(&main),
                    Arc::clone(&fitness),
                    Arc::clone(context),
                    settings.clone(),
                    retired.clone(),
                );
                maker.tasks.spawn(work.run(maker.stop.clone()));
                writers.push(writer);
            }
        }
        let next_writer = AtomicUsize::new(0);
        Self { address, link: main, writers, next_writer, fitness, retired, _end: end.drop_guard() }
    }

    /// One of the writers, in turn.
    pub(super) fn writer(&self) -> Option<&Writer> {
        let next = self.next_writer.fetch_add(1, Ordering::Relaxed);
        self.writers.get(next % self.writers.len().max(1))
    }

    /// Looks at the server. `Ok(Err(_))` when it answers and is unfit.
    pub(super) async fn check(
        &self,
        settings: &WriterSettings,
    ) -> Result<Result<Barrier, Unfit>, QueueError> {
        // At the start, the connection is being made.
        let limit = settings.endpoint.timeouts.connect;
        let opened = self.link.opened_within(limit).await.map_err(error::from_redis)?;
        let found = inspect(&self.link, &opened, settings).await?;
        self.fitness.note(found.clone());
        Ok(found)
    }

    /// Whether [`Primary::retire`] was called.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.is_cancelled()
    }

    /// Somebody else has its data now: nothing is accepted here any more, not even what is on its way.
    pub(super) fn retire(&self) {
        self.retired.cancel();
    }
}

impl Fitness {
    /// Notes what was found out, and says it once when it has changed.
    pub(super) fn note(&self, found: Result<Barrier, Unfit>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.1.as_ref() != Some(&found) {
            let address = &self.address;
            match (&last.1, &found) {
                (_, Err(reason)) => tracing::warn!(%address, %reason, "a Redis server is not fit for tasks"),
                (Some(Err(_)), Ok(_)) => tracing::info!(%address, "a Redis server is fit for tasks again"),
                (None | Some(Ok(_)), Ok(_)) => {}
            }
            *last = (last.0 + 1, Some(found));
        }
    }

    /// Changes whenever something else was found out than before.
    pub(super) fn version(&self) -> u64 {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}
