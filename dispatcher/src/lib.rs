//! The dispatcher: accepts backups, keeps them in three Redis queues and streams due tasks to workers.
#![doc = include_str!("../README.md")]

pub mod app;
pub mod audit;
mod census;
pub mod config;
pub mod dispatch;
pub mod events;
pub mod fsck;
#[cfg(any(test, feature = "test-util"))]
pub mod fuzzing;
pub mod grpc;
mod https;
pub mod metrics;
pub mod prefix;
pub mod queue;
pub mod reshard;
pub mod rules;
pub mod schedule;
pub mod session;
pub mod transport;
pub mod watch;
