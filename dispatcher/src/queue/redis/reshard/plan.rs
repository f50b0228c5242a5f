//! What a change of the number of shards must not lose and no record says: the furthest time, the furthest place in line, and the sums
//! of moves. Taken from all shards before anything is dropped, and kept in one field until the change is done.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _};

use super::{ReshardError, Work};
use crate::queue::redis::{codec, error, keys, value};

/// What is kept of all shards together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    clock_ms: u64,
    place: u64,
    moves: BTreeMap<String, u64>,
}

impl Plan {
    pub(super) fn format(&self) -> String {
        serde_json::json!({ "clock_ms": self.clock_ms, "place": self.place, "moves": self.moves }).to_string()
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let plan: serde_json::Value = serde_json::from_str(text).ok()?;
        let moves =
            plan["moves"].as_object()?.iter().map(|(name, count)| Some((name.clone(), count.as_u64()?)));
        Some(Self {
            clock_ms: plan["clock_ms"].as_u64()?,
            place: plan["place"].as_u64()?,
            moves: moves.collect::<Option<_>>()?,
        })
    }

    /// A `meta` of a shard without tasks that goes on from here.
    fn meta(&self) -> Vec<u8> {
        let mut meta = Vec::new();
        meta.put_uint(self.clock_ms, 6);
        // Nothing is added to the server's clock, and nobody watches.
        meta.put_uint(0, 6);
        meta.put_uint(0, 6);
        meta.put_uint(self.place, 7);
        meta.put_bytes(0, 8 * 7);
        meta
    }
}

impl Work {
    /// Reads what there is in the first `from` shards.
    pub(super) async fn make_plan(&self, from: u16) -> Result<Plan, ReshardError> {
        let mut plan = Plan::default();
        for shard in 0..from {
            let (mut meta, mut stats) = (redis::cmd("GET"), redis::cmd("HGETALL"));
            meta.arg(keys::meta(shard));
            stats.arg(keys::of_shard(shard, "stats"));
            let mut answers = self.ask(vec![meta, stats]).await?.into_iter();
            let mut next = || answers.next().unwrap_or(redis::Value::Nil);
            let meta = value::bytes(next()).unwrap_or_default();
            if let Some((clock_ms, _)) = codec::clock(&meta) {
                plan.clock_ms = plan.clock_ms.max(clock_ms);
            }
            if let Some(mut place) = meta.get(18..25) {
                plan.place = plan.place.max(place.get_uint(7));
            }
            let moves: BTreeMap<String, u64> =
                redis::from_redis_value(next()).map_err(|_| error::unexpected("stats are no counters"))?;
            for (name, count) in moves {
                *plan.moves.entry(name).or_default() += count;
            }
        }
        Ok(plan)
    }

    /// Drops what can be made again, and gives every shard what cannot.
    pub(super) async fn begin_anew(&self, plan: &Plan) -> Result<(), ReshardError> {
        self.drop_derived().await?;
        let mut begin = Vec::new();
        for shard in 0..self.to {
            let mut set = redis::cmd("SET");
            set.arg(keys::meta(shard)).arg(plan.meta());
            begin.push(set);
        }
        if !plan.moves.is_empty() {
            // Whose moves they were does not matter: the audit notes how many tasks each shard has of the sum.
            let mut stats = redis::cmd("HSET");
            stats.arg(keys::of_shard(0, "stats"));
            for (name, count) in &plan.moves {
                stats.arg(name).arg(*count);
            }
            begin.push(stats);
        }
        self.write(begin).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_comes_back_from_its_text_and_nothing_else_does() {
        let moves = [("created".to_owned(), 7), ("missing:dead".to_owned(), u64::MAX)].into();
        let plan = Plan { clock_ms: 1_750_000_000_000, place: (1 << 53) - 1, moves };
        assert_eq!(Plan::parse(&plan.format()), Some(plan.clone()));
        assert_eq!(codec::clock(&plan.meta()), Some((plan.clock_ms, 0)));
        assert_eq!(codec::pending(&plan.meta()), Some([0; 3]));
        for bad in ["", "{}", "1", r#"{"clock_ms":1,"place":2,"moves":{"a":-1}}"#] {
            assert_eq!(Plan::parse(bad), None, "{bad}");
        }
    }
}
