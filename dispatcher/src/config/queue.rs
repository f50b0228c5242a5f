//! What the flags mean for the queue.

use super::Flags;
use crate::queue::{QueueSettings, RetryPolicy};

impl Flags {
    /// The settings of the queue; what they leave to be decided is decided here.
    pub(super) fn queue_settings(&self) -> QueueSettings {
        QueueSettings {
            shards: self.shards,
            lease: self.lease,
            // Half as long again: a leased task may wait in the dispatcher until a worker has room for its bytes.
            accept_within: self.accept_within * 3 / 2,
            max_crashes: self.max_crashes,
            max_returns: self.max_returns,
            retry: RetryPolicy { base: self.retry_base, max: self.retry_max, floor: self.retry_floor },
            dedup_window: self.dedup_window,
            retain_finished: self.retain_finished,
            retain_dead: self.retain_dead,
            retain_bytes: self.retain_mib.saturating_mul(1024 * 1024),
            shard_cap: self.shard_cap,
            tenant_cap: self.tenant_cap,
            tenant_in_flight_cap: self.tenant_in_flight_cap,
            // A heartbeat fell out for everybody, or several sweeps did: nobody could renew.
            outage: (self.lease / 3).max(self.sweep_every * 3),
            sweep_every: self.sweep_every,
        }
    }
}
