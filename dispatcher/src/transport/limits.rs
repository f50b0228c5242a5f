//! Bounds on connections, each for the whole process.
//!
//! It exists so that tests run the same code with short times. It reads no flags; that is `config`'s.

use std::time::Duration;

/// What a peer may do before, beside and after its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most connections at a time; more are closed at once.
    pub max_connections: usize,
    /// Most connections of one address, or of one IPv6 network of 64 bits; more are closed at once.
    pub max_connections_per_address: usize,
    /// Most handshakes in progress; more wait, within `handshake_within`.
    pub max_handshakes: usize,
    /// How soon a peer must have shown that it speaks the protocol.
    pub handshake_within: Duration,
    /// How long a connection may stay open without a call.
    pub idle_within: Duration,
    /// Silence after which a peer is asked whether it is there.
    pub ping_after: Duration,
    /// How soon it must answer that.
    pub pong_within: Duration,
    /// How long a peer may leave an answer, or the next message of a stream, before its connection is closed.
    pub taken_within: Duration,
    /// How long before its certificate ends a peer is asked to connect anew, at most; and how long it has for that after a change of
    /// the trusted authorities.
    pub reauthenticate_within: Duration,
    /// How long a peer may take to close a connection that it was asked to leave, once no call is in progress.
    pub goodbye_within: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_connections_per_address: 1024,
            max_handshakes: 128,
            handshake_within: Duration::from_secs(5),
            idle_within: Duration::from_secs(5 * 60),
            // A peer that vanished without a word is noticed within 30 s.
            ping_after: Duration::from_secs(15),
            pong_within: Duration::from_secs(10),
            // Longer than a pause of anybody who still wants it: what waits is at most a window full for each call.
            taken_within: Duration::from_secs(2 * 60),
            reauthenticate_within: Duration::from_secs(60),
            goodbye_within: Duration::from_secs(2),
        }
    }
}
