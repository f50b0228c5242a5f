//! What end-to-end tests are made of: real servers, the programs of this repository as child processes, and clients for both.
//!
//! [`TestEnv`] is a whole Backhaul with its Redis and its stores; the other modules are its parts, each usable alone. Everything
//! that a test starts ends with the test, whatever the test ends in, and says what it logged when the test fails. This package
//! must not reach into the services: a scenario sees what their callers see.

pub mod certificates;
pub mod collector;
pub mod env;
pub mod eventually;
pub mod garage;
pub mod gate;
pub mod locations;
pub mod moto;
pub mod ops;
pub mod ports;
pub mod process;
pub mod programs;
pub mod redis;
pub mod s3;
pub mod settings;
pub mod store;
pub mod synthetic;
pub mod weed;

pub use env::TestEnv;
pub use eventually::eventually;
