//! The passing of time: leases that ran out, tasks that are due, finished tasks whose retention is over; and how much there is.
//!
//! One pass is two round trips for all shards together: the gate of each says what is due, then bounded calls act on it and check
//! again. An idle pass is one.

use std::{collections::BTreeSet, time::Duration};

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::{
    Shared,
    clocks::Times,
    codec, error, keys, millis,
    scripts::{Answer, Call, Script},
    value,
};
use crate::queue::{Depths, QueueError, SweepReport, TaskId, TaskState};

/// Most tasks of each list that one pass over a shard takes.
pub(super) const PASS: usize = 100;

/// What the gate of one shard said.
#[derive(Debug)]
struct Due {
    shard: u16,
    amnesty: bool,
    more: bool,
    next_ms: i64,
    leases: Vec<(TaskId, Vec<u8>)>,
    scheduled: Vec<TaskId>,
    delayed: Vec<TaskId>,
    /// Tasks to forget, by the state they are in.
    finished: [(TaskState, Vec<TaskId>); 3],
    /// Entries that are no tasks, with the index they are in.
    strangers: Vec<(TaskState, Vec<u8>)>,
}

impl Shared {
    /// [`crate::queue::TaskQueue::sweep`].
    pub(super) async fn sweep(&self) -> Result<SweepReport, QueueError> {
        let mut report = SweepReport::default();
        let mut next: Option<i64> = None;
        let mut note_next = |left_ms: i64| {
            if left_ms >= 0 {
                next = Some(next.map_or(left_ms, |known| known.min(left_ms)));
            }
        };
        let (mut calls, mut acted) = (Vec::new(), Vec::new());
        // What a gate has let in must be acted on: a shard that fails is counted, and holds up no other.
        let (mut failure, mut failed) = (None, BTreeSet::new());
        let held = self.clocks.holds();
        let sent = Instant::now();
        let answers = self.send(self.gates(held)).await;
        let received = Instant::now();
        let (mut times, mut let_in) = (Vec::new(), Vec::new());
        for (shard, answer) in (0..).zip(answers) {
            match answer.and_then(|answer| self.read_gate(shard, answer)) {
                Ok((shard_times, due)) => {
                    times.push((shard, shard_times));
                    let_in.extend(due);
                }
                Err(error) => {
                    failed.insert(shard);
                    failure.get_or_insert(error);
                }
            }
        }
        if self.clock.virtual_now().is_none() {
            self.clocks.note(&times, sent, received, self.clock.local_now());
        }
        let holds = self.clocks.holds();
        for mut due in let_in {
            if holds && !held {
                // What these gates said of age was said by a wrong clock.
                due.finished.iter_mut().for_each(|(_, tasks)| tasks.clear());
            }
            report.amnesty |= due.amnesty;
            report.more |= due.more;
            report.fixed += self.drop_strangers(&due).await;
            let before = calls.len();
            self.act(&due, holds, &mut calls, &mut acted);
            if calls.len() == before {
                note_next(due.next_ms);
            }
        }
        if !calls.is_empty() {
            for ((shard, script), answer) in acted.into_iter().zip(self.send(calls).await) {
                let noted = answer.and_then(|answer| self.note_act(shard, script, answer, &mut report));
                match noted {
                    Ok(next_ms) => note_next(next_ms),
                    Err(error) => {
                        failed.insert(shard);
                        failure.get_or_insert(error);
                    }
                }
            }
        }
        report.unswept = failed.len() as u64;
        let every_ms = millis(self.settings.sweep_every);
        let next = next.and_then(|left_ms| u64::try_from(left_ms).ok());
        report.next_due = next.filter(|left_ms| (1..every_ms).contains(left_ms)).map(Duration::from_millis);
        if report.expired + report.unaccepted + report.promoted > 0 {
            self.hints.wake();
        }
        match failure {
            // Away, and others are not: it is told, and not taken for a failure of all. What does not pass by itself is.
            Some(error) if error.is_retryable() && report.unswept < u64::from(self.settings.shards) => {
                tracing::debug!(%error, unswept = report.unswept, "some shards could not be swept");
                Ok(report)
            }
            Some(error) => Err(error),
            None => Ok(report),
        }
    }

    /// Counts what a call has done. Answers the time until the next thing is due in the shard, negative when it does not say.
    fn note_act(
        &self,
        shard: u16,
        script: Script,
        answer: Value,
        report: &mut SweepReport,
    ) -> Result<i64, QueueError> {
        let mut answer = Answer::read(answer)?;
        self.hints.set(shard, answer.pending);
        match script {
            Script::Expire => {
                while !answer.is_over() {
                    match answer.integer()? {
                        1 => report.expired += 1,
                        2 => report.unaccepted += 1,
                        3 => report.fixed += 1,
                        _ => {}
                    }
                }
            }
            Script::Promote => {
                report.promoted += answer.unsigned()?;
                report.fixed += answer.unsigned()?;
                return answer.integer();
            }
            Script::Reap => {
                report.reaped += answer.unsigned()?;
                report.fixed += answer.unsigned()?;
            }
            Script::Submit
            | Script::Lease
            | Script::Renew
            | Script::Complete
            | Script::Fail
            | Script::Cancel
            | Script::Requeue
            | Script::Stats
            | Script::Events
            | Script::Gate
            | Script::FsckTasks
            | Script::FsckLines
            | Script::FsckCounters
            | Script::FsckFlows
            | Script::WalkSave
            | Script::WalkLook
            | Script::MoveIn
            | Script::MoveOut
            | Script::Fold => {}
        }
        Ok(-1)
    }

    fn gates(&self, hold: bool) -> Vec<Cmd> {
        let settings = &self.settings;
        let gate = |shard| {
            Call::new(Script::Gate, shard, [].into_iter())
                .arg(self.now())
                .arg(millis(settings.sweep_every))
                .arg(millis(settings.outage))
                .arg(millis(settings.lease))
                .arg(self.retention_ms(TaskState::Done, hold))
                .arg(self.retention_ms(TaskState::Cancelled, hold))
                .arg(self.retention_ms(TaskState::Dead, hold))
                .arg(PASS)
                .arg(codec::exact(settings.retain_bytes))
                .into_command()
        };
        (0..settings.shards).map(gate).collect()
    }

    /// How long finished tasks stay; for ever while a clock is wrong.
    fn retention_ms(&self, state: TaskState, hold: bool) -> u64 {
        let settings = &self.settings;
        millis(match state {
            _ if hold => Duration::MAX,
            TaskState::Done => settings.retain_finished.max(settings.dedup_window),
            TaskState::Cancelled => settings.retain_finished,
            TaskState::Dead => settings.retain_dead,
            TaskState::Scheduled | TaskState::Pending | TaskState::Working | TaskState::Delayed => {
                Duration::MAX
            }
        })
    }

    /// The times, and what is due; `None` when the shard was swept a moment ago.
    fn read_gate(&self, shard: u16, answer: Value) -> Result<(Times, Option<Due>), QueueError> {
        let mut answer = Answer::read_plain(answer)?;
        let sweep = answer.integer()? == 1;
        let (amnesty, more, next_ms) = (answer.integer()? == 1, answer.integer()? == 1, answer.integer()?);
        let times = Times { server_ms: answer.unsigned()?, shard_ms: answer.unsigned()? };
        if !sweep {
            return Ok((times, None));
        }
        let (mut leases, mut strangers) = (Vec::new(), Vec::new());
        for _ in 0..answer.unsigned()? {
            let (hash, raw) = (answer.bytes()?, answer.bytes()?);
            match keys::id(&hash) {
                Some(id) => leases.push((id, raw)),
                None => strangers.push((TaskState::Working, hash)),
            }
        }
        let mut list = |state| -> Result<Vec<TaskId>, QueueError> {
            let mut tasks = Vec::new();
            for _ in 0..answer.unsigned()? {
                let hash = answer.bytes()?;
                match keys::id(&hash) {
                    Some(id) => tasks.push(id),
                    None => strangers.push((state, hash)),
                }
            }
            Ok(tasks)
        };
        let (scheduled, delayed) = (list(TaskState::Scheduled)?, list(TaskState::Delayed)?);
        let finished = [
            (TaskState::Done, list(TaskState::Done)?),
            (TaskState::Cancelled, list(TaskState::Cancelled)?),
            (TaskState::Dead, list(TaskState::Dead)?),
        ];
        let due = Due { shard, amnesty, more, next_ms, leases, scheduled, delayed, finished, strangers };
        Ok((times, Some(due)))
    }

    /// Takes entries out of indexes that no task can have made.
    async fn drop_strangers(&self, due: &Due) -> u64 {
        let mut calls = Vec::new();
        for (state, entry) in &due.strangers {
            let Some(index) = keys::index(*state) else { continue };
            let mut command = redis::cmd("ZREM");
            command.arg(keys::of_shard(due.shard, index)).arg(entry.as_slice());
            calls.push(command);
        }
        let dropped = self.send(calls).await.iter().filter(|dropped| dropped.is_ok()).count();
        if dropped > 0 {
            tracing::warn!(shard = due.shard, dropped, "dropped index entries that are no tasks");
        }
        dropped as u64
    }

    /// Adds the calls that a shard needs, in the order in which they have to happen.
    fn act(&self, due: &Due, hold: bool, calls: &mut Vec<Cmd>, acted: &mut Vec<(u16, Script)>) {
        let mut add = |script, call: Call| {
            calls.push(call.into_command());
            acted.push((due.shard, script));
        };
        if !due.leases.is_empty() {
            let ids = due.leases.iter().map(|(id, _)| id);
            let mut call = Call::about(Script::Expire, due.shard, ids).arg(self.now());
            for (id, raw) in &due.leases {
                // What cannot be read gets no verdict; the script puts it aside.
                call.push(
                    codec::decode(id, raw).map(|record| self.judge_expiry(&record)).unwrap_or_default(),
                );
            }
            add(Script::Expire, call);
        }
        let finished = due.finished.iter().filter(|(_, tasks)| !tasks.is_empty());
        let reap: Vec<_> = finished
            .map(|(state, tasks)| {
                Call::about(Script::Reap, due.shard, tasks.iter())
                    .arg(self.now())
                    .arg(codec::state_code(*state))
                    .arg(self.retention_ms(*state, hold))
                    .arg(codec::exact(self.settings.retain_bytes))
            })
            .collect();
        if due.leases.is_empty() && due.scheduled.is_empty() && due.delayed.is_empty() && reap.is_empty() {
            return;
        }
        let promoted: Vec<&TaskId> = due.scheduled.iter().chain(&due.delayed).collect();
        let promote = Call::about(Script::Promote, due.shard, promoted.into_iter())
            .arg(self.now())
            .arg(due.scheduled.len())
            .arg(u8::from(due.amnesty));
        add(Script::Promote, promote);
        for call in reap {
            add(Script::Reap, call);
        }
    }

    /// [`crate::queue::TaskQueue::depths`].
    pub(super) async fn depths(&self) -> Result<Depths, QueueError> {
        let indexed: Vec<(TaskState, &str)> = TaskState::ALL
            .into_iter()
            .filter_map(|state| keys::index(state).map(|index| (state, index)))
            .collect();
        let mut calls = Vec::new();
        for shard in 0..self.settings.shards {
            for (_, index) in &indexed {
                let mut command = redis::cmd("ZCARD");
                command.arg(keys::of_shard(shard, index));
                calls.push(command);
            }
        }
        let mut depths = Depths::default();
        let answers = self.send(calls).await;
        for ((state, _), answer) in indexed.iter().cycle().zip(answers) {
            let count = value::integer(&answer?).ok_or_else(|| error::unexpected("ZCARD gave no integer"))?;
            *match state {
                TaskState::Scheduled => &mut depths.scheduled,
                TaskState::Pending => &mut depths.pending,
                TaskState::Working => &mut depths.working,
                TaskState::Delayed => &mut depths.delayed,
                TaskState::Done => &mut depths.done,
                TaskState::Dead => &mut depths.dead,
                TaskState::Cancelled => &mut depths.cancelled,
            } += u64::try_from(count).unwrap_or_default();
        }
        for pending in self.pending().await {
            depths.pending += pending?.iter().sum::<u64>();
        }
        Ok(depths)
    }
}
