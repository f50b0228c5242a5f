//! Settings of backups of prefixes.

use std::time::Duration;

use clap::Args;

use super::Problems;
use crate::{
    prefix::WalkerSettings,
    queue::{QueueSettings, walk::WalkLimits},
};

/// How long a worker may take for a page. It may have to ask the backup store about each of a thousand objects, and be throttled.
const PAGE_WITHIN: Duration = Duration::from_secs(300);
/// Entries of a page: as many as stores list at a time.
const PAGE_ENTRIES: u32 = 1_000;
/// Prefix backups that one dispatcher drives at a time.
const AT_ONCE: usize = 16;
/// Pages that may fail in a row: with the longest waits about half a day.
const MAX_FAULTS: u32 = 20;
/// How often to look for prefix backups that nobody drives, at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often to look at unfinished tasks when little happens.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Flags about backups of prefixes.
#[derive(Debug, Clone, Args)]
pub struct PrefixFlags {
    /// Most unfinished tasks of one prefix backup: from there on its listing rests, until half of them have ended.
    #[arg(long, env = "BACKHAUL_PREFIX_HIGH_MARK", default_value_t = 20_000, value_name = "COUNT")]
    pub prefix_high_mark: u64,
}

impl PrefixFlags {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.require(self.prefix_high_mark > 0, "--prefix-high-mark", "must be at least 1");
    }

    pub(super) fn settings(&self, queue: &QueueSettings) -> WalkerSettings {
        WalkerSettings {
            claim: queue.lease,
            look_every: LOOK_EVERY.min(queue.lease / 3),
            follow_every: FOLLOW_EVERY,
            page_within: PAGE_WITHIN,
            page_entries: PAGE_ENTRIES,
            at_once: AT_ONCE,
            limits: WalkLimits {
                high_mark: self.prefix_high_mark,
                low_mark: self.prefix_high_mark / 2,
                max_faults: MAX_FAULTS,
                retry: queue.retry,
            },
        }
    }
}
