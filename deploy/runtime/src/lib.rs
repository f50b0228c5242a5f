//! What every Backhaul program needs to be run, and none of what it does: the locations file, telemetry, shutdown.
//!
//! It exists so that dispatcher, worker and command line read one configuration in one way. It must know neither protobuf, nor
//! Redis, nor S3.

pub mod locations;
