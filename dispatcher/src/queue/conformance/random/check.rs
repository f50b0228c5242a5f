//! What is compared after every step, and what must hold in any history, whatever the reference queue says.
//!
//! The invariants are those of the contract, numbered as in the fault plan: I1 none lost, I2 and I3 none from nowhere, I4 one end
//! a run, I5 and I6 one lease at a time, I10 and I11 counters and places agree, I12 bounds and waits, I15 no lease ended early.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::{World, told};
use crate::queue::{
    Depths, ListQuery, QueueError, StatsQuery, TaskId, TaskQueue as _, TaskRecord, TaskState, UnixMs,
};

impl World {
    pub(super) async fn check(&mut self) {
        let ids: Vec<_> = self.known.keys().cloned().collect();
        let subject = join_all(ids.iter().map(|id| self.subject.get(id))).await;
        let model = join_all(ids.iter().map(|id| self.model.get(id))).await;
        let (mut counted, mut changed) = (Depths::default(), BTreeSet::new());
        for ((id, subject), model) in ids.into_iter().zip(subject).zip(model) {
            let model = model.map(|record| TaskRecord {
                lease: record.lease.map(|token| self.token(token).unwrap_or(token)),
                ..record
            });
            if !matches!(subject, Ok(_) | Err(QueueError::NotFound(_))) {
                self.fail(&format!("get: {subject:?}"));
            }
            let (subject, model) = (told(subject), told(model));
            self.same("task", &subject, &model);
            let now = subject.ok();
            let before = self.known.insert(id.clone(), now.clone()).flatten();
            match (before, now) {
                (Some(before), None) => self.was_reaped(&before),
                (None, None) => self.must(self.reaped.contains(&id), "I1: accepted and gone", &id),
                (before, Some(now)) => {
                    self.is_in_order(&now);
                    if before.as_ref() != Some(&now) {
                        changed.insert(id.clone());
                    }
                    if let Some(before) = before {
                        self.came_from(&before, &now);
                    }
                    *depth(&mut counted, now.state) += 1;
                }
            }
        }
        let subject = told(self.subject.depths().await);
        self.same("depths", &subject, &told(self.model.depths().await));
        self.same("I10, I11: depths", &subject, &Ok(counted));
        self.check_events(&changed).await;
        if self.step.is_multiple_of(4) {
            self.check_stats().await;
        }
        if self.step.is_multiple_of(16) {
            self.check_listings().await;
        }
    }

    /// Whoever follows the log has heard of every change.
    async fn check_events(&mut self, changed: &BTreeSet<TaskId>) {
        let events = match self.subject.events(self.cursor.as_ref()).await {
            Ok(events) => events,
            Err(error) => self.fail(&format!("events: {error}")),
        };
        let is_new = self.cursor.replace(events.next).is_none();
        self.must(!events.more, "a step that one reading does not tell", &events.changed.len());
        let told: BTreeSet<_> = events.changed.into_iter().map(|(_, id)| id).collect();
        let untold = changed.difference(&told).next();
        self.must(is_new || events.missed || untold.is_none(), "a change was not told", &untold);
        self.must(!events.missed, "the log was lost between two steps", &self.step);
    }

    /// How much there is, and since when, for all tenants and for each.
    async fn check_stats(&self) {
        let one = |tenant: &str| StatsQuery::Tenant(tenant.into());
        for query in [StatsQuery::All { tenants: 2 }, one("t"), one("u"), one("nobody")] {
            let subject = told(self.subject.stats(&query).await);
            self.same("I10: stats", &subject, &told(self.model.stats(&query).await));
        }
    }

    /// Every listing shows each of its tasks once, and shows it as it is.
    async fn check_listings(&mut self) {
        let mut listed = BTreeMap::new();
        for tenant in ["t", "u", "v"] {
            let mut query = ListQuery { tenant: tenant.into(), limit: 5, ..ListQuery::default() };
            loop {
                let page = match self.subject.list(&query).await {
                    Ok(page) => page,
                    Err(error) => self.fail(&format!("list: {error}")),
                };
                for record in page.tasks {
                    self.must(record.spec.tenant == tenant, "listed for another tenant", &record);
                    let twice = listed.insert(record.id.clone(), record);
                    self.must(twice.is_none(), "listed twice", &twice);
                }
                query.cursor = page.next;
                if query.cursor.is_none() {
                    break;
                }
            }
        }
        let exist =
            self.known.iter().filter_map(|(id, record)| Some((id.clone(), record.clone()?))).collect();
        self.same("listing", &listed, &exist);
    }

    fn was_reaped(&mut self, before: &TaskRecord) {
        let retention = match before.state {
            TaskState::Done => self.settings.retain_finished.max(self.settings.dedup_window),
            TaskState::Cancelled => self.settings.retain_finished,
            TaskState::Dead => self.settings.retain_dead,
            TaskState::Scheduled | TaskState::Pending | TaskState::Working | TaskState::Delayed => {
                self.fail(&format!("I1: lost: {before:?}"));
            }
        };
        let over = before.finished_at.is_some_and(|at| at.plus(retention) <= self.clock.local_now());
        self.must(over, "I1: gone before its retention was over", before);
        self.reaped.insert(before.id.clone());
    }

    /// What holds of every record at every moment.
    fn is_in_order(&self, record: &TaskRecord) {
        let TaskRecord { state, spec, .. } = record;
        self.must(record.attempts <= spec.max_attempts, "I12: too many attempts", record);
        self.must(record.crashes <= self.settings.max_crashes, "I12: too many crashes", record);
        self.must(record.returns <= self.settings.max_returns, "I12: too many returns", record);
        let used_up = record.attempts == spec.max_attempts || record.crashes == self.settings.max_crashes;
        self.must(!used_up || state.is_finished(), "I12: used up and not finished", record);
        self.must(record.finished_at.is_some() == state.is_finished(), "finished without an end", record);
        let timed = matches!(state, TaskState::Scheduled | TaskState::Working | TaskState::Delayed);
        self.must(record.process_at.is_some() == timed, "a time too many or too few", record);
        self.must(*state != TaskState::Working || record.lease.is_some(), "Q-2: no lease", record);
        self.must(*state == TaskState::Done || record.receipt.is_empty(), "a receipt too many", record);
        self.must(*state == TaskState::Working || !record.cancel_requested, "a cancel left over", record);
        self.must(!(state.is_finished() && record.dirty), "a request was swallowed", record);
        if *state == TaskState::Done {
            let token = record.lease.is_some_and(|lease| self.stored.contains(&lease));
            self.must(token, "I5: done by a lease that never reported", record);
        }
    }

    /// What holds between two steps.
    fn came_from(&self, before: &TaskRecord, after: &TaskRecord) {
        let now = self.clock.local_now();
        let due = before.process_at.is_none_or(|at: UnixMs| at <= now);
        let same_run = before.run == after.run;
        if before.state.is_finished() && same_run && before.created_at == after.created_at {
            let late = before.state == TaskState::Dead && after.state == TaskState::Done;
            self.must(before.state == after.state || late, "I4: a second end", &(before, after));
        }
        if before.state == TaskState::Delayed && same_run {
            let waited = !matches!(after.state, TaskState::Pending | TaskState::Working);
            self.must(waited || due, "I12: retried before its time", &(before, after));
        }
        if before.state == TaskState::Working && same_run {
            let reported = before.lease.is_some_and(|lease| self.stored.contains(&lease));
            let stays = after.state == TaskState::Working && after.lease == before.lease;
            self.must(stays || reported || due, "I15: a lease ended that was valid", &(before, after));
        }
        if same_run && !before.state.is_finished() {
            let lost = after.attempts < before.attempts || after.crashes < before.crashes;
            self.must(!lost, "counters ran backwards", &(before, after));
        }
    }
}

const fn depth(depths: &mut Depths, state: TaskState) -> &mut u64 {
    match state {
        TaskState::Scheduled => &mut depths.scheduled,
        TaskState::Pending => &mut depths.pending,
        TaskState::Working => &mut depths.working,
        TaskState::Delayed => &mut depths.delayed,
        TaskState::Done => &mut depths.done,
        TaskState::Dead => &mut depths.dead,
        TaskState::Cancelled => &mut depths.cancelled,
    }
}
