//! Accepting connections when the system cannot: waits, longer each time, instead of asking again at once.
//!
//! The kernel keeps a connection that was not accepted in its backlog, and says so again at once: whoever asks in a loop turns
//! a shortage of descriptors into a core at full load. Decides nothing about connections.

use std::{io, net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::Listener;

/// First and longest wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A listener that is asked no more often than makes sense.
#[derive(Debug)]
pub(super) struct Acceptor<L> {
    listener: L,
    /// How long the last failure is waited for; zero after a success.
    wait: Duration,
    not_before: Option<Instant>,
}

impl<L: Listener> Acceptor<L> {
    pub(super) const fn new(listener: L) -> Self {
        Self { listener, wait: Duration::ZERO, not_before: None }
    }

    /// The next connection, however long that takes. Cancelling it loses none.
    pub(super) async fn accept(&mut self) -> (L::Io, SocketAddr) {
        loop {
            if let Some(not_before) = self.not_before {
                sleep_until(not_before).await;
            }
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.not_before = None;
                    if !std::mem::take(&mut self.wait).is_zero() {
                        info!("connections are accepted again");
                    }
                    return accepted;
                }
                // That connection is gone and out of the backlog: the next one may be fine.
                Err(error) if is_of_peer(&error) => {
                    debug!(%error, "a connection was lost before it was accepted")
                }
                Err(error) => {
                    // Once: it is one state, however often it is tried.
                    if self.wait.is_zero() {
                        warn!(%error, "no connection can be accepted; those that come wait");
                    }
                    self.wait = (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
                    self.not_before = Some(Instant::now() + self.wait);
                }
            }
        }
    }
}

/// True when the failure is that of one connection and not of this process.
fn is_of_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::DuplexStream;

    use super::*;

    /// Fails as told, then yields one connection after the other.
    #[derive(Debug)]
    struct Failing {
        failures: VecDeque<io::ErrorKind>,
        asked: Vec<Instant>,
    }

    impl Listener for Failing {
        type Io = DuplexStream;

        async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
            self.asked.push(Instant::now());
            match self.failures.pop_front() {
                Some(kind) => Err(kind.into()),
                None => Ok((tokio::io::duplex(1).0, self.local_addr()?)),
            }
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(SocketAddr::from(([127, 0, 0, 1], 1)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_up_to_a_second_and_start_anew_after_a_success() {
        let failures = std::iter::repeat_n(io::ErrorKind::OutOfMemory, 10).collect();
        let mut acceptor = Acceptor::new(Failing { failures, asked: Vec::new() });
        acceptor.accept().await;
        let asked = std::mem::take(&mut acceptor.listener.asked);
        let waits: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000]);

        acceptor.listener.failures.push_back(io::ErrorKind::OutOfMemory);
        acceptor.accept().await;
        let asked = &acceptor.listener.asked;
        assert_eq!((asked[1] - asked[0]).as_millis(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_lost_in_the_backlog_holds_up_nobody() {
        let failures = std::iter::repeat_n(io::ErrorKind::ConnectionAborted, 100).collect();
        let mut acceptor = Acceptor::new(Failing { failures, asked: Vec::new() });
        let start = Instant::now();
        acceptor.accept().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
