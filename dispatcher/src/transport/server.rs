//! Accepts connections, as many as there may be, and owns them until they have ended.
//!
//! Not tonic's own server: that one asks again at once when the system is out of descriptors, bounds neither connections nor the
//! time until a peer says something, and waits for open streams without end.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use backhaul_runtime::tls::Tls;
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{debug, error, info, warn};

use super::{ConnectionLimits, Listener, accept::Acceptor, connection::Host, peer::Peer};
use crate::{
    audit::Audit,
    census::{Census, origin_of},
    metrics::Connections,
};

/// Serves the same services to everybody who connects.
#[derive(Debug)]
pub(crate) struct Server<L> {
    acceptor: Acceptor<L>,
    host: Arc<Host>,
    census: Arc<Census<IpAddr>>,
    refusals: Refusals,
}

impl<L: Listener> Server<L> {
    /// A server that accepts nothing yet. With `tls`, only from peers that prove who they are; who does not is recorded.
    pub(crate) fn new(
        listener: L,
        routes: Routes,
        limits: ConnectionLimits,
        tls: Option<Tls>,
        gauge: Arc<Connections>,
        audit: Audit,
    ) -> Self {
        Self {
            acceptor: Acceptor::new(listener),
            host: Arc::new(Host::new(routes, limits, tls, gauge, audit)),
            census: Census::new(limits.max_connections, limits.max_connections_per_address),
            refusals: Refusals::default(),
        }
    }

    /// Accepts and serves connections until `end`, then until the calls in progress have been answered. Dropping it ends them.
    pub(crate) async fn run(mut self, end: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = end.cancelled() => break,
                Some(ended) = connections.join_next() => note(ended),
                (io, address) = self.acceptor.accept() => {
                    // Dropped, the connection is closed: its peer knows at once, and may try another dispatcher.
                    match self.census.enter(origin_of(address.ip())) {
                        Ok(place) => {
                            let host = Arc::clone(&self.host);
                            let place = (place, host.opened());
                            connections.spawn(host.serve(io, Peer::at(address), place, end.clone()));
                        }
                        Err(full) => self.refusals.note(&full, address, Instant::now()),
                    }
                }
            }
        }
        // Nobody else is let in while the rest is waited for.
        drop(self.acceptor);
        debug!(left = self.census.count(), "ending connections");
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(error = &error as &dyn std::error::Error, "a connection failed");
    }
}

/// What was refused lately, so that a flood of connections is no flood of log lines.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    untold: u64,
    told_at: Option<Instant>,
}

impl Refusals {
    const TELL_EVERY: Duration = Duration::from_secs(10);

    pub(super) fn note(&mut self, why: &dyn fmt::Display, peer: SocketAddr, now: Instant) {
        self.untold += 1;
        if self.told_at.is_some_and(|at| now.duration_since(at) < Self::TELL_EVERY) {
            return;
        }
        self.told_at = Some(now);
        warn!(reason = %why, last = %peer, count = self.untold, "connections refused");
        self.untold = 0;
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        if self.untold > 0 {
            info!(count = self.untold, "more connections were refused");
        }
    }
}
