//! The contract of Backhaul as a Rust crate: messages, clients and servers of protobuf package `backhaul.v1`; and
//! KEDA's `externalscaler`, which is not ours.
//!
//! Other services use [`v1::backup_service_client`] to submit backups. The documentation of every message and field is the
//! `.proto` files', which are also the place to change anything: this crate must hold no logic of either service.

#![doc = include_str!("../README.md")]

/// Messages and services of `backhaul.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::wildcard_enum_match_arm,
    clippy::missing_errors_doc,
    clippy::clone_on_ref_ptr
)]
pub mod v1 {
    tonic::include_proto!("backhaul.v1");
}

/// KEDA's contract for external scalers, which the dispatcher serves to whoever scales workers.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::wildcard_enum_match_arm,
    clippy::missing_errors_doc,
    clippy::clone_on_ref_ptr
)]
pub mod externalscaler {
    tonic::include_proto!("externalscaler");
}

/// The serialised `FileDescriptorSet` of the package, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/backhaul.v1.bin"));

/// The version of the worker protocol this crate describes: `Hello.protocol`.
pub const WORKER_PROTOCOL: u32 = 1;
