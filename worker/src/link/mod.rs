//! The link: the worker's end of the stream to a dispatcher.
//!
//! It owns the protocol of `worker.proto` and nothing else: which leases are held and until when, which results still wait for their
//! confirmation, when to speak, when to connect again. What the rules say is decided in [`Link`], a state machine without I/O, clock
//! or randomness of its own; [`LinkDriver`] connects it to a socket, to time and to a [`Workload`]. The link must not know what a
//! copy is: S3, the transfer engine and its errors belong to the other side of [`Workload`].
//!
//! ```text
//!               dialled            Welcome
//!  Detached ------------> Greeting -------> Attached ----+
//!     ^                      |                  |        | Drain: dial, then greet there; the copies go on
//!     +----------------------+------------------+ <------+
//!        stream lost, no Welcome, unanswered heartbeat
//! ```
//!
//! Draining, the worker's own end, lies across these states: it takes no tasks, lets copies finish, hands the rest back, waits for
//! the confirmations and leaves, connecting again meanwhile if it must.

mod backoff;
mod connector;
mod credit;
mod dial;
mod driver;
mod gauges;
mod leases;
mod outbox;
mod pages;
mod state;
mod task;
mod wire;
mod workload;

pub use backoff::{Backoff, BackoffError};
pub use connector::{Connector, Io, TcpConnector, TlsConnector};
pub use credit::CreditLimit;
pub use dial::{Dialer, DispatcherUrl, DispatcherUrlError};
pub use driver::LinkDriver;
pub use gauges::LinkGauges;
pub use pages::PageLister;
pub use state::{Departure, Effect, Event, Link, LinkSettings, Phase};
pub use task::{Assignment, Finished, LeaseKey, Progress, StopReason, Token};
pub use wire::{Confirmation, LeaseNews, Welcomed};
pub use workload::Workload;
