//! The harness on trial: what scenarios take for granted about the servers that they start.

mod programs;
mod redis_server;
mod stores;
mod weed_server;
