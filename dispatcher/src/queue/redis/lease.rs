//! Giving leases: which shards to ask, in which order, and how a repeated request finds its answer.
//!
//! A shard's own order is its script's business. Here: bands before shards, shards in rotation, hints before questions, and never
//! more tasks or bytes than asked for.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{Cmd, Value};

use super::{
    Shared, codec, error,
    failures::Failures,
    keys, millis,
    scripts::{Answer, BATCH, Call, Script},
    value,
};
use crate::queue::{LeaseRequest, LeaseToken, LeasedTask, QueueError, TaskId};

/// Sessions whose newest request is remembered here; for others the shards are asked.
const SESSIONS: usize = 4096;
/// From this many shards on, all are asked at once, each for its share, instead of one after the other.
const ASK_AT_ONCE: usize = 5;
/// Most locations of one request.
const LOCATIONS: usize = 1_000;

/// The newest request of each session that got leases, and the shards that gave them. Saves asking every shard's memo.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    newest: Mutex<HashMap<String, (u64, Vec<u16>)>>,
}

/// What to ask one shard for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    shard: u16,
    band: usize,
    tasks: u64,
    bytes: u64,
    first_free: bool,
    part: u8,
}

/// Why a shard gave no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    NoMore,
    Bytes,
    Enough,
    Repeat,
    Older,
}

/// A request on its way around the shards.
#[derive(Debug)]
struct Round<'a> {
    request: &'a LeaseRequest,
    locations: Vec<&'a str>,
    first_shard: usize,
    tasks: u64,
    bytes: u64,
    leased: Vec<LeasedTask>,
    /// Calls made to each shard.
    parts: Vec<u8>,
    /// Shards and bands that have no more for this request.
    empty: Vec<[bool; 3]>,
    one_by_one: bool,
    over: bool,
}

impl Sessions {
    fn newest(&self, session: &str) -> Option<(u64, Vec<u16>)> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).get(session).cloned()
    }

    fn forget(&self, session: &str) {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).remove(session);
    }

    fn remember(&self, session: &str, request: u64, shards: Vec<u16>) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.len() >= SESSIONS && !newest.contains_key(session) {
            // Whichever: its session only has to ask the shards again.
            if let Some(other) = newest.keys().next().cloned() {
                newest.remove(&other);
            }
        }
        newest.insert(session.to_owned(), (request, shards));
    }
}

impl Shared {
    /// [`crate::queue::TaskQueue::lease`].
    pub(super) async fn lease(
        &self,
        sessions: &Sessions,
        request: &LeaseRequest,
    ) -> Result<Vec<LeasedTask>, QueueError> {
        let number = codec::exact(request.request);
        let known = match sessions.newest(&request.session) {
            Some(known) => Some(known),
            None => self.memos(&request.session).await?,
        };
        match known {
            Some((newest, _)) if number < newest => return Ok(Vec::new()),
            Some((newest, shards)) if number == newest => return self.replay(request, &shards).await,
            Some(_) | None => {}
        }
        // Forgotten until it has ended well: after a lost answer the shards know best.
        sessions.forget(&request.session);
        let mut round = Round::new(request, self.hints.rotate(), self.settings.shards);
        let mut probed = false;
        let mut failures = Failures::default();
        while round.tasks > 0 && !round.over && !round.locations.is_empty() {
            let targets = round.targets(|shard, band| self.hints.pending(shard, band));
            if targets.is_empty() {
                if probed || !round.leased.is_empty() {
                    break;
                }
                self.probe(&mut failures).await;
                probed = true;
                continue;
            }
            self.ask_targets(&mut round, &targets, &mut failures).await?;
        }
        if failures.any() {
            // Leases that were given and not told run out by themselves; a repeat asks all shards again.
            return failures.unless_all_failed(round.leased);
        }
        let mut shards: Vec<u16> = round.leased.iter().map(|task| self.shard_of(&task.id)).collect();
        shards.sort_unstable();
        shards.dedup();
        if !shards.is_empty() {
            sessions.remember(&request.session, number, shards);
        }
        Ok(round.leased)
    }

    /// The newest request of a session that any shard remembers, and who does.
    async fn memos(&self, session: &str) -> Result<Option<(u64, Vec<u16>)>, QueueError> {
        let calls = (0..self.settings.shards).map(|shard| {
            let mut command = redis::cmd("GETRANGE");
            command.arg(memo_key(shard, session)).arg(0).arg(7);
            command
        });
        let answers = self.send(calls.collect()).await;
        let mut newest: Option<(u64, Vec<u16>)> = None;
        let mut failures = Failures::default();
        for (shard, answer) in (0..self.settings.shards).zip(answers) {
            // What a shard that cannot be asked would have said runs out by itself.
            let Some(answer) = failures.note(answer) else { continue };
            let Some(head) = value::bytes(answer) else { continue };
            let Ok(head) = <[u8; 8]>::try_from(head) else { continue };
            let number = u64::from_be_bytes(head);
            match &mut newest {
                Some((known, shards)) if *known == number => shards.push(shard),
                Some((known, _)) if *known > number => {}
                Some(_) | None => newest = Some((number, vec![shard])),
            }
        }
        failures.unless_all_failed(newest)
    }

    /// The leases that these shards remember for the request and that still hold.
    async fn replay(&self, request: &LeaseRequest, shards: &[u16]) -> Result<Vec<LeasedTask>, QueueError> {
        let mut round = Round::new(request, 0, self.settings.shards);
        let targets: Vec<Target> = shards
            .iter()
            .map(|&shard| Target { shard, band: 0, tasks: 0, bytes: 0, first_free: false, part: 1 })
            .collect();
        let mut calls = Vec::with_capacity(targets.len());
        for target in &targets {
            calls.push(self.lease_call(&round, target)?);
        }
        let mut failures = Failures::default();
        for (target, answer) in targets.iter().zip(self.send(calls).await) {
            let answer = answer.and_then(|answer| self.read_leases(target, answer));
            if let Some((_, leased)) = failures.note(answer) {
                round.leased.extend(leased);
            }
        }
        failures.unless_all_failed(round.leased)
    }

    /// Asks every shard what it has.
    async fn probe(&self, failures: &mut Failures) {
        for (shard, pending) in (0..).zip(self.pending().await) {
            if let Some(pending) = failures.note(pending) {
                self.hints.set(shard, pending);
            }
        }
    }

    /// Pending tasks of each shard by band.
    pub(super) async fn pending(&self) -> Vec<Result<[u64; 3], QueueError>> {
        let calls = (0..self.settings.shards).map(|shard| {
            let mut command = redis::cmd("GET");
            command.arg(keys::meta(shard));
            command
        });
        let read = |answer: Result<Value, QueueError>| {
            let meta = value::bytes(answer?);
            let bands = meta.map_or(Some([0; 3]), |meta| codec::pending(&meta));
            bands.ok_or_else(|| error::unexpected("the counters of a shard are damaged"))
        };
        self.send(calls.collect()).await.into_iter().map(read).collect()
    }

    async fn ask_targets(
        &self,
        round: &mut Round<'_>,
        targets: &[Target],
        failures: &mut Failures,
    ) -> Result<(), QueueError> {
        let mut calls = Vec::with_capacity(targets.len());
        for target in targets {
            calls.push(self.lease_call(round, target)?);
        }
        for (target, answer) in targets.iter().zip(self.send(calls).await) {
            match failures.note(answer.and_then(|value| self.read_leases(target, value))) {
                Some((ended, leased)) => round.note(target, ended, leased, targets.len() == 1),
                // Others have tasks too; this one is for the next request.
                None => round.empty[usize::from(target.shard)] = [true; 3],
            }
        }
        Ok(())
    }

    fn lease_call(&self, round: &Round<'_>, target: &Target) -> Result<Cmd, QueueError> {
        let count = usize::try_from(target.tasks).unwrap_or(BATCH).min(BATCH);
        let mut tokens = vec![0; count * LeaseToken::LEN];
        getrandom::fill(&mut tokens).map_err(|error| QueueError::Unavailable(Box::new(error)))?;
        let request = round.request;
        codec::fits("session", request.session.len(), 0xff)
            .and(codec::fits("worker", request.worker.len(), 0xff))
            .map_err(|too_long| QueueError::Rejected(Box::new(too_long)))?;
        let mut call =
            Call::new(Script::Lease, target.shard, [memo_key(target.shard, &request.session)].into_iter())
                .arg(self.now())
                .arg(codec::exact(request.request))
                .arg(target.part)
                .arg(count)
                .arg(codec::exact(target.bytes))
                .arg(u8::from(target.first_free))
                .arg(millis(self.settings.accept_within))
                .arg(codec::exact(self.settings.tenant_in_flight_cap))
                .arg(target.band)
                .arg(&request.session)
                .arg(&request.worker)
                .arg(tokens);
        for location in &round.locations {
            call.push(location);
        }
        Ok(call.into_command())
    }

    fn read_leases(&self, target: &Target, value: Value) -> Result<(Ended, Vec<LeasedTask>), QueueError> {
        let mut answer = Answer::read(value)?;
        self.hints.set(target.shard, answer.pending);
        let ended = match answer.integer()? {
            1 => Ended::NoMore,
            2 => Ended::Bytes,
            3 => Ended::Enough,
            4 => Ended::Repeat,
            5 => Ended::Older,
            _ => return Err(error::unexpected("lease.lua gave an unknown answer")),
        };
        let mut leased = Vec::new();
        while !answer.is_over() {
            let hash = answer.bytes()?;
            let left_ms = answer.unsigned()?;
            let raw = answer.bytes()?;
            let id = keys::id(&hash).ok_or_else(|| error::unexpected("lease.lua gave no task id"))?;
            match leased_task(id, left_ms, &raw) {
                Ok(task) => leased.push(task),
                // The lease runs out and the task comes back, until somebody has looked; the others must not suffer.
                Err(damage) => tracing::error!(error = %damage, "leased a task whose record is damaged"),
            }
        }
        Ok((ended, leased))
    }
}

pub(super) fn memo_key(shard: u16, session: &str) -> String {
    keys::of_shard(shard, &format!("memo:{session}"))
}

fn leased_task(id: TaskId, left_ms: u64, raw: &[u8]) -> Result<LeasedTask, QueueError> {
    let record = codec::decode(&id, raw)?;
    let no_lease = || QueueError::Corrupt { task: id.to_string(), what: "leased without a lease" };
    let lease = record.lease.ok_or_else(no_lease)?;
    Ok(LeasedTask {
        lease,
        spec: record.spec,
        attempts: record.attempts,
        accept_within: Duration::from_millis(left_ms),
        upload_id: record.upload_id,
        id,
    })
}

impl<'a> Round<'a> {
    fn new(request: &'a LeaseRequest, first_shard: usize, shards: u16) -> Self {
        let mut locations: Vec<&str> = request.locations.iter().map(String::as_str).collect();
        locations.sort_unstable();
        locations.dedup();
        locations.truncate(LOCATIONS);
        Self {
            request,
            locations,
            first_shard,
            tasks: u64::from(request.max_tasks.max(1)),
            bytes: request.max_bytes,
            leased: Vec::new(),
            parts: vec![0; usize::from(shards)],
            empty: vec![[false; 3]; usize::from(shards)],
            one_by_one: false,
            over: false,
        }
    }

    /// Whom to ask next: of the highest band that is believed to have something, one shard, or many for their shares.
    fn targets(&mut self, pending: impl Fn(u16, usize) -> u64) -> Vec<Target> {
        let shards = self.parts.len();
        let order = (0..shards).map(|turn| (self.first_shard + turn) % shards);
        for band in 0..3 {
            let mut left = self.tasks;
            let mut targets = Vec::new();
            for shard in order.clone() {
                let Ok(number) = u16::try_from(shard) else { continue };
                let has = pending(number, band);
                // A shard that keeps answering is asked often enough; the rest is for the next request.
                if left == 0 || has == 0 || self.empty[shard][band] || self.parts[shard] == u8::MAX {
                    continue;
                }
                let tasks = has.min(left).min(BATCH as u64);
                left -= tasks;
                targets.push(Target { shard: number, band, tasks, bytes: 0, first_free: false, part: 0 });
            }
            if targets.is_empty() {
                continue;
            }
            if self.one_by_one || targets.len() < ASK_AT_ONCE {
                targets.truncate(1);
                // Others may have come meanwhile: let it give what it has.
                targets[0].tasks = self.tasks.min(BATCH as u64);
            }
            let asked: u64 = targets.iter().map(|target| target.tasks).sum();
            let mut first = self.leased.is_empty();
            for target in &mut targets {
                let share = u128::from(self.bytes) * u128::from(target.tasks) / u128::from(asked.max(1));
                target.bytes = u64::try_from(share).unwrap_or(self.bytes);
                target.first_free = std::mem::take(&mut first);
                let part = &mut self.parts[usize::from(target.shard)];
                *part += 1;
                target.part = *part;
            }
            return targets;
        }
        Vec::new()
    }

    fn note(&mut self, target: &Target, ended: Ended, leased: Vec<LeasedTask>, alone: bool) {
        for task in &leased {
            self.tasks = self.tasks.saturating_sub(1);
            let hint = task.spec.size_hint_bytes;
            let cost = if hint == 0 { crate::queue::DEFAULT_COST_BYTES } else { hint };
            self.bytes = self.bytes.saturating_sub(cost);
        }
        self.leased.extend(leased);
        match ended {
            Ended::NoMore => self.empty[usize::from(target.shard)][target.band] = true,
            // Of a share, the rest may still fit: go on one by one with all that is left.
            Ended::Bytes if !alone => self.one_by_one = true,
            Ended::Bytes | Ended::Older | Ended::Repeat => self.over = true,
            Ended::Enough => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn request(max_tasks: u32, max_bytes: u64) -> LeaseRequest {
        LeaseRequest {
            session: "s".into(),
            request: 1,
            worker: "w".into(),
            max_tasks,
            max_bytes,
            locations: Arc::from(["b".to_owned(), "a".to_owned(), "b".to_owned()]),
        }
    }

    #[test]
    fn a_higher_band_of_any_shard_comes_before_a_lower_one_of_another() {
        let request = request(10, 1_000);
        let mut round = Round::new(&request, 0, 4);
        let targets = round.targets(|shard, band| u64::from((shard, band) == (3, 0) || band == 2));
        assert_eq!(targets.iter().map(|t| (t.shard, t.band)).collect::<Vec<_>>(), [(3, 0)]);
        assert_eq!(round.locations, ["a", "b"]);
    }

    #[test]
    fn many_shards_with_little_are_asked_at_once_and_never_for_more_than_the_budget() {
        let request = request(7, 1_000);
        let mut round = Round::new(&request, 2, 16);
        let targets = round.targets(|_, band| if band == 1 { 1 } else { 0 });
        assert_eq!(targets.len(), 7);
        assert_eq!(targets[0].shard, 2);
        assert!(targets.iter().map(|t| t.tasks).sum::<u64>() <= 7);
        assert!(targets.iter().map(|t| t.bytes).sum::<u64>() <= 1_000);
        assert_eq!(targets.iter().filter(|t| t.first_free).count(), 1);
    }

    #[test]
    fn a_share_that_was_too_small_is_made_up_one_by_one() {
        let request = request(7, 1_000);
        let mut round = Round::new(&request, 0, 16);
        let targets = round.targets(|_, _| 1);
        round.note(&targets[0], Ended::Bytes, Vec::new(), false);
        let next = round.targets(|_, _| 1);
        assert_eq!((next.len(), next[0].bytes, next[0].part), (1, 1_000, 2));
        round.note(&next[0], Ended::Bytes, Vec::new(), true);
        assert!(round.over);
    }

    #[test]
    fn remembered_sessions_are_bounded() {
        let sessions = Sessions::default();
        for n in 0..SESSIONS + 10 {
            sessions.remember(&n.to_string(), 1, vec![0]);
        }
        assert_eq!(sessions.newest.lock().unwrap().len(), SESSIONS);
    }
}
