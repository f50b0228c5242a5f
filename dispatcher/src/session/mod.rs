//! One worker's stream, seen from the dispatcher.
//!
//! ```text
//!  AwaitingHello --Hello--> Welcoming --leases renewed--> Attached --Drain, either side--> Draining
//!       |                       |                            |                                |
//!       +-----------------------+------- CloseReason --------+--------------------------------+--> Closed
//! ```
//!
//! `state::Session` decides, and does no I/O: events go in with the time (`Event`), calls of the queue come out
//! (`Effect`), messages for the worker are composed at the moment they can be sent, and one timer is asked for. What it keeps
//! in order: no task is sent beyond the worker's credit, no message before Welcome, no Confirm before the queue has stored the
//! result, and a lease that the worker never accepted goes back at once when the stream ends, while accepted ones live on.
//! `driver` does the I/O and is the only place with a `select!`. [`close`] names every way a stream can end.
//!
//! A session knows the queue's trait and a `Floor` to stand on; it must not know who feeds it.

pub mod close;
mod driver;
mod event;
mod handle;
mod leases;
mod outbox;
mod rate;
pub mod settings;
mod state;
mod wire;
mod work;

#[cfg(any(test, feature = "test-util"))]
pub(crate) use self::wire::decode;
pub use self::{
    close::CloseReason,
    event::{SessionCounters, SessionId},
    settings::{InvalidSettings, StreamSettings},
};
pub(crate) use self::{
    close::{Excess, Violation},
    driver::{Seat, open},
    event::{
        Answer, Credit, Effect, Event, Held, Hello, LeaseKey, PageAnswer, RenewFor, Report, Standing,
        TaskName, WorkerInfo, drain_word,
    },
    handle::{DrainOrder, Floor, MOST_PAGES, Offer, SessionHandle},
};
