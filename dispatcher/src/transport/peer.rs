//! Who is at the other end of a connection, as far as the transport knows.

use std::net::SocketAddr;

use backhaul_runtime::tls::PeerIdentity;
use tokio_util::sync::CancellationToken;

/// The peer of a call; an extension of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it connected from.
    pub address: SocketAddr,
    /// Who it has proved to be; `None` in plaintext, and for callers that prove it with each call.
    pub identity: Option<PeerIdentity>,
    /// Cancelled when the peer has to prove itself anew: its certificate is about to end, or other authorities are trusted now.
    pub reauthenticate: CancellationToken,
}

impl Peer {
    /// A peer that has proved nothing yet.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self { address, identity: None, reauthenticate: CancellationToken::new() }
    }
}
