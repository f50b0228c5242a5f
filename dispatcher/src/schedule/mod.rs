//! Runs of rules: when each is due, that it begins once, and what became of it.
//!
//! ```text
//!  rules file --> calendar --due--> mark (compared and stored) --> walk of that name --> walker
//!                                     ^ who calls: run, pause, resume
//! ```
//!
//! Every dispatcher runs a `Scheduler`; what [`mark::step`] decides is stored by comparing, so that it is decided once, and a run is a walk
//! whose name says rule and time, so that it is made once. Nothing here may know tonic or protobuf, and only [`marks`] Redis.

pub mod calendar;
pub mod mark;
pub mod marks;
mod scheduler;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tracing::{info, warn};

pub(crate) use self::scheduler::Scheduler;
use self::{
    calendar::text,
    mark::{Mark, Step, Why, step},
    marks::{Kept, Marks},
};
use crate::{
    queue::{
        QueueError, UnixMs,
        walk::{Change, Saved, Stored, Walk, WalkId, WalkStore},
    },
    rules::{LiveRules, MARK, Rule},
};

/// How often a change is decided anew because another dispatcher was faster.
const TRIES: usize = 20;

/// Runs of rules, wherever they are asked for. Clones are the same.
#[derive(Debug, Clone)]
pub struct Runs {
    /// The rules in force.
    pub rules: LiveRules,
    /// What is kept of each.
    pub marks: Arc<dyn Marks>,
    /// Where runs are made.
    pub walks: Arc<dyn WalkStore>,
    /// Told when a run was made: whoever drives walks.
    pub made: Arc<Notify>,
    /// Told when something was changed here that the scheduler does not know.
    pub changed: Arc<Notify>,
    /// What was seen last.
    pub board: Arc<Board>,
}

/// What was seen of the rules at the last look, for whoever only looks.
#[derive(Debug, Default)]
pub struct Board(Mutex<Vec<Shown>>);

/// One rule as it was seen.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The rule.
    pub rule: Arc<Rule>,
    /// What is kept of it; `None` when nothing is yet.
    pub mark: Option<Mark>,
    /// The prefix backup of the newest run, while it is there.
    pub walk: Option<Stored>,
    /// When that was so.
    pub now: UnixMs,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
pub enum NotBegun {
    /// There is no such rule.
    #[error("no such rule")]
    NoRule,
    /// Others were always faster.
    #[error("too many changes at once")]
    Busy,
    /// The store did not do it.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Board {
    /// All rules.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, shown: Vec<Shown>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}

impl Shown {
    /// When the next run is due; `None` when none is.
    #[must_use]
    pub fn next(&self) -> Option<UnixMs> {
        let mark = self.mark.as_ref();
        let calendar = self.rule.calendar.as_ref().filter(|_| mark.is_none_or(|mark| !mark.paused))?;
        calendar.next_after(mark.map_or(self.now, |mark| UnixMs(mark.until_ms)))
    }

    /// Since when there has been a time that no complete run is as new as; `None` when there is none.
    #[must_use]
    pub fn behind_since(&self) -> Option<UnixMs> {
        let (calendar, mark) = (self.rule.calendar.as_ref()?, self.mark.as_ref()?);
        let complete = mark.complete.as_ref().map_or(mark.since_ms, |run| run.at_ms.max(mark.since_ms));
        calendar.next_after(UnixMs(complete)).filter(|due| *due <= self.now)
    }
}

impl Runs {
    /// All rules with what is known of them.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    pub async fn show(&self) -> Result<Vec<Shown>, QueueError> {
        let (now, mut kept) = self.marks.load().await?;
        let mut all = Vec::new();
        for rule in self.rules.now().iter() {
            all.push(self.shown(rule, kept.remove(&rule.name), now).await?);
        }
        Ok(all)
    }

    /// One of them; `None` when there is no such rule.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    pub async fn show_one(&self, name: &str) -> Result<Option<Shown>, QueueError> {
        let Some(rule) = self.rules.now().get(name).cloned() else { return Ok(None) };
        let (now, kept) = self.kept(name).await?;
        self.shown(&rule, kept, now).await.map(Some)
    }

    async fn shown(&self, rule: &Arc<Rule>, kept: Option<Kept>, now: UnixMs) -> Result<Shown, QueueError> {
        let mark = kept.map(|kept| kept.mark);
        let walk = self.walk_of(rule, mark.as_ref()).await?;
        Ok(Shown { rule: Arc::clone(rule), mark, walk, now })
    }

    /// Begins a run now, whether or not one is due. False when one goes on already.
    ///
    /// # Errors
    /// [`NotBegun`].
    pub async fn run(&self, name: &str) -> Result<bool, NotBegun> {
        let rule = self.rules.now().get(name).cloned().ok_or(NotBegun::NoRule)?;
        for _ in 0..TRIES {
            let (now, kept) = self.kept(name).await?;
            let (revision, mark) = parts(kept);
            let mark = mark.unwrap_or_else(|| Mark::first(now));
            if mark.goes_on() {
                // It may have ended without anybody having looked.
                let walk = self.walk_of(&rule, Some(&mark)).await?.map(|stored| stored.walk);
                let Step::Store(ended, Why::Ended) = step(Some(&mark), None, walk.as_ref(), now) else {
                    return Ok(false);
                };
                self.marks.save(name, revision, &ended).await?;
                continue;
            }
            let begun = mark.begun(now, true);
            if self.marks.save(name, revision, &begun).await? {
                info!(rule = name, "a run was asked for");
                self.make(&rule, &begun, now).await?;
                self.changed.notify_one();
                return Ok(true);
            }
        }
        Err(NotBegun::Busy)
    }

    /// Lets no run begin by itself, or again from the next time on.
    ///
    /// # Errors
    /// [`NotBegun`].
    pub async fn set_paused(&self, name: &str, paused: bool) -> Result<(), NotBegun> {
        self.rules.now().get(name).ok_or(NotBegun::NoRule)?;
        for _ in 0..TRIES {
            let (now, kept) = self.kept(name).await?;
            let (revision, mark) = parts(kept);
            let before = mark.unwrap_or_else(|| Mark::first(now));
            let after = if paused { before.paused() } else { before.resumed(now) };
            if before.paused == paused || self.marks.save(name, revision, &after).await? {
                self.changed.notify_one();
                return Ok(());
            }
        }
        Err(NotBegun::Busy)
    }

    /// Does what is to be done for one rule now; gives what it is like then.
    async fn advance(&self, rule: &Arc<Rule>, kept: Option<Kept>, now: UnixMs) -> Result<Shown, QueueError> {
        let mut kept = kept;
        for _ in 0..TRIES {
            let (revision, mark) = parts(kept);
            let stored = match &mark {
                Some(mark) if mark.goes_on() => self.walk_of(rule, Some(mark)).await?,
                Some(_) | None => None,
            };
            let walk = stored.as_ref().map(|stored| &stored.walk);
            match step(mark.as_ref(), rule.calendar.as_ref(), walk, now) {
                Step::Wait => return Ok(Shown { rule: Arc::clone(rule), mark, walk: stored, now }),
                Step::Make => {
                    if let Some(made) = &mark
                        && !self.make(rule, made, now).await?
                    {
                        // No room now: the next look tries again.
                        return Ok(Shown { rule: Arc::clone(rule), mark, walk: None, now });
                    }
                    kept = self.kept(&rule.name).await?.1;
                }
                Step::Store(after, why) => {
                    if self.marks.save(&rule.name, revision, &after).await? {
                        say(rule, &after, why);
                        kept = Some(Kept { mark: after, revision: revision.unwrap_or_default() + 1 });
                        continue;
                    }
                    kept = self.kept(&rule.name).await?.1;
                    if revision.is_none() && kept.is_none() {
                        // What is there cannot be read, and is never written over.
                        return Ok(Shown { rule: Arc::clone(rule), mark: None, walk: None, now });
                    }
                }
            }
        }
        // Always another one was faster: it has done what was to be done.
        let mark = kept.map(|kept| kept.mark);
        Ok(Shown { rule: Arc::clone(rule), mark, walk: None, now })
    }

    /// Makes the newest run of a mark, unless it is there. False when there is no room for it.
    async fn make(&self, rule: &Rule, mark: &Mark, now: UnixMs) -> Result<bool, QueueError> {
        let Some(run) = &mark.run else { return Ok(true) };
        let spec = rule.run(&request_id(&rule.name, UnixMs(run.at_ms)));
        let id = self.walks.id(&spec.tenant, &spec.request_id);
        let walk = Walk::new(spec, UnixMs(run.at_ms).max(now));
        let change =
            Change { id, expected: None, walk, opened: Vec::new(), closed: Vec::new(), failures: Vec::new() };
        if self.walks.save(&change).await? == Saved::Full {
            warn!(
                rule = rule.name,
                "there are as many unfinished prefix backups as there may be: a run waits"
            );
            return Ok(false);
        }
        self.made.notify_one();
        // Compared with what is there now: another dispatcher may have done it, or more.
        let (_, kept) = self.kept(&rule.name).await?;
        if let (revision, Some(now)) = parts(kept)
            && now.run.as_ref().is_some_and(|other| other.at_ms == run.at_ms && !other.made)
        {
            self.marks.save(&rule.name, revision, &now.made()).await?;
        }
        Ok(true)
    }

    async fn kept(&self, name: &str) -> Result<(UnixMs, Option<Kept>), QueueError> {
        let (now, mut kept) = self.marks.load().await?;
        Ok((now, kept.remove(name)))
    }

    /// The prefix backup of the newest run.
    async fn walk_of(&self, rule: &Rule, mark: Option<&Mark>) -> Result<Option<Stored>, QueueError> {
        match mark.and_then(|mark| mark.run.as_ref()) {
            Some(run) => self.walks.load(&self.id_of(rule, UnixMs(run.at_ms))).await,
            None => Ok(None),
        }
    }

    fn id_of(&self, rule: &Rule, at: UnixMs) -> WalkId {
        self.walks.id(rule.tenant(), &request_id(&rule.name, at))
    }
}

/// The name of a run. No caller can use it.
fn request_id(rule: &str, at: UnixMs) -> String {
    format!("{MARK}{rule}:{}", text(at))
}

fn parts(kept: Option<Kept>) -> (Option<u64>, Option<Mark>) {
    kept.map_or((None, None), |kept| (Some(kept.revision), Some(kept.mark)))
}

fn say(rule: &Rule, mark: &Mark, why: Why) {
    let name = &rule.name;
    match (why, &mark.run) {
        (Why::First, _) => info!(rule = name, "the first run of this rule will be at its next time"),
        (Why::Due, Some(run)) => info!(rule = name, at = text(UnixMs(run.at_ms)), "a run is due"),
        (Why::PassedOver, Some(run)) => {
            let (at, since) = (text(UnixMs(mark.until_ms)), text(UnixMs(run.at_ms)));
            warn!(rule = name, at, since, "a run is passed over: the one before still goes on");
        }
        (Why::Ended, Some(run)) => {
            if let Some(outcome) = &run.outcome {
                let (end, listed, missing, failed) =
                    (outcome.end, outcome.listed, outcome.missing, outcome.failed);
                info!(
                    rule = name,
                    at = text(UnixMs(run.at_ms)),
                    ?end,
                    listed,
                    missing,
                    failed,
                    "a run has ended"
                );
            }
        }
        (Why::Due | Why::PassedOver | Why::Ended, None) => {}
    }
}
