//! The conservation of tasks: what the counted moves of a shard brought into each state, less what they took out of it, is what is there.
//!
//! Indexes and counters can be made again from the records, so a record that vanished with its entries leaves no other trace than
//! this. It cannot be brought back. A repair writes the difference down under a name of its own, so that it is told once and not for
//! ever; what is written down as missing is never called repaired.

use std::fmt;

use super::{
    Audit, FsckError, Problem, Script,
    counters::{Moment, Tally},
};
use crate::queue::{
    TaskState,
    redis::{keys, value},
};

/// What earlier repairs wrote down, by state.
const MISSING: &str = "missing:";
const SURPLUS: &str = "surplus:";

/// The states, and what brings tasks into each (`+`) and takes them out (`-`), by the names of the scripts' counters.
///
/// A move with an index behind its name is the part of that move that goes from or to the index; the rest of it is pending's. What came from and
/// went to other shards when their number was changed (`reshard`) is counted by state.
const FLOWS: [(TaskState, &str); 7] = [
    (
        TaskState::Scheduled,
        "+created:working:scheduled -pulled -promoted:working:scheduled -cancelled:working:scheduled \
         +moved_in:working:scheduled -moved_out:working:scheduled",
    ),
    (
        TaskState::Pending,
        "+created -created:working:scheduled +pulled +promoted +requeued +again +failed +expired -ended:delay \
         -ended:dead -ended:cancelled -leased -cancelled +cancelled:working:scheduled +cancelled:delay -late \
         +late:delay +late:dead +moved_in:pending -moved_out:pending",
    ),
    (TaskState::Working, "+leased -failed -expired -done -again +late +moved_in:working -moved_out:working"),
    (
        TaskState::Delayed,
        "+ended:delay -promoted:delay -cancelled:delay -late:delay +moved_in:delay -moved_out:delay",
    ),
    (TaskState::Done, "+done -replaced:done -reaped:done +moved_in:done -moved_out:done"),
    (
        TaskState::Dead,
        "+ended:dead -requeued -late:dead -replaced:dead -reaped:dead +moved_in:dead -moved_out:dead",
    ),
    (
        TaskState::Cancelled,
        "+cancelled +ended:cancelled -replaced:cancelled -reaped:cancelled +moved_in:cancelled -moved_out:cancelled",
    ),
];

/// A state whose moves do not add up to its tasks.
#[derive(Debug, PartialEq, Eq)]
struct Gap {
    state: TaskState,
    by_moves: i64,
    found: i64,
}

impl Audit {
    /// Compares the moves of a shard with a tally of its tasks; false when a task has moved meanwhile.
    pub(super) async fn flows(
        &mut self,
        shard: u16,
        moment: &mut Moment,
        tally: &Tally,
    ) -> Result<bool, FsckError> {
        // Of what state a damaged record is nobody knows.
        if self.damaged.contains(&shard) {
            return Ok(true);
        }
        let names = names();
        let mut read = redis::cmd("HMGET");
        read.arg(keys::of_shard(shard, "stats")).arg(&names);
        let Some(mut answers) = self.ask(shard, vec![read]).await? else { return Ok(true) };
        let counts: Vec<i64> = answers
            .pop()
            .and_then(value::list)
            .unwrap_or_default()
            .iter()
            .map(|count| value::text(count).parse().unwrap_or(0))
            .collect();
        let count_of = |name: &str| {
            let at = names.iter().position(|known| known == name);
            at.and_then(|at| counts.get(at)).copied().unwrap_or(0)
        };
        let gaps = gaps(&count_of, tally);
        if gaps.is_empty() {
            return Ok(true);
        }
        let repair = self.options.repair;
        let mut call = Self::script(Script::FsckFlows, shard)
            .arg(u8::from(repair))
            .arg(moment.meta.as_slice())
            .arg(moment.moves);
        for gap in &gaps {
            call.push(gap.counter());
            call.push(gap.size());
        }
        let Some(mut answer) = self.call(shard, call).await? else { return Ok(true) };
        if answer.integer()? != 1 {
            return Ok(false);
        }
        for gap in &gaps {
            let subject = format!("{} {gap}", keys::of_shard(shard, "stats"));
            self.report.add(Problem::WrongFlow, subject.as_bytes(), repair && gap.found > gap.by_moves);
            if repair {
                moment.moves = moment.moves.saturating_add(gap.size());
            }
        }
        Ok(true)
    }
}

impl Gap {
    fn counter(&self) -> String {
        let kind = if self.found < self.by_moves { MISSING } else { SURPLUS };
        format!("{kind}{}", name(self.state))
    }

    fn size(&self) -> u64 {
        self.found.abs_diff(self.by_moves)
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} by its moves, {} found", name(self.state), self.by_moves, self.found)
    }
}

/// What the counters call a state.
fn name(state: TaskState) -> &'static str {
    keys::index(state).unwrap_or("pending")
}

/// The terms of a flow, each with its sign.
fn terms(flow: &'static str) -> impl Iterator<Item = (i64, &'static str)> {
    flow.split_whitespace().map(|term| match term.strip_prefix('-') {
        Some(name) => (-1, name),
        None => (1, term.trim_start_matches('+')),
    })
}

/// All counters that are looked at.
fn names() -> Vec<String> {
    let mut names: Vec<String> =
        FLOWS.iter().flat_map(|(_, flow)| terms(flow)).map(|(_, name)| name.to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names.extend(
        FLOWS.iter().flat_map(|(state, _)| [MISSING, SURPLUS].map(|kind| format!("{kind}{}", name(*state)))),
    );
    names
}

fn gaps(count_of: &dyn Fn(&str) -> i64, tally: &Tally) -> Vec<Gap> {
    let gap = |(state, flow): &(TaskState, &'static str)| {
        let moves: i64 = terms(flow).map(|(sign, name)| sign * count_of(name)).sum();
        let noted = |kind| count_of(&format!("{kind}{}", name(*state)));
        let by_moves = moves - noted(MISSING) + noted(SURPLUS);
        let found = i64::try_from(tally.of(*state)).unwrap_or(i64::MAX);
        (by_moves != found).then_some(Gap { state: *state, by_moves, found })
    };
    FLOWS.iter().filter_map(gap).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_move_leaves_one_state_and_enters_another() {
        // What begins or ends a task, or brings it from or to another shard, is in one flow, any other move in two; parts of a move by index
        // cancel each other there.
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for (sign, name) in FLOWS.iter().flat_map(|(_, flow)| terms(flow)) {
            *sums.entry(name.to_owned()).or_default() += sign;
        }
        sums.retain(|_, sum| *sum != 0);
        let begun = ["created", "promoted"].map(|name| (name.to_owned(), 1));
        let ended = [
            "reaped:cancelled",
            "reaped:dead",
            "reaped:done",
            "replaced:cancelled",
            "replaced:dead",
            "replaced:done",
            "promoted:delay",
            "promoted:working:scheduled",
        ];
        let ended = ended.map(|name| (name.to_owned(), -1));
        let moved = TaskState::ALL.into_iter().flat_map(|state| {
            [(format!("moved_in:{}", name(state)), 1), (format!("moved_out:{}", name(state)), -1)]
        });
        assert_eq!(sums, begun.into_iter().chain(ended).chain(moved).collect());
    }
}
