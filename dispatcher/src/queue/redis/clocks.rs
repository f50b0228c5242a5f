//! Whether the clocks of the servers go as those of this machine: an alarm, and what must wait while they do not.
//!
//! Time is Redis' time, which scripts keep from going back. They cannot see a jump ahead: it looks like an outage. So each sweep
//! compares what has passed on the server with what has passed here, and the shard's time with the time here. A jump is only told. Where the
//! times differ by more than an hour, nothing is forgotten for its age until they agree: that is the one thing that a wrong clock
//! could not give back. Leases need nothing of the kind, because a gap grants an amnesty whatever its cause.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use backhaul_runtime::metrics::Counter;
use tokio::time::Instant;

use crate::queue::UnixMs;

/// A clock that has moved by so much more or less than ours between two looks has jumped.
const JUMP: Duration = Duration::from_secs(10);
/// A difference in times from which on nothing is forgotten for its age.
const WRONG: Duration = Duration::from_secs(3600);

/// What is known of the servers' clocks.
#[derive(Debug, Default)]
pub struct ClockStats {
    /// Jumps ahead.
    pub ahead: Counter,
    /// Jumps back.
    pub back: Counter,
    /// How far the queue's time is ahead of this machine's, where it differs most.
    skew_ms: AtomicI64,
}

/// The clocks as the sweeps of one process see them.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    stats: Arc<ClockStats>,
    last: Mutex<HashMap<u16, Sample>>,
    holds: AtomicBool,
}

/// What a shard said of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// Its server's clock (ms).
    pub(super) server_ms: u64,
    /// Its own time (ms).
    pub(super) shard_ms: u64,
}

/// A server's clock, read between two moments of ours.
#[derive(Debug, Clone, Copy)]
struct Sample {
    server_ms: u64,
    sent: Instant,
    received: Instant,
}

impl ClockStats {
    /// By how much the queue's time and this machine's differ, either way, where they differ most, in seconds.
    #[must_use]
    pub fn skew_s(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "to show, not to count with")]
        let ms = self.skew_ms.load(Ordering::Relaxed).unsigned_abs() as f64;
        ms / 1000.0
    }
}

impl Clocks {
    pub(super) fn stats(&self) -> &Arc<ClockStats> {
        &self.stats
    }

    /// Whether nothing may be forgotten for its age now.
    pub(super) fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }

    /// Looks at what the shards said in answer to what was sent and received then; `here` is the time of this machine.
    pub(super) fn note(&self, times: &[(u16, Times)], sent: Instant, received: Instant, here: UnixMs) {
        // The shards of one server all see one jump.
        let mut widest: i64 = 0;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for &(shard, Times { server_ms, .. }) in times {
            let now = Sample { server_ms, sent, received };
            let before = last.insert(shard, now);
            let jump = before.map_or(0, |before| jump_ms(before, now));
            widest = if jump.abs() > widest.abs() { jump } else { widest };
        }
        drop(last);
        if widest != 0 {
            let by_s = widest / 1000;
            tracing::warn!(
                by_s,
                "the clock of Redis has jumped: it was set, another server took over, or this machine stood still"
            );
            (if widest > 0 { &self.stats.ahead } else { &self.stats.back }).inc();
        }
        let skews = times.iter().map(|(_, times)| difference_ms(times.shard_ms, here.0));
        let Some(skew_ms) = skews.max_by_key(|skew| skew.abs()) else { return };
        self.stats.skew_ms.store(skew_ms, Ordering::Relaxed);
        let holds = skew_ms.unsigned_abs() > millis(WRONG).unsigned_abs();
        if self.holds.swap(holds, Ordering::Relaxed) != holds {
            let by_s = skew_ms / 1000;
            if holds {
                tracing::error!(
                    by_s,
                    "the time of the queue and of this machine differ; finished tasks are not forgotten until they agree"
                );
            } else {
                tracing::info!(by_s, "the times of the queue and of this machine agree again");
            }
        }
    }
}

/// By how much a clock moved more (or, negative, less) than can have passed here; 0 when it can be explained.
fn jump_ms(before: Sample, now: Sample) -> i64 {
    let moved = difference_ms(now.server_ms, before.server_ms);
    let most = millis(now.received.saturating_duration_since(before.sent));
    let least = millis(now.sent.saturating_duration_since(before.received));
    let bound = millis(JUMP);
    if moved > most.saturating_add(bound) {
        moved - most
    } else if moved < least.saturating_sub(bound) {
        moved - least
    } else {
        0
    }
}

fn difference_ms(a: u64, b: u64) -> i64 {
    let size = i64::try_from(a.abs_diff(b)).unwrap_or(i64::MAX);
    if a < b { -size } else { size }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn noted(clocks: &Clocks, base: Instant, at: u64, took: u64, server_ms: u64, here: u64) {
        let times = Times { server_ms, shard_ms: server_ms };
        clocks.note(&[(0, times), (1, times)], base + s(at), base + s(at + took), UnixMs(here));
    }

    fn counted(clocks: &Clocks) -> (u64, u64) {
        (clocks.stats().ahead.get(), clocks.stats().back.get())
    }

    #[test]
    fn a_jump_is_told_once_for_all_shards_and_a_slow_answer_is_none() {
        let (clocks, base) = (Clocks::default(), Instant::now());
        noted(&clocks, base, 0, 1, DAY, DAY);
        // An hour without a look, and an answer that took a minute.
        noted(&clocks, base, 3_600, 60, DAY + 3_600_000, DAY + 3_600_000);
        noted(&clocks, base, 3_661, 0, DAY + 3_661_000 + 9_000, DAY + 3_661_000);
        assert_eq!(counted(&clocks), (0, 0));
        noted(&clocks, base, 3_662, 0, DAY + 3_662_000 + 30_000, DAY + 3_662_000);
        assert_eq!(counted(&clocks), (1, 0));
        noted(&clocks, base, 3_663, 0, DAY + 3_663_000, DAY + 3_663_000);
        assert_eq!(counted(&clocks), (1, 1));
        assert!(!clocks.holds());
    }

    #[test]
    fn a_clock_that_is_hours_off_holds_whoever_is_wrong_and_however_long_it_was_so() {
        let (clocks, base) = (Clocks::default(), Instant::now());
        noted(&clocks, base, 0, 0, DAY, DAY + 3_700_000);
        assert!(clocks.holds());
        assert_eq!(clocks.stats().skew_ms.load(Ordering::Relaxed), -3_700_000);
        noted(&clocks, base, 1, 0, DAY + 1_000, DAY + 1_000);
        assert!(!clocks.holds());
        noted(&clocks, base, 2, 0, DAY + 5_000_000, DAY + 2_000);
        assert!(clocks.holds());
        assert_eq!(counted(&clocks), (1, 0));
    }
}
