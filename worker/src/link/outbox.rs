//! Results that no dispatcher has confirmed yet.
//!
//! A result outlives its stream and its lease: it is sent on every new stream until a confirmation settles it, because a success
//! that is forgotten is a copy made for nothing. Bounded by the credit that let the tasks in. Must not judge results.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use backhaul_proto::v1;
use prost::Message as _;

use super::task::{Finished, LeaseKey};

/// When results are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutboxSettings {
    /// So many results wait for no more company; 1 to [`Outbox::BATCH`].
    pub(crate) batch: usize,
    /// A result waits at most this long for company.
    pub(crate) flush_every: Duration,
    /// How long after `TRY_AGAIN` a result is sent again.
    pub(crate) retry_after: Duration,
}

/// The results, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Outbox {
    settings: OutboxSettings,
    kept: BTreeMap<u64, Kept>,
    numbers: HashMap<LeaseKey, u64>,
    next_number: u64,
    /// To be sent; may name results that have been confirmed meanwhile.
    unsent: VecDeque<u64>,
    /// Sent again at these times, which never decrease; may name results that have been confirmed meanwhile.
    retries: VecDeque<(Instant, u64)>,
    flush_at: Option<Instant>,
    last_flush: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    result: v1::TaskResult,
    sent: Sent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    No,
    OnThisStream,
    AgainLater,
}

impl Outbox {
    /// Most results in one message, and most bytes, so that no message meets a size limit of the peer.
    pub(crate) const BATCH: usize = 100;
    const BATCH_BYTES: usize = 256 << 10;
    /// Most bytes of results in a Hello; the rest follows as ordinary results.
    const HELLO_BYTES: usize = 1 << 20;

    pub(crate) fn new(settings: OutboxSettings) -> Self {
        Self {
            settings,
            kept: BTreeMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            unsent: VecDeque::new(),
            retries: VecDeque::new(),
            flush_at: None,
            last_flush: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn contains(&self, lease: &LeaseKey) -> bool {
        self.numbers.contains_key(lease)
    }

    /// Keeps a result until it is confirmed.
    pub(crate) fn push(&mut self, now: Instant, finished: Finished) {
        let Finished { lease, outcome } = finished;
        let result = v1::TaskResult {
            task_id: lease.task_id.to_string(),
            lease: lease.wire_token(),
            outcome: Some(*outcome),
        };
        let number = self.next_number;
        self.next_number += 1;
        if let Some(old) = self.numbers.insert(lease, number) {
            self.kept.remove(&old);
        }
        self.kept.insert(number, Kept { result, sent: Sent::No });
        self.queue(now, number);
    }

    /// Sends a result again, if it is kept and not about to be sent anyway.
    pub(crate) fn resend(&mut self, now: Instant, lease: &LeaseKey) {
        let Some(&number) = self.numbers.get(lease) else { return };
        if let Some(kept) = self.kept.get_mut(&number).filter(|k| k.sent == Sent::OnThisStream) {
            kept.sent = Sent::No;
            self.queue(now, number);
        }
    }

    /// Forgets a confirmed result; whether it was kept.
    pub(crate) fn settle(&mut self, lease: &LeaseKey) -> bool {
        self.numbers.remove(lease).is_some_and(|number| self.kept.remove(&number).is_some())
    }

    /// The dispatcher could not store a result: it is sent again a little later. Whether it was kept.
    pub(crate) fn try_again(&mut self, now: Instant, lease: &LeaseKey) -> bool {
        let Some(&number) = self.numbers.get(lease) else { return false };
        if let Some(kept) = self.kept.get_mut(&number).filter(|k| k.sent == Sent::OnThisStream) {
            kept.sent = Sent::AgainLater;
            self.retries.push_back((now + self.settings.retry_after, number));
        }
        true
    }

    /// What to put in the Hello of a new stream. All that does not fit is sent after the Welcome.
    pub(crate) fn hello(&mut self) -> Vec<v1::TaskResult> {
        self.retries.clear();
        self.unsent.clear();
        let mut bytes = 0;
        let mut first = Vec::new();
        for (&number, kept) in &mut self.kept {
            bytes += kept.result.encoded_len();
            if bytes <= Self::HELLO_BYTES {
                kept.sent = Sent::OnThisStream;
                first.push(kept.result.clone());
            } else {
                kept.sent = Sent::No;
                self.unsent.push_back(number);
            }
        }
        first
    }

    /// The next batch, when it is time for one.
    pub(crate) fn next_batch(&mut self, now: Instant) -> Option<v1::Results> {
        if self.unsent.len() < self.settings.batch && self.flush_at.is_none_or(|at| at > now) {
            return None;
        }
        let mut results = Vec::new();
        let mut bytes = 0;
        while results.len() < Self::BATCH
            && bytes < Self::BATCH_BYTES
            && let Some(number) = self.unsent.pop_front()
        {
            if let Some(kept) = self.kept.get_mut(&number) {
                kept.sent = Sent::OnThisStream;
                bytes += kept.result.encoded_len();
                results.push(kept.result.clone());
            }
        }
        self.last_flush = Some(now);
        if self.unsent.is_empty() {
            self.flush_at = None;
        }
        (!results.is_empty()).then_some(v1::Results { results })
    }

    /// What is to be sent goes out now: on a stream that has just opened, or when no company can come.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.flush_at = (!self.unsent.is_empty()).then_some(now);
    }

    /// Moves results whose second chance has come to those to be sent.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while self.retries.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, number)) = self.retries.pop_front()
        {
            if let Some(kept) = self.kept.get_mut(&number) {
                kept.sent = Sent::No;
                self.queue(now, number);
            }
        }
    }

    /// When a second chance comes.
    pub(crate) fn poll_retry(&self) -> Option<Instant> {
        self.retries.front().map(|(at, _)| *at)
    }

    /// When the next batch is due.
    pub(crate) fn poll_flush(&self) -> Option<Instant> {
        self.flush_at
    }

    fn queue(&mut self, now: Instant, number: u64) {
        self.unsent.push_back(number);
        // The first result after a pause goes at once; company is waited for only when results come fast.
        let earliest = self.last_flush.map_or(now, |last| (last + self.settings.flush_every).max(now));
        self.flush_at = Some(self.flush_at.map_or(earliest, |at| at.min(earliest)));
    }
}

#[cfg(test)]
mod tests;
