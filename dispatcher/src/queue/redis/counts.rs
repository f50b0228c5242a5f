//! What is counted of a tenant in one shard, as `_shard.lua` packs it.

use bytes::{Buf as _, BufMut as _};

/// Bytes of the counts, with the flag among them that is no count.
const PACKED_BYTES: usize = 8 * 5 + 1;

/// What is counted of a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TenantCounts {
    /// Unfinished and dead tasks.
    pub(super) kept: u64,
    pub(super) leases: u64,
    pub(super) pending: [u64; 3],
    pub(super) scheduled: u64,
    pub(super) delayed: u64,
    pub(super) dead: u64,
}

impl TenantCounts {
    /// The counts in a value of `tenants`; `None` when it is something else.
    pub(super) fn read(mut raw: &[u8]) -> Option<Self> {
        if raw.len() != PACKED_BYTES {
            return None;
        }
        let (kept, leases) = (raw.get_uint(5), raw.get_uint(5));
        let pending = [raw.get_uint(5), raw.get_uint(5), raw.get_uint(5)];
        raw.advance(1); // Whether it has left rings.
        let (scheduled, delayed, dead) = (raw.get_uint(5), raw.get_uint(5), raw.get_uint(5));
        Some(Self { kept, leases, pending, scheduled, delayed, dead })
    }

    /// The counts as `fsck_counters.lua` takes them, without the flag.
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut packed = Vec::with_capacity(PACKED_BYTES);
        let rest = [self.scheduled, self.delayed, self.dead];
        for count in [self.kept, self.leases].iter().chain(&self.pending).chain(&rest) {
            packed.put_uint((*count).min((1 << 40) - 1), 5);
        }
        packed
    }
}
