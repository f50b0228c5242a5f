//! Keeping and ending leases: renewals, reports, and leases that ran out.
//!
//! For an end without success the record is read, `policy` gives its verdict, and the script takes it only if nothing that the
//! verdict was made on has changed; then it is read again. Success needs no verdict and no second round trip.

use std::{collections::HashSet, time::Duration};

use bytes::BufMut as _;
use redis::Cmd;

use super::{
    Shared, batch, codec, damaged, error, keys, millis,
    scripts::{Answer, Call, Script},
    value,
};
use crate::queue::{
    LeaseToken, Outcome, QueueError, RenewOutcome, Renewal, SettleOutcome, Settlement, TaskId, TaskRecord,
    TaskState,
    policy::{self, Counters, Requests, Verdict},
};

/// How often a verdict is made anew because the record had changed.
const TRIES: usize = 8;

type Piece = batch::Piece<()>;

/// Somebody else changed the task again and again.
#[derive(Debug, thiserror::Error)]
#[error("the task changed while its report was judged")]
struct KeepsChanging;

impl Shared {
    /// [`crate::queue::TaskQueue::renew`].
    pub(super) async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<RenewOutcome, QueueError>> {
        let ids: Vec<&TaskId> = renewals.iter().map(|renewal| &renewal.id).collect();
        let mut answers: Vec<Option<Result<RenewOutcome, QueueError>>> = renewals
            .iter()
            .map(|renewal| {
                codec::fits("upload id", renewal.upload_id.len(), 0xffff)
                    .and(codec::fits("session", renewal.session.len(), 0xff))
                    .err()
                    .map(|too_long| Err(QueueError::Rejected(Box::new(too_long))))
            })
            .collect();
        let wanted = (0..renewals.len()).filter(|&at| answers[at].is_none()).collect::<Vec<_>>();
        let pieces = cut(self.settings.shards, &wanted, &ids);
        let calls = pieces.iter().map(|piece| {
            let mut call = Call::about(Script::Renew, piece.shard, piece.ids(&ids).into_iter())
                .arg(self.now())
                .arg(millis(self.settings.lease));
            for &at in &piece.items {
                let Renewal { lease, progress, upload_id, session, .. } = &renewals[at];
                let mut packed = Vec::with_capacity(18);
                for number in [progress.bytes_done, progress.bytes_total, progress.steps_done] {
                    packed.put_uint(codec::countable(number), 6);
                }
                call.push(lease.as_bytes().as_slice());
                call.push(packed);
                call.push(upload_id);
                call.push(session);
            }
            call.into_command()
        });
        let results = self.send_pieces(calls.collect(), &pieces).await;
        for (piece, result) in pieces.iter().zip(results) {
            let mut answer = result;
            for &at in &piece.items {
                let one = answer.as_mut().map_err(|failure| error::same(failure)).and_then(|answer| {
                    let (code, left_ms) = (answer.integer()?, answer.unsigned()?);
                    match code {
                        1 => Ok(RenewOutcome::Keep(Duration::from_millis(left_ms))),
                        2 => Ok(RenewOutcome::Lost),
                        3 => Ok(RenewOutcome::Cancel),
                        -3 => Err(damaged(ids[at])),
                        _ => Err(error::unexpected("renew.lua gave an unknown answer")),
                    }
                });
                answers[at] = Some(one);
            }
        }
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(error::unexpected("no answer"))))
            .collect()
    }

    /// [`crate::queue::TaskQueue::settle`].
    pub(super) async fn settle(&self, settlements: &[Settlement]) -> Vec<Result<SettleOutcome, QueueError>> {
        let mut answers: Vec<Option<Result<SettleOutcome, QueueError>>> =
            settlements.iter().map(|settlement| too_long(settlement).map(Err)).collect();
        let mut tries = 0;
        loop {
            // Reports on the same task are settled one after the other, in their order.
            let mut seen = HashSet::new();
            let wave: Vec<usize> = (0..settlements.len())
                .filter(|&at| answers[at].is_none() && seen.insert(&settlements[at].id))
                .collect();
            if wave.is_empty() {
                break;
            }
            let settled = self.settle_wave(settlements, &wave).await;
            let mut progress = false;
            for (at, answer) in settled {
                progress |= answer.is_some();
                answers[at] = answer;
            }
            tries = if progress { 0 } else { tries + 1 };
            if tries == TRIES {
                for answer in answers.iter_mut().filter(|answer| answer.is_none()) {
                    *answer = Some(Err(QueueError::Unavailable(Box::new(KeepsChanging))));
                }
            }
        }
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(error::unexpected("no answer"))))
            .collect()
    }

    /// Settles reports on different tasks. An item without an answer was raced and is to be tried again.
    async fn settle_wave(
        &self,
        settlements: &[Settlement],
        wave: &[usize],
    ) -> Vec<(usize, Option<Result<SettleOutcome, QueueError>>)> {
        let ids: Vec<&TaskId> = settlements.iter().map(|settlement| &settlement.id).collect();
        let (successes, others): (Vec<usize>, Vec<usize>) =
            wave.iter().partition(|&&at| matches!(settlements[at].outcome, Outcome::Done { .. }));
        let mut answers = Vec::with_capacity(wave.len());

        let mut judged = Vec::with_capacity(others.len());
        for (at, read) in self.read(&others, &ids).await {
            match read {
                Ok(Some(record)) => judged.push((at, self.judge(&record, &settlements[at]))),
                Ok(None) => answers.push((at, Some(Ok(SettleOutcome::Gone)))),
                Err(failure) => answers.push((at, Some(Err(failure)))),
            }
        }
        let judged_at: Vec<usize> = judged.iter().map(|(at, _)| *at).collect();
        let shards = self.settings.shards;
        let (done, ended) = (cut(shards, &successes, &ids), cut(shards, &judged_at, &ids));
        let mut calls = Vec::with_capacity(done.len() + ended.len());
        for piece in &done {
            let mut call =
                Call::about(Script::Complete, piece.shard, piece.ids(&ids).into_iter()).arg(self.now());
            for &at in &piece.items {
                call.push(settlements[at].lease.as_bytes().as_slice());
                if let Outcome::Done { receipt } = &settlements[at].outcome {
                    call.push(receipt.as_ref());
                }
            }
            calls.push(call.into_command());
        }
        let judgement =
            |at: usize| judged.iter().find(|(other, _)| *other == at).map(|(_, judgement)| judgement);
        for piece in &ended {
            let mut call =
                Call::about(Script::Fail, piece.shard, piece.ids(&ids).into_iter()).arg(self.now());
            for judgement in piece.items.iter().filter_map(|&at| judgement(at)) {
                call.push(judgement.verdict.as_slice());
                call.push(judgement.failure.as_slice());
                call.push(judgement.upload_id.as_str());
            }
            calls.push(call.into_command());
        }
        let pieces: Vec<Piece> = done.into_iter().chain(ended).collect();
        let results = self.send_pieces(calls, &pieces).await;
        for (piece, result) in pieces.iter().zip(results) {
            let mut answer = result;
            for &at in &piece.items {
                let one = answer
                    .as_mut()
                    .map_err(|failure| error::same(failure))
                    .and_then(|answer| settled(ids[at], answer.integer()?));
                answers.push((at, one.transpose()));
            }
        }
        answers
    }

    /// The records of these tasks; `None` where there is none.
    async fn read(
        &self,
        items: &[usize],
        ids: &[&TaskId],
    ) -> Vec<(usize, Result<Option<TaskRecord>, QueueError>)> {
        let pieces = cut(self.settings.shards, items, ids);
        let calls = pieces.iter().map(|piece| {
            let mut command = redis::cmd("MGET");
            for id in piece.ids(ids) {
                command.arg(keys::record(piece.shard, id));
            }
            command
        });
        let answers = self.send(calls.collect()).await;
        let mut records = Vec::with_capacity(items.len());
        for (piece, answer) in pieces.iter().zip(answers) {
            let values = match answer {
                Ok(answer) => value::list(answer)
                    .filter(|values| values.len() == piece.items.len())
                    .ok_or_else(|| error::unexpected("MGET gave no list of the right length")),
                Err(failure) => Err(failure),
            };
            match values {
                Ok(values) => records.extend(piece.items.iter().zip(values).map(|(&at, answer)| {
                    (at, value::bytes(answer).map(|raw| codec::decode(ids[at], &raw)).transpose())
                })),
                Err(failure) => {
                    records.extend(piece.items.iter().map(|&at| (at, Err(error::same(&failure)))))
                }
            }
        }
        records
    }

    /// What a report other than success means for the task as it is.
    pub(super) fn judge(&self, record: &TaskRecord, settlement: &Settlement) -> Judgement {
        let (counters, requests, max_attempts) =
            (counters(record), requests(record), record.spec.max_attempts);
        let returned = |delay| {
            let jitter = policy::spread(&record.id, record.run, counters);
            policy::after_return(counters, max_attempts, delay, jitter, &self.settings).given(requests)
        };
        let (verdict, kind) = match &settlement.outcome {
            Outcome::Done { .. } => (policy::after_success(counters, requests), 1),
            Outcome::Failed { failure, jitter } => {
                let verdict = policy::after_failure(
                    counters,
                    max_attempts,
                    failure.class,
                    failure.retry_after,
                    *jitter,
                    &self.settings,
                );
                (verdict.given(requests), 2)
            }
            Outcome::HandedBack { delay, .. } => (returned(*delay), 3),
            Outcome::NotSent { delay } => (policy::after_no_room(counters, *delay).given(requests), 3),
            Outcome::Cancelled => (returned(Duration::ZERO), 4),
        };
        let (failure, upload_id, upload_changes) = match &settlement.outcome {
            Outcome::Failed { failure, .. } => (codec::encode_failure(failure), String::new(), false),
            Outcome::HandedBack { upload_id, .. } => (Vec::new(), upload_id.clone(), !upload_id.is_empty()),
            Outcome::NotSent { .. } => (Vec::new(), String::new(), false),
            Outcome::Done { .. } | Outcome::Cancelled => (Vec::new(), String::new(), true),
        };
        let verdict = pack(settlement.lease, record, &verdict, kind, upload_changes);
        Judgement { verdict, failure, upload_id }
    }

    /// What it means that the task's lease ran out, for `expire.lua`.
    pub(super) fn judge_expiry(&self, record: &TaskRecord) -> Vec<u8> {
        let Some(lease) = record.lease else { return Vec::new() };
        let counters = counters(record);
        let jitter = policy::spread(&record.id, record.run, counters);
        let max_attempts = record.spec.max_attempts;
        let verdict = policy::after_expiry(counters, max_attempts, record.accepted, jitter, &self.settings);
        pack(lease, record, &verdict.given(requests(record)), 0, false)
    }

    /// Sends one call for each piece.
    async fn send_pieces(&self, calls: Vec<Cmd>, pieces: &[Piece]) -> Vec<Result<Answer, QueueError>> {
        let read = |(piece, answer): (&Piece, Result<redis::Value, QueueError>)| {
            let answer = answer.and_then(Answer::read)?;
            self.hints.set(piece.shard, answer.pending);
            if answer.pending.iter().any(|&pending| pending > 0) {
                // A task came back, or a tenant may have one more lease.
                self.hints.wake();
            }
            Ok(answer)
        };
        pieces.iter().zip(self.send(calls).await).map(read).collect()
    }
}

/// What `fail.lua` takes for one item.
pub(super) struct Judgement {
    pub(super) verdict: Vec<u8>,
    pub(super) failure: Vec<u8>,
    pub(super) upload_id: String,
}

/// A verdict, and the record that it was made on, as `_ends.lua` unpacks it.
fn pack(
    lease: LeaseToken,
    record: &TaskRecord,
    verdict: &Verdict,
    kind: u8,
    upload_changes: bool,
) -> Vec<u8> {
    let short = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(56);
    out.put_slice(lease.as_bytes());
    out.put_u32(record.run);
    out.put_u32(record.attempts);
    out.put_u16(short(record.crashes));
    out.put_u16(short(record.returns));
    out.put_u8(codec::flags(record));
    out.put_u8(codec::state_code(verdict.state));
    out.put_u8(codec::reason_code(verdict.reason));
    out.put_u32(verdict.counters.attempts);
    out.put_u16(short(verdict.counters.crashes));
    out.put_u16(short(verdict.counters.returns));
    out.put_uint(millis(verdict.delay), 6);
    out.put_u8(u8::from(verdict.runs_again));
    out.put_u8(kind);
    out.put_u8(u8::from(upload_changes));
    out
}

/// The answer of `complete.lua` or `fail.lua` for one item; `None` when the record had changed.
fn settled(id: &TaskId, code: i64) -> Result<Option<SettleOutcome>, QueueError> {
    Ok(Some(match code {
        10 => SettleOutcome::Duplicate,
        11 => SettleOutcome::RunsAgain,
        12 => SettleOutcome::Fenced,
        13 => SettleOutcome::Superseded,
        14 => SettleOutcome::Cancelled,
        15 => SettleOutcome::Gone,
        -3 => return Err(damaged(id)),
        -4 => return Ok(None),
        state => match codec::state_of(state) {
            Some(
                state @ (TaskState::Pending
                | TaskState::Delayed
                | TaskState::Done
                | TaskState::Dead
                | TaskState::Cancelled),
            ) => SettleOutcome::Stored(state),
            Some(TaskState::Scheduled | TaskState::Working) | None => {
                return Err(error::unexpected("a settling script gave an unknown answer"));
            }
        },
    }))
}

fn too_long(settlement: &Settlement) -> Option<QueueError> {
    let fits = match &settlement.outcome {
        Outcome::Done { receipt } => codec::fits("receipt", receipt.len(), 0xffff),
        Outcome::Failed { failure, .. } => {
            codec::fits("failure", failure.code.len() + failure.message.len(), 0xff00)
        }
        Outcome::HandedBack { upload_id, .. } => codec::fits("upload id", upload_id.len(), 0xffff),
        Outcome::NotSent { .. } | Outcome::Cancelled => Ok(0),
    };
    fits.err().map(|too_long| QueueError::Rejected(Box::new(too_long)))
}

const fn counters(record: &TaskRecord) -> Counters {
    Counters { attempts: record.attempts, crashes: record.crashes, returns: record.returns }
}

const fn requests(record: &TaskRecord) -> Requests {
    Requests { cancel: record.cancel_requested, again: record.dirty }
}

fn cut(shards: u16, items: &[usize], ids: &[&TaskId]) -> Vec<Piece> {
    batch::cut(shards, items.iter().map(|&at| (at, ids[at], ())))
}
