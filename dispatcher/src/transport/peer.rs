//! Who is at the other end of a connection, as far as the transport knows.

use std::net::SocketAddr;

/// The peer of a call; an extension of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it connected from.
    pub address: SocketAddr,
}
