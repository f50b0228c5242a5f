//! The leases that one worker holds, and the credit they use. Pure: no clock, no queue.
//!
//! A lease is counted from the moment it is put on the wire until its result is stored, or until it is known to be over.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use super::{Credit, LeaseKey};
use crate::queue::{DEFAULT_COST_BYTES, LeaseToken, LeasedTask, TaskId};

/// Leases and the credit they use.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    limit: Credit,
    held: HashMap<LeaseToken, Lease>,
    bytes: u64,
    /// When the assignments that were not answered must have been.
    deadlines: BTreeSet<(Instant, [u8; LeaseToken::LEN])>,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Its task.
    pub(crate) id: TaskId,
    /// Bytes of credit it uses.
    pub(crate) cost: u64,
    /// How far it is.
    pub(crate) stage: Stage,
    /// The queue has renewed it at the worker's word, which accepts it: to write its accept would say nothing new.
    pub(crate) is_renewed: bool,
    /// Multipart upload that the assignment came with.
    pub(crate) upload_id: String,
    /// Place of its location in the worker's list; `None` for a lease that the worker brought along.
    pub(crate) location: Option<usize>,
    /// When the worker last spoke of it.
    seen: Instant,
}

/// How far a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Sent, not answered.
    Offered {
        /// When the answer must have come.
        by: Instant,
    },
    /// The worker works on it.
    Accepted,
    /// The worker has reported; the queue has not confirmed yet.
    Reported,
}

/// Largest size that is believed: the contract's bound of a size hint.
const MAX_SIZE_BYTES: u64 = 1 << 50;

/// Bytes of credit that a task uses.
pub(crate) const fn cost_of(size_bytes: u64) -> u64 {
    match size_bytes {
        0 => DEFAULT_COST_BYTES,
        1..=MAX_SIZE_BYTES => size_bytes,
        _ => MAX_SIZE_BYTES,
    }
}

impl Leases {
    /// Replaces the credit. Lowering it below what is held only stops new tasks.
    pub(crate) const fn set_limit(&mut self, limit: Credit) {
        self.limit = limit;
    }

    /// The credit as the worker gave it.
    pub(crate) const fn limit(&self) -> Credit {
        self.limit
    }

    /// Tasks and bytes held.
    pub(crate) fn outstanding(&self) -> Credit {
        Credit { tasks: u32::try_from(self.held.len()).unwrap_or(u32::MAX), bytes: self.bytes }
    }

    /// True when a task of this cost may be sent now: within both limits, or alone.
    pub(crate) fn fits(&self, cost: u64) -> bool {
        let held = self.outstanding();
        held.tasks < self.limit.tasks
            && (held.tasks == 0 || self.bytes.saturating_add(cost) <= self.limit.bytes)
    }

    /// What is left of the credit; nothing at all when either limit is reached.
    pub(crate) fn room(&self) -> Credit {
        let held = self.outstanding();
        let room = Credit {
            tasks: self.limit.tasks.saturating_sub(held.tasks),
            bytes: self.limit.bytes.saturating_sub(held.bytes),
        };
        // With nothing held, the first task may have any size.
        if room.tasks == 0 || (room.bytes == 0 && held.tasks > 0) { Credit::default() } else { room }
    }

    /// Counts a task that is sent now and must be answered by then.
    pub(crate) fn offer(&mut self, now: Instant, task: &LeasedTask, location: Option<usize>, by: Instant) {
        let lease = Lease {
            id: task.id.clone(),
            cost: cost_of(task.spec.size_hint_bytes),
            stage: Stage::Offered { by },
            is_renewed: false,
            upload_id: task.upload_id.clone(),
            location,
            seen: now,
        };
        self.insert(task.lease, lease);
    }

    /// Counts a lease that the worker brought along, unless it is known.
    pub(crate) fn resume(&mut self, now: Instant, key: &LeaseKey, size_bytes: u64) {
        if !self.held.contains_key(&key.lease) {
            let lease = Lease {
                id: key.id.clone(),
                cost: cost_of(size_bytes),
                stage: Stage::Accepted,
                is_renewed: false,
                upload_id: String::new(),
                location: None,
                seen: now,
            };
            self.insert(key.lease, lease);
        }
    }

    /// The lease, if it is held.
    pub(crate) fn get(&self, key: &LeaseKey) -> Option<&Lease> {
        self.held.get(&key.lease).filter(|lease| lease.id == key.id)
    }

    /// True when a lease with this token is held.
    pub(crate) fn contains(&self, lease: LeaseToken) -> bool {
        self.held.contains_key(&lease)
    }

    /// Moves a lease to another stage, because the worker spoke of it. Answers the stage before.
    pub(crate) fn advance(&mut self, now: Instant, key: &LeaseKey, stage: Stage) -> Option<Stage> {
        let lease = self.held.get_mut(&key.lease).filter(|lease| lease.id == key.id)?;
        lease.seen = now;
        let before = std::mem::replace(&mut lease.stage, stage);
        self.forget_deadline(before, key.lease);
        Some(before)
    }

    /// The queue has renewed it at the worker's word.
    pub(crate) fn renewed(&mut self, key: &LeaseKey) {
        if let Some(lease) = self.held.get_mut(&key.lease).filter(|lease| lease.id == key.id) {
            lease.is_renewed = true;
        }
    }

    /// Forgets a lease and frees its credit.
    pub(crate) fn remove(&mut self, key: &LeaseKey) -> Option<Lease> {
        self.get(key)?;
        self.take(key.lease).map(|(_, lease)| lease)
    }

    /// The next time an assignment must have been answered.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(by, _)| *by)
    }

    /// Forgets assignments that should have been answered by now.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> Vec<(LeaseKey, Lease)> {
        let mut overdue = Vec::new();
        while let Some((_, lease)) = self.deadlines.first().filter(|(by, _)| *by <= now) {
            overdue.extend(self.take(LeaseToken::from_bytes(*lease)));
        }
        overdue
    }

    /// Forgets every assignment that was not answered.
    pub(crate) fn take_offered(&mut self) -> Vec<(LeaseKey, Lease)> {
        let mut offered = Vec::new();
        while let Some((_, lease)) = self.deadlines.first() {
            offered.extend(self.take(LeaseToken::from_bytes(*lease)));
        }
        offered
    }

    /// Forgets leases that now belong to another session.
    pub(crate) fn release(&mut self, leases: &[LeaseToken]) {
        for lease in leases {
            let _taken = self.take(*lease);
        }
    }

    /// Forgets leases that the worker has not spoken of since `before`: their time is over.
    pub(crate) fn forget_unseen(&mut self, before: Instant) -> usize {
        let count = self.held.len();
        let bytes = &mut self.bytes;
        self.held.retain(|_, lease| {
            let keep = lease.seen >= before || lease.stage != Stage::Accepted;
            if !keep {
                *bytes = bytes.saturating_sub(lease.cost);
            }
            keep
        });
        count - self.held.len()
    }

    fn insert(&mut self, token: LeaseToken, lease: Lease) {
        let _replaced = self.take(token);
        self.bytes = self.bytes.saturating_add(lease.cost);
        if let Stage::Offered { by } = lease.stage {
            self.deadlines.insert((by, *token.as_bytes()));
        }
        self.held.insert(token, lease);
    }

    fn take(&mut self, token: LeaseToken) -> Option<(LeaseKey, Lease)> {
        let lease = self.held.remove(&token)?;
        self.bytes = self.bytes.saturating_sub(lease.cost);
        self.forget_deadline(lease.stage, token);
        Some((LeaseKey { id: lease.id.clone(), lease: token }, lease))
    }

    fn forget_deadline(&mut self, stage: Stage, token: LeaseToken) {
        if let Stage::Offered { by } = stage {
            self.deadlines.remove(&(by, *token.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> LeaseKey {
        let id = TaskId::from_hash(&format!("{n:032x}")).unwrap();
        LeaseKey { id, lease: LeaseToken::from_bytes([n; 16]) }
    }

    #[test]
    fn a_token_with_another_task_is_no_lease() {
        let now = tokio::time::Instant::now().into_std();
        let mut leases = Leases::default();
        leases.resume(now, &key(1), 10);
        let forged = LeaseKey { id: key(2).id, lease: key(1).lease };
        assert_eq!(leases.get(&forged), None);
        assert_eq!(leases.advance(now, &forged, Stage::Reported), None);
        assert_eq!(leases.remove(&forged), None);
        assert_eq!(leases.outstanding(), Credit { tasks: 1, bytes: 10 });
    }

    #[test]
    fn an_absurd_size_counts_the_largest_that_the_contract_allows() {
        assert_eq!(cost_of(u64::MAX), MAX_SIZE_BYTES);
        assert_eq!(cost_of(0), DEFAULT_COST_BYTES);
        assert_eq!(cost_of(1), 1);
    }

    #[test]
    fn without_any_byte_credit_one_task_goes_at_a_time() {
        let now = tokio::time::Instant::now().into_std();
        let mut leases = Leases::default();
        leases.set_limit(Credit { tasks: 5, bytes: 0 });
        assert!(leases.fits(1));
        assert_eq!(leases.room(), Credit { tasks: 5, bytes: 0 });
        leases.resume(now, &key(1), 1);
        assert!(!leases.fits(1));
        assert_eq!(leases.room(), Credit::default());
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_held(steps in prop::collection::vec((0..6_u8, 0..8_u8, 0..100_u64), 0..200)) {
            let start = tokio::time::Instant::now().into_std();
            let mut leases = Leases::default();
            for (step, n, size) in steps {
                let now = start + Duration::from_millis(size);
                match step {
                    0 => leases.resume(now, &key(n), size),
                    1 => { leases.advance(now, &key(n), Stage::Accepted); }
                    2 => { leases.remove(&key(n)); }
                    3 => { leases.insert(key(n).lease, Lease {
                        id: key(n).id,
                        cost: cost_of(size),
                        stage: Stage::Offered { by: now + Duration::from_secs(1) },
                        is_renewed: false,
                        upload_id: String::new(),
                        location: None,
                        seen: now,
                    }); }
                    4 => { leases.take_overdue(start + Duration::from_millis(1_000 + size)); }
                    _ => { leases.forget_unseen(now); }
                }
                let bytes: u64 = leases.held.values().map(|lease| lease.cost).sum();
                prop_assert_eq!(leases.bytes, bytes);
                let mut open: Vec<_> = leases
                    .held
                    .iter()
                    .filter_map(|(token, lease)| match lease.stage {
                        Stage::Offered { by } => Some((by, *token.as_bytes())),
                        Stage::Accepted | Stage::Reported => None,
                    })
                    .collect();
                open.sort_unstable();
                prop_assert_eq!(leases.deadlines.iter().copied().collect::<Vec<_>>(), open);
            }
        }
    }
}
