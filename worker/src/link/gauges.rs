//! Where the link stands, for whoever shows it: written by the driver, read at any time. Nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};

use backhaul_runtime::{metrics::Counter, ops::Ready};

use super::state::{Link, Phase};

/// Numbers of one link.
#[derive(Debug, Default)]
pub struct LinkGauges {
    leases: AtomicU64,
    unconfirmed: AtomicU64,
    ignored: AtomicU64,
    /// Streams on which a dispatcher welcomed this worker.
    pub welcomes: Counter,
    /// Leases that were over before their copy.
    pub lost: Counter,
    /// Whether tasks are taken: welcomed, and not draining.
    pub ready: Ready,
}

impl LinkGauges {
    /// Leases held.
    #[must_use]
    pub fn leases(&self) -> u64 {
        self.leases.load(Ordering::Relaxed)
    }

    /// Results that wait for their confirmation.
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        self.unconfirmed.load(Ordering::Relaxed)
    }

    /// Answers that spoke of nothing this link knows.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Takes note of where the link stands.
    pub(super) fn show(&self, link: &Link) {
        self.leases.store(link.held() as u64, Ordering::Relaxed);
        self.unconfirmed.store(link.unconfirmed() as u64, Ordering::Relaxed);
        self.ignored.store(link.ignored(), Ordering::Relaxed);
        self.ready.set(link.phase() == Phase::Attached);
    }
}
