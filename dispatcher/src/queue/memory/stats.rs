//! How much there is, and since when.
//!
//! It looks at every task, which a reference may and a store must not.

use std::collections::BTreeMap;

use super::shard::{Shard, Task};
use crate::queue::{Amount, Backlog, Priority, QueueStats, StatsQuery, TaskState, UnixMs};

/// The first in line of a tenant at a location in a band: place, and since when it waits.
type Heads<'a> = BTreeMap<(&'a str, &'a str, usize), (u64, UnixMs)>;

/// [`super::TaskQueue::stats`].
pub(super) fn of(shards: &[Shard], now: UnixMs, query: &StatsQuery) -> QueueStats {
    let (mut stats, mut shares) = (QueueStats::default(), BTreeMap::<String, Backlog>::new());
    for shard in shards {
        let mut heads = Heads::new();
        for task in shard.tasks() {
            let spec = &task.record.spec;
            let share = shares.entry(spec.tenant.clone()).or_default();
            for backlog in [&mut stats.total, share] {
                count(backlog, task, now);
            }
            if task.record.state == TaskState::Pending {
                let line = (spec.tenant.as_str(), spec.object.location.as_str(), band(spec.priority));
                let head = (task.place, task.record.created_at);
                heads.entry(line).and_modify(|first| *first = head.min(*first)).or_insert(head);
            }
        }
        for ((tenant, _, band), (_, since)) in heads {
            let share = shares.entry(tenant.to_owned()).or_default();
            for backlog in [&mut stats.total, share] {
                let oldest = &mut backlog.pending[band].oldest;
                *oldest = (*oldest).max(Some(now.since(since)));
            }
        }
    }
    match query {
        StatsQuery::Tenant(tenant) => {
            QueueStats { total: shares.remove(tenant).unwrap_or_default(), ..QueueStats::default() }
        }
        StatsQuery::All { tenants } => {
            let finished = |depth: fn(&Shard) -> u64| Some(shards.iter().map(depth).sum::<u64>());
            stats.done = finished(|shard| shard.depths().done);
            stats.cancelled = finished(|shard| shard.depths().cancelled);
            shares.retain(|_, share| share.tasks() > 0);
            stats.with_most(shares.into_iter().collect(), *tenants)
        }
    }
}

/// Counts a task; the age of a pending one is that of its line.
fn count(backlog: &mut Backlog, task: &Task, now: UnixMs) {
    let record = &task.record;
    let (amount, since): (&mut Amount, _) = match record.state {
        TaskState::Pending => {
            backlog.pending[band(record.spec.priority)].tasks += 1;
            return;
        }
        TaskState::Scheduled => (&mut backlog.scheduled, record.created_at),
        TaskState::Working => (&mut backlog.working, record.created_at),
        TaskState::Delayed => (&mut backlog.delayed, record.created_at),
        TaskState::Dead => (&mut backlog.dead, record.finished_at.unwrap_or_default()),
        TaskState::Done | TaskState::Cancelled => return,
    };
    amount.tasks += 1;
    amount.oldest = amount.oldest.max(Some(now.since(since)));
}

const fn band(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}
