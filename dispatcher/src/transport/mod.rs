//! How connections come in and are kept: everything between a socket and the first gRPC call.
//!
//! A [`Listener`] yields connections, [`Server`] speaks HTTP/2 on each and ends them in order. Nothing here may know a service, a
//! task or the queue.

mod listener;
mod server;

pub use listener::Listener;
pub(crate) use server::Server;
