//! How much is in the queues, and since when: what is asked for, and the answer.
//!
//! Plain data, with the sums that every implementation needs. Counts are exact; ages come from looking at a bounded part of the queue
//! and say whether that was all.

use std::time::Duration;

/// Most tenants of one answer.
pub const MOST_TENANTS: u32 = 100;

/// What to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatsQuery {
    /// One tenant's share.
    Tenant(String),
    /// Everything, and the shares of the tenants that have most, at most so many of them (and at most [`MOST_TENANTS`]).
    All {
        /// Most tenants.
        tenants: u32,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Of all tenants together, or of the one that was asked for.
    pub total: Backlog,
    /// Done tasks that are still visible, of all tenants; `None` for one tenant, for which they are not counted.
    pub done: Option<u64>,
    /// Cancelled tasks that are still visible; as `done`.
    pub cancelled: Option<u64>,
    /// Tenants with their shares, those with most unfinished and dead tasks first, then by name.
    pub tenants: Vec<(String, Backlog)>,
    /// Tenants with unfinished or dead tasks that are left out; at least so many when there are very many.
    pub tenants_left_out: u64,
    /// There are so many tenants that those with most were chosen among a part of them.
    pub tenants_sampled: bool,
    /// Shards could not be asked: what they have is missing in all numbers.
    pub incomplete: bool,
}

/// What is unfinished or dead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Pending, by band in the order of [`super::Priority::ALL`]. The age is of those that are first in line at a location.
    pub pending: [Amount; 3],
    /// In working until their processing time.
    pub scheduled: Amount,
    /// In working under a lease.
    pub working: Amount,
    /// In delay.
    pub delayed: Amount,
    /// Dead. The age is the time since it died; everywhere else, since its run was accepted.
    pub dead: Amount,
}

/// A number of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// How many.
    pub tasks: u64,
    /// Age of the oldest that was looked at; `None` when there was none.
    pub oldest: Option<Duration>,
    /// Not all could be looked at, so there may be an older one.
    pub sampled: bool,
}

/// How much is in each queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depths {
    /// In pending.
    pub pending: u64,
    /// In working under a lease.
    pub working: u64,
    /// In working until their processing time.
    pub scheduled: u64,
    /// In delay.
    pub delayed: u64,
    /// Done and still visible.
    pub done: u64,
    /// Dead.
    pub dead: u64,
    /// Cancelled and still visible.
    pub cancelled: u64,
}

impl Backlog {
    /// Adds what another shard has.
    pub fn add(&mut self, other: &Self) {
        for (amount, more) in self.amounts_mut().into_iter().zip(other.amounts()) {
            amount.add(*more);
        }
    }

    /// All unfinished and dead tasks.
    #[must_use]
    pub fn tasks(&self) -> u64 {
        self.amounts().iter().map(|amount| amount.tasks).sum()
    }

    /// The amounts in the order of their fields.
    #[must_use]
    pub const fn amounts(&self) -> [&Amount; 7] {
        let [high, normal, low] = &self.pending;
        [high, normal, low, &self.scheduled, &self.working, &self.delayed, &self.dead]
    }

    /// The amounts in the order of their fields.
    pub const fn amounts_mut(&mut self) -> [&mut Amount; 7] {
        let [high, normal, low] = &mut self.pending;
        [high, normal, low, &mut self.scheduled, &mut self.working, &mut self.delayed, &mut self.dead]
    }
}

impl Amount {
    fn add(&mut self, more: Self) {
        self.tasks += more.tasks;
        self.oldest = self.oldest.max(more.oldest);
        self.sampled |= more.sampled;
    }
}

impl QueueStats {
    /// The answer to [`StatsQuery::All`] about these tenants, of which `tenants` at most are shown.
    #[must_use]
    pub fn with_most(mut self, mut shares: Vec<(String, Backlog)>, tenants: u32) -> Self {
        shares.sort_by(|(a, of_a), (b, of_b)| of_b.tasks().cmp(&of_a.tasks()).then_with(|| a.cmp(b)));
        let shown = usize::try_from(tenants.min(MOST_TENANTS)).unwrap_or(usize::MAX);
        self.tenants_left_out = shares.len().saturating_sub(shown) as u64;
        shares.truncate(shown);
        self.tenants = shares;
        self
    }
}
