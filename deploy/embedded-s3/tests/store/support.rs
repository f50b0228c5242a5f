//! A running store with a client of the AWS SDK, and what the tests say often.

use std::fmt::Debug;
use std::path::PathBuf;

use aws_credential_types::Credentials as SdkCredentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation, retry::RetryConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use backhaul_embedded_s3::{Bucket, Credentials, EmbeddedS3, Options, Storage};
use tempfile::TempDir;

/// Without versioning.
pub(crate) const PLAIN: &str = "plain";
/// With versioning.
pub(crate) const VERSIONED: &str = "versioned";
/// The smallest part that is not the last.
pub(crate) const PART: usize = 5 * 1024 * 1024;

/// A store and a client for it, gone at the end of the test.
pub(crate) struct Fixture {
    pub(crate) store: EmbeddedS3,
    pub(crate) client: Client,
    directory: Option<TempDir>,
}

/// Runs a test in memory, then in a directory.
pub(crate) async fn on_both_storages(test: impl AsyncFn(&Fixture)) {
    for fixture in [Fixture::in_memory().await, Fixture::in_directory().await] {
        test(&fixture).await;
        fixture.store.shutdown().await;
    }
}

impl Fixture {
    pub(crate) async fn in_memory() -> Self {
        Self::start(Storage::Memory, None).await
    }

    pub(crate) async fn in_directory() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let storage = Storage::Directory(directory.path().to_owned());
        Self::start(storage, Some(directory)).await
    }

    /// Stops the store and starts another on the same directory.
    pub(crate) async fn restart(self) -> Self {
        self.store.shutdown().await;
        let directory = self.directory.expect("only a directory survives");
        let storage = Storage::Directory(directory.path().to_owned());
        Self::start(storage, Some(directory)).await
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.as_ref().expect("a directory store").path().to_owned()
    }

    async fn start(storage: Storage, directory: Option<TempDir>) -> Self {
        let bucket = |name: &str, versioned| Bucket { name: name.into(), versioned };
        let store = EmbeddedS3::start(Options {
            listen: ([127, 0, 0, 1], 0).into(),
            storage,
            credentials: vec![Credentials { access_key: "access".into(), secret_key: "secret".into() }],
            buckets: vec![bucket(PLAIN, false), bucket(VERSIONED, true)],
        })
        .await
        .expect("the store starts");
        let client = client(&store, "access", "secret", RequestChecksumCalculation::WhenSupported);
        Self { store, client, directory }
    }

    /// A client that adds no checksums of its own.
    pub(crate) fn client_without_checksums(&self) -> Client {
        client(&self.store, "access", "secret", RequestChecksumCalculation::WhenRequired)
    }

    pub(crate) async fn put(&self, bucket: &str, key: &str, body: impl Into<Vec<u8>>) -> String {
        let body = ByteStream::from(body.into());
        let output = self.client.put_object().bucket(bucket).key(key).body(body).send().await;
        let output = output.unwrap_or_else(|error| panic!("put {key:?}: {error:?}"));
        output.e_tag.expect("an etag")
    }

    pub(crate) async fn get(&self, bucket: &str, key: &str) -> Vec<u8> {
        let output = self.client.get_object().bucket(bucket).key(key).send().await.expect("get");
        output.body.collect().await.expect("the whole body").to_vec()
    }

    pub(crate) async fn keys(&self, bucket: &str) -> Vec<String> {
        let output = self.client.list_objects_v2().bucket(bucket).send().await.expect("list");
        output.contents().iter().map(|object| object.key().expect("a key").to_owned()).collect()
    }
}

/// A client without retries, so that every request is one request.
pub(crate) fn client(
    store: &EmbeddedS3,
    access_key: &str,
    secret_key: &str,
    checksums: RequestChecksumCalculation,
) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .region(Region::new("us-east-1"))
        .endpoint_url(store.endpoint())
        .credentials_provider(SdkCredentials::new(access_key, secret_key, None, None, "test"))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(checksums)
        .build();
    Client::from_conf(config)
}

/// The status and S3 code of a failed request.
pub(crate) fn refused<T: Debug, E: ProvideErrorMetadata + Debug>(
    outcome: Result<T, SdkError<E, HttpResponse>>,
) -> (u16, String) {
    let error = outcome.expect_err("the request should be refused");
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    (status, error.code().unwrap_or_default().to_owned())
}

/// Bytes without a pattern that a wrong offset could hide in.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
