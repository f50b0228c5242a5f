//! The dispatcher: accepts backups, keeps them in three Redis queues and streams due tasks to workers.
#![doc = include_str!("../README.md")]

pub mod app;
mod census;
pub mod config;
pub mod dispatch;
pub mod events;
pub mod fsck;
pub mod grpc;
pub mod metrics;
pub mod prefix;
pub mod queue;
pub mod reshard;
pub mod session;
pub mod transport;
pub mod watch;
