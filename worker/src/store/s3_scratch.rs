//! A corner of a bucket that a probe may fill and must leave as it found it.
//!
//! Here is the only code of Backhaul that deletes objects. It is not part of [`ObjectStore`](super::ObjectStore), which is all that the engine
//! has; it deletes one exact key and version at a time, and only below a root of its own, which holds 128 random bits: nobody else has
//! ever written there.

use std::fmt;

use aws_sdk_s3::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata as _},
    types::{BucketVersioningStatus, ObjectLockEnabled},
};

use super::S3Store;

/// An account that nobody has.
const NOBODY: &str = "000000000001";

/// Keys of one probe, made by nobody else.
#[derive(Clone)]
pub struct ScratchArea {
    client: Client,
    bucket: String,
    owner: Option<String>,
    root: String,
}

/// What a store refused.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct ScratchError {
    /// The name that S3 gives the request.
    pub operation: &'static str,
    /// What the store said.
    pub message: String,
}

impl ScratchArea {
    /// An area of a bucket, below `folder`, which ends with a slash or is empty.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(store: &S3Store, bucket: &str, folder: &str) -> Result<Self, getrandom::Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let root = format!("{folder}{}/", hex::encode(random));
        let (client, owner) = (store.client().clone(), store.owner(bucket));
        Ok(Self { client, bucket: bucket.to_owned(), owner, root })
    }

    /// What every key of it begins with.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Its keys that begin with `name`, in the order in which the store lists them; at most 1,000.
    ///
    /// # Errors
    /// [`ScratchError`].
    pub async fn list(&self, name: &str) -> Result<Vec<String>, ScratchError> {
        let prefix = format!("{}{name}", self.root);
        let page = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.owner.clone())
            .prefix(prefix)
            .send()
            .await;
        let page = page.map_err(|e| refused("ListObjectsV2", &e))?;
        Ok(page.contents().iter().filter_map(|o| o.key().map(ToOwned::to_owned)).collect())
    }

    /// Whether the bucket keeps versions.
    ///
    /// # Errors
    /// [`ScratchError`].
    pub async fn keeps_versions(&self) -> Result<bool, ScratchError> {
        let answer = self
            .client
            .get_bucket_versioning()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.owner.clone())
            .send()
            .await;
        let answer = answer.map_err(|e| refused("GetBucketVersioning", &e))?;
        Ok(answer.status() == Some(&BucketVersioningStatus::Enabled))
    }

    /// Whether a request about one of its objects is refused that says that the bucket belongs to somebody else.
    ///
    /// # Errors
    /// [`ScratchError`].
    pub async fn refuses_other_owners(&self, name: &str) -> Result<bool, ScratchError> {
        let key = format!("{}{name}", self.root);
        let request = self.client.head_object().bucket(&self.bucket).expected_bucket_owner(NOBODY);
        match request.key(key).send().await {
            Ok(_) => Ok(false),
            Err(error) if error.raw_response().is_some_and(|r| r.status().as_u16() == 403) => Ok(true),
            Err(error) => Err(refused("HeadObject", &error)),
        }
    }

    /// Whether objects of the bucket can be locked.
    ///
    /// # Errors
    /// [`ScratchError`].
    pub async fn can_lock(&self) -> Result<bool, ScratchError> {
        match self
            .client
            .get_object_lock_configuration()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.owner.clone())
            .send()
            .await
        {
            Ok(answer) => {
                let enabled = answer.object_lock_configuration().and_then(|c| c.object_lock_enabled());
                Ok(enabled == Some(&ObjectLockEnabled::Enabled))
            }
            // Without locks, and without knowing of any.
            Err(error)
                if matches!(
                    error.code(),
                    Some("ObjectLockConfigurationNotFoundError" | "NotImplemented")
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(refused("GetObjectLockConfiguration", &error)),
        }
    }

    /// Deletes everything in it; what is left, because the store or the credentials do not allow it.
    ///
    /// # Errors
    /// [`ScratchError`] when it cannot be listed.
    pub async fn remove_all(&self) -> Result<Vec<String>, ScratchError> {
        let mut left = Vec::new();
        for (key, version) in self.everything().await? {
            let request = self
                .client
                .delete_object()
                .bucket(&self.bucket)
                .set_expected_bucket_owner(self.owner.clone())
                .key(&key)
                .set_version_id(version);
            if request.send().await.is_err() {
                left.push(key);
            }
        }
        Ok(left)
    }

    /// All keys and versions; without versions where the store does not know them.
    async fn everything(&self) -> Result<Vec<(String, Option<String>)>, ScratchError> {
        let answer = self
            .client
            .list_object_versions()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.owner.clone())
            .prefix(&self.root)
            .send()
            .await;
        let mut found: Vec<(String, Option<String>)> = match answer {
            Ok(page) => {
                let versions = page.versions().iter().map(|v| (v.key(), v.version_id()));
                let markers = page.delete_markers().iter().map(|m| (m.key(), m.version_id()));
                let all = versions.chain(markers);
                all.filter_map(|(k, v)| Some((k?.to_owned(), v.map(str::to_owned)))).collect()
            }
            Err(_) => self.list("").await?.into_iter().map(|key| (key, None)).collect(),
        };
        // Whatever a store sends for a prefix: nothing outside is touched.
        found.retain(|(key, _)| key.starts_with(&self.root));
        Ok(found)
    }
}

impl fmt::Debug for ScratchArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScratchArea").field("bucket", &self.bucket).field("root", &self.root).finish()
    }
}

fn refused(operation: &'static str, error: &(dyn std::error::Error + 'static)) -> ScratchError {
    let message = DisplayErrorContext(error).to_string();
    ScratchError { operation, message: message.chars().filter(|c| !c.is_control()).take(300).collect() }
}
