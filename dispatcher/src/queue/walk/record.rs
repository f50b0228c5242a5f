//! A walk's record and every way in which it changes. Pure: time and chance are arguments.
//!
//! ```text
//!  RUNNING <--pause, resume--> PAUSED
//!     |                          |
//!     +--- all listed, no task open ---> DONE
//!     +--- cannot be listed -----------> FAILED
//!     +--- cancel (from both) ---------> CANCELLED
//! ```
//!
//! Finished states are final. Counts only grow, each page once, because the page's counts and its cursor are one change.

use std::time::Duration;

use super::{PageFound, WalkSpec};
use crate::queue::{Failure, FailureClass, LeaseToken, RetryPolicy, UnixMs};

/// How far a walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalkState {
    /// Is listed, rests, or waits for its tasks.
    Running,
    /// A caller wants nothing listed.
    Paused,
    /// All is listed and no task is open.
    Done,
    /// It cannot be listed.
    Failed,
    /// A caller ended it.
    Cancelled,
}

/// The right to drive a walk until a moment. Whoever comes after that takes it over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Of the driver.
    pub token: LeaseToken,
    /// Its end.
    pub until: UnixMs,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Pages.
    pub pages: u64,
    /// Objects or versions that were looked at.
    pub listed: u64,
    /// Left out by the filter.
    pub skipped: u64,
    /// Backed up already.
    pub backed_up: u64,
    /// Became tasks or found them there.
    pub submitted: u64,
    /// No task can be made of them.
    pub rejected: u64,
    /// Tasks that ended with a backup, or so long ago that nobody knows any more.
    pub done: u64,
    /// Tasks that died.
    pub died: u64,
    /// Tasks that were cancelled.
    pub cancelled: u64,
}

/// Everything that is kept of a walk in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// What was asked for.
    pub spec: WalkSpec,
    /// How far it is.
    pub state: WalkState,
    /// Where the next page begins; empty for the first. Opaque: workers make and read it.
    pub cursor: String,
    /// There is no next page.
    pub listed_all: bool,
    /// Rests until there are few open tasks.
    pub holds: bool,
    /// What was counted.
    pub counts: Counts,
    /// Who drives it.
    pub claim: Option<Claim>,
    /// Nothing is listed before.
    pub not_before: UnixMs,
    /// Pages that failed since one was listed, throttled ones apart.
    pub faults: u32,
    /// The newest failure of a page.
    pub last_failure: Option<Failure>,
    /// When it was accepted.
    pub created_at: UnixMs,
    /// When the last page was listed.
    pub listed_at: Option<UnixMs>,
    /// When it finished.
    pub finished_at: Option<UnixMs>,
}

/// What bounds a walk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WalkLimits {
    /// With so many open tasks it rests.
    pub high_mark: u64,
    /// With so few it goes on.
    pub low_mark: u64,
    /// Pages that may fail in a row before it is given up.
    pub max_faults: u32,
    /// How long to wait after a page that failed.
    pub retry: RetryPolicy,
}

/// What came of a page, to be counted with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageResult {
    /// Objects that became tasks.
    pub submitted: u64,
    /// Objects of which no task can be made.
    pub rejected: u64,
}

/// What is to be done for a walk now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// List a page.
    List,
    /// Nothing is to be listed now, but open tasks are to be looked at.
    Follow,
    /// Nothing at all for so long.
    Wait(Duration),
    /// Nothing any more: it is over, or waits for a caller.
    Rest,
}

impl WalkState {
    /// True when nothing changes any more.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        match self {
            Self::Running | Self::Paused => false,
            Self::Done | Self::Failed | Self::Cancelled => true,
        }
    }
}

impl Walk {
    /// A walk that was accepted at `now`.
    #[must_use]
    pub fn new(spec: WalkSpec, now: UnixMs) -> Self {
        Self {
            spec,
            state: WalkState::Running,
            cursor: String::new(),
            listed_all: false,
            holds: false,
            counts: Counts::default(),
            claim: None,
            not_before: UnixMs(0),
            faults: 0,
            last_failure: None,
            created_at: now,
            listed_at: None,
            finished_at: None,
        }
    }

    /// What is to be done with `open` open tasks.
    #[must_use]
    pub fn step(&self, now: UnixMs, open: u64) -> Step {
        match self.state {
            WalkState::Done | WalkState::Failed | WalkState::Cancelled => Step::Rest,
            WalkState::Paused if open == 0 => Step::Rest,
            WalkState::Paused => Step::Follow,
            WalkState::Running if self.listed_all || self.holds => Step::Follow,
            WalkState::Running if self.not_before > now && open > 0 => Step::Follow,
            WalkState::Running if self.not_before > now => Step::Wait(self.not_before.since(now)),
            WalkState::Running => Step::List,
        }
    }

    /// Whether somebody else may drive it at `now`.
    #[must_use]
    pub fn is_free(&self, now: UnixMs) -> bool {
        self.claim.is_none_or(|claim| claim.until <= now)
    }

    /// Whether `token` drives it.
    #[must_use]
    pub fn is_driven_by(&self, token: LeaseToken) -> bool {
        self.claim.is_some_and(|claim| claim.token == token)
    }

    /// A page was listed and what it holds submitted.
    pub fn page_listed(&mut self, now: UnixMs, page: &PageFound, result: PageResult) {
        let counts = &mut self.counts;
        counts.pages += 1;
        counts.listed += page.listed;
        counts.skipped += page.skipped;
        counts.backed_up += page.backed_up;
        counts.submitted += result.submitted;
        counts.rejected += result.rejected;
        self.faults = 0;
        self.not_before = UnixMs(0);
        match &page.next {
            Some(next) => self.cursor.clone_from(next),
            None => {
                self.listed_all = true;
                self.listed_at = Some(now);
            }
        }
    }

    /// A page could not be listed. `jitter` in [0, 1).
    pub fn page_failed(&mut self, now: UnixMs, failure: Failure, limits: &WalkLimits, jitter: f64) {
        let hopeless = match failure.class {
            FailureClass::Permanent | FailureClass::SourceGone => true,
            FailureClass::Throttled => false,
            FailureClass::Retry => {
                self.faults += 1;
                self.faults >= limits.max_faults
            }
        };
        if hopeless {
            self.finish(WalkState::Failed, now);
        } else {
            let doublings = self.faults.max(1) - 1;
            let ceiling = limits.retry.base.saturating_mul(1 << doublings.min(20)).min(limits.retry.max);
            let wait = ceiling.mul_f64(jitter.clamp(0.0, 1.0)).max(limits.retry.floor);
            self.not_before = now.plus(wait.max(failure.retry_after));
        }
        self.last_failure = Some(failure);
    }

    /// Begins to rest, or goes on, by the number of open tasks; is done when nothing is left.
    pub fn settle(&mut self, now: UnixMs, open: u64, limits: &WalkLimits) {
        if open >= limits.high_mark {
            self.holds = true;
        } else if open <= limits.low_mark {
            self.holds = false;
        }
        if self.state == WalkState::Running && self.listed_all && open == 0 {
            self.finish(WalkState::Done, now);
        }
    }

    /// Lists no further. False when it is finished.
    pub fn pause(&mut self) -> bool {
        if self.state == WalkState::Running {
            self.state = WalkState::Paused;
        }
        self.state == WalkState::Paused
    }

    /// Lists on. False when it is finished.
    pub fn resume(&mut self) -> bool {
        if self.state == WalkState::Paused {
            self.state = WalkState::Running;
            self.not_before = UnixMs(0);
            self.faults = 0;
        }
        self.state == WalkState::Running
    }

    /// Ends it. False when it is finished otherwise.
    pub fn cancel(&mut self, now: UnixMs) -> bool {
        if !self.state.is_finished() {
            self.finish(WalkState::Cancelled, now);
        }
        self.state == WalkState::Cancelled
    }

    /// The same as was asked for, whatever has become of it.
    #[must_use]
    pub fn is_for(&self, spec: &WalkSpec) -> bool {
        self.spec == *spec
    }

    fn finish(&mut self, state: WalkState, now: UnixMs) {
        self.state = state;
        self.finished_at = Some(now);
        self.claim = None;
        self.holds = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::walk::conformance::spec;

    const LIMITS: WalkLimits = WalkLimits {
        high_mark: 100,
        low_mark: 50,
        max_faults: 3,
        retry: RetryPolicy {
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            floor: Duration::from_millis(100),
        },
    };
    const NOW: UnixMs = UnixMs(1_000_000);

    fn walk() -> Walk {
        Walk::new(spec("w"), NOW)
    }

    fn page(next: Option<&str>) -> PageFound {
        PageFound {
            listed: 10,
            skipped: 2,
            backed_up: 3,
            next: next.map(str::to_owned),
            ..PageFound::default()
        }
    }

    fn failure(class: FailureClass, retry_after: Duration) -> Failure {
        Failure { class, code: "io".into(), message: String::new(), retry_after }
    }

    #[test]
    fn a_walk_lists_until_there_is_no_next_page_and_ends_when_its_tasks_have() {
        let mut walk = walk();
        assert_eq!(walk.step(NOW, 0), Step::List);
        walk.page_listed(NOW, &page(Some("a")), PageResult { submitted: 5, rejected: 0 });
        walk.settle(NOW, 5, &LIMITS);
        assert_eq!((walk.cursor.as_str(), walk.step(NOW, 5)), ("a", Step::List));
        walk.page_listed(NOW, &page(None), PageResult { submitted: 4, rejected: 1 });
        walk.settle(NOW, 9, &LIMITS);
        assert_eq!((walk.state, walk.step(NOW, 9)), (WalkState::Running, Step::Follow));
        let counts = walk.counts;
        assert_eq!(
            counts.listed,
            counts.skipped + counts.backed_up + counts.submitted + counts.rejected,
            "{counts:?}"
        );
        walk.settle(UnixMs(NOW.0 + 5), 0, &LIMITS);
        assert_eq!((walk.state, walk.finished_at), (WalkState::Done, Some(UnixMs(NOW.0 + 5))));
        assert_eq!(walk.step(NOW, 0), Step::Rest);
    }

    #[test]
    fn it_rests_from_the_high_mark_to_the_low_one_and_not_between() {
        let mut walk = walk();
        for (open, rests) in [(99, false), (100, true), (99, true), (51, true), (50, false), (99, false)] {
            walk.settle(NOW, open, &LIMITS);
            let step = if rests { Step::Follow } else { Step::List };
            assert_eq!((walk.holds, walk.step(NOW, open)), (rests, step), "{open}");
        }
    }

    #[test]
    fn what_is_hopeless_fails_at_once_and_what_may_pass_after_some_pages() {
        let mut hopeless = walk();
        hopeless.page_failed(NOW, failure(FailureClass::Permanent, Duration::ZERO), &LIMITS, 0.5);
        assert_eq!(hopeless.state, WalkState::Failed);
        assert!(hopeless.last_failure.is_some());

        let mut unlucky = walk();
        for fault in 1..3 {
            unlucky.page_failed(NOW, failure(FailureClass::Retry, Duration::ZERO), &LIMITS, 1.0);
            let wait = Duration::from_secs(fault);
            assert_eq!((unlucky.state, unlucky.step(NOW, 0)), (WalkState::Running, Step::Wait(wait)));
        }
        let mut lucky = unlucky.clone();
        unlucky.page_failed(NOW, failure(FailureClass::Retry, Duration::ZERO), &LIMITS, 1.0);
        assert_eq!(unlucky.state, WalkState::Failed);
        lucky.page_listed(NOW, &page(Some("a")), PageResult::default());
        assert_eq!((lucky.faults, lucky.step(NOW, 0)), (0, Step::List));
    }

    #[test]
    fn a_throttled_page_waits_as_long_as_it_was_asked_to_and_costs_nothing() {
        let mut walk = walk();
        for _ in 0..100 {
            walk.page_failed(NOW, failure(FailureClass::Throttled, Duration::from_secs(7)), &LIMITS, 0.0);
        }
        assert_eq!((walk.state, walk.faults), (WalkState::Running, 0));
        assert_eq!(walk.step(NOW, 0), Step::Wait(Duration::from_secs(7)));
        // Its tasks are looked at all the while.
        assert_eq!(walk.step(NOW, 1), Step::Follow);
    }

    #[test]
    fn pause_and_resume_can_be_repeated_and_what_is_finished_stays_so() {
        let mut walk = walk();
        assert!(walk.resume() && walk.pause() && walk.pause());
        assert_eq!((walk.step(NOW, 0), walk.step(NOW, 1)), (Step::Rest, Step::Follow));
        walk.listed_all = true;
        walk.settle(NOW, 0, &LIMITS);
        assert_eq!(walk.state, WalkState::Paused, "a pause is not ended by tasks that end");
        assert!(walk.resume());
        assert!(walk.cancel(NOW) && walk.cancel(NOW));
        assert!(!walk.pause() && !walk.resume());
        let mut done = self::walk();
        done.listed_all = true;
        done.settle(NOW, 0, &LIMITS);
        assert!(!done.cancel(NOW));
        assert_eq!(done.state, WalkState::Done);
    }

    #[test]
    fn a_claim_is_taken_over_when_it_is_over() {
        let mut walk = walk();
        assert!(walk.is_free(NOW));
        let token = LeaseToken::from_bytes([1; 16]);
        walk.claim = Some(Claim { token, until: UnixMs(NOW.0 + 10) });
        assert!(walk.is_driven_by(token) && !walk.is_driven_by(LeaseToken::from_bytes([2; 16])));
        assert!(!walk.is_free(NOW) && walk.is_free(UnixMs(NOW.0 + 10)));
    }
}
