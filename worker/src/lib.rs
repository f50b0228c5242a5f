//! The worker as a library, for its program, for the all-in-one program and for tests. Its map is the README:
#![doc = include_str!("../README.md")]

pub mod app;
pub mod config;
pub mod link;
pub mod lister;
pub mod metrics;
pub mod probe;
pub mod runner;
pub mod store;
pub mod transfer;
