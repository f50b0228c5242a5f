//! The way of each write to a writer of the primary that has its shard, and a second try where that one has it no more.
//!
//! A server that says that another has the slot has not executed the write, and one that is retired is not believed: in both cases the
//! right one is a look at the map away, most often right after the start or a failover. So the write waits for that look, as long as
//! for an answer, instead of being refused though all is well, and the answers of the same submit wait with it. Nothing else is repeated here.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::Instant;

use super::{
    RedisQueue, Unfit, error, keys,
    primary::Primary,
    writer::{Ended, Outcomes, Refused, Retired, Write, Written},
};
use crate::queue::QueueError;

/// Writes that one submit gives to a writer at a time.
const JOB_WRITES: usize = 500;
/// Between two tries, if the map has not changed before.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Writes with their places in the call.
type Placed = Vec<(usize, Write)>;

impl RedisQueue {
    /// Has the writes of each primary made by one of its writers, in their order, and gives each its own answer.
    pub(super) async fn write(&self, writes: Vec<Write>) -> Outcomes {
        let outdated = self.outdated.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(unfit) = outdated {
            let refused = |_: &Write| Err(QueueError::Unfit(Arc::<Unfit>::clone(&unfit)));
            return writes.iter().map(refused).collect();
        }
        let mut outcomes: Vec<Option<Result<Written, QueueError>>> = writes.iter().map(|_| None).collect();
        let until = Instant::now() + self.writing.endpoint.timeouts.response;
        let mut left: Placed = writes.into_iter().enumerate().collect();
        loop {
            left = self.write_once(left, &mut outcomes).await;
            if left.is_empty() || Instant::now() >= until || self.stop.is_cancelled() {
                break;
            }
            self.shared.nodes.changed_within(TRY_AGAIN).await;
        }
        let missing = || Err(error::unexpected("no answer"));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }

    /// Notes the answer to each write at its place, and gives back those that another server may take.
    async fn write_once(
        &self,
        writes: Placed,
        outcomes: &mut [Option<Result<Written, QueueError>>],
    ) -> Placed {
        let mut parts: BTreeMap<u16, Placed> = BTreeMap::new();
        for (at, write) in writes {
            parts.entry(self.shared.shard_of(write.id())).or_default().push((at, write));
        }
        let mut elsewhere = Vec::new();
        let mut jobs: Vec<(Arc<Primary>, Placed)> = Vec::new();
        for (shard, part) in parts {
            match self.shared.nodes.of_slot(keys::slot(keys::meta(shard).as_bytes())) {
                Ok(primary) => match jobs.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &primary)) {
                    Some((_, all)) => all.extend(part),
                    None => jobs.push((primary, part)),
                },
                Err(nobody) => {
                    for (at, write) in part {
                        outcomes[at] = Some(Err(error::from_redis(nobody.clone())));
                        elsewhere.push((at, write));
                    }
                }
            }
        }
        // One writer for all that one primary is given, or tasks would not join their lines in order.
        let written = jobs.into_iter().map(|(primary, writes)| async move {
            let mut written = Vec::with_capacity(writes.len());
            let (places, writes): (Vec<usize>, Vec<Write>) = writes.into_iter().unzip();
            let mut writes = writes.into_iter();
            let writer = primary.writer();
            loop {
                let job: Vec<Write> = writes.by_ref().take(JOB_WRITES).collect();
                let Some(writer) = writer.filter(|_| !job.is_empty()) else { break };
                written.extend(writer.write(job).await);
            }
            places.into_iter().zip(written).collect::<Vec<_>>()
        });
        for (at, answer) in join_all(written).await.into_iter().flatten() {
            outcomes[at] = Some(match answer {
                Ok(written) => Ok(written),
                Err(Refused { error, write }) => {
                    elsewhere.extend(write.map(|write| (at, *write)));
                    Err(error)
                }
            });
        }
        elsewhere
    }
}

/// True when the write was not taken, or may not be relied on, because the server is the wrong one.
pub(super) fn is_elsewhere(failure: &QueueError) -> bool {
    let QueueError::Unavailable(source) = failure else { return false };
    if source.is::<Retired>() || source.is::<Ended>() {
        return true;
    }
    source.downcast_ref::<RedisError>().is_some_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::ClusterConnectionNotFound
                | ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::ClusterDown)
        )
    })
}
