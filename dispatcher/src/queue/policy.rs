//! What the end of a lease means: how long to wait, and when to give up. Pure functions of what was counted.
//!
//! Both queues decide with these functions; a store only checks that nothing has changed meanwhile, and moves. No clock, no
//! chance (jitter is an argument) and no I/O here.

use std::time::Duration;

use super::{
    QueueSettings, RetryPolicy,
    id::{MAX_SHARDS, TaskId},
    task::{FailureClass, TaskReason, TaskState},
};

/// Most crashes and returns that a record can count to and a limit can still be above.
pub const MAX_COUNTED: u32 = 0xfffe;

/// What has been counted for the present run of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Attempts that ended in a failure report.
    pub attempts: u32,
    /// Accepted leases whose worker vanished.
    pub crashes: u32,
    /// Times it came back at no cost since the last progress.
    pub returns: u32,
}

/// What callers have asked for during the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// To cancel it.
    pub cancel: bool,
    /// To make it again. Newer than the cancel when both are set, because a cancel withdraws the older requests.
    pub again: bool,
}

/// What becomes of a task whose lease has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Where it goes: Pending, Delayed, Done, Dead or Cancelled.
    pub state: TaskState,
    /// Why.
    pub reason: TaskReason,
    /// Its counters from now on.
    pub counters: Counters,
    /// Wait before the next lease, in whole milliseconds and never zero when Delayed; zero otherwise.
    pub delay: Duration,
    /// It goes to Pending as a new run, at the end of its tenant's line. Otherwise Pending means its old place.
    pub runs_again: bool,
}

/// A policy or setting that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidSettings {
    /// The field of [`QueueSettings`] or [`RetryPolicy`].
    pub field: &'static str,
    /// What must hold.
    pub problem: &'static str,
}

/// Success: done, unless it has to run again.
#[must_use]
pub const fn after_success(counters: Counters, requests: Requests) -> Verdict {
    if requests.again {
        Verdict::RUNS_AGAIN
    } else {
        // A cancel that comes too late to stop the copy does not make the copy undone.
        Verdict::ending(TaskState::Done, TaskReason::None, counters)
    }
}

/// A failure report. The report itself proves that the worker had taken the task, so an unseen accept changes nothing here.
#[must_use]
pub fn after_failure(
    counters: Counters,
    max_attempts: u32,
    class: FailureClass,
    retry_after: Duration,
    jitter: f64,
    settings: &QueueSettings,
) -> Verdict {
    match class {
        FailureClass::Retry => failed_attempt(counters, max_attempts, retry_after, jitter, settings),
        FailureClass::Throttled if counters.returns < settings.max_returns => Verdict {
            state: TaskState::Delayed,
            reason: TaskReason::Throttled,
            counters: Counters { returns: counters.returns + 1, ..counters },
            delay: settings.retry.wait(counters.returns, retry_after, jitter),
            runs_again: false,
        },
        FailureClass::Throttled => failed_attempt(counters, max_attempts, retry_after, jitter, settings),
        FailureClass::Permanent => Verdict::ending(
            TaskState::Dead,
            TaskReason::PermanentFailure,
            counters.with_failed_attempt(max_attempts),
        ),
        FailureClass::SourceGone => Verdict::ending(
            TaskState::Cancelled,
            TaskReason::SourceGone,
            counters.with_failed_attempt(max_attempts),
        ),
    }
}

/// The worker gave it back, or never took it: no cost, until it has come back too often without progress. `delay` is the least wait.
#[must_use]
pub fn after_return(
    counters: Counters,
    max_attempts: u32,
    delay: Duration,
    jitter: f64,
    settings: &QueueSettings,
) -> Verdict {
    if counters.returns >= settings.max_returns {
        return failed_attempt(counters, max_attempts, delay, jitter, settings);
    }
    let delay = whole_ms(delay);
    Verdict {
        state: if delay.is_zero() { TaskState::Pending } else { TaskState::Delayed },
        reason: TaskReason::HandedBack,
        counters: Counters { returns: counters.returns + 1, ..counters },
        delay,
        runs_again: false,
    }
}

/// It was leased and never sent, because no worker had room: nothing happened that could be held against the task. `delay` is the
/// least wait.
#[must_use]
pub fn after_no_room(counters: Counters, delay: Duration) -> Verdict {
    let delay = whole_ms(delay);
    Verdict {
        state: if delay.is_zero() { TaskState::Pending } else { TaskState::Delayed },
        reason: TaskReason::HandedBack,
        counters,
        delay,
        runs_again: false,
    }
}

/// The lease ran out. Accepted: the worker vanished, a crash. Not accepted: nothing had begun, a return.
#[must_use]
pub fn after_expiry(
    counters: Counters,
    max_attempts: u32,
    accepted: bool,
    jitter: f64,
    settings: &QueueSettings,
) -> Verdict {
    if !accepted {
        return after_return(counters, max_attempts, Duration::ZERO, jitter, settings);
    }
    let earlier = counters.attempts.saturating_add(counters.crashes);
    let limit = settings.max_crashes.max(1);
    let counters = Counters { crashes: counters.crashes.saturating_add(1).min(limit), ..counters };
    if counters.crashes >= limit {
        return Verdict::ending(TaskState::Dead, TaskReason::CrashedTooOften, counters);
    }
    Verdict {
        state: TaskState::Delayed,
        reason: TaskReason::LeaseExpired,
        counters,
        delay: settings.retry.wait(earlier, Duration::ZERO, jitter),
        runs_again: false,
    }
}

/// A jitter in [0, 1) for ends that nobody reports (expiry) or that bring none (hand-back): spread over tasks, the same for the
/// same task, run and counters, so that two dispatchers that sweep at once decide alike.
#[must_use]
pub fn spread(id: &TaskId, run: u32, counters: Counters) -> f64 {
    let salt = [run, counters.attempts, counters.crashes, counters.returns];
    let bytes = id.as_str().bytes().chain(salt.into_iter().flat_map(u32::to_le_bytes));
    // FNV-1a, then the finalizer of SplitMix64, because FNV alone mixes its upper bits badly.
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let top = u32::try_from((hash ^ (hash >> 31)) >> 32).unwrap_or(u32::MAX);
    f64::from(top) / (f64::from(u32::MAX) + 1.0)
}

fn failed_attempt(
    counters: Counters,
    max_attempts: u32,
    retry_after: Duration,
    jitter: f64,
    settings: &QueueSettings,
) -> Verdict {
    let earlier = counters.attempts.saturating_add(counters.crashes);
    let counters = counters.with_failed_attempt(max_attempts);
    if counters.attempts >= max_attempts {
        return Verdict::ending(TaskState::Dead, TaskReason::AttemptsUsedUp, counters);
    }
    Verdict {
        state: TaskState::Delayed,
        reason: TaskReason::BackingOff,
        counters,
        delay: settings.retry.wait(earlier, retry_after, jitter),
        runs_again: false,
    }
}

fn whole_ms(duration: Duration) -> Duration {
    // Rounded up: what waits "at least this long" must not wait less.
    Duration::from_millis(u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

impl Counters {
    fn with_failed_attempt(self, max_attempts: u32) -> Self {
        Self { attempts: self.attempts.saturating_add(1).min(max_attempts.max(1)), ..self }
    }
}

impl Verdict {
    /// A new run, at once.
    const RUNS_AGAIN: Self = Self {
        state: TaskState::Pending,
        reason: TaskReason::None,
        counters: Counters { attempts: 0, crashes: 0, returns: 0 },
        delay: Duration::ZERO,
        runs_again: true,
    };

    const fn ending(state: TaskState, reason: TaskReason, counters: Counters) -> Self {
        Self { state, reason, counters, delay: Duration::ZERO, runs_again: false }
    }

    /// The verdict on an end without success, given what callers asked for during the copy.
    ///
    /// A request to make it again survives every end: when this copy would have been the last, or was being cancelled before the
    /// request came, there is a new run. Otherwise the next attempt of this run serves it. A cancel alone turns every such end
    /// into a cancellation.
    #[must_use]
    pub const fn given(self, requests: Requests) -> Self {
        if requests.again {
            if self.state.is_finished() || requests.cancel { Self::RUNS_AGAIN } else { self }
        } else if requests.cancel {
            Self::ending(TaskState::Cancelled, TaskReason::CancelledByCaller, self.counters)
        } else {
            self
        }
    }
}

impl RetryPolicy {
    /// Checks that 1 ms <= floor <= base <= max.
    ///
    /// # Errors
    /// The first field that breaks this.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        let fail = |field, problem| Err(InvalidSettings { field, problem });
        if self.floor < Duration::from_millis(1) {
            fail("retry.floor", "must be at least 1 ms, or a failing task spins")
        } else if self.base < self.floor {
            fail("retry.base", "must not be below retry.floor")
        } else if self.max < self.base {
            fail("retry.max", "must not be below retry.base")
        } else {
            Ok(())
        }
    }

    /// A wait after `earlier` earlier failures: uniform between `floor` and `min(max, base * 2^earlier)`, in whole milliseconds,
    /// at least 1. `jitter` is uniform in [0, 1); anything else is brought into that range.
    #[must_use]
    pub fn backoff(&self, earlier: u32, jitter: f64) -> Duration {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let factor = 1_u64.checked_shl(earlier).unwrap_or(u64::MAX);
        let floor_ms = ms(self.floor).max(1);
        let upper_ms = ms(self.base).saturating_mul(factor).min(ms(self.max)).max(floor_ms);
        let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a jitter needs no more precision than a float has, and the product lies between 0 and the span"
        )]
        let above_floor_ms = ((upper_ms - floor_ms) as f64 * jitter) as u64;
        Duration::from_millis(floor_ms.saturating_add(above_floor_ms).min(upper_ms))
    }

    /// The backoff, or what the store asked for if that is longer, never longer than `max` allows.
    fn wait(&self, earlier: u32, retry_after: Duration, jitter: f64) -> Duration {
        self.backoff(earlier, jitter).max(whole_ms(retry_after.min(self.max)))
    }
}

impl QueueSettings {
    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// The first field that cannot.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        self.retry.validate()?;
        let ms = Duration::from_millis(1);
        let rules = [
            ("shards", "must be 1 to 1024", (1..=MAX_SHARDS).contains(&self.shards)),
            ("lease", "must be at least 1 ms", self.lease >= ms),
            ("accept_within", "must be at least 1 ms", self.accept_within >= ms),
            ("max_crashes", "must be 1 to 65534", (1..=MAX_COUNTED).contains(&self.max_crashes)),
            ("max_returns", "must be at most 65534", self.max_returns <= MAX_COUNTED),
            ("shard_cap", "must be at least 1", self.shard_cap > 0),
            ("tenant_cap", "must be at least 1", self.tenant_cap > 0),
            ("tenant_in_flight_cap", "must be at least 1", self.tenant_in_flight_cap > 0),
            ("outage", "must be longer than sweep_every", self.outage > self.sweep_every),
        ];
        match rules.into_iter().find(|(.., holds)| !holds) {
            Some((field, problem, _)) => Err(InvalidSettings { field, problem }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
