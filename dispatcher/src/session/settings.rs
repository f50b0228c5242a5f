//! How streams to workers behave: every duration and bound of sessions, feeder and sweeper in one place.
//!
//! It exists so that tests run the same code with short timers. It reads no flags and no environment; that is `config`'s.

use std::time::Duration;

/// Settings of all streams of one dispatcher.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamSettings {
    /// How long a lease lasts without a heartbeat; the queue's own setting must be the same. A worker that says nothing for
    /// this long is cut off.
    pub lease: Duration,
    /// How soon a worker must answer an assignment. The queue's `accept_within` should be half as long again: the difference is
    /// how long a leased task may wait here for credit.
    pub accept_within: Duration,
    /// How often a worker must send a heartbeat: at most a third of `lease`.
    pub heartbeat_every: Duration,
    /// How soon after the stream is open the Hello must come.
    pub hello_within: Duration,
    /// Most streams at a time; at least 1.
    pub max_streams: usize,
    /// Most streams from one address at a time; at least 1.
    pub max_streams_per_address: usize,
    /// Most streams of one identity at a time; at least 1.
    pub max_streams_per_identity: usize,
    /// How long a worker has to move to another dispatcher after a Drain, and how long a shutdown may take.
    pub drain_within: Duration,
    /// Age at which a stream is drained so that workers spread over dispatchers, give or take a tenth; `None` for never.
    pub rebalance_after: Option<Duration>,
    /// How long an accept waits before it is written: none is written of a copy that has ended by then, which most do. Shorter than
    /// `accept_within`, after which the queue may take the task back. What waits is written when the stream ends.
    pub accepts_after: Duration,
    /// Longest wait for one call of the queue. The store has its own, shorter limits; this one bounds a store that hangs.
    pub queue_timeout: Duration,
    /// Messages a second that a worker may send over time without bringing an answer to an assignment; ten seconds' worth may
    /// come at once.
    pub messages_per_second: u32,
    /// Most tasks leased in one call, at least 1 and at most 1,000.
    pub lease_batch: u32,
    /// Calls for leases under way at a time, at least 1.
    pub lease_calls: usize,
    /// How often to look for tasks without being told of any, while workers have credit.
    pub poll_every: Duration,
    /// How often to sweep the queue.
    pub sweep_every: Duration,
}

/// Settings that contradict each other or the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// A lease would run out when two heartbeats are late.
    #[error("heartbeat_every must be above zero and at most a third of lease")]
    Heartbeat,
    /// A bound or a duration that must not be zero is zero, or a bound is too high.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            accept_within: Duration::from_secs(10),
            heartbeat_every: Duration::from_secs(10),
            hello_within: Duration::from_secs(5),
            max_streams: 1_000,
            max_streams_per_address: 256,
            max_streams_per_identity: 1_000,
            drain_within: Duration::from_secs(25),
            rebalance_after: Some(Duration::from_secs(30 * 60)),
            accepts_after: Duration::from_millis(500),
            queue_timeout: Duration::from_secs(5),
            messages_per_second: 100,
            lease_batch: 256,
            lease_calls: 8,
            poll_every: Duration::from_secs(1),
            sweep_every: Duration::from_secs(1),
        }
    }
}

impl StreamSettings {
    /// Checks the settings against each other and against the contract.
    ///
    /// # Errors
    /// [`InvalidSettings`] that names the first setting to change.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        if self.heartbeat_every.is_zero() || self.heartbeat_every > self.lease / 3 {
            return Err(InvalidSettings::Heartbeat);
        }
        let in_range = [
            ("accept_within", !self.accept_within.is_zero()),
            ("accepts_after", self.accepts_after < self.accept_within),
            ("hello_within", !self.hello_within.is_zero()),
            ("max_streams", self.max_streams > 0),
            ("max_streams_per_address", self.max_streams_per_address > 0),
            ("max_streams_per_identity", self.max_streams_per_identity > 0),
            ("rebalance_after", self.rebalance_after.is_none_or(|age| !age.is_zero())),
            ("queue_timeout", !self.queue_timeout.is_zero()),
            ("messages_per_second", self.messages_per_second > 0),
            ("lease_batch", (1..=1_000).contains(&self.lease_batch)),
            ("lease_calls", self.lease_calls > 0),
            ("poll_every", !self.poll_every.is_zero()),
            ("sweep_every", !self.sweep_every.is_zero()),
        ];
        match in_range.into_iter().find(|(_, holds)| !holds) {
            Some((name, _)) => Err(InvalidSettings::OutOfRange(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_together() {
        assert_eq!(StreamSettings::default().check(), Ok(()));
    }

    #[test]
    fn a_heartbeat_slower_than_a_third_of_the_lease_is_refused() {
        let settings =
            StreamSettings { heartbeat_every: Duration::from_secs(11), ..StreamSettings::default() };
        assert_eq!(settings.check(), Err(InvalidSettings::Heartbeat));
    }

    #[test]
    fn a_zero_bound_is_refused_by_name() {
        let settings = StreamSettings { max_streams: 0, ..StreamSettings::default() };
        assert_eq!(settings.check(), Err(InvalidSettings::OutOfRange("max_streams")));
    }
}
