//! What every Backhaul program needs to be run, and none of what it does: the locations file, units of settings, telemetry,
//! metrics, a log that cannot be changed unseen, ports for HTTP, shutdown, and the frame of a program around them.
//!
//! It exists so that dispatcher, worker and command line read one configuration in one way and stop in one way. It must know
//! neither protobuf, nor Redis, nor S3.

pub mod address;
pub mod audit;
pub mod build;
pub mod descriptors;
pub mod http_port;
pub mod locations;
pub mod metrics;
pub mod ops;
pub mod program;
pub mod settings_file;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod units;

/// Exit code of a program whose settings are wrong (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
