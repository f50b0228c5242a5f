//! Keeps time for the queue: calls its sweep, which ends leases that ran out and moves tasks that are due.
//!
//! Every dispatcher runs one; the queue itself sees to it that they do not disturb each other. No policy is here.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::DispatchCounters;
use crate::{
    queue::{QueueError, SweepReport, TaskQueue},
    session::StreamSettings,
};

/// Shortest wait between two passes that leave nothing over, whatever the queue says is due.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// Parts of the interval in which a pass is tried again that came early for something due and found nothing: the queue may
/// not be swept that often, and says so with an empty report.
const EARLY_TRIES: u32 = 8;

/// Sweeps the queue.
#[derive(Debug)]
pub(super) struct Sweeper {
    pub(super) queue: Arc<dyn TaskQueue>,
    pub(super) settings: Arc<StreamSettings>,
    pub(super) counters: Arc<DispatchCounters>,
}

/// Why a sweep did not happen.
#[derive(Debug, thiserror::Error)]
enum SweepFault {
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Failed(#[from] QueueError),
}

impl Sweeper {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut fails = false;
        let mut spared: Option<Instant> = None;
        let mut unswept = 0;
        let mut pace = Pace::default();
        loop {
            // A sweep may do more than one call can; it gets its time, but not for ever.
            let limit = self.settings.queue_timeout * 4;
            let swept = match timeout(limit, self.queue.sweep()).await {
                Ok(swept) => swept.map_err(SweepFault::from),
                Err(_) => Err(SweepFault::TimedOut),
            };
            let wait = match &swept {
                Ok(report) => {
                    if std::mem::replace(&mut fails, false) {
                        info!("the queue can be swept again");
                    }
                    if report.amnesty {
                        // Each shard grants its own, and most passes skip most shards: said once for all of one outage.
                        let before = spared.replace(Instant::now());
                        if before.is_none_or(|at| at.elapsed() > self.settings.lease) {
                            info!("nobody could renew for a while: for one lease, none is ended");
                        }
                    }
                    if std::mem::replace(&mut unswept, report.unswept) != report.unswept {
                        if report.unswept > 0 {
                            warn!(
                                shards = report.unswept,
                                "some shards of the queue cannot be swept; the others are"
                            );
                        } else {
                            info!("all shards of the queue can be swept again");
                        }
                    }
                    self.counters.note(report);
                    pace.after(report, self.settings.sweep_every, fastrand::f64())
                }
                Err(fault) => {
                    if std::mem::replace(&mut fails, true) {
                        debug!(error = fault as &dyn std::error::Error, "the queue still cannot be swept");
                    } else {
                        warn!(error = fault as &dyn std::error::Error, "the queue cannot be swept");
                    }
                    jittered(self.settings.sweep_every, fastrand::f64())
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }
}

/// When the next pass is due.
#[derive(Debug, Default)]
struct Pace {
    /// Early passes left for something that the queue said is due.
    tries: u32,
}

impl Pace {
    /// How long to wait after a pass. `jitter` in [0, 1).
    fn after(&mut self, report: &SweepReport, every: Duration, jitter: f64) -> Duration {
        if report.more {
            return Duration::ZERO;
        }
        let wait = jittered(every, jitter);
        if let Some(due) = report.next_due.filter(|due| *due < wait) {
            self.tries = EARLY_TRIES;
            return due.max(SHORTEST_WAIT);
        }
        if *report == SweepReport::default() && self.tries > 0 {
            self.tries -= 1;
            return (every / EARLY_TRIES).max(SHORTEST_WAIT);
        }
        self.tries = 0;
        wait
    }
}

fn jittered(every: Duration, jitter: f64) -> Duration {
    every.mul_f64(0.75 + 0.5 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(1);

    fn after(report: &SweepReport) -> Duration {
        Pace::default().after(report, EVERY, 0.5)
    }

    #[test]
    fn a_pass_that_left_work_over_is_followed_at_once() {
        let report = SweepReport { more: true, next_due: Some(EVERY), ..SweepReport::default() };
        assert_eq!(after(&report), Duration::ZERO);
    }

    #[test]
    fn the_next_due_task_shortens_the_wait_and_never_lengthens_it() {
        let due = |due| SweepReport { next_due: Some(due), ..SweepReport::default() };
        assert_eq!(after(&due(Duration::from_millis(20))), Duration::from_millis(20));
        assert_eq!(after(&due(Duration::ZERO)), SHORTEST_WAIT);
        assert_eq!(after(&due(Duration::from_secs(60))), EVERY);
    }

    #[test]
    fn an_early_pass_that_the_queue_did_not_make_is_tried_again_soon_but_not_for_ever() {
        let mut pace = Pace::default();
        let due = SweepReport { next_due: Some(Duration::from_millis(20)), ..SweepReport::default() };
        pace.after(&due, EVERY, 0.5);
        let nothing = SweepReport::default();
        for _ in 0..EARLY_TRIES {
            assert_eq!(pace.after(&nothing, EVERY, 0.5), EVERY / EARLY_TRIES);
        }
        assert_eq!(pace.after(&nothing, EVERY, 0.5), EVERY);
    }

    #[test]
    fn dispatchers_drift_apart() {
        let idle = SweepReport::default();
        assert_eq!(Pace::default().after(&idle, EVERY, 0.0), Duration::from_millis(750));
        assert!(Pace::default().after(&idle, EVERY, 0.999) > Duration::from_millis(1_200));
    }
}
