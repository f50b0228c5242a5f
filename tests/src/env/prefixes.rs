//! Backups of prefixes, as a service that uses Backhaul would ask for them.

use anyhow::{Context as _, bail, ensure};
use backhaul_proto::v1::{
    self as pb, PrefixBackupState as State, prefix_service_client::PrefixServiceClient,
};
use tonic::transport::Channel;

use super::TestEnv;
use crate::{
    eventually::eventually,
    locations::{ORIGIN, ORIGIN_BUCKET},
};

impl TestEnv {
    /// A client of the service.
    ///
    /// # Errors
    /// When the URL is not one.
    pub fn prefixes(&self) -> anyhow::Result<PrefixServiceClient<Channel>> {
        Ok(PrefixServiceClient::new(self.channel()?))
    }

    /// Asks for the backup of a prefix; gives its id.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn submit_prefix(&self, request: pb::SubmitPrefixBackupRequest) -> anyhow::Result<String> {
        Ok(self.prefixes()?.submit_prefix_backup(request).await?.into_inner().prefix_backup_id)
    }

    /// A prefix backup as callers see it, and its counts.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn prefix(&self, id: &str) -> anyhow::Result<(pb::PrefixBackup, pb::PrefixBackupCounts)> {
        let request = pb::GetPrefixBackupRequest { prefix_backup_id: id.to_owned() };
        let shown = self.prefixes()?.get_prefix_backup(request).await?.into_inner();
        let counts = shown.counts.context("counts are always there")?;
        Ok((shown, counts))
    }

    /// Waits until a prefix backup is as wanted, and fails at once when it has finished otherwise.
    ///
    /// # Errors
    /// When it finishes otherwise, or does not get there.
    pub async fn until_prefix(
        &self,
        id: &str,
        what: &str,
        wanted: impl Fn(&pb::PrefixBackup, &pb::PrefixBackupCounts) -> bool,
    ) -> anyhow::Result<(pb::PrefixBackup, pb::PrefixBackupCounts)> {
        // As long as something moves there is new patience.
        let mut seen = None;
        loop {
            let (shown, counts) = eventually(what, async || {
                let (shown, counts) = self.prefix(id).await?;
                let is_over = matches!(shown.state(), State::Done | State::Failed | State::Cancelled);
                ensure!(is_over || wanted(&shown, &counts) || seen != Some(counts), "it is {shown:?}");
                Ok((shown, counts))
            })
            .await?;
            if wanted(&shown, &counts) {
                return Ok((shown, counts));
            }
            if matches!(shown.state(), State::Done | State::Failed | State::Cancelled) {
                bail!("{what}: it has finished as {shown:?}");
            }
            seen = Some(counts);
        }
    }
}

/// The current versions of everything below a prefix of the origin's bucket.
#[must_use]
pub fn prefix(request_id: &str, prefix: &str) -> pb::SubmitPrefixBackupRequest {
    pb::SubmitPrefixBackupRequest {
        request_id: request_id.to_owned(),
        prefix: Some(pb::PrefixRef {
            location: ORIGIN.to_owned(),
            bucket: ORIGIN_BUCKET.to_owned(),
            prefix: prefix.to_owned(),
        }),
        ..pb::SubmitPrefixBackupRequest::default()
    }
}
