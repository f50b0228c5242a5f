//! The scheduler: looks at every rule when something may be due, and does what is to be done.
//!
//! Decides nothing by itself: [`super::mark::step`] does. It sleeps until the next time of any rule, but never long: other dispatchers
//! and callers change marks, and runs end by themselves.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{Runs, Shown};
use crate::queue::{QueueError, UnixMs};

/// Makes runs of rules begin and notes how they end.
#[derive(Debug)]
pub(crate) struct Scheduler {
    /// What it works on.
    pub(crate) runs: Runs,
    /// Longest time between two looks.
    pub(crate) look_every: Duration,
}

impl Scheduler {
    /// Looks until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut fails = false;
        let mut rules = self.runs.rules.clone();
        while !stop.is_cancelled() {
            let pause = match self.look().await {
                Ok(pause) => {
                    if std::mem::take(&mut fails) {
                        info!("runs of rules can be looked at again");
                    }
                    pause
                }
                Err(QueueError::Corrupt { task, what }) => {
                    error!(rule = task, what, "what is kept of a rule is damaged");
                    self.look_every
                }
                Err(error) if !fails => {
                    fails = true;
                    warn!(error = &error as &dyn std::error::Error, "runs of rules cannot be looked at");
                    self.look_every
                }
                Err(error) => {
                    debug!(%error, "runs of rules still cannot be looked at");
                    self.look_every
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.runs.changed.notified() => {}
                () = rules.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Looks at all rules once; gives the time until something is due.
    pub(super) async fn look(&self) -> Result<Duration, QueueError> {
        let rules = self.runs.rules.now();
        if rules.iter().next().is_none() {
            self.runs.board.replace(Vec::new());
            return Ok(self.look_every);
        }
        let (now, mut kept) = self.runs.marks.load().await?;
        let mut shown: Vec<Shown> = Vec::new();
        let mut failed = None;
        for rule in rules.iter() {
            match self.runs.advance(rule, kept.remove(&rule.name), now).await {
                Ok(one) => shown.push(one),
                // One that cannot be looked at holds up no other.
                Err(error) => {
                    shown.push(Shown { rule: Arc::clone(rule), mark: None, walk: None, now });
                    failed.get_or_insert(error);
                }
            }
        }
        let next: Option<UnixMs> = shown.iter().filter_map(Shown::next).min();
        self.runs.board.replace(shown);
        match failed {
            Some(error) => Err(error),
            None => Ok(next.map_or(self.look_every, |next| next.since(now)).min(self.look_every)),
        }
    }
}
