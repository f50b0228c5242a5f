//! The Lua scripts: their texts, how one is called, and how its answer is read.
//!
//! Each file in `lua/` is one move; the files that begin with an underscore are what several share, put before each by `text`. What the integers in an answer mean is in the script's header and in the module that calls it.

#[cfg(test)]
mod mutants;
mod text;

use std::{borrow::Cow, sync::LazyLock};

use redis::{Cmd, ToRedisArgs, Value};

use super::{error, keys, value};
use crate::queue::{QueueError, TaskId};

/// Most tasks that one call may name: a script blocks the server while it runs, two milliseconds for as many.
pub(super) const BATCH: usize = 250;

/// A script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Submit,
    Lease,
    Renew,
    Complete,
    Fail,
    Cancel,
    Requeue,
    Gate,
    Expire,
    Promote,
    Reap,
    Stats,
    Events,
    FsckTasks,
    FsckLines,
    FsckCounters,
    FsckFlows,
    WalkSave,
    WalkLook,
    MoveIn,
    MoveOut,
    Fold,
}

/// A script with its keys and arguments, for one shard.
#[derive(Debug)]
pub(super) struct Call {
    command: Cmd,
}

/// A script's answer: pending tasks of the shard by band, then what the script says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) pending: [u64; 3],
    rest: std::vec::IntoIter<Value>,
}

struct Loaded {
    text: String,
    sha: String,
}

static LOADED: LazyLock<[Loaded; Script::ALL.len()]> = LazyLock::new(|| {
    Script::ALL.map(|script| {
        let text = script.assemble();
        let sha = redis::Script::new(&text).get_hash().to_owned();
        Loaded { text, sha }
    })
});

impl Script {
    pub(super) const ALL: [Self; 22] = [
        Self::Submit,
        Self::Lease,
        Self::Renew,
        Self::Complete,
        Self::Fail,
        Self::Cancel,
        Self::Requeue,
        Self::Gate,
        Self::Expire,
        Self::Promote,
        Self::Reap,
        Self::Stats,
        Self::Events,
        Self::FsckTasks,
        Self::FsckLines,
        Self::FsckCounters,
        Self::FsckFlows,
        Self::WalkSave,
        Self::WalkLook,
        Self::MoveIn,
        Self::MoveOut,
        Self::Fold,
    ];

    /// What the server is given.
    pub(super) fn text(self) -> &'static str {
        &LOADED[self as usize].text
    }

    /// The file: its name, and what is in it.
    const fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::Submit => ("submit.lua", include_str!("lua/submit.lua")),
            Self::Lease => ("lease.lua", include_str!("lua/lease.lua")),
            Self::Renew => ("renew.lua", include_str!("lua/renew.lua")),
            Self::Complete => ("complete.lua", include_str!("lua/complete.lua")),
            Self::Fail => ("fail.lua", include_str!("lua/fail.lua")),
            Self::Cancel => ("cancel.lua", include_str!("lua/cancel.lua")),
            Self::Requeue => ("requeue.lua", include_str!("lua/requeue.lua")),
            Self::Gate => ("gate.lua", include_str!("lua/gate.lua")),
            Self::Expire => ("expire.lua", include_str!("lua/expire.lua")),
            Self::Promote => ("promote.lua", include_str!("lua/promote.lua")),
            Self::Reap => ("reap.lua", include_str!("lua/reap.lua")),
            Self::Stats => ("stats.lua", include_str!("lua/stats.lua")),
            Self::Events => ("events.lua", include_str!("lua/events.lua")),
            Self::FsckTasks => ("fsck_tasks.lua", include_str!("lua/fsck_tasks.lua")),
            Self::FsckLines => ("fsck_lines.lua", include_str!("lua/fsck_lines.lua")),
            Self::FsckCounters => ("fsck_counters.lua", include_str!("lua/fsck_counters.lua")),
            Self::FsckFlows => ("fsck_flows.lua", include_str!("lua/fsck_flows.lua")),
            Self::WalkSave => ("walk_save.lua", include_str!("lua/walk_save.lua")),
            Self::WalkLook => ("walk_look.lua", include_str!("lua/walk_look.lua")),
            Self::MoveIn => ("move_in.lua", include_str!("lua/move_in.lua")),
            Self::MoveOut => ("move_out.lua", include_str!("lua/move_out.lua")),
            Self::Fold => ("fold.lua", include_str!("lua/fold.lua")),
        }
    }

    fn assemble(self) -> String {
        let shared = match self {
            Self::Complete | Self::Fail | Self::Expire => &SHARED[..],
            Self::Submit
            | Self::Lease
            | Self::Renew
            | Self::Cancel
            | Self::Requeue
            | Self::Gate
            | Self::Promote
            | Self::Reap
            | Self::Stats
            | Self::Events
            | Self::FsckTasks
            | Self::FsckLines
            | Self::FsckCounters
            | Self::FsckFlows
            | Self::WalkSave
            | Self::WalkLook
            | Self::MoveIn
            | Self::MoveOut
            | Self::Fold => &SHARED[..2],
        };
        let source = loaded(self.file());
        let (flags, body) = source.split_once('\n').unwrap_or((&source, ""));
        let shared: Vec<_> = shared.iter().copied().map(loaded).collect();
        let parts: Vec<&str> = shared.iter().map(AsRef::as_ref).chain([body]).collect();
        text::assemble(flags, &parts)
    }
}

/// What is kept beside the tasks is changed by scripts of its own, which know nothing of shards.
pub(super) const QUARANTINE: (&str, &str) = ("quarantine.lua", include_str!("lua/quarantine.lua"));
/// As [`QUARANTINE`].
pub(super) const REMOVALS: (&str, &str) = ("removals.lua", include_str!("lua/removals.lua"));
/// As [`QUARANTINE`].
pub(super) const RULE_MARK: (&str, &str) = ("rule_mark.lua", include_str!("lua/rule_mark.lua"));
/// As [`QUARANTINE`]; changes nothing.
pub(super) const RULE_MARKS: (&str, &str) = ("rule_marks.lua", include_str!("lua/rule_marks.lua"));

/// What is put before scripts: the first two before all, the last before those that end a lease.
const SHARED: [(&str, &str); 3] = [
    ("_record.lua", include_str!("lua/_record.lua")),
    ("_shard.lua", include_str!("lua/_shard.lua")),
    ("_ends.lua", include_str!("lua/_ends.lua")),
];

#[cfg(not(test))]
pub(super) fn loaded((_, text): (&'static str, &'static str)) -> Cow<'static, str> {
    Cow::Borrowed(text)
}

/// As outside tests, unless the environment asks for a fault.
#[cfg(test)]
pub(super) fn loaded((file, text): (&'static str, &'static str)) -> Cow<'static, str> {
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever runs the tests once for each fault says which it is"
    )]
    let asked = std::env::var(mutants::SWITCH).ok();
    let mutant = asked.map(|name| {
        let known = mutants::all().find(|mutant| mutant.name == name);
        known.unwrap_or_else(|| panic!("{}={name}: no mutant has this name", mutants::SWITCH))
    });
    match mutant.filter(|mutant| mutant.file == file) {
        Some(mutant) => Cow::Owned(mutants::applied(mutant, file, text).expect("the mutant fits its file")),
        None => Cow::Borrowed(text),
    }
}

impl Call {
    /// A call on `shard` with these keys after the shard's own.
    pub(super) fn new(script: Script, shard: u16, keys: impl ExactSizeIterator<Item = String>) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&LOADED[script as usize].sha).arg(keys.len() + 1).arg(keys::meta(shard));
        for key in keys {
            command.arg(key);
        }
        Self { command }
    }

    /// A call about these tasks of one shard.
    pub(super) fn about<'a>(
        script: Script,
        shard: u16,
        tasks: impl ExactSizeIterator<Item = &'a TaskId>,
    ) -> Self {
        debug_assert!(tasks.len() <= 2 * BATCH, "unbounded script call");
        Self::new(script, shard, tasks.map(move |task| keys::record(shard, task)))
    }

    /// The next argument.
    pub(super) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.command.arg(arg);
        self
    }

    /// The next argument, where calls are built in a loop.
    pub(super) fn push(&mut self, arg: impl ToRedisArgs) {
        self.command.arg(arg);
    }

    pub(super) fn into_command(self) -> Cmd {
        self.command
    }
}

impl Answer {
    /// Reads the answer of any script but `gate`.
    pub(super) fn read(value: Value) -> Result<Self, QueueError> {
        let mut answer = Self::read_plain(value)?;
        for band in 0..3 {
            answer.pending[band] = u64::try_from(answer.integer()?).unwrap_or_default();
        }
        Ok(answer)
    }

    /// Reads an answer that does not begin with the pending tasks.
    pub(super) fn read_plain(answer: Value) -> Result<Self, QueueError> {
        let values =
            value::list(answer).ok_or_else(|| error::unexpected("a script answered with no list"))?;
        Ok(Self { pending: [0; 3], rest: values.into_iter() })
    }

    /// The next value, which is an integer.
    pub(super) fn integer(&mut self) -> Result<i64, QueueError> {
        let next = self.rest.next().as_ref().and_then(value::integer);
        next.ok_or_else(|| error::unexpected("a script's answer lacks an integer"))
    }

    /// The next value, which is a count or a time in ms.
    pub(super) fn unsigned(&mut self) -> Result<u64, QueueError> {
        Ok(u64::try_from(self.integer()?).unwrap_or_default())
    }

    /// The next value, which is a text.
    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, QueueError> {
        let next = self.rest.next().and_then(value::bytes);
        next.ok_or_else(|| error::unexpected("a script's answer lacks a text"))
    }

    /// True when there is nothing more to read.
    pub(super) fn is_over(&self) -> bool {
        self.rest.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// `KEYS[...]` or `ARGV[...]` with what stands between the brackets.
    fn mentions(text: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for name in ["KEYS[", "ARGV["] {
            for (at, _) in text.match_indices(name) {
                let end = text[at..].find(']').map_or(text.len(), |length| at + length + 1);
                found.insert(text[at..end].replace(' ', ""));
            }
        }
        found
    }

    #[test]
    fn every_script_says_what_it_takes_and_what_it_answers() {
        for script in Script::ALL {
            let header: String =
                script.file().1.lines().take_while(|line| line.starts_with(['-', '#'])).collect();
            let body =
                script.file().1.lines().skip_while(|line| line.starts_with(['-', '#'])).collect::<String>();
            assert!(header.contains("Returns"), "{script:?} does not say what it returns");
            assert!(
                header.contains("Keeps:") || header.contains("Decides nothing"),
                "{script:?} names no invariant"
            );
            let documented = mentions(&header);
            for used in mentions(&body) {
                assert!(documented.contains(&used), "{script:?} uses {used} without saying what it is");
            }
        }
    }

    #[test]
    fn only_submit_stops_when_the_memory_is_full() {
        for script in Script::ALL {
            let first = script.text().lines().next();
            let expected = if script == Script::Submit { "#!lua" } else { "#!lua flags=allow-oom" };
            assert_eq!(first, Some(expected), "{script:?}");
        }
    }

    #[test]
    fn scripts_never_compare_texts_by_locale_nor_unpack_without_a_bound() {
        for script in Script::ALL {
            assert!(!script.text().contains("table.sort"), "{script:?}");
            assert!(!script.text().contains("tostring("), "{script:?}: 14 digits are not enough");
        }
    }

    /// All files, by their names.
    fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
        let beside = [QUARANTINE, REMOVALS, RULE_MARK, RULE_MARKS];
        Script::ALL.map(Script::file).into_iter().chain(SHARED).chain(beside)
    }

    fn file(name: &str) -> &'static str {
        files().find(|(file, _)| *file == name).unwrap_or_else(|| panic!("there is no {name}")).1
    }

    #[test]
    fn every_mutant_has_a_name_of_its_own_and_fits_its_file_in_one_place() {
        let mut names = BTreeSet::new();
        for mutant in mutants::all() {
            let mutated = mutants::applied(mutant, mutant.file, file(mutant.file));
            assert!(mutated.is_some_and(|text| text != file(mutant.file)), "{mutant:?}");
            assert!(names.insert(mutant.name), "two mutants: {}", mutant.name);
        }
    }

    #[test]
    fn every_file_has_a_mutant() {
        for (name, _) in files() {
            // What the layout of a record is has no fault that leaves a record.
            let has = name == "_record.lua" || mutants::all().any(|mutant| mutant.file == name);
            assert!(has, "{name} has no mutant: nothing shows that a test would notice a fault in it");
        }
    }

    #[test]
    fn a_mutant_of_another_file_or_without_its_place_is_not_applied() {
        let mutant = mutants::all().next().unwrap();
        assert_eq!(mutants::applied(mutant, "other.lua", mutant.find), None);
        assert_eq!(mutants::applied(mutant, mutant.file, ""), None);
        assert_eq!(mutants::applied(mutant, mutant.file, &mutant.find.repeat(2)), None);
        assert_eq!(mutants::applied(mutant, mutant.file, mutant.find).as_deref(), Some(mutant.replace));
    }
}
