//! One shard: its tasks, the indexes that follow from their records, and the calls that need no lease.
//!
//! A task is taken out of all indexes, changed, and put back where its record now says: [`Shard::change`] is the only way, so
//! indexes and counters cannot disagree with records. Leases are in `lease`, their ends in `settle`, the passing of time in `sweep`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use super::{lines::Lines, log::Log, settle::Kind};
use crate::queue::{
    CancelOutcome, Depths, LeaseToken, NewTask, Priority, Progress, QueueError, QueueSettings, SubmitOutcome,
    Submitted, TaskId, TaskReason, TaskRecord, TaskSpec, TaskState, UnixMs,
    policy::{Counters, Requests},
    state::{self, Transition},
};

/// A task, with what the record does not show.
#[derive(Debug)]
pub(super) struct Task {
    /// What callers see.
    pub(super) record: TaskRecord,
    /// Place in its tenant's line; kept while it is out, so that it can return.
    pub(super) place: u64,
    /// The newest lease cannot be kept longer than this without progress.
    pub(super) progress_deadline: UnixMs,
    /// Session that holds or last held the newest lease.
    pub(super) session: String,
    /// How the newest lease ended.
    pub(super) ended: LeaseEnd,
    /// The report that started this run, if one did.
    pub(super) restarted_by: Option<(LeaseToken, Kind)>,
}

/// How the newest lease of a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseEnd {
    /// It has not, or there was none in this run.
    Open,
    /// Nobody renewed it in time.
    RanOut,
    /// By its own report.
    Reported(Kind),
}

/// Where the indexes have a task, beside its tenant, location and id, which never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    state: TaskState,
    /// Processing or retry time, end of the lease, or end of the task.
    time: UnixMs,
    /// Which of the lines.
    band: usize,
    place: u64,
}

/// Tasks by a time of theirs, then id.
pub(super) type ByTime = BTreeSet<(UnixMs, TaskId)>;

/// One shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    tasks: HashMap<TaskId, Task>,
    /// Pending, by band.
    pub(super) lines: [Lines; 3],
    /// Working, by end of the lease.
    pub(super) leases: ByTime,
    /// Scheduled, by start.
    pub(super) scheduled: ByTime,
    /// Delayed, by retry time.
    pub(super) delayed: ByTime,
    /// Done, by end.
    pub(super) done: ByTime,
    /// Dead, by end.
    pub(super) dead: ByTime,
    /// Cancelled, by end.
    pub(super) cancelled: ByTime,
    tenants: BTreeMap<String, Tenant>,
    next_place: u64,
    /// When it was last swept, and whether that pass did all there was to do.
    pub(super) swept: Option<(UnixMs, bool)>,
    /// Until then no lease ends.
    pub(super) amnesty_until: UnixMs,
    /// What has changed.
    pub(super) log: Log,
}

/// What is counted for a tenant.
#[derive(Debug, Default)]
struct Tenant {
    /// Unfinished and dead tasks.
    kept: u64,
    /// Tasks under a lease.
    working: u64,
}

impl Shard {
    /// A task.
    pub(super) fn task(&self, id: &TaskId) -> Option<&Task> {
        self.tasks.get(id)
    }

    /// All tasks, in no order.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    /// Changes a task and moves it to where it then belongs. What stays where it is is not touched: a tenant whose task left its line
    /// and came back would begin to wait anew.
    pub(super) fn change<T>(&mut self, id: &TaskId, change: impl FnOnce(&mut Task) -> T) -> Option<T> {
        let mut task = self.tasks.remove(id)?;
        let before = task.position();
        let answer = change(&mut task);
        if task.position() != before {
            self.leave(&task, before);
            self.enter(&task);
        }
        self.log.append(&task.record);
        self.tasks.insert(id.clone(), task);
        Some(answer)
    }

    /// Takes a task out of everything.
    pub(super) fn remove(&mut self, id: &TaskId) -> Option<Task> {
        let task = self.tasks.remove(id)?;
        self.leave(&task, task.position());
        Some(task)
    }

    /// Takes a task out of the indexes and counters of its position.
    fn leave(&mut self, task: &Task, Position { state, time, band, place }: Position) {
        let TaskRecord { id, spec, .. } = &task.record;
        match self.index(state) {
            Some(index) => {
                index.remove(&(time, id.clone()));
            }
            None => self.lines[band].remove(&spec.tenant, &spec.object.location, place),
        }
        if let Some(tenant) = self.tenants.get_mut(&spec.tenant) {
            tenant.kept -= u64::from(state.is_kept());
            tenant.working -= u64::from(state == TaskState::Working);
            if tenant.kept == 0 {
                self.tenants.remove(&spec.tenant);
            }
        }
    }

    /// Puts a task into the indexes and counters of its position.
    fn enter(&mut self, task: &Task) {
        let TaskRecord { id, spec, .. } = &task.record;
        let Position { state, time, band, place } = task.position();
        match self.index(state) {
            Some(index) => {
                index.insert((time, id.clone()));
            }
            None => self.lines[band].insert(&spec.tenant, &spec.object.location, place, id.clone()),
        }
        if state.is_kept() {
            let tenant = self.tenants.entry(spec.tenant.clone()).or_default();
            tenant.kept += 1;
            tenant.working += u64::from(state == TaskState::Working);
        }
    }

    /// The index of a state; `None` for Pending, which has lines.
    const fn index(&mut self, state: TaskState) -> Option<&mut ByTime> {
        match state {
            TaskState::Pending => None,
            TaskState::Working => Some(&mut self.leases),
            TaskState::Scheduled => Some(&mut self.scheduled),
            TaskState::Delayed => Some(&mut self.delayed),
            TaskState::Done => Some(&mut self.done),
            TaskState::Dead => Some(&mut self.dead),
            TaskState::Cancelled => Some(&mut self.cancelled),
        }
    }

    /// A place at the end of all lines.
    pub(super) const fn last_place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }

    /// Leases that a tenant has now.
    pub(super) fn leases_of(&self, tenant: &str) -> u64 {
        self.tenants.get(tenant).map_or(0, |tenant| tenant.working)
    }

    /// How much is in each queue.
    pub(super) fn depths(&self) -> Depths {
        let len = |index: &ByTime| index.len() as u64;
        Depths {
            pending: self.lines.iter().map(Lines::len).sum(),
            working: len(&self.leases),
            scheduled: len(&self.scheduled),
            delayed: len(&self.delayed),
            done: len(&self.done),
            dead: len(&self.dead),
            cancelled: len(&self.cancelled),
        }
    }

    /// [`super::TaskQueue::submit`] of one task.
    pub(super) fn submit(
        &mut self,
        settings: &QueueSettings,
        now: UnixMs,
        id: TaskId,
        new: NewTask,
    ) -> Result<Submitted, QueueError> {
        let starts_at = new.process_at.filter(|start| *start > now);
        let outcome = match self.tasks.get(&id).map(|task| task.record.state) {
            None => self.create(settings, now, &id, new.spec, starts_at)?,
            Some(TaskState::Scheduled | TaskState::Pending | TaskState::Delayed) => {
                self.ride_along(&id, &new.spec, starts_at)
            }
            Some(TaskState::Working) => self.ask_again(&id, &new.spec),
            Some(TaskState::Done) if self.is_recognised(settings, now, &id, &new.spec) => {
                SubmitOutcome::Duplicate
            }
            Some(TaskState::Done | TaskState::Dead | TaskState::Cancelled) => {
                self.create(settings, now, &id, new.spec, starts_at)?
            }
        };
        let record = &self.tasks.get(&id).ok_or_else(|| QueueError::NotFound(id.clone()))?.record;
        Ok(Submitted { run: record.run, state: record.state, outcome, id })
    }

    fn is_recognised(&self, settings: &QueueSettings, now: UnixMs, id: &TaskId, spec: &TaskSpec) -> bool {
        let finished_at = self.tasks.get(id).and_then(|task| task.record.finished_at).unwrap_or_default();
        spec.object.version.is_some() && finished_at.plus(settings.dedup_window) > now
    }

    /// A new task, or a new run of a finished one.
    fn create(
        &mut self,
        settings: &QueueSettings,
        now: UnixMs,
        id: &TaskId,
        spec: TaskSpec,
        starts_at: Option<UnixMs>,
    ) -> Result<SubmitOutcome, QueueError> {
        let depths = self.depths();
        if depths.pending + depths.working + depths.scheduled + depths.delayed >= settings.shard_cap {
            return Err(QueueError::Full);
        }
        let kept = self.tenants.get(&spec.tenant).map_or(0, |tenant| tenant.kept);
        let own = u64::from(self.tasks.get(id).is_some_and(|task| task.record.state.is_kept()));
        if kept - own >= settings.tenant_cap {
            return Err(QueueError::TenantFull);
        }
        let place = self.last_place();
        let transition = if starts_at.is_some() { Transition::Reschedule } else { Transition::Renew };
        let begin = |task: &mut Task| {
            task.restarted_by = None;
            task.begin_run(now, transition, place);
            task.record.process_at = starts_at;
        };
        if self.tasks.contains_key(id) {
            self.change(id, |task| {
                task.record.spec = spec;
                begin(task);
            });
        } else {
            let mut task = Task::before_first_run(id.clone(), spec);
            begin(&mut task);
            self.enter(&task);
            self.log.append(&task.record);
            self.tasks.insert(id.clone(), task);
        }
        Ok(SubmitOutcome::Created)
    }

    /// A request for a task that waits.
    fn ride_along(&mut self, id: &TaskId, spec: &TaskSpec, starts_at: Option<UnixMs>) -> SubmitOutcome {
        let latest = spec.object.version.is_none();
        let place = self.last_place();
        self.change(id, |task| {
            // A copy that began before this request, and may yet be reported, must not count for it.
            task.record.dirty |= latest && task.ended == LeaseEnd::RanOut;
            if task.record.state == TaskState::Scheduled {
                match starts_at {
                    None => task.become_due(place),
                    Some(_) => task.record.process_at = task.record.process_at.min(starts_at),
                }
            }
        });
        if latest { SubmitOutcome::Coalesced } else { SubmitOutcome::Duplicate }
    }

    /// A request for a task that is being copied.
    fn ask_again(&mut self, id: &TaskId, spec: &TaskSpec) -> SubmitOutcome {
        let again = self.change(id, |task| {
            let again = spec.object.version.is_none() || task.record.cancel_requested;
            task.record.dirty |= again;
            again
        });
        if again == Some(true) { SubmitOutcome::RunsAgain } else { SubmitOutcome::Duplicate }
    }

    /// [`super::TaskQueue::cancel`]; `None` when there is no such task.
    pub(super) fn cancel(&mut self, now: UnixMs, id: &TaskId) -> Option<CancelOutcome> {
        self.change(id, |task| match task.record.state {
            TaskState::Scheduled | TaskState::Pending | TaskState::Delayed => {
                task.make(Transition::Cancel);
                task.record.reason = TaskReason::CancelledByCaller;
                task.record.process_at = None;
                task.record.finished_at = Some(now);
                task.record.dirty = false;
                CancelOutcome::Cancelled
            }
            TaskState::Working => {
                task.record.cancel_requested = true;
                task.record.dirty = false;
                match task.record.lease {
                    Some(lease) => CancelOutcome::Stopping { lease, session: task.session.clone() },
                    None => CancelOutcome::Cancelled,
                }
            }
            TaskState::Cancelled => CancelOutcome::Cancelled,
            finished @ (TaskState::Done | TaskState::Dead) => CancelOutcome::Finished(finished),
        })
    }
}

impl Task {
    /// A task that has never run, to be given its first run.
    fn before_first_run(id: TaskId, spec: TaskSpec) -> Self {
        let record = TaskRecord {
            id,
            run: 0,
            spec,
            state: TaskState::Cancelled,
            reason: TaskReason::None,
            attempts: 0,
            crashes: 0,
            returns: 0,
            created_at: UnixMs(0),
            process_at: None,
            finished_at: None,
            progress: Progress::default(),
            last_failure: None,
            receipt: Bytes::new(),
            worker: String::new(),
            lease: None,
            accepted: false,
            dirty: false,
            cancel_requested: false,
            upload_id: String::new(),
        };
        Self {
            record,
            place: 0,
            progress_deadline: UnixMs(0),
            session: String::new(),
            ended: LeaseEnd::Open,
            restarted_by: None,
        }
    }

    /// Starts a new run of the spec it has: everything as in a new task, but for the upload that may be resumed.
    pub(super) fn begin_run(&mut self, now: UnixMs, transition: Transition, place: u64) {
        self.make(transition);
        let TaskRecord { id, run, spec, state, upload_id, .. } = &self.record;
        let fresh = Self::before_first_run(id.clone(), spec.clone());
        let record = TaskRecord {
            run: run + 1,
            state: *state,
            created_at: now,
            upload_id: upload_id.clone(),
            ..fresh.record
        };
        *self = Self { record, place, restarted_by: self.restarted_by, ..fresh };
    }

    /// Goes from Scheduled or Delayed to the end of its tenant's line.
    pub(super) fn become_due(&mut self, place: u64) {
        self.make(Transition::BecomeDue);
        self.record.reason = TaskReason::None;
        self.record.process_at = None;
        self.place = place;
    }

    /// Moves to the state that the table names.
    pub(super) fn make(&mut self, transition: Transition) {
        let next = state::next(self.record.state, transition);
        debug_assert!(next.is_ok(), "{next:?}");
        self.record.state = next.unwrap_or(self.record.state);
    }

    /// What policy wants to know.
    pub(super) const fn counters(&self) -> Counters {
        let TaskRecord { attempts, crashes, returns, .. } = self.record;
        Counters { attempts, crashes, returns }
    }

    /// What callers have asked for during the copy.
    pub(super) const fn requests(&self) -> Requests {
        Requests { cancel: self.record.cancel_requested, again: self.record.dirty }
    }

    fn position(&self) -> Position {
        let TaskRecord { state, spec, process_at, finished_at, .. } = &self.record;
        let time = if state.is_finished() { *finished_at } else { *process_at };
        let band = match spec.priority {
            Priority::High => 0,
            Priority::Normal => 1,
            Priority::Low => 2,
        };
        Position { state: *state, time: time.unwrap_or_default(), band, place: self.place }
    }
}

impl TaskState {
    /// Counts towards its tenant's cap.
    const fn is_kept(self) -> bool {
        !self.is_finished() || matches!(self, Self::Dead)
    }
}
