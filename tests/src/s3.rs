//! An S3 client for tests: few verbs, static keys, bucket in the path.

use anyhow::Context as _;
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Region},
    operation::head_object::HeadObjectOutput,
    types::{BucketVersioningStatus, ObjectLockConfiguration, ObjectLockEnabled, VersioningConfiguration},
};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{eventually::eventually, process::Process};

/// A key and its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
}

/// An object as a test wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its length.
    pub size_bytes: u64,
    /// SHA-256 over the whole object.
    pub sha256: [u8; 32],
    /// ETag, without quotes.
    pub etag: String,
    /// Version id; empty when the bucket keeps none.
    pub version: String,
}

/// A client of one store.
#[derive(Debug, Clone)]
pub struct S3 {
    client: Client,
}

impl Credentials {
    /// Fresh keys, so that a client with another test's keys is refused.
    #[must_use]
    pub fn random() -> Self {
        let word = || std::iter::repeat_with(fastrand::alphanumeric).take(20).collect::<String>();
        Self { access_key: format!("test{}", word()), secret_key: word() }
    }
}

impl S3 {
    /// Waits until the store keeps what it is given: some answer before they can.
    ///
    /// # Errors
    /// When its process has ended, or it takes too long.
    pub(crate) async fn until_it_keeps(&self, store: &str, process: &mut Process) -> anyhow::Result<()> {
        eventually(&format!("{store} keeps an object"), async || {
            if let Err(ended) = process.ensure_running() {
                return Ok(Err(ended));
            }
            self.create_bucket("readiness").await?;
            self.put("readiness", "probe", b"ready".as_slice().into()).await?;
            Ok(Ok(()))
        })
        .await?
    }

    /// A client for the store at `endpoint`. Nothing is sent yet.
    #[must_use]
    pub fn connect(endpoint: &str, credentials: &Credentials) -> Self {
        let keys = aws_sdk_s3::config::Credentials::new(
            &credentials.access_key,
            &credentials.secret_key,
            None,
            None,
            "backhaul-tests",
        );
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(endpoint)
            .credentials_provider(keys)
            .force_path_style(true);
        Self { client: Client::from_conf(config.build()) }
    }

    /// The client of the SDK, for what is not here.
    #[must_use]
    pub fn sdk(&self) -> &Client {
        &self.client
    }

    /// Makes a bucket; one that is there already is as good.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn create_bucket(&self, bucket: &str) -> anyhow::Result<()> {
        let made = self.client.create_bucket().bucket(bucket).send().await;
        match made.map_err(aws_sdk_s3::Error::from) {
            Ok(_)
            | Err(
                aws_sdk_s3::Error::BucketAlreadyOwnedByYou(_) | aws_sdk_s3::Error::BucketAlreadyExists(_),
            ) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot make bucket {bucket}")),
        }
    }

    /// Removes a bucket, on stores that allow it with all that is in it.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn delete_bucket(&self, bucket: &str) -> anyhow::Result<()> {
        self.client
            .delete_bucket()
            .bucket(bucket)
            .send()
            .await
            .with_context(|| format!("delete {bucket}"))?;
        Ok(())
    }

    /// Makes a bucket keep versions.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn keep_versions(&self, bucket: &str) -> anyhow::Result<()> {
        let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        self.client.put_bucket_versioning().bucket(bucket).versioning_configuration(on).send().await?;
        Ok(())
    }

    /// Makes objects of a bucket lockable, and with it the bucket keep versions.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn allow_locks(&self, bucket: &str) -> anyhow::Result<()> {
        self.keep_versions(bucket).await?;
        let on = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).build();
        let put = self.client.put_object_lock_configuration().bucket(bucket).object_lock_configuration(on);
        put.send().await.with_context(|| format!("cannot make objects of {bucket} lockable"))?;
        Ok(())
    }

    /// Writes an object.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn put(&self, bucket: &str, key: &str, body: Bytes) -> anyhow::Result<Written> {
        let (size_bytes, sha256) = (body.len() as u64, Sha256::digest(&body).into());
        let put = self.client.put_object().bucket(bucket).key(key).body(body.into()).send().await;
        let put = put.with_context(|| format!("cannot write {bucket}/{key}"))?;
        Ok(Written {
            size_bytes,
            sha256,
            etag: put.e_tag().unwrap_or_default().trim_matches('"').to_owned(),
            version: put.version_id().unwrap_or_default().to_owned(),
        })
    }

    /// Writes an object of `size_bytes` random bytes.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn put_random(&self, bucket: &str, key: &str, size_bytes: usize) -> anyhow::Result<Written> {
        let mut body = vec![0; size_bytes];
        fastrand::fill(&mut body);
        self.put(bucket, key, body.into()).await
    }

    /// SHA-256 over an object, read a piece at a time.
    ///
    /// # Errors
    /// When it is not there or cannot be read to its end.
    pub async fn sha256(&self, bucket: &str, key: &str) -> anyhow::Result<[u8; 32]> {
        let got = self.client.get_object().bucket(bucket).key(key).send().await;
        let mut body = got.with_context(|| format!("cannot read {bucket}/{key}"))?.body;
        let mut sum = Sha256::new();
        while let Some(piece) = body.try_next().await? {
            sum.update(&piece);
        }
        Ok(sum.finalize().into())
    }

    /// What the store says about an object; `None` when it is not there.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn head(&self, bucket: &str, key: &str) -> anyhow::Result<Option<HeadObjectOutput>> {
        match self.client.head_object().bucket(bucket).key(key).send().await.map_err(aws_sdk_s3::Error::from)
        {
            Ok(head) => Ok(Some(head)),
            Err(aws_sdk_s3::Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot head {bucket}/{key}")),
        }
    }

    /// Removes an object; one that is not there is as good.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn delete(&self, bucket: &str, key: &str) -> anyhow::Result<()> {
        let deleted = self.client.delete_object().bucket(bucket).key(key).send().await;
        deleted.map(drop).with_context(|| format!("cannot delete {bucket}/{key}"))
    }

    /// All keys that start with `prefix`, sorted by bytes whatever order the store lists them in.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn keys(&self, bucket: &str, prefix: &str) -> anyhow::Result<Vec<String>> {
        let mut pages = self.client.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.with_context(|| format!("cannot list {bucket}/{prefix}"))?;
            keys.extend(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
        }
        keys.sort();
        Ok(keys)
    }

    /// Keys of the multipart uploads that nobody has finished or aborted, sorted.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn open_uploads(&self, bucket: &str) -> anyhow::Result<Vec<String>> {
        let list = self.client.list_multipart_uploads().bucket(bucket).send().await?;
        let mut keys: Vec<String> =
            list.uploads().iter().filter_map(|upload| upload.key().map(str::to_owned)).collect();
        keys.sort();
        Ok(keys)
    }
}
