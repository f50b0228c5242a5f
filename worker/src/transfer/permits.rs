//! The memory that all copies of a worker may hold together.
//!
//! Every byte of an object that is in memory is covered by a permit from before it is read until after it is written, so the sum is
//! bounded by the budget whatever the number and size of the copies. Beyond it, a connection has its own small buffers, about half a
//! megabyte each. Permits are given in the order in which they were asked for; each holder asks for one at a time and waits for
//! nobody while it holds it, so there is no deadlock.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::buffers::Buffers;

/// Semaphores count in small numbers; 4 KiB is fine enough for any object.
const UNIT_BYTES: u64 = 4096;

/// A budget in bytes.
#[derive(Debug, Clone)]
pub(super) struct MemoryBudget {
    units: Arc<Semaphore>,
    used: Arc<Usage>,
    total_bytes: u64,
    buffers: Buffers,
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub(super) struct MemoryPermit {
    used: Arc<Usage>,
    bytes: u64,
    _units: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Usage {
    now: AtomicU64,
    most: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `bytes`, rounded down to 4 KiB but never to nothing.
    #[must_use]
    pub(super) fn new(bytes: u64) -> Self {
        let units = (bytes / UNIT_BYTES).clamp(1, u64::from(u32::MAX));
        let permits = usize::try_from(units).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(permits)),
            used: Arc::default(),
            total_bytes: units * UNIT_BYTES,
            buffers: Buffers::default(),
        }
    }

    /// Waits for `bytes`. More than the budget waits for all of it: plans see to it that this does not happen.
    pub(super) async fn acquire(&self, bytes: u64) -> MemoryPermit {
        let units = bytes.min(self.total_bytes).div_ceil(UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.units).acquire_many_owned(units).await;
        let permit = permit.expect("the semaphore is never closed");
        let now = self.used.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.used.most.fetch_max(now, Ordering::Relaxed);
        MemoryPermit { used: Arc::clone(&self.used), bytes, _units: permit }
    }

    /// Where the bytes go that permits are for.
    pub(super) const fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// The whole budget, in bytes.
    #[must_use]
    pub(super) const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The most bytes that were out at one time.
    #[must_use]
    pub(super) fn high_water_bytes(&self) -> u64 {
        self.used.most.load(Ordering::Relaxed)
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.used.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test]
    async fn never_more_than_the_budget_is_out() {
        let budget = MemoryBudget::new(64 * 1024);
        let copies = (0..200_u64).map(|i| {
            let budget = budget.clone();
            async move {
                let permit = budget.acquire(1 + i * 163).await;
                tokio::task::yield_now().await;
                drop(permit);
            }
        });
        join_all(copies).await;
        assert!(budget.high_water_bytes() <= 64 * 1024, "{}", budget.high_water_bytes());
        assert!(budget.high_water_bytes() > 32 * 1024, "the test would prove nothing");
        assert_eq!(budget.used.now.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_empty_object_needs_no_memory_and_a_large_one_waits() {
        let budget = MemoryBudget::new(8192);
        let all = budget.acquire(8192).await;
        assert!(budget.acquire(0).now_or_never().is_some());
        assert!(budget.acquire(1).now_or_never().is_none());
        drop(all);
        assert!(
            budget.acquire(1 << 40).now_or_never().is_some(),
            "more than there is waits for all, not for ever"
        );
    }
}
