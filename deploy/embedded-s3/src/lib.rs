//! An S3-compatible store in one process: for `backhaul standalone`, for the demo and for tests.
//!
//! **Not a production store.** It promises that what it answered survives the end of its process, not a power cut
//! (nothing is synced), keeps its whole index in memory, runs on one machine, knows one account whose keys may do
//! everything, and encrypts nothing. Never keep the only copy of anything in it, and never expose it beyond loopback.
//!
//! What it does, it does as AWS S3 defines it, so that code tested against it works elsewhere: signatures, conditional
//! reads and atomic conditional writes, all five checksums and both checksum types, multipart uploads with every check,
//! versioning, tags, object lock, byte-order listings, and any key of 1 to 1024 bytes kept exactly. What it does not do
//! it refuses with `NotImplemented`. On top of that it fails on demand: see [`FaultPlan`].
//!
//! ```no_run
//! use backhaul_embedded_s3::{Bucket, Credentials, EmbeddedS3, Options, Storage};
//!
//! # async fn example() -> Result<(), backhaul_embedded_s3::StartError> {
//! let store = EmbeddedS3::start(Options {
//!     listen: ([127, 0, 0, 1], 0).into(),
//!     storage: Storage::Memory,
//!     credentials: vec![Credentials { access_key: "key".into(), secret_key: "secret".into() }],
//!     buckets: vec![Bucket { name: "uploads".into(), versioned: true }],
//! })
//! .await?;
//! println!("S3 at {}", store.endpoint());
//! store.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//!
//! A request passes `server` (connections), `faults` (rules), the `s3s` crate (protocol, signatures), `access` (who may
//! ask; a `guard`, if there is one) and `service` (the table of operations) to the module of its operation. Those decide under the lock of `store`,
//! which applies changes to `index` (a pure state machine) after `journal` has written them. Bodies are in `blobs`, in
//! memory or as files; they are written by `receive` and read by `reader`, both in pieces.
//!
//! # Limits that S3 does not have
//!
//! One region, no virtual-hosted addressing, no ACLs, policies, lifecycle, replication or encryption. A listing without
//! `encoding-type=url` cannot show keys with control characters that XML forbids. Version ids grow with time.

mod access;
mod attributes;
mod blobs;
mod buckets;
mod checksums;
mod complete;
mod conditions;
mod copy;
mod delete;
mod details;
mod errors;
pub mod faults;
pub mod guard;
mod index;
mod journal;
mod listing;
mod model;
mod multipart;
mod object;
mod options;
mod output;
mod put;
mod reader;
mod receive;
mod server;
mod service;
mod store;
mod time;
mod versions;

pub use faults::{Action, FaultPlan, Operation, Rule, RuleId};
pub use options::{Bucket, Credentials, Options, StartError, Storage};
pub use server::EmbeddedS3;
