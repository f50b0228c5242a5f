//! The clock of a queue: the store's own time, or a virtual one that only tests move.
//!
//! It exists so that no decision of the queue reads a clock by itself. It must not sleep and must not know a store: the Redis
//! queue asks [`QueueClock::virtual_now`] and, when there is none, lets the scripts read the server's time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::task::UnixMs;

/// Where a queue gets its time from. Clones of a virtual clock show and move the same time.
#[derive(Debug, Clone, Default)]
pub enum QueueClock {
    /// The store's own clock: the Redis server's for the Redis queue, this machine's for the reference queue.
    #[default]
    Server,
    /// A time in Unix milliseconds that stands still until it is moved.
    Virtual(Arc<AtomicU64>),
}

impl QueueClock {
    /// A virtual clock that shows `start`.
    #[must_use]
    pub fn starting_at(start: UnixMs) -> Self {
        Self::Virtual(Arc::new(AtomicU64::new(start.0)))
    }

    /// The virtual time, or `None` when the store's own clock counts.
    #[must_use]
    pub fn virtual_now(&self) -> Option<UnixMs> {
        match self {
            Self::Server => None,
            Self::Virtual(time) => Some(UnixMs(time.load(Ordering::SeqCst))),
        }
    }

    /// The time for a store that lives in this process: virtual, or this machine's. May run backwards; the store keeps its own maximum.
    #[must_use]
    pub fn local_now(&self) -> UnixMs {
        self.virtual_now().unwrap_or_else(|| {
            #[expect(clippy::disallowed_methods, reason = "this is the clock at the edge")]
            let now = SystemTime::now();
            UnixMs(0).plus(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
        })
    }

    /// Moves a virtual clock on by whole milliseconds of `step`; a server's clock is left alone.
    pub fn advance(&self, step: Duration) {
        if let Self::Virtual(time) = self {
            let step_ms = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
            time.fetch_add(step_ms, Ordering::SeqCst);
        }
    }

    /// Sets a virtual clock, backwards too; a server's clock is left alone.
    pub fn set(&self, now: UnixMs) {
        if let Self::Virtual(time) = self {
            time.store(now.0, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_virtual_clock_move_together() {
        let clock = QueueClock::starting_at(UnixMs(5));
        let other = clock.clone();
        other.advance(Duration::from_millis(7));
        assert_eq!(clock.virtual_now(), Some(UnixMs(12)));
        clock.set(UnixMs(3));
        assert_eq!(other.local_now(), UnixMs(3));
    }

    #[test]
    fn the_servers_clock_is_nobodys_to_move() {
        let clock = QueueClock::default();
        clock.set(UnixMs(3));
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.virtual_now(), None);
        assert!(clock.local_now() > UnixMs(1_700_000_000_000));
    }
}
