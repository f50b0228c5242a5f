//! Why a dispatcher could not be started, or ended by itself.
//!
//! It exists so that `main` tells a mistake in the settings from everything else. It must not decide what is done about it.

use std::{io, net::SocketAddr, path::PathBuf};

use backhaul_runtime::{settings_file::FileError, tls::TlsError};
use tokio::task::JoinError;

use crate::{audit::AuditError, dispatch::DispatchError, queue::redis::ConnectError};

/// Why a dispatcher could not be started, or ended other than by being stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A file of settings is wrong: locations, event sources, token issuers or rules. Nothing was started.
    #[error("{0}")]
    File(#[from] FileError),
    /// Certificate, key or bundle cannot be used. Nothing was started.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The audit log cannot be written. Nothing was started.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Tokens of event sources would come in plaintext. Nothing was started.
    #[error("--events-tls-cert: is needed, unless --events-insecure says that tokens may come in plaintext")]
    PlainTokens,
    /// What event sources need cannot be set up. Nothing was started.
    #[error("event sources cannot be set up")]
    Events(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The queue cannot be used as configured. Nothing was started.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The address cannot be served on. Nothing was started.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The address file cannot be written.
    #[error("cannot write the address file {}", path.display())]
    AddressFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The contract's own description cannot be served.
    #[error("reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Tasks do not move any more. What is accepted is safe in the queue.
    #[error("dispatching failed")]
    Dispatch(#[from] DispatchError),
    /// A part ended that runs until it is asked to end.
    #[error("{0} ended by itself")]
    Ended(&'static str),
    /// A part panicked.
    #[error("a part of the dispatcher panicked")]
    Panicked(#[source] JoinError),
}
