//! What can be set about the engine, with the reasons for the defaults.

use std::time::Duration;

use super::{plan::Limits, retry::RetryPolicy};
use crate::store::ClientSettings;

/// Settings of the engine. All are checked by `Engine::new`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSettings {
    /// Bytes of objects that all copies may hold in memory together.
    pub memory_bytes: u64,
    /// Size of the parts in which large objects move. S3 wants at least 5 MiB; larger parts cost memory, smaller ones requests.
    pub part_bytes: u64,
    /// Objects up to this size move in one piece: one read and one write cost less than the requests around an upload, and prove more. As
    /// much as the window of a larger object is no new claim on the memory.
    pub whole_bytes: u64,
    /// Part size of copies inside a store, where no memory is used: large, because each part is one request and copies at store speed.
    pub copy_part_bytes: u64,
    /// Parts of one object in flight. Bounds what one copy takes of the memory and of the stores.
    pub window: usize,
    /// How often one copy begins again because its source changed or its upload was lost.
    pub restarts: u32,
    /// How often and how fast single requests are repeated.
    pub retry: RetryPolicy,
    /// Longest wait for the next bytes of a read.
    pub idle_timeout: Duration,
    /// Requests in flight to one location at most; adapted downwards while it asks for less load.
    pub requests_per_location: u32,
    /// How long nothing must have happened to an upload before it counts as an orphan. Far longer than any pause of a copy.
    pub orphan_age: Duration,
    /// How often, about, orphans are looked for.
    pub sweep_every: Duration,
    /// Timeouts of single requests.
    pub client: ClientSettings,
    /// What stores allow.
    pub limits: Limits,
}

/// Settings that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {problem}")]
pub struct SettingsError {
    /// Name of the field.
    pub setting: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl EngineSettings {
    /// How much of the memory is for reading copies back, in bytes: a quarter, but at least one part.
    #[must_use]
    pub fn readback_bytes(&self) -> u64 {
        (self.memory_bytes / 4).max(self.part_bytes)
    }

    /// How much of the memory is for copies on their way, in bytes: the rest.
    #[must_use]
    pub fn copying_bytes(&self) -> u64 {
        self.memory_bytes - self.readback_bytes()
    }

    /// Checks the values, alone and against each other.
    ///
    /// # Errors
    /// [`SettingsError`]: the first that cannot work.
    pub fn check(&self) -> Result<(), SettingsError> {
        let error = |setting, problem| Err(SettingsError { setting, problem });
        let Limits { min_part_bytes, max_part_bytes, max_parts } = self.limits;
        if min_part_bytes == 0 || max_part_bytes < min_part_bytes || max_parts == 0 {
            return error("limits", "allow no part at all");
        }
        if !(min_part_bytes..=max_part_bytes).contains(&self.part_bytes) {
            return error(
                "part_bytes",
                "must be between the smallest and the largest part of S3, 5 MiB and 5 GiB",
            );
        }
        if !(min_part_bytes..=max_part_bytes).contains(&self.copy_part_bytes) {
            return error(
                "copy_part_bytes",
                "must be between the smallest and the largest part of S3, 5 MiB and 5 GiB",
            );
        }
        if self.memory_bytes / 2 < self.part_bytes {
            return error("memory_bytes", "must hold at least two parts: one to copy and one to read back");
        }
        if self.whole_bytes < self.part_bytes || self.whole_bytes > max_part_bytes {
            return error("whole_bytes", "must be between one part and what S3 takes at once, 5 GiB");
        }
        if self.copying_bytes() < self.whole_bytes {
            return error("whole_bytes", "must fit into the memory besides what is for reading back");
        }
        if self.window == 0 {
            return error("window", "must be at least 1");
        }
        if self.retry.attempts == 0 {
            return error("retry.attempts", "must be at least 1");
        }
        if self.requests_per_location == 0 {
            return error("requests_per_location", "must be at least 1");
        }
        if self.idle_timeout.is_zero() {
            return error("idle_timeout", "must not be zero");
        }
        if self.orphan_age < Duration::from_secs(3600) {
            return error("orphan_age", "must be at least an hour: a copy that is held up is no orphan");
        }
        if self.sweep_every.is_zero() {
            return error("sweep_every", "must not be zero");
        }
        Ok(())
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            memory_bytes: 256 * MIB,
            part_bytes: 8 * MIB,
            whole_bytes: 32 * MIB,
            copy_part_bytes: 128 * MIB,
            window: 8,
            restarts: 3,
            retry: RetryPolicy::default(),
            idle_timeout: Duration::from_secs(30),
            requests_per_location: 256,
            orphan_age: Duration::from_secs(7 * 24 * 3600),
            sweep_every: Duration::from_secs(6 * 3600),
            client: ClientSettings::default(),
            limits: Limits::default(),
        }
    }
}
