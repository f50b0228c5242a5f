//! The vocabulary of a session: what happens to it, what it asks for, where it stands. Plain data, checked when it was made.

use std::{borrow::Borrow, collections::BTreeSet, fmt, sync::Arc, time::Duration};

use backhaul_proto::v1::{AcceptRefusal, DrainReason};

use crate::queue::{
    Failure, LeaseToken, LeasedTask, Outcome, Progress, QueueError, RenewOutcome, Renewal, SettleOutcome,
    Settlement, TaskId,
    walk::{PageFound, PageOrder},
};

use super::{CloseReason, DrainOrder};

/// Names one stream, on all dispatchers: 32 random hex digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Arc<str>);

/// How much a worker can hold, or how much room is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Credit {
    /// Tasks.
    pub(crate) tasks: u32,
    /// Bytes by size hint.
    pub(crate) bytes: u64,
}

/// A lease on a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LeaseKey {
    /// The task.
    pub(crate) id: TaskId,
    /// The token.
    pub(crate) lease: LeaseToken,
}

/// A task as a worker names it. A worker may bring ids from a dispatcher of another version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskName {
    /// An id that the queue can hold.
    Known(TaskId),
    /// Well-formed, and of no task here.
    Foreign(String),
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkerInfo {
    /// Random id of the process start.
    pub(crate) instance: [u8; 16],
    /// Name, for logs and records.
    pub(crate) name: Arc<str>,
    /// Build version, for logs.
    pub(crate) version: String,
    /// Locations it can copy from, sorted, each once.
    pub(crate) locations: Arc<[String]>,
    /// It lists objects below prefixes.
    pub(crate) lists: bool,
    /// Retention classes that it copies under, as `LOCATION/CLASS`.
    pub(crate) retention_classes: BTreeSet<String>,
}

/// What a worker makes of a page that it was asked to list.
pub(crate) type PageAnswer = Result<PageFound, Failure>;

/// The checked first message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hello {
    /// Who.
    pub(crate) worker: WorkerInfo,
    /// Locations of which it takes no tasks for now.
    pub(crate) paused: Vec<String>,
    /// Credit from the start.
    pub(crate) credit: Credit,
    /// Leases still worked on.
    pub(crate) held: Vec<Held>,
    /// Results never confirmed.
    pub(crate) unconfirmed: Vec<Report>,
}

/// A lease that a worker works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// The task.
    pub(crate) task: TaskName,
    /// Its lease.
    pub(crate) lease: LeaseToken,
    /// How far it is.
    pub(crate) progress: Progress,
    /// Multipart upload in progress; empty when none.
    pub(crate) upload_id: String,
}

/// An answer to one assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The task.
    pub(crate) task: TaskName,
    /// Its lease.
    pub(crate) lease: LeaseToken,
    /// Why not; `Unspecified` for yes.
    pub(crate) refusal: AcceptRefusal,
}

/// A worker's report on one task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    /// The task.
    pub(crate) task: TaskName,
    /// Its lease.
    pub(crate) lease: LeaseToken,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// What happens to a session.
#[derive(Debug)]
pub(crate) enum Event {
    /// From the worker: its first message.
    Hello(Box<Hello>),
    /// From the worker: new credit.
    Credit(Credit),
    /// From the worker: all locations of which it takes no tasks for now.
    Paused(Vec<String>),
    /// From the worker: answers to assignments.
    Accepts(Vec<Answer>),
    /// From the worker: all leases it holds.
    Heartbeat {
        /// To be repeated in the answer.
        seq: u64,
        /// The leases.
        held: Vec<Held>,
    },
    /// From the worker: outcomes.
    Results(Vec<Report>),
    /// From the worker: no more tasks.
    WorkerDrains {
        /// It closes the stream after this.
        finish_within: Duration,
    },
    /// From the worker: a page that it was asked for.
    Listed(LeaseToken, PageAnswer),
    /// From the worker: an arm that this version does not know.
    Unknown,
    /// From the worker: a message that breaks the contract.
    Broken(CloseReason),
    /// The worker closed its side of the stream.
    PeerClosed,
    /// The connection is gone.
    PeerLost,
    /// The queue answers [`Effect::Renew`], lease by lease.
    Renewed(RenewFor, Vec<Result<RenewOutcome, QueueError>>),
    /// The queue answers [`Effect::Settle`], item by item.
    Settled(Vec<Result<SettleOutcome, QueueError>>),
    /// Tasks leased for this session by its request of this number.
    Offered {
        /// Number of the request.
        request: u64,
        /// The tasks.
        tasks: Vec<LeasedTask>,
    },
    /// A page is to be listed.
    List(LeaseToken, Box<PageOrder>),
    /// Nobody waits for this page any more.
    PageGivenUp(LeaseToken),
    /// A caller cancelled this copy.
    StopCopy(LeaseKey),
    /// The dispatcher wants the worker elsewhere.
    Drain(DrainOrder),
    /// The dispatcher ends now.
    Stop,
}

/// What a session asks of its driver.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// The worker is known: enter it, and end older streams of the same instance, which lose these leases to this one.
    Attach(Arc<WorkerInfo>, Arc<[LeaseToken]>),
    /// Renew these leases in the queue.
    Renew(RenewFor, Vec<Renewal>),
    /// Settle these leases in the queue.
    Settle(Vec<Settlement>),
    /// Whoever asked for this page is to have its answer; `None` when it is not listed here.
    Listed(LeaseToken, Option<PageAnswer>),
}

/// Why leases are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RenewFor {
    /// The worker resumes them.
    Hello,
    /// A heartbeat with this number.
    Heartbeat(u64),
    /// The worker has accepted them.
    Accepts,
}

/// What a session has done since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionCounters {
    /// Tasks sent.
    pub assigned: u64,
    /// Tasks accepted by the worker.
    pub accepted: u64,
    /// Tasks refused by the worker.
    pub refused: u64,
    /// Tasks that went back without the worker's word: unsent, unaccepted, or no longer within its credit.
    pub returned: u64,
    /// Results that the queue has answered.
    pub confirmed: u64,
    /// Results that the queue could not answer and that will come again.
    pub postponed: u64,
    /// Messages and entries that meant nothing to this version or named unknown tasks.
    pub ignored: u64,
}

/// Where a session stands, for whoever feeds it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// Room for more tasks; zero when none may be offered.
    pub(crate) room: Credit,
    /// Number of the last request whose tasks have arrived.
    pub(crate) offers_seen: u64,
    /// Tasks the worker holds.
    pub(crate) outstanding: u32,
    /// Bytes by size hint that the worker holds.
    pub(crate) outstanding_bytes: u64,
    /// Locations that it can be offered tasks of; `None` until known.
    pub(crate) locations: Option<Arc<[String]>>,
    /// No more tasks, for good.
    pub(crate) draining: bool,
    /// So far.
    pub(crate) counters: SessionCounters,
}

impl SessionId {
    /// A new id.
    ///
    /// # Errors
    /// When the operating system's random source fails.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("{:032x}", u128::from_be_bytes(bytes)).into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SessionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TaskName {
    /// The name with a lease, if the queue can hold it.
    pub(crate) fn with(&self, lease: LeaseToken) -> Option<LeaseKey> {
        match self {
            Self::Known(id) => Some(LeaseKey { id: id.clone(), lease }),
            Self::Foreign(_) => None,
        }
    }

    /// As the worker wrote it.
    pub(crate) fn into_string(self) -> String {
        match self {
            Self::Known(id) => id.as_str().to_owned(),
            Self::Foreign(text) => text,
        }
    }
}

impl Standing {
    /// True when whoever feeds the session would act differently on `other`.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let same_locations = match (&self.locations, &other.locations) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        !same_locations
            || self.room != other.room
            || self.offers_seen != other.offers_seen
            || self.outstanding != other.outstanding
            || self.outstanding_bytes != other.outstanding_bytes
            || self.draining != other.draining
            || self.counters != other.counters
    }
}

impl SessionCounters {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            assigned: self.assigned + other.assigned,
            accepted: self.accepted + other.accepted,
            refused: self.refused + other.refused,
            returned: self.returned + other.returned,
            confirmed: self.confirmed + other.confirmed,
            postponed: self.postponed + other.postponed,
            ignored: self.ignored + other.ignored,
        }
    }
}

/// What a drain order says on the wire, in words, for logs.
pub(crate) const fn drain_word(reason: DrainReason) -> &'static str {
    match reason {
        DrainReason::Unspecified => "unspecified",
        DrainReason::Shutdown => "shutdown",
        DrainReason::Rebalance => "rebalance",
        DrainReason::Reauthenticate => "reauthenticate",
        DrainReason::Superseded => "superseded",
    }
}
