//! The calls about prefixes.

use backhaul_proto::v1::{self, prefix_service_client::PrefixServiceClient};

use super::{Client, ClientError, Transport};

impl Client {
    /// Asks for the backup of a prefix.
    pub(crate) async fn submit_prefix(
        &self,
        request: &v1::SubmitPrefixBackupRequest,
    ) -> Result<v1::PrefixBackup, ClientError> {
        self.repeat(&self.prefixes, |mut service: PrefixServiceClient<Transport>| {
            let request = request.clone();
            async move { service.submit_prefix_backup(request).await }
        })
        .await
    }

    /// Reads one.
    pub(crate) async fn get_prefix(&self, id: &str) -> Result<v1::PrefixBackup, ClientError> {
        self.repeat(&self.prefixes, |mut service: PrefixServiceClient<Transport>| {
            let prefix_backup_id = id.to_owned();
            async move { service.get_prefix_backup(v1::GetPrefixBackupRequest { prefix_backup_id }).await }
        })
        .await
    }

    /// Reads those of the tenant.
    pub(crate) async fn list_prefixes(
        &self,
        only_unfinished: bool,
    ) -> Result<v1::ListPrefixBackupsResponse, ClientError> {
        self.repeat(&self.prefixes, |mut service: PrefixServiceClient<Transport>| async move {
            service.list_prefix_backups(v1::ListPrefixBackupsRequest { only_unfinished }).await
        })
        .await
    }

    /// Pauses one.
    pub(crate) async fn pause_prefix(&self, id: &str) -> Result<v1::PrefixBackup, ClientError> {
        self.repeat(&self.prefixes, |mut service: PrefixServiceClient<Transport>| {
            let prefix_backup_id = id.to_owned();
            async move { service.pause_prefix_backup(v1::PausePrefixBackupRequest { prefix_backup_id }).await }
        })
        .await
    }

    /// Resumes one.
    pub(crate) async fn resume_prefix(&self, id: &str) -> Result<v1::PrefixBackup, ClientError> {
        self.repeat(&self.prefixes, |mut service: PrefixServiceClient<Transport>| {
            let prefix_backup_id = id.to_owned();
            async move { service.resume_prefix_backup(v1::ResumePrefixBackupRequest { prefix_backup_id }).await }
        })
        .await
    }

    /// Cancels one.
    pub(crate) async fn cancel_prefix(&self, id: &str) -> Result<v1::PrefixBackup, ClientError> {
        self.repeat(&self.prefixes, |mut service: PrefixServiceClient<Transport>| {
            let prefix_backup_id = id.to_owned();
            async move { service.cancel_prefix_backup(v1::CancelPrefixBackupRequest { prefix_backup_id }).await }
        })
        .await
    }

    /// Reads a page of what could not be backed up.
    pub(crate) async fn prefix_failures(
        &self,
        id: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<v1::ListPrefixBackupFailuresResponse, ClientError> {
        self.repeat(&self.prefixes, |mut service: PrefixServiceClient<Transport>| {
            let request = v1::ListPrefixBackupFailuresRequest {
                prefix_backup_id: id.to_owned(),
                page_size,
                page_token: page_token.to_owned(),
            };
            async move { service.list_prefix_backup_failures(request).await }
        })
        .await
    }
}
