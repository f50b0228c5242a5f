//! Cutting a request about many tasks into script calls: one shard each, bounded, and never naming a task twice.
//!
//! Scripts read all records first and write all at the end, so a task that came twice in one call would be changed only once.

use std::collections::{BTreeMap, HashSet};

use super::scripts::BATCH;
use crate::queue::TaskId;

/// The items of one script call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<K> {
    /// What the items have in common besides the shard.
    pub(super) kind: K,
    /// Their shard.
    pub(super) shard: u16,
    /// Their positions in the request.
    pub(super) items: Vec<usize>,
}

/// Cuts items, given with their position, for so many shards. What concerns one task stays in order.
pub(super) fn cut<'a, K: Copy + Eq>(
    shards: u16,
    items: impl Iterator<Item = (usize, &'a TaskId, K)>,
) -> Vec<Piece<K>> {
    let mut pieces: Vec<Piece<K>> = Vec::new();
    // By shard: the piece that is still open, and its tasks.
    let mut open: BTreeMap<u16, (usize, HashSet<&TaskId>)> = BTreeMap::new();
    for (at, id, kind) in items {
        let shard = id.shard(shards);
        if let Some((piece, tasks)) = open.get_mut(&shard) {
            let piece = &mut pieces[*piece];
            if piece.kind == kind && piece.items.len() < BATCH && tasks.insert(id) {
                piece.items.push(at);
                continue;
            }
        }
        open.insert(shard, (pieces.len(), HashSet::from([id])));
        pieces.push(Piece { kind, shard, items: vec![at] });
    }
    pieces
}

impl<K> Piece<K> {
    /// The ids of the items, of all `ids` of the request.
    pub(super) fn ids<'a>(&self, ids: &[&'a TaskId]) -> Vec<&'a TaskId> {
        self.items.iter().map(|&at| ids[at]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> TaskId {
        TaskId::from_hash(&format!("{n:032x}")).unwrap()
    }

    #[test]
    fn a_request_is_cut_into_bounded_calls_and_keeps_the_order_within_a_task() {
        let ids: Vec<TaskId> = (0..900).chain([4, 4, 4]).map(id).collect();
        let pieces = cut(4, ids.iter().enumerate().map(|(at, id)| (at, id, at == 901)));
        assert!(pieces.iter().all(|piece| piece.items.len() <= BATCH));
        assert_eq!(pieces.iter().map(|piece| piece.items.len()).sum::<usize>(), ids.len());
        let of_task = pieces.iter().flat_map(|piece| &piece.items).filter(|&&at| ids[at] == id(4));
        assert_eq!(of_task.copied().collect::<Vec<_>>(), [4, 900, 901, 902]);
    }

    #[test]
    fn a_task_that_comes_twice_is_never_twice_in_one_call() {
        let ids = [id(1), id(1)];
        assert_eq!(cut(4, ids.iter().enumerate().map(|(at, id)| (at, id, ()))).len(), 2);
    }
}
