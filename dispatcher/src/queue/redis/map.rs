//! Which server has which slot. Pure: made from what servers say, by whoever asks them.

use redis::Value;

use super::{
    access::Address,
    keys::SLOTS,
    trouble::beside,
    value::{self, integer},
};

const NOBODY: u16 = u16::MAX;

/// Slots and their primaries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    primaries: Vec<Address>,
    /// By slot: whose it is. Empty when all are the first one's.
    owners: Vec<u16>,
}

impl Map {
    /// One server has everything.
    pub(super) fn single(address: Address) -> Self {
        Self { primaries: vec![address], owners: Vec::new() }
    }

    /// Reads the answer to `CLUSTER SLOTS` of the server at `from`: ranges, each with its first and last slot and its nodes, the
    /// primary first.
    pub(super) fn from_slots(answer: Value, from: &Address) -> Option<Self> {
        let mut map = Self { primaries: Vec::new(), owners: vec![NOBODY; usize::from(SLOTS)] };
        for range in value::list(answer)? {
            let mut range = value::list(range)?.into_iter();
            let (first, last) = (integer(&range.next()?)?, integer(&range.next()?)?);
            let mut primary = value::list(range.next()?)?.into_iter();
            let (host, port) = (value::text(&primary.next()?), integer(&primary.next()?)?);
            let primary = map.number(beside(&host, u16::try_from(port).ok()?, from)?);
            let (first, last) = (usize::try_from(first).ok()?, usize::try_from(last).ok()?);
            map.owners.get_mut(first..=last)?.fill(primary);
        }
        (!map.primaries.is_empty()).then_some(map)
    }

    /// A slot has another primary.
    pub(super) fn moved(&mut self, slot: u16, to: Address) {
        if !self.owners.is_empty() {
            let to = self.number(to);
            if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
                *owner = to;
            }
        }
    }

    /// All primaries.
    pub(super) fn primaries(&self) -> &[Address] {
        &self.primaries
    }

    /// Which of the primaries has a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<usize> {
        if self.owners.is_empty() {
            return Some(0);
        }
        self.owners.get(usize::from(slot)).filter(|owner| **owner != NOBODY).map(|&owner| usize::from(owner))
    }

    fn number(&mut self, address: Address) -> u16 {
        let at = self.primaries.iter().position(|known| *known == address).unwrap_or_else(|| {
            self.primaries.push(address);
            self.primaries.len() - 1
        });
        u16::try_from(at).unwrap_or(NOBODY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address::Tcp(host.into(), port)
    }

    fn range(first: i64, last: i64, host: &str, port: i64) -> Value {
        let node = vec![Value::BulkString(host.into()), Value::Int(port), Value::BulkString("id".into())];
        Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(node)])
    }

    #[test]
    fn one_server_has_all_slots_and_a_cluster_says_who_has_which() {
        let single = Map::single(at("a", 1));
        assert_eq!((single.owner(0), single.owner(SLOTS - 1)), (Some(0), Some(0)));
        let answer = Value::Array(vec![
            range(0, 99, "a", 1),
            range(100, 199, "", 2),
            range(200, 16_000, "::1", 3),
            range(16_001, 16_382, "a", 1),
        ]);
        let mut map = Map::from_slots(answer, &at("asked", 9)).unwrap();
        assert_eq!(map.primaries(), [at("a", 1), at("asked", 2), at("::1", 3)]);
        let owners = [0, 99, 100, 16_000, 16_001, 16_383].map(|slot| map.owner(slot));
        assert_eq!(owners, [Some(0), Some(0), Some(1), Some(2), Some(0), None]);
        map.moved(99, at("::1", 3));
        map.moved(16_383, at("new", 4));
        assert_eq!((map.owner(99), map.owner(16_383)), (Some(2), Some(3)));
    }

    #[test]
    fn what_makes_no_sense_is_no_map() {
        for bad in [
            Value::Nil,
            Value::Array(Vec::new()),
            Value::Array(vec![range(5, 4_000_000, "a", 1)]),
            Value::Array(vec![range(0, 5, "a", 70_000)]),
            Value::Array(vec![Value::Array(vec![Value::Int(1)])]),
        ] {
            assert_eq!(Map::from_slots(bad, &at("a", 1)), None);
        }
    }
}
