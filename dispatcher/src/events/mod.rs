//! Uploads become tasks by themselves: origins tell what users uploaded, over HTTP or through a queue, and nobody calls an RPC.
//!
//! ```text
//!  origin --HTTP--> http ----+
//!                            +--> intake --> parse (pure) --> TaskQueue::submit --> 2xx, or the message is acknowledged
//!  broker --pull--> pull ----+       |
//!                                    +--> quarantine: what nobody understands, once, with the raw body
//! ```
//!
//! An event is told as taken only when its tasks are durable, so an origin that hears anything else sends it again; and it may be sent
//! any number of times, in any order, a day late: the task's identity is the object version, so a repeat finds the same task. What a
//! notification says besides names (sizes, times, sequencers) is a hint, and never decides anything. A removal is noted and
//! never removes a backup.
//!
//! Nothing here may know how tasks are kept or copied.

pub mod http;
pub mod intake;
pub mod parse;
pub mod pull;
pub mod quarantine;
pub mod sns;
pub mod sources;
#[cfg(test)]
pub(crate) mod testing;
