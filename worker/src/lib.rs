//! The worker: takes tasks from a dispatcher, copies objects from an origin to the backup bucket, and proves every copy.

pub mod app;
pub mod config;
pub mod link;
pub mod runner;
pub mod transfer;
