//! What nearly every scenario calls, as a service that uses Backhaul would, and how it proves a copy.

use anyhow::{Context as _, anyhow, bail, ensure};
use backhaul_proto::v1 as pb;

use super::TestEnv;
use crate::{
    eventually::eventually,
    locations::{ORIGIN, ORIGIN_BUCKET, VAULT, VAULT_BUCKET, VAULT_PREFIX},
    s3::Written,
};

impl TestEnv {
    /// Submits the latest version of an object of the origin's bucket.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn submit(&self, key: &str) -> anyhow::Result<pb::SubmitBackupResponse> {
        self.submit_with(object(key), pb::SubmitOptions::default()).await
    }

    /// Submits any object in any way.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn submit_with(
        &self,
        object: pb::ObjectRef,
        options: pb::SubmitOptions,
    ) -> anyhow::Result<pb::SubmitBackupResponse> {
        let request = pb::SubmitBackupRequest { object: Some(object), options: Some(options) };
        Ok(self.backups()?.submit_backup(request).await?.into_inner())
    }

    /// Cancels a task; gives it as it is then.
    ///
    /// # Errors
    /// When it cannot be cancelled.
    pub async fn cancel(&self, task_id: &str) -> anyhow::Result<pb::Backup> {
        let request = pb::CancelBackupRequest { task_id: task_id.to_owned() };
        self.backups()?.cancel_backup(request).await?.into_inner().backup.context("the answer has no task")
    }

    /// Tasks of the tenant in these states, all when empty; at most 1,000.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn list(&self, states: &[pb::TaskState]) -> anyhow::Result<Vec<pb::Backup>> {
        let states = states.iter().map(|state| i32::from(*state)).collect();
        let request = pb::ListBackupsRequest { states, page_size: 1000, ..Default::default() };
        Ok(self.backups()?.list_backups(request).await?.into_inner().backups)
    }

    /// A task as callers see it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn task(&self, task_id: &str) -> anyhow::Result<pb::Backup> {
        let request = pb::GetBackupRequest { task_id: task_id.to_owned() };
        Ok(self.backups()?.get_backup(request).await?.into_inner())
    }

    /// Waits until a task is in `state`, and fails at once when it has ended in another one.
    ///
    /// # Errors
    /// When the task ends otherwise, or does not get there.
    pub async fn until(&self, task_id: &str, state: pb::TaskState) -> anyhow::Result<pb::Backup> {
        use pb::TaskState::{Cancelled, Dead, Done};
        let what = format!("task {task_id} is {}", state.as_str_name());
        eventually(&what, async || {
            let task = self.task(task_id).await?;
            if task.state() == state {
                return Ok(Ok(task));
            }
            let told = format!(
                "{} because {:?}, last failure {:?}",
                task.state().as_str_name(),
                task.reason(),
                task.last_failure
            );
            if [Done, Dead, Cancelled].contains(&task.state()) {
                return Ok(Err(anyhow!("it ended {told}")));
            }
            bail!("it is {told}")
        })
        .await?
        .with_context(|| what.clone())
    }

    /// Keys of all that is kept in the backup bucket, sorted, without what workers tried out at their start.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn kept(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = self.copies().keys(VAULT_BUCKET, "").await?;
        keys.retain(|key| !key.starts_with(&format!("{VAULT_PREFIX}/.backhaul/")));
        Ok(keys)
    }

    /// Proves that a done task's copy is where its receipt says and is what was written, byte for byte. Gives the receipt.
    ///
    /// # Errors
    /// When anything differs.
    pub async fn prove(&self, task: &pb::Backup, written: &Written) -> anyhow::Result<pb::Receipt> {
        let receipt = task.receipt.clone().context("a done task has a receipt")?;
        let source = receipt.source.as_ref().context("a receipt names the version that was read")?;
        let copy = receipt.backup.as_ref().context("a receipt names the copy")?;
        ensure!(source.etag == written.etag, "it read {}, not {}", source.etag, written.etag);
        ensure!(receipt.size_bytes == written.size_bytes, "it counted {} bytes", receipt.size_bytes);
        ensure!(
            (copy.location.as_str(), copy.bucket.as_str()) == (VAULT, VAULT_BUCKET),
            "it is in {}/{}",
            copy.location,
            copy.bucket
        );
        let object = task.object.as_ref().context("a task names its object")?;
        // Keys that some stores would mangle are written with escapes; all others can be read as they are.
        let key = if is_plain(&object.key) { format!("{}~", object.key) } else { String::new() };
        let place = format!("{VAULT_PREFIX}/{}/{}/{key}", object.location, object.bucket);
        ensure!(copy.key.starts_with(&place), "{} is not where a person would look", copy.key);
        let sha256 = self.copies().sha256(&copy.bucket, &copy.key).await?;
        ensure!(sha256 == written.sha256, "{} differs from what was written", copy.key);
        Ok(receipt)
    }
}

/// True for keys that every store keeps as they are.
fn is_plain(key: &str) -> bool {
    let odd = |segment: &str| {
        ["", ".", ".."].contains(&segment) || segment.contains(['!', '\\']) || segment.len() > 200
    };
    !key.split('/').any(odd) && !key.chars().any(char::is_control) && key.len() <= 512
}

/// The latest version of an object of the origin's bucket.
#[must_use]
pub fn object(key: &str) -> pb::ObjectRef {
    pb::ObjectRef {
        location: ORIGIN.to_owned(),
        bucket: ORIGIN_BUCKET.to_owned(),
        key: key.to_owned(),
        version: String::new(),
    }
}
