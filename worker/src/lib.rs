#![doc = include_str!("../README.md")]

pub mod app;
pub mod config;
pub mod link;
pub mod runner;
pub mod store;
pub mod transfer;
