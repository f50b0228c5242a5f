//! The seam between the link and the holder of the copies.
//!
//! It exists so that the link knows no runner and the runner no socket. There is no queue between the two: the driver calls the
//! workload in its own task and asks it for ends, so neither side can run ahead of the other and nothing needs a bound of its own.

use std::{collections::BTreeSet, future::Future};

use super::task::{Assignment, Finished, LeaseKey, Progress, StopReason};

/// Holds the copies that the link's leases are for.
///
/// Every started lease ends in exactly one [`Finished`], except one stopped as [`StopReason::Lost`], which ends in none.
pub trait Workload: Send {
    /// Takes a task; it starts at once or when there is room.
    fn start(&mut self, assignment: Assignment);

    /// Asks a copy to stop. A lease that is not held, or is stopping for this reason already, is left alone; `Lost` replaces any
    /// other reason.
    fn stop(&mut self, lease: &LeaseKey, reason: StopReason);

    /// Hands back what has not started of these locations.
    fn pause(&mut self, locations: &BTreeSet<String>);

    /// Starts nothing more: what still waits is handed back, what runs goes on.
    fn drain(&mut self);

    /// How far a copy is; the default when nothing is known of the lease.
    fn progress(&self, lease: &LeaseKey) -> Progress;

    /// Waits for the next end; for ever when nothing is held. May be dropped at any await without losing an end.
    fn next_finished(&mut self) -> impl Future<Output = Finished> + Send;
}
