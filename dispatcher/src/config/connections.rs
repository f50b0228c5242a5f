//! Settings of connections and streams: how many, from whom, and for how long.

use std::time::Duration;

use backhaul_runtime::units::parse_duration;
use clap::Args;

use super::Problems;
use crate::transport::ConnectionLimits;

/// Bounds on who may be connected.
#[derive(Debug, Clone, Args)]
pub struct ConnectionFlags {
    /// Most connections at a time; more are closed at once. Also bounded by the descriptors that the system gives the process.
    #[arg(long, env = "BACKHAUL_MAX_CONNECTIONS", default_value_t = 4096, value_name = "COUNT")]
    pub max_connections: u32,
    /// Most connections from one address, or from one IPv6 network of 64 bits; more are closed at once. Callers behind one proxy
    /// share it.
    #[arg(long, env = "BACKHAUL_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 1024, value_name = "COUNT")]
    pub max_connections_per_address: u32,
    /// Most handshakes in progress; more wait, within `--handshake-within`.
    #[arg(long, env = "BACKHAUL_MAX_HANDSHAKES", default_value_t = 128, value_name = "COUNT")]
    pub max_handshakes: u32,
    /// How soon a peer that has connected must have shown that it speaks the protocol.
    #[arg(long, env = "BACKHAUL_HANDSHAKE_WITHIN", default_value = "5s", value_name = "TIME", value_parser = parse_duration)]
    pub handshake_within: Duration,
    /// How long a connection may stay open without a call.
    #[arg(long, env = "BACKHAUL_IDLE_WITHIN", default_value = "5m", value_name = "TIME", value_parser = parse_duration)]
    pub idle_within: Duration,
    /// Most workers connected at a time; more are refused with RESOURCE_EXHAUSTED.
    #[arg(long, env = "BACKHAUL_MAX_STREAMS", default_value_t = 1000, value_name = "COUNT")]
    pub max_streams: u32,
    /// Most workers connected from one address, or from one IPv6 network of 64 bits; more are refused with RESOURCE_EXHAUSTED.
    #[arg(long, env = "BACKHAUL_MAX_STREAMS_PER_ADDRESS", default_value_t = 256, value_name = "COUNT")]
    pub max_streams_per_address: u32,
    /// How soon a worker that has opened a stream must introduce itself.
    #[arg(long, env = "BACKHAUL_HELLO_WITHIN", default_value = "5s", value_name = "TIME", value_parser = parse_duration)]
    pub hello_within: Duration,
    /// Age at which a worker is asked to connect anew, give or take a tenth, so that workers spread over dispatchers that were
    /// added; its copies go on. 0s for never.
    #[arg(long, env = "BACKHAUL_MAX_STREAM_AGE", default_value = "30m", value_name = "TIME", value_parser = parse_duration)]
    pub max_stream_age: Duration,
}

impl ConnectionFlags {
    pub(super) fn check(&self, problems: &mut Problems) {
        for (setting, count) in [
            ("--max-connections", self.max_connections),
            ("--max-connections-per-address", self.max_connections_per_address),
            ("--max-handshakes", self.max_handshakes),
            ("--max-streams", self.max_streams),
            ("--max-streams-per-address", self.max_streams_per_address),
        ] {
            problems.require(count > 0, setting, "must be at least 1");
        }
        for (setting, time) in [
            ("--handshake-within", self.handshake_within),
            ("--idle-within", self.idle_within),
            ("--hello-within", self.hello_within),
        ] {
            problems.require(super::is_wait(time), setting, "must be 1ms to 1h");
        }
        /// A worker that moves more often is busy with moving.
        const YOUNGEST: Duration = Duration::from_secs(1);
        const OLDEST: Duration = Duration::from_secs(30 * 24 * 3600);
        problems.require(
            self.max_stream_age.is_zero() || (YOUNGEST..=OLDEST).contains(&self.max_stream_age),
            "--max-stream-age",
            "must be 1s to 30d, or 0s for never",
        );
    }

    pub(super) fn limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            max_connections: self.max_connections as usize,
            max_connections_per_address: self.max_connections_per_address as usize,
            max_handshakes: self.max_handshakes as usize,
            handshake_within: self.handshake_within,
            idle_within: self.idle_within,
            ..ConnectionLimits::default()
        }
    }
}
