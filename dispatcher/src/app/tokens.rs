//! How peers are known, and what has to run for that: the keys of token issuers are read again by a task for each.

use std::{path::Path, sync::Arc};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::{
    config::Config,
    grpc::{
        identity::{Certified, ConfiguredTenant, Identify},
        tokens::{
            CertificateOrToken,
            issuers::{Issuers, KeyKeeper},
        },
    },
    metrics::Metrics,
};

/// The issuers whose tokens are taken.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    issuers: Option<Arc<Issuers>>,
    keepers: Vec<KeyKeeper>,
}

impl Tokens {
    /// Reads the file of issuers, if there is one.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, AppError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let (issuers, keepers) = Issuers::load(path)?;
        Ok(Self { issuers: Some(Arc::new(issuers)), keepers })
    }

    /// Whose tokens are taken, if anybody's.
    pub(super) fn issuers(&self) -> Option<Arc<Issuers>> {
        self.issuers.clone()
    }

    /// How peers are known.
    pub(super) fn identify(&self, config: &Config, metrics: &Arc<Metrics>) -> Arc<dyn Identify> {
        match (&config.tls, &self.issuers) {
            (None, _) => Arc::new(ConfiguredTenant::new(config.caller.clone())),
            (Some(_), None) => Arc::new(Certified::new(Arc::clone(&config.roles))),
            (Some(_), Some(issuers)) => Arc::new(CertificateOrToken::new(
                Certified::new(Arc::clone(&config.roles)),
                Arc::clone(issuers),
                Arc::clone(metrics),
            )),
        }
    }

    /// Keeps keys current until `end`.
    ///
    /// # Errors
    /// [`AppError::Panicked`].
    pub(super) async fn run(self, end: CancellationToken) -> Result<(), AppError> {
        let mut keepers = JoinSet::new();
        for keeper in self.keepers {
            keepers.spawn(keeper.run(end.clone()));
        }
        end.cancelled().await;
        while let Some(ended) = keepers.join_next().await {
            ended.map_err(AppError::Panicked)?;
        }
        Ok(())
    }
}
