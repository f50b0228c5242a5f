//! What this dispatcher decides, for the audit log: who asked for what, from where, and what came of it.
//!
//! Decisions are recorded where they fall: at the door of the services, at the door for events, on a worker's stream, and around the queue
//! ([`Audited`]), which sees every task whoever moves it. What belongs to one call is one entry; `context.rs` carries it to wherever
//! something is to be said of it. Recording never waits: entries go through a bounded queue to the one [`AuditWriter`], and what has no
//! place there is counted and told in the log. No entry holds a credential, a token or a lease.

mod context;
mod entry;
mod queue;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use backhaul_runtime::{audit::Fields, metrics::Counter};
use tokio::{sync::Notify, time::Instant};

pub(crate) use self::context::{
    Call, Stream, Told, about, about_task, foreign, hello, message_refused, number, refused_object,
};
pub use self::{
    queue::Audited,
    writer::{AuditError, AuditSettings, AuditWriter},
};
use crate::{grpc::layers::rate::TokenBucket, queue::QueueClock};

/// Entries that wait to be written, in bytes.
const MOST_WAITING_BYTES: usize = 16 * 1024 * 1024;
/// Longest entry: no line of a log may be longer than a MiB. None is: what holds many tasks becomes several.
const MOST_ENTRY_BYTES: usize = 512 * 1024;
/// Entries a second about each kind of refusal. Nobody may fill a disk by being refused, nor hide those of another kind.
const MOST_REFUSALS: u32 = 100;

/// Longest reason that a handshake was refused for.
const MOST_REASON_BYTES: usize = 200;

/// Refusals that cost whoever asks nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Of somebody unknown.
    OfStranger,
    /// Of somebody known, who may not do that.
    OfKnown,
    /// Of more than a limit lets through.
    OverLimit,
    /// Of a connection, before there was a call. It costs less than any other, and so must not hide them.
    OfConnection,
}

/// Where decisions are recorded. Clones are one; without a log nothing is recorded and nothing costs anything.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Shared>>);

/// What is counted, for metrics.
#[derive(Debug, Default)]
pub struct AuditCounters {
    /// Entries that are written.
    pub written: Counter,
    /// Entries that had no place, because writing failed or was too slow.
    pub lost: Counter,
    /// Number of the last line.
    pub seq: AtomicU64,
    /// The last try to write has failed.
    pub failing: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Told when there is something to write.
    wake: Notify,
    counters: Arc<AuditCounters>,
    /// Nothing is done that cannot be recorded.
    is_required: bool,
    clock: QueueClock,
}

/// What is to be written.
#[derive(Debug)]
struct Waiting {
    bodies: VecDeque<String>,
    bytes: usize,
    /// Entries without a place since this was last told.
    lost: u64,
    /// For each kind.
    refusals: [TokenBucket; 4],
    /// Refusals that were too many to be recorded one by one since this was last told.
    passed_over: u64,
}

impl Audit {
    /// Records nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Whether anything is recorded.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether what is decided now can be recorded, where it has to be. False as soon as half of the room is taken: the other half is for
    /// what is in progress.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        let Some(shared) = self.0.as_ref().filter(|shared| shared.is_required) else { return true };
        !shared.counters.failing.load(Ordering::Relaxed) && shared.waiting().bytes < MOST_WAITING_BYTES / 2
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Arc<AuditCounters> {
        self.0.as_ref().map(|shared| Arc::clone(&shared.counters)).unwrap_or_default()
    }

    /// The first fields of an entry: when, and what kind it is.
    fn entry(&self, event: &'static str) -> Fields {
        let mut fields = Fields::new();
        if let Some(shared) = &self.0 {
            fields.instant("at", shared.clock.local_now().0).text("event", event);
        }
        fields
    }

    /// Records an entry.
    fn record(&self, entry: Fields) {
        if let Some(shared) = &self.0 {
            shared.waiting().push(entry.into_text(), &shared.counters);
            shared.wake.notify_one();
        }
    }

    /// Records a refusal, unless there are too many of its kind.
    fn record_refusal(&self, kind: Refusal, entry: Fields) {
        let Some(shared) = &self.0 else { return };
        let mut waiting = shared.waiting();
        if waiting.refusals[kind as usize].take(Instant::now()).is_err() {
            waiting.passed_over += 1;
            return;
        }
        drop(waiting);
        self.record(entry);
    }

    /// Records that somebody who has connected could not prove who they are, so that there was no call.
    pub(crate) fn handshake_refused(&self, peer: SocketAddr, why: &str) {
        if self.is_on() {
            let mut entry = self.entry("handshake");
            entry.text("peer", &peer.to_string()).text("decision", "refused");
            // It may quote what was sent.
            entry.text("reason", entry::cut(why, MOST_REASON_BYTES));
            self.record_refusal(Refusal::OfConnection, entry);
        }
    }
}

impl Shared {
    fn new(is_required: bool, clock: QueueClock) -> Self {
        let waiting = Waiting {
            bodies: VecDeque::new(),
            bytes: 0,
            lost: 0,
            refusals: [(); 4].map(|()| TokenBucket::new(MOST_REFUSALS, Instant::now())),
            passed_over: 0,
        };
        let (waiting, counters) = (Mutex::new(waiting), Arc::default());
        Self { waiting, wake: Notify::new(), counters, is_required, clock }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No code that holds it can leave it half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.bodies.is_empty() && self.lost == 0 && self.passed_over == 0
    }

    fn push(&mut self, body: String, counters: &AuditCounters) {
        if body.len() > MOST_ENTRY_BYTES || self.bytes + body.len() > MOST_WAITING_BYTES {
            self.lost += 1;
            counters.lost.inc();
        } else {
            self.bytes += body.len();
            self.bodies.push_back(body);
        }
    }
}
