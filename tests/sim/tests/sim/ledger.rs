//! Judges every call of the queue while it happens: who may hold, renew and finish a task, and where a task may go.
//!
//! It knows only what the calls show, never how the queue decides: leases by their tokens and times, tasks by their runs and states.

use std::{collections::BTreeMap, time::Duration};

use backhaul_dispatcher::queue::{
    LeaseRequest, LeaseToken, LeasedTask, QueueSettings, RenewOutcome, Renewal, SettleOutcome, Settlement,
    TaskId, TaskRecord, TaskState,
};

use crate::history::History;

/// What the calls have shown.
#[derive(Debug)]
pub(crate) struct Ledger {
    settings: QueueSettings,
    history: History,
    calls: u32,
    tasks: BTreeMap<TaskId, Seen>,
    leases: BTreeMap<[u8; LeaseToken::LEN], Lease>,
}

/// A task.
#[derive(Debug, Default)]
struct Seen {
    run: u32,
    state: Option<TaskState>,
    newest: Option<LeaseToken>,
}

/// A lease.
#[derive(Debug)]
struct Lease {
    task: TaskId,
    ends: Duration,
    /// A report under it has been stored.
    reported: bool,
}

impl Ledger {
    pub(crate) fn new(settings: QueueSettings, history: History) -> Self {
        Self { settings, history, calls: 0, tasks: BTreeMap::new(), leases: BTreeMap::new() }
    }

    /// True at every `n`th question.
    pub(crate) fn every_nth(&mut self, n: u32) -> bool {
        self.calls += 1;
        self.calls.is_multiple_of(n)
    }

    /// Tasks that are not finished, as far as they have been seen.
    pub(crate) fn open_tasks(&self) -> Vec<TaskId> {
        let open = |seen: &Seen| seen.state.is_none_or(|state| !state.is_finished());
        self.tasks.iter().filter(|(_, seen)| open(seen)).map(|(id, _)| id.clone()).collect()
    }

    /// Every task that has been seen.
    pub(crate) fn all_tasks(&self) -> Vec<TaskId> {
        self.tasks.keys().cloned().collect()
    }

    /// A lease was given: two leases of a task must not overlap.
    pub(crate) fn leased(&mut self, request: &LeaseRequest, task: &LeasedTask) {
        let now = self.history.now();
        if self.leases.contains_key(task.lease.as_bytes()) {
            return; // The same request again.
        }
        self.history.note(&request.worker, format_args!("leases {} as {:?}", task.id, task.lease));
        let seen = self.tasks.entry(task.id.clone()).or_default();
        if let Some(before) = seen.newest.replace(task.lease)
            && let Some(lease) = self.leases.get(before.as_bytes())
            && !lease.reported
            && lease.ends > now + SLACK
        {
            let left = lease.ends - now;
            self.history
                .violation(format_args!("{} leased twice, {left:?} before the first lease ends", task.id));
        }
        let lease = Lease { task: task.id.clone(), ends: now + self.settings.accept_within, reported: false };
        self.leases.insert(*task.lease.as_bytes(), lease);
    }

    /// A lease was renewed: only the newest may be.
    pub(crate) fn renewed(&mut self, renewal: &Renewal, outcome: RenewOutcome) {
        let RenewOutcome::Keep(lasts) = outcome else { return };
        let now = self.history.now();
        let newest = self.tasks.get(&renewal.id).and_then(|seen| seen.newest);
        if newest != Some(renewal.lease) {
            self.history.violation(format_args!(
                "{} renewed by {:?}, not the newest lease",
                renewal.id, renewal.lease
            ));
        }
        if let Some(lease) = self.leases.get_mut(renewal.lease.as_bytes()) {
            lease.ends = now + lasts;
        }
    }

    /// A report was answered: only the newest lease may change anything, and only once.
    pub(crate) fn settled(&mut self, settlement: &Settlement, outcome: SettleOutcome) {
        let Settlement { id, lease: token, .. } = settlement;
        self.history.note(id, format_args!("{} by {token:?}: {outcome:?}", kind(settlement)));
        if !matches!(outcome, SettleOutcome::Stored(_) | SettleOutcome::RunsAgain) {
            return;
        }
        // Told again what it was told before; nothing is changed by that.
        let is_reported = self.leases.get(token.as_bytes()).is_some_and(|lease| lease.reported);
        if outcome == SettleOutcome::RunsAgain && is_reported {
            return;
        }
        let newest = self.tasks.get(id).and_then(|seen| seen.newest);
        if newest != Some(*token) {
            self.history.violation(format_args!("{id} settled by {token:?}, not the newest lease"));
        }
        match self.leases.get_mut(token.as_bytes()) {
            None => self.history.violation(format_args!("{id} settled by {token:?}, which was never given")),
            Some(lease) if lease.task != *id => {
                self.history.violation(format_args!("{id} settled by {token:?}, a lease of {}", lease.task));
            }
            Some(lease) => {
                if std::mem::replace(&mut lease.reported, true) {
                    self.history.violation(format_args!("{id} settled twice by {token:?}"));
                }
            }
        }
    }

    /// A task is seen: its counters are within bounds, and it goes only where it may.
    pub(crate) fn observe(&mut self, record: &TaskRecord) {
        let now = self.history.now();
        if record.attempts > record.spec.max_attempts || record.crashes > self.settings.max_crashes {
            let TaskRecord { id, attempts, crashes, .. } = record;
            self.history.violation(format_args!("{id} has {attempts} attempts and {crashes} crashes"));
        }
        let seen = self.tasks.entry(record.id.clone()).or_default();
        let before = seen.state.replace(record.state);
        if before == Some(record.state) && seen.run == record.run {
            return;
        }
        self.history
            .note(&record.id, format_args!("run {} {:?} ({:?})", record.run, record.state, record.reason));
        if record.run < seen.run {
            self.history
                .violation(format_args!("{} goes back from run {} to {}", record.id, seen.run, record.run));
        }
        if record.run != seen.run {
            seen.run = record.run;
            return;
        }
        let Some(before) = before else { return };
        // Exactly one end of a run; only a late success may still turn a dead task into a done one.
        if before.is_finished() && (before, record.state) != (TaskState::Dead, TaskState::Done) {
            self.history
                .violation(format_args!("{} ends twice: {before:?}, then {:?}", record.id, record.state));
        }
        // A lease that nobody reported under ends only when its time is over.
        if before == TaskState::Working
            && matches!(record.state, TaskState::Pending | TaskState::Delayed | TaskState::Dead)
            && let Some(lease) = seen.newest.and_then(|newest| self.leases.get(newest.as_bytes()))
            && !lease.reported
            && lease.ends > now + SLACK
        {
            let left = lease.ends - now;
            self.history.violation(format_args!("{} taken back {left:?} before its lease ends", record.id));
        }
    }
}

/// The queue's clock is the simulation's, which moves in ticks; a host's own is finer.
const SLACK: Duration = Duration::from_millis(60);

fn kind(settlement: &Settlement) -> &'static str {
    use backhaul_dispatcher::queue::Outcome;
    match settlement.outcome {
        Outcome::Done { .. } => "done",
        Outcome::Failed { .. } => "failed",
        Outcome::NotSent { .. } => "not sent",
        Outcome::HandedBack { .. } => "handed back",
        Outcome::Cancelled => "cancelled",
    }
}
