//! Settings of events: where they come in, and how that is secured.

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgAction, Args, builder::BoolishValueParser};

use super::Problems;

/// Flags about events.
#[derive(Debug, Clone, Args)]
pub struct EventFlags {
    /// Address for events of origins: `POST /events/NAME`, over TLS with `--events-tls-cert`. Nothing is served there unless it is given.
    #[arg(long, env = "BACKHAUL_EVENTS_LISTEN", value_name = "ADDR", requires = "event_sources")]
    pub events_listen: Option<SocketAddr>,
    /// Event sources file: who may tell of uploads to which buckets, how their events get here, and how they prove who they are.
    #[arg(long, env = "BACKHAUL_EVENT_SOURCES", value_name = "FILE")]
    pub event_sources: Option<PathBuf>,
    /// Certificate of the port for events and its chain, PEM, for the name that origins post to; they need none. Read again when it changes.
    #[arg(long, env = "BACKHAUL_EVENTS_TLS_CERT", value_name = "FILE", requires = "events_tls_key")]
    pub events_tls_cert: Option<PathBuf>,
    /// Private key of `--events-tls-cert`, PEM. Read again when it changes.
    #[arg(long, env = "BACKHAUL_EVENTS_TLS_KEY", value_name = "FILE", requires = "events_tls_cert")]
    pub events_tls_key: Option<PathBuf>,
    /// Take tokens of event sources in plaintext: where something in front ends TLS, or a mesh does. `--insecure` does that too.
    #[arg(
        long,
        env = "BACKHAUL_EVENTS_INSECURE",
        value_name = "BOOL",
        value_parser = BoolishValueParser::new(),
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = false
    )]
    pub events_insecure: bool,
}

impl EventFlags {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.require(
            !self.events_insecure || self.events_tls_cert.is_none(),
            "--events-insecure",
            "contradicts --events-tls-cert",
        );
    }

    /// Certificate and key, where both are given.
    pub(super) fn certificate(&self) -> Option<(PathBuf, PathBuf)> {
        self.events_tls_cert.clone().zip(self.events_tls_key.clone())
    }
}
