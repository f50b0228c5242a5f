//! From what a dispatcher sends to events of the link.
//!
//! Everything hostile or damaged stops here: an entry that breaks the contract is dropped and counted, an arm or a number that this
//! version does not know is read as the contract says. Must not decide anything about tasks.

use std::time::Duration;

use backhaul_proto::v1::{self, from_dispatcher::Message};

use super::{
    state::Event,
    task::{Assignment, LeaseKey},
};

/// A message taken apart.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// What it says; `None` for an arm that this version does not know.
    pub(crate) event: Option<Event>,
    /// Entries that broke the contract and were dropped.
    pub(crate) malformed: usize,
}

/// The dispatcher's answer to Hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcomed {
    /// Id of the stream, for logs.
    pub session: String,
    /// How often to send a heartbeat.
    pub heartbeat_every: Duration,
    /// What became of the leases in Hello.
    pub held: Vec<LeaseNews>,
}

/// What became of one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseNews {
    /// Lease.
    pub lease: LeaseKey,
    /// Verdict; `Unspecified` never occurs here, it was read as `Unknown`.
    pub verdict: v1::LeaseVerdict,
    /// With `Keep`: how long the lease lasts from when the question was sent.
    pub lease_for: Duration,
}

/// What became of one result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// Lease that the result was reported under.
    pub lease: LeaseKey,
    /// False when the dispatcher could not store it: it is to be sent again.
    pub settled: bool,
}

/// Takes a message apart.
pub(crate) fn decode(message: v1::FromDispatcher) -> Decoded {
    let mut malformed = 0;
    let event = message.message.map(|arm| match arm {
        Message::Welcome(welcome) => Event::Welcome(Welcomed {
            heartbeat_every: heartbeat_every(&welcome),
            session: welcome.session,
            held: keep_valid(welcome.held, lease_news, &mut malformed),
        }),
        Message::Assign(assign) => {
            Event::Assigned(keep_valid(assign.assignments, assignment, &mut malformed))
        }
        Message::LeaseUpdates(updates) => Event::LeaseUpdates {
            seq: updates.seq,
            updates: keep_valid(updates.updates, lease_news, &mut malformed),
        },
        Message::Confirms(confirms) => {
            Event::Confirmed(keep_valid(confirms.confirms, confirmation, &mut malformed))
        }
        Message::Cancel(cancel) => {
            let lease = |l: v1::CancelLease| LeaseKey::from_wire(&l.task_id, &l.lease);
            Event::CancelAsked(keep_valid(cancel.leases, lease, &mut malformed))
        }
        Message::List(page) => Event::ListAsked(Box::new(page)),
        Message::Drain(drain) => {
            Event::MoveAsked { superseded: drain.reason() == v1::DrainReason::Superseded }
        }
    });
    Decoded { event, malformed }
}

/// The interval asked for, kept to what makes sense: never a hot loop, and always several in a lease.
fn heartbeat_every(welcome: &v1::Welcome) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(60);
    let asked = Duration::from_millis(welcome.heartbeat_every_ms);
    let third = Duration::from_millis(welcome.lease_ms) / 3;
    let every = if asked.is_zero() { third } else { asked.min(third) };
    every.clamp(SHORTEST, LONGEST)
}

fn keep_valid<W, T>(entries: Vec<W>, read: impl Fn(W) -> Option<T>, malformed: &mut usize) -> Vec<T> {
    let all = entries.len();
    let valid: Vec<T> = entries.into_iter().filter_map(read).collect();
    *malformed += all - valid.len();
    valid
}

fn assignment(wire: v1::Assignment) -> Option<Assignment> {
    let (verify, priority) = (wire.verify(), wire.priority());
    Some(Assignment {
        lease: LeaseKey::from_wire(&wire.task_id, &wire.lease)?,
        lease_for: Duration::from_millis(wire.lease_ms),
        // Without an object the location is the empty name, which nobody has configured: it is refused as such.
        object: wire.object.unwrap_or_default(),
        tenant: wire.tenant,
        attempt: wire.attempt,
        verify,
        size_hint_bytes: (wire.size_hint_bytes > 0).then_some(wire.size_hint_bytes),
        resume_upload_id: wire.resume_upload_id,
        traceparent: wire.traceparent,
        priority: match priority {
            v1::Priority::Unspecified | v1::Priority::Normal => v1::Priority::Normal,
            v1::Priority::Low => v1::Priority::Low,
            v1::Priority::High => v1::Priority::High,
        },
        retention_class: wire.retention_class,
    })
}

fn lease_news(wire: v1::LeaseUpdate) -> Option<LeaseNews> {
    let verdict = match wire.verdict() {
        v1::LeaseVerdict::Unspecified | v1::LeaseVerdict::Unknown => v1::LeaseVerdict::Unknown,
        verdict @ (v1::LeaseVerdict::Keep | v1::LeaseVerdict::Lost | v1::LeaseVerdict::Cancel) => verdict,
    };
    Some(LeaseNews {
        lease: LeaseKey::from_wire(&wire.task_id, &wire.lease)?,
        verdict,
        lease_for: Duration::from_millis(wire.lease_ms),
    })
}

fn confirmation(wire: v1::Confirm) -> Option<Confirmation> {
    let settled = match wire.verdict() {
        v1::ConfirmVerdict::Unspecified | v1::ConfirmVerdict::TryAgain => false,
        v1::ConfirmVerdict::Stored
        | v1::ConfirmVerdict::Duplicate
        | v1::ConfirmVerdict::RunsAgain
        | v1::ConfirmVerdict::Fenced
        | v1::ConfirmVerdict::Superseded
        | v1::ConfirmVerdict::Cancelled
        | v1::ConfirmVerdict::Gone => true,
    };
    Some(Confirmation { lease: LeaseKey::from_wire(&wire.task_id, &wire.lease)?, settled })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(arm: Message) -> v1::FromDispatcher {
        v1::FromDispatcher { message: Some(arm) }
    }

    fn welcome(lease_ms: u64, heartbeat_every_ms: u64) -> Duration {
        heartbeat_every(&v1::Welcome { lease_ms, heartbeat_every_ms, ..Default::default() })
    }

    #[test]
    fn an_arm_of_a_later_version_is_no_event() {
        let decoded = decode(v1::FromDispatcher { message: None });
        assert!(decoded.event.is_none());
        assert_eq!(decoded.malformed, 0);
    }

    #[test]
    fn heartbeats_are_never_hot_and_always_several_in_a_lease() {
        assert_eq!(welcome(30_000, 10_000), Duration::from_secs(10));
        assert_eq!(welcome(30_000, 60_000), Duration::from_secs(10));
        assert_eq!(welcome(30_000, 0), Duration::from_secs(10));
        assert_eq!(welcome(0, 0), Duration::from_millis(10));
        assert_eq!(welcome(u64::MAX, u64::MAX), Duration::from_secs(60));
    }

    #[test]
    fn a_token_of_the_wrong_length_drops_its_entry_only() {
        let good = v1::Confirm { task_id: "a".into(), lease: vec![1; 16].into(), verdict: 1 };
        let bad = v1::Confirm { lease: vec![1; 15].into(), ..good.clone() };
        let decoded = decode(message(Message::Confirms(v1::Confirms { confirms: vec![bad, good] })));
        let Some(Event::Confirmed(confirmed)) = decoded.event else { panic!("confirms give their event") };
        assert_eq!((confirmed.len(), decoded.malformed), (1, 1));
    }

    #[test]
    fn verdicts_that_nobody_knows_keep_the_lease_and_the_result() {
        for verdict in [0, 99, -1] {
            let wire =
                v1::LeaseUpdate { task_id: "a".into(), lease: vec![1; 16].into(), verdict, lease_ms: 5 };
            assert_eq!(lease_news(wire).map(|n| n.verdict), Some(v1::LeaseVerdict::Unknown));
            let wire = v1::Confirm { task_id: "a".into(), lease: vec![1; 16].into(), verdict };
            assert_eq!(confirmation(wire).map(|c| c.settled), Some(false));
        }
    }

    #[test]
    fn an_assignment_without_object_or_size_keeps_its_lease() {
        let wire = v1::Assignment { task_id: "a".into(), lease: vec![1; 16].into(), ..Default::default() };
        let read = assignment(wire).expect("the key is well formed");
        assert_eq!((read.object.location.as_str(), read.size_hint_bytes), ("", None));
        assert_eq!(read.priority, v1::Priority::Normal);
    }
}
