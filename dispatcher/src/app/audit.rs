//! The dispatcher's audit log: opened before anything is done that would be recorded, and ended when all else has.

use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::{
    audit::{Audit, AuditWriter},
    config::Config,
};

/// Where to record, and who writes it.
#[derive(Debug, Default)]
pub(super) struct Auditing {
    pub(super) audit: Audit,
    writer: Option<AuditWriter>,
}

impl Auditing {
    /// Opens the log, if there is to be one.
    ///
    /// # Errors
    /// [`AppError::Audit`].
    pub(super) async fn open(config: &Config) -> Result<Self, AppError> {
        let Some(settings) = config.audit.clone() else { return Ok(Self::default()) };
        let open = move || AuditWriter::open(&settings);
        let (audit, writer) = tokio::task::spawn_blocking(open).await.map_err(AppError::Panicked)??;
        Ok(Self { audit, writer: Some(writer) })
    }

    /// Writes until `end`; only waits where there is no log.
    ///
    /// # Errors
    /// [`AppError::Panicked`].
    pub(super) async fn run(self, end: CancellationToken) -> Result<(), AppError> {
        match self.writer {
            Some(writer) => writer.run(end).await.map_err(AppError::Panicked),
            None => {
                end.cancelled().await;
                Ok(())
            }
        }
    }
}
