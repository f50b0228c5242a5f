//! What tests do at a store that is no business of the engine's: set buckets up, lock objects, and try what nobody's worker should be able to do.

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Builder, Credentials, Region, retry::RetryConfig},
    error::ProvideErrorMetadata,
    primitives::{ByteStream, DateTime},
    types::{
        BucketVersioningStatus, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold,
        ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode,
        VersioningConfiguration,
    },
};

/// Somebody with an access key.
#[derive(Debug, Clone)]
pub(crate) struct Admin(pub(super) Client);

/// What is put with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    None,
    Retention,
    Hold,
}

impl Admin {
    pub(crate) fn new(endpoint: &str, id: &str, secret: &str) -> Self {
        let config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region(Region::new("us-east-1"))
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .credentials_provider(Credentials::new(id, secret, None, None, "test"))
            .build();
        Self(Client::from_conf(config))
    }

    /// Lets objects of a bucket with versions be locked.
    pub(crate) async fn enable_lock(&self, bucket: &str) {
        let enabled =
            ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).build();
        let request =
            self.0.put_object_lock_configuration().bucket(bucket).object_lock_configuration(enabled);
        request.send().await.expect("locks");
    }

    /// Puts an object with a tag; its version, where it has one.
    pub(crate) async fn put(
        &self,
        (bucket, key): (&str, &str),
        bytes: Vec<u8>,
        lock: Lock,
    ) -> Option<String> {
        let request = self.0.put_object().bucket(bucket).key(key).body(bytes.into()).tagging("class=a");
        let request = match lock {
            Lock::None => request,
            Lock::Retention => request
                .object_lock_mode(ObjectLockMode::Governance)
                .object_lock_retain_until_date(DateTime::from_secs(4_000_000_000)),
            Lock::Hold => request.object_lock_legal_hold_status(ObjectLockLegalHoldStatus::On),
        };
        request.send().await.expect("put").version_id
    }

    /// Puts an object where there is none; the error code that came of it.
    pub(crate) async fn create(&self, bucket: &str, key: &str) -> Option<String> {
        let request = self.0.put_object().bucket(bucket).key(key).body(ByteStream::from_static(b"x"));
        code(request.if_none_match("*").send().await)
    }

    /// Sets a bucket's policy.
    pub(crate) async fn set_policy(&self, bucket: &str, policy: &str) {
        self.0.put_bucket_policy().bucket(bucket).policy(policy).send().await.expect("policy");
    }

    /// Uploads in progress.
    pub(crate) async fn open_uploads(&self, bucket: &str) -> usize {
        self.0.list_multipart_uploads().bucket(bucket).send().await.expect("uploads").uploads().len()
    }

    /// Aborts all uploads in progress.
    pub(crate) async fn abort_uploads(&self, bucket: &str) {
        let listed = self.0.list_multipart_uploads().bucket(bucket).send().await.expect("uploads");
        for upload in listed.uploads() {
            let (key, id) = (upload.key().expect("key"), upload.upload_id().expect("id"));
            let request = self.0.abort_multipart_upload().bucket(bucket).key(key).upload_id(id);
            request.send().await.expect("aborted");
        }
    }

    /// Tries what would harm copies; the error codes that came of it. `None` is a harm that was done.
    pub(crate) async fn harm(
        &self,
        bucket: &str,
        key: &str,
        version: &str,
    ) -> Vec<(&'static str, Option<String>)> {
        let client = &self.0;
        let suspended = VersioningConfiguration::builder().status(BucketVersioningStatus::Suspended).build();
        let locks =
            ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).build();
        let sooner = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Governance)
            .retain_until_date(DateTime::from_secs(1_900_000_000))
            .build();
        let off = ObjectLockLegalHold::builder().status(ObjectLockLegalHoldStatus::Off).build();
        let bypass = client.put_object_retention().bucket(bucket).key(key).bypass_governance_retention(true);
        let versioning = client.put_bucket_versioning().bucket(bucket).versioning_configuration(suspended);
        let locking = client.put_object_lock_configuration().bucket(bucket).object_lock_configuration(locks);
        let hold = client.put_object_legal_hold().bucket(bucket).key(key).legal_hold(off);
        let overwrite = client.put_object().bucket(bucket).key(key).body(ByteStream::from_static(b"x"));
        vec![
            ("DeleteObject", code(client.delete_object().bucket(bucket).key(key).send().await)),
            (
                "DeleteObject of a version",
                code(client.delete_object().bucket(bucket).key(key).version_id(version).send().await),
            ),
            ("PutObject without a condition", code(overwrite.send().await)),
            ("PutObjectRetention past the retention", code(bypass.retention(sooner).send().await)),
            ("PutObjectLegalHold", code(hold.send().await)),
            ("PutBucketVersioning", code(versioning.send().await)),
            ("PutObjectLockConfiguration", code(locking.send().await)),
            ("PutBucketPolicy", code(client.put_bucket_policy().bucket(bucket).policy("{}").send().await)),
            ("DeleteBucketPolicy", code(client.delete_bucket_policy().bucket(bucket).send().await)),
            ("DeleteBucket", code(client.delete_bucket().bucket(bucket).send().await)),
        ]
    }
}

fn code<T, E: ProvideErrorMetadata>(answer: Result<T, E>) -> Option<String> {
    answer.err().map(|error| error.code().unwrap_or_default().to_owned())
}
