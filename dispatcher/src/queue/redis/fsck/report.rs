//! What an audit found: each kind of problem with how often, how much of it was mended, and a few examples.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

/// Findings that are remembered, so that one that is met twice counts once.
const REMEMBERED: usize = 100_000;

/// A kind of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Problem {
    /// A record that cannot be decoded. Never mended: somebody has to look.
    DamagedRecord,
    /// A task that is in no index, or not in the one that its record says.
    NotIndexed,
    /// A task that is in an index in which its record does not say it is.
    Misplaced,
    /// A task that is in the right index at a wrong time or place.
    WrongScore,
    /// An index entry without a record.
    Orphan,
    /// Waiting tasks of a tenant that no lease finds, or only some.
    Starved,
    /// A turn or a place in a ring of a tenant that has no waiting task there.
    StaleTurn,
    /// A counter that a recount does not agree with.
    WrongCounter,
    /// A state whose moves do not add up to its tasks: some are missing, or too many. What is missing is never mended: a repair only
    /// writes it down, so that it is told once.
    WrongFlow,
    /// What should be forgotten one day and would not be.
    NeverEnds,
    /// A key below the queue's prefix that is not the queue's, holds another type, or belongs into another shard. Never mended.
    UnknownKey,
    /// A shard whose keys cannot be worked with. Nothing else is said of it. Never mended.
    Unreadable,
}

/// All findings of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// How many.
    pub found: u64,
    /// How many of them were mended.
    pub repaired: u64,
    /// A few of them: keys, tasks or tenants, made printable.
    pub examples: Vec<String>,
}

/// What an audit found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By kind; no kind without a finding.
    pub problems: BTreeMap<Problem, Finding>,
    /// Records that were read.
    pub records: u64,
    /// Shards whose counters seemed wrong at each look, but in which tasks moved all the time, so that it is no finding.
    pub unchecked_counters: Vec<u16>,
    examples: usize,
    seen: HashSet<(Problem, Vec<u8>)>,
}

impl Report {
    pub(super) fn new(examples: usize) -> Self {
        Self { examples, ..Self::default() }
    }

    /// Adds a finding about `subject`.
    pub(super) fn add(&mut self, problem: Problem, subject: &[u8], repaired: bool) {
        if self.seen.len() < REMEMBERED && !self.seen.insert((problem, subject.to_vec())) {
            return;
        }
        let finding = self.problems.entry(problem).or_default();
        finding.found += 1;
        finding.repaired += u64::from(repaired);
        if finding.examples.len() < self.examples {
            finding.examples.push(subject.escape_ascii().to_string());
        }
    }

    /// True when nothing was found, or all of it was mended.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.values().all(|finding| finding.found == finding.repaired)
    }

    /// The report as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let problems = self.problems.iter().map(|(problem, finding)| {
            let finding = serde_json::json!({
                "found": finding.found,
                "repaired": finding.repaired,
                "examples": finding.examples,
            });
            (problem.code().to_owned(), finding)
        });
        serde_json::json!({
            "clean": self.is_clean(),
            "records": self.records,
            "problems": problems.collect::<serde_json::Map<_, _>>(),
            "unchecked_counters": self.unchecked_counters,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (problem, finding) in &self.problems {
            writeln!(
                f,
                "{}: {} found, {} repaired ({problem})",
                problem.code(),
                finding.found,
                finding.repaired
            )?;
            for example in &finding.examples {
                writeln!(f, "  {example}")?;
            }
        }
        if !self.unchecked_counters.is_empty() {
            let shards = self.unchecked_counters.len();
            writeln!(
                f,
                "counters of {shards} shards were not compared: tasks moved all the time; try again"
            )?;
        }
        let verdict = if self.is_clean() { "clean" } else { "not clean" };
        write!(f, "{verdict}; {} records read", self.records)
    }
}

impl Problem {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::DamagedRecord => "damaged-record",
            Self::NotIndexed => "not-indexed",
            Self::Misplaced => "misplaced",
            Self::WrongScore => "wrong-score",
            Self::Orphan => "orphan",
            Self::Starved => "starved",
            Self::StaleTurn => "stale-turn",
            Self::WrongCounter => "wrong-counter",
            Self::WrongFlow => "wrong-flow",
            Self::NeverEnds => "never-ends",
            Self::UnknownKey => "unknown-key",
            Self::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DamagedRecord => "the record cannot be decoded",
            Self::NotIndexed => "the task is not in the index that its record says",
            Self::Misplaced => "the task is in an index that its record does not say",
            Self::WrongScore => "the task has another time or place in its index than in its record",
            Self::Orphan => "an index entry has no record",
            Self::Starved => "waiting tasks of a tenant are not offered to workers",
            Self::StaleTurn => "a tenant has a turn but no waiting task",
            Self::WrongCounter => "a counter differs from the recount",
            Self::WrongFlow => "tasks are missing or too many: the counted moves do not add up to them",
            Self::NeverEnds => "it would never be forgotten",
            Self::UnknownKey => {
                "the key is not one of the queue's, has another type, or is in the wrong shard"
            }
            Self::Unreadable => "keys of the shard cannot be worked with",
        })
    }
}
