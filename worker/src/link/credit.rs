//! What the worker promises to hold, and whether one more assignment keeps to it.
//!
//! It exists to bound the worker whatever a dispatcher sends. It counts by the protocol's rule (a task without a size is one part of
//! 16 MiB), not by the memory that a copy takes; that is the runner's affair.

use backhaul_proto::v1;

/// What a task without a size hint counts as, by the contract.
const UNKNOWN_SIZE_BYTES: u64 = 16 << 20;

/// Most tasks and bytes that a worker takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditLimit {
    /// Tasks, 1 to [`CreditLimit::MAX_TASKS`].
    pub tasks: u32,
    /// Bytes by size hint.
    pub bytes: u64,
}

impl CreditLimit {
    /// Most tasks: with as many unconfirmed results again it is all that one Hello may carry.
    pub const MAX_TASKS: u32 = 5_000;

    /// What to advertise while `unconfirmed` results are kept. Results beyond one full load take room away, so that leases and
    /// results together never exceed twice the limit; otherwise a dispatcher that stores nothing would make the worker hoard.
    pub(crate) fn advertise(&self, unconfirmed: usize) -> v1::Credit {
        let unconfirmed = u32::try_from(unconfirmed).unwrap_or(u32::MAX);
        let tasks = self.tasks.saturating_mul(2).saturating_sub(unconfirmed).min(self.tasks);
        v1::Credit { tasks, bytes: self.bytes }
    }

    /// What an assignment counts as. More than the whole limit counts as the whole limit: such a task is still taken.
    pub(crate) fn cost(&self, size_hint_bytes: Option<u64>) -> u64 {
        size_hint_bytes.unwrap_or(UNKNOWN_SIZE_BYTES).min(self.bytes)
    }

    /// Whether one more task of `cost` bytes may be taken.
    ///
    /// Tasks are held to exactly. Bytes get as much again: a dispatcher that has just taken over this worker's leases does not know
    /// their size hints, may count too little, and a refusal would only make it send the same task once more.
    pub(crate) fn admits(&self, held: usize, held_bytes: u64, unconfirmed: usize, cost: u64) -> bool {
        let room = usize::try_from(self.advertise(unconfirmed).tasks).unwrap_or(usize::MAX);
        held < room && held_bytes.saturating_add(cost) <= self.bytes.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: CreditLimit = CreditLimit { tasks: 4, bytes: 64 << 20 };

    #[test]
    fn credit_is_the_limit_until_unconfirmed_results_exceed_one_load() {
        let tasks: Vec<_> = [0, 4, 5, 7, 8, 9, usize::MAX].map(|n| LIMIT.advertise(n).tasks).into();
        assert_eq!(tasks, [4, 4, 3, 1, 0, 0, 0]);
    }

    #[test]
    fn no_task_is_admitted_beyond_the_count() {
        assert!(LIMIT.admits(3, 0, 0, 1));
        assert!(!LIMIT.admits(4, 0, 0, 1));
        assert!(!LIMIT.admits(0, 0, 8, 1));
    }

    #[test]
    fn a_task_larger_than_all_credit_is_admitted() {
        let cost = LIMIT.cost(Some(u64::MAX));
        assert_eq!(cost, LIMIT.bytes);
        assert!(LIMIT.admits(0, 0, 0, cost));
        assert!(LIMIT.admits(1, cost, 0, cost), "the dispatcher may not know what is held");
        assert!(!LIMIT.admits(2, 2 * cost, 0, 1));
    }

    #[test]
    fn a_task_without_a_size_counts_as_one_part() {
        assert_eq!(LIMIT.cost(None), 16 << 20);
        assert_eq!(LIMIT.cost(Some(3)), 3);
    }
}
