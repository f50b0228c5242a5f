//! End-to-end scenarios: real Redis, real stores, and the programs as they are shipped, each in a process of its own.
//!
//! A scenario says what a caller relies on and checks it from outside: through the calls, in the backup store, in the origin. It
//! waits for states, never for times, and ends with `finish`, which also asks every program to end cleanly. What can be shown
//! with one part alone is tested beside that part.

mod audit;
mod bad_input;
mod cancelling;
mod cluster;
mod command_line;
mod crashes;
mod draining;
mod duplicates;
mod events;
mod events_from_queues;
mod failover;
mod http2_abuse;
mod integrity;
mod journey;
mod operating;
mod outages;
mod prefixes;
mod queue_stats;
mod redis_versions;
mod redrives;
mod retention;
mod retries;
mod rolling;
mod rules;
mod schedule;
mod secrets;
mod security;
mod stores_away;
mod stream_loss;
mod stream_pressure;
mod tokens;
mod watching;
mod worker_stream;
