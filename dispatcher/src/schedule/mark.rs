//! What is kept of a rule's runs, and every way in which it changes. Pure: the time is an argument.
//!
//! ```text
//!  due --begin--> run (to be made) --made--> run (goes on) --ended--> outcome
//!                        |                        |
//!                        +--- due again: passed over, and said
//! ```
//!
//! A mark is changed by comparing its revision, so of all dispatchers one decides what becomes of a time; whoever finds a run that is to
//! be made makes it, under a name that says rule and time, so that it is made once.

use serde::{Deserialize, Serialize};

use super::calendar::Calendar;
use crate::queue::{
    UnixMs,
    walk::{Walk, WalkState},
};

/// What is kept of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When somebody saw the rule with its calendar first, or resumed it (ms). What was due before is nobody's concern.
    pub since_ms: u64,
    /// The calendar that the times are of; another one's say nothing of it.
    #[serde(default)]
    pub calendar: String,
    /// Times up to this one are dealt with (ms).
    pub until_ms: u64,
    /// No run begins by itself.
    pub paused: bool,
    /// Times that were passed over because a run still went on, since it began.
    pub passed_over: u64,
    /// The newest run.
    pub run: Option<Run>,
    /// The newest run that listed everything.
    pub complete: Option<Run>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The time that it is for, or when somebody asked for it (ms).
    pub at_ms: u64,
    /// It was asked for, and not due.
    pub asked: bool,
    /// Its prefix backup was made.
    pub made: bool,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// In what.
    pub end: End,
    /// When (ms).
    pub finished_ms: u64,
    /// Objects that were looked at.
    pub listed: u64,
    /// Objects that had no backup, or an older one.
    pub missing: u64,
    /// Of these, those that could not be backed up.
    pub failed: u64,
}

/// In what a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// All is listed and all its tasks have ended.
    Done,
    /// It could not be listed.
    Failed,
    /// Somebody ended it.
    Cancelled,
    /// Nobody knows any more.
    Forgotten,
}

/// What is to be done for a rule now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Store this mark.
    Store(Mark, Why),
    /// Make the prefix backup of the newest run; then the mark is [`Mark::made`].
    Make,
    /// Nothing.
    Wait,
}

/// Why a mark is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The rule is new here, or its calendar is.
    First,
    /// A run is due.
    Due,
    /// A time is passed over, because the run before still goes on.
    PassedOver,
    /// The run has ended.
    Ended,
}

/// What is to be done for a rule with that calendar; `walk` is the prefix backup of a run that has not ended, where there is one.
#[must_use]
pub fn step(mark: Option<&Mark>, calendar: Option<&Calendar>, walk: Option<&Walk>, now: UnixMs) -> Step {
    let Some(mark) = mark else {
        // What was due before anybody knew the rule was not missed.
        return match calendar {
            Some(calendar) => Step::Store(Mark::first(now).with(calendar, now), Why::First),
            None => Step::Wait,
        };
    };
    let mut goes_on = false;
    if let Some(run) = mark.run.as_ref().filter(|run| run.outcome.is_none()) {
        match walk {
            None if !run.made => return Step::Make,
            None => return Step::Store(mark.ended(None, now), Why::Ended),
            Some(walk) if walk.state.is_finished() => {
                return Step::Store(mark.ended(Some(walk), now), Why::Ended);
            }
            Some(_) => goes_on = true,
        }
    }
    let Some(calendar) = calendar.filter(|_| !mark.paused) else { return Step::Wait };
    if mark.calendar != calendar.text() {
        return Step::Store(mark.with(calendar, now), Why::First);
    }
    let until = UnixMs(mark.until_ms);
    match calendar.newest(until, now) {
        Some(at) if goes_on => {
            let passed_over = mark.passed_over + 1;
            Step::Store(Mark { until_ms: at.0, passed_over, ..mark.clone() }, Why::PassedOver)
        }
        Some(at) => Step::Store(mark.begun(at, false), Why::Due),
        None => Step::Wait,
    }
}

impl Mark {
    /// Of a rule that was not known before.
    #[must_use]
    pub fn first(now: UnixMs) -> Self {
        Self { since_ms: now.0, until_ms: now.0, ..Self::default() }
    }

    /// With a calendar whose times count from now on.
    fn with(&self, calendar: &Calendar, now: UnixMs) -> Self {
        let until_ms = self.until_ms.max(now.0);
        Self { since_ms: now.0, until_ms, calendar: calendar.text().to_owned(), ..self.clone() }
    }

    /// Whether a run has not ended.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.outcome.is_none())
    }

    /// With a new run, for that time.
    #[must_use]
    pub fn begun(&self, at: UnixMs, asked: bool) -> Self {
        let run = Run { at_ms: at.0, asked, made: false, outcome: None };
        // A run that was asked for leaves nothing undone that was due before it.
        let until_ms = self.until_ms.max(at.0);
        Self { until_ms, passed_over: 0, run: Some(run), ..self.clone() }
    }

    /// With the newest run made.
    #[must_use]
    pub fn made(&self) -> Self {
        let mut mark = self.clone();
        if let Some(run) = &mut mark.run {
            run.made = true;
        }
        mark
    }

    /// With no run that begins by itself.
    #[must_use]
    pub fn paused(&self) -> Self {
        Self { paused: true, ..self.clone() }
    }

    /// With runs that begin by themselves, from the next time on.
    #[must_use]
    pub fn resumed(&self, now: UnixMs) -> Self {
        if !self.paused {
            return self.clone();
        }
        Self { paused: false, since_ms: now.0, until_ms: self.until_ms.max(now.0), ..self.clone() }
    }

    /// With the end of the newest run.
    fn ended(&self, walk: Option<&Walk>, now: UnixMs) -> Self {
        let mut mark = self.clone();
        if let Some(run) = &mut mark.run {
            run.made = true;
            run.outcome = Some(Outcome::of(walk, now));
            if run.outcome.as_ref().is_some_and(|outcome| outcome.end == End::Done) {
                mark.complete = Some(run.clone());
            }
        }
        mark
    }
}

impl Outcome {
    fn of(walk: Option<&Walk>, now: UnixMs) -> Self {
        let Some(walk) = walk else {
            return Self { end: End::Forgotten, finished_ms: now.0, listed: 0, missing: 0, failed: 0 };
        };
        let counts = &walk.counts;
        Self {
            end: match walk.state {
                WalkState::Done => End::Done,
                WalkState::Failed => End::Failed,
                WalkState::Cancelled | WalkState::Running | WalkState::Paused => End::Cancelled,
            },
            finished_ms: walk.finished_at.unwrap_or(now).0,
            listed: counts.listed,
            missing: counts.submitted + counts.rejected,
            failed: counts.died + counts.rejected,
        }
    }
}
