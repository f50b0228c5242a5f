//! How peers are known, and what has to run for that: the file of token issuers is followed, and their keys are read again.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::{
    config::Config,
    grpc::{
        identity::{Certified, ConfiguredTenant, Identify},
        tokens::{
            CertificateOrToken,
            follow::{Follower, LiveIssuers},
        },
    },
    metrics::Metrics,
};

/// How often to look at the file of issuers, at most; more often where that of certificates is looked at more often.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);

/// The issuers whose tokens are taken.
#[derive(Debug, Default)]
pub(super) struct Tokens(Option<(Follower, LiveIssuers)>);

impl Tokens {
    /// Reads the file of issuers, if there is one.
    pub(super) fn load(path: Option<PathBuf>) -> Result<Self, AppError> {
        Ok(Self(path.map(Follower::open).transpose()?))
    }

    /// Whose tokens are taken, if anybody's.
    pub(super) fn issuers(&self) -> Option<LiveIssuers> {
        self.0.as_ref().map(|(_, issuers)| issuers.clone())
    }

    /// Whether the newest file is not in force.
    pub(super) fn refused(&self) -> Arc<AtomicBool> {
        self.0.as_ref().map(|(follower, _)| follower.refused()).unwrap_or_default()
    }

    /// How peers are known.
    pub(super) fn identify(&self, config: &Config, metrics: &Arc<Metrics>) -> Arc<dyn Identify> {
        match (&config.tls, self.issuers()) {
            (None, _) => Arc::new(ConfiguredTenant::new(config.caller.clone())),
            (Some(_), None) => Arc::new(Certified::new(Arc::clone(&config.roles))),
            (Some(_), Some(issuers)) => Arc::new(CertificateOrToken::new(
                Certified::new(Arc::clone(&config.roles)),
                issuers,
                Arc::clone(metrics),
            )),
        }
    }

    /// Follows the file, and keeps keys current, until `end`.
    ///
    /// # Errors
    /// [`AppError::Panicked`].
    pub(super) async fn run(
        self,
        certificates_every: Duration,
        end: CancellationToken,
    ) -> Result<(), AppError> {
        match self.0 {
            Some((follower, _)) => {
                follower.run(FOLLOW_EVERY.min(certificates_every), end).await.map_err(AppError::Panicked)
            }
            None => {
                end.cancelled().await;
                Ok(())
            }
        }
    }
}
