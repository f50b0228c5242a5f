//! The passing of time: leases that ran out, tasks that are due, finished tasks whose retention is over.
//!
//! Bounded per pass and gated, as a real store has to be.

use std::time::Duration;

use super::{
    State,
    shard::{ByTime, Shard},
};
use crate::queue::{QueueSettings, SweepReport, TaskId, TaskRecord, UnixMs};

/// Tasks of each list that one pass over a shard handles at most.
pub(super) const SWEEP_BATCH: usize = 128;

/// How long the answer to a lease request is remembered: well over the minute that is promised.
const MEMO_LIFE: Duration = Duration::from_secs(600);

impl State {
    /// [`super::TaskQueue::sweep`].
    pub(super) fn sweep(&mut self, settings: &QueueSettings) -> SweepReport {
        let now = self.now;
        self.memos.retain(|_, memo| memo.at.plus(MEMO_LIFE) > now);
        let reports = self.shards.iter_mut().map(|shard| shard.sweep(settings, now));
        reports.fold(SweepReport::default(), |all, one| SweepReport {
            expired: all.expired + one.expired,
            unaccepted: all.unaccepted + one.unaccepted,
            promoted: all.promoted + one.promoted,
            reaped: all.reaped + one.reaped,
            fixed: all.fixed + one.fixed,
            more: all.more || one.more,
            next_due: all.next_due.into_iter().chain(one.next_due).min(),
            amnesty: all.amnesty || one.amnesty,
            unswept: all.unswept + one.unswept,
        })
    }
}

impl Shard {
    fn sweep(&mut self, settings: &QueueSettings, now: UnixMs) -> SweepReport {
        let mut report = SweepReport::default();
        match self.swept {
            Some((at, complete)) if complete && at.plus(settings.sweep_every) > now => return report,
            Some((at, _)) if now.since(at) <= settings.outage => {}
            Some(_) | None => self.amnesty_until = now.plus(settings.lease),
        }
        report.amnesty = now < self.amnesty_until;
        if !report.amnesty {
            for id in due(&self.leases, now, &mut report.more) {
                let accepted = self.task(&id).is_some_and(|task| task.record.accepted);
                if accepted {
                    report.expired += 1;
                } else {
                    report.unaccepted += 1;
                }
                self.expire(settings, now, &id);
            }
        }
        let mut promote = due(&self.scheduled, now, &mut report.more);
        promote.extend(due(&self.delayed, now, &mut report.more));
        for id in promote {
            let place = self.last_place();
            report.promoted += u64::from(self.change(&id, |task| task.become_due(place)).is_some());
        }
        let retention = [
            (&self.done, settings.retain_finished.max(settings.dedup_window)),
            (&self.cancelled, settings.retain_finished),
            (&self.dead, settings.retain_dead),
        ];
        let mut over = Vec::new();
        for (finished, retain) in retention {
            let retain_ms = u64::try_from(retain.as_millis()).unwrap_or(u64::MAX);
            if let Some(latest) = now.0.checked_sub(retain_ms) {
                over.extend(due(finished, UnixMs(latest), &mut report.more));
            }
        }
        for id in over {
            report.reaped += u64::from(self.remove(&id).is_some());
        }
        report.reaped += self.reap_above(settings.retain_bytes);
        for lines in &mut self.lines {
            lines.forget_absent();
        }
        self.swept = Some((now, !report.more));
        report.next_due = self.next_due(settings, now, report.amnesty);
        report
    }

    /// Forgets the oldest done and cancelled tasks while there are too many bytes of them, as far as one pass goes.
    fn reap_above(&mut self, most_bytes: u64) -> u64 {
        let size = |shard: &Self, id: &TaskId| shard.task(id).map_or(0, |task| stored_bytes(&task.record));
        let all = self.done.iter().chain(&self.cancelled);
        let mut bytes: u64 = all.map(|(_, id)| size(self, id)).sum();
        let mut reaped = 0;
        while bytes > most_bytes && reaped < SWEEP_BATCH as u64 {
            let oldest =
                self.done.first().into_iter().chain(self.cancelled.first()).min_by_key(|(at, _)| *at);
            let Some((_, id)) = oldest.cloned() else { break };
            bytes -= size(self, &id);
            self.remove(&id);
            reaped += 1;
        }
        reaped
    }

    fn next_due(&self, settings: &QueueSettings, now: UnixMs, amnesty: bool) -> Option<Duration> {
        let leases = (!amnesty).then_some(&self.leases);
        let lists = leases.into_iter().chain([&self.scheduled, &self.delayed]);
        let next = lists.filter_map(|list| list.first()).map(|(at, _)| at.since(now)).min()?;
        (!next.is_zero() && next < settings.sweep_every).then_some(next)
    }
}

/// About what a store would need for a record.
fn stored_bytes(record: &TaskRecord) -> u64 {
    100 + (record.receipt.len() + record.spec.object.key.len()) as u64
}

/// The first tasks of a list whose time has come; notes when there may be more.
fn due(list: &ByTime, now: UnixMs, more: &mut bool) -> Vec<TaskId> {
    let due: Vec<_> =
        list.iter().take(SWEEP_BATCH).take_while(|(at, _)| *at <= now).map(|(_, id)| id.clone()).collect();
    *more |= due.len() == SWEEP_BATCH;
    due
}
