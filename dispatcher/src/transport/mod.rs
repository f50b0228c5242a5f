//! How connections come in and are kept: everything between a socket and the first gRPC call.
//!
//! ```text
//!  Listener --> accept (waits when the system is out of descriptors) --> census (how many, of whom)
//!           --> handshake, within a time --> HTTP/2 --> services
//! ```
//!
//! A peer that says nothing, says nonsense, holds more connections than its share, or vanished without a word costs little and not
//! for long. Nothing here may know a service, a task or the queue.

mod accept;
mod calls;
mod connection;
mod limits;
mod listener;
mod peer;
mod preface;
mod server;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use limits::ConnectionLimits;
pub use listener::Listener;
pub use peer::Peer;
pub(crate) use server::Server;
