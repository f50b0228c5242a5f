//! The demo's own S3 client: uploads to the origin as a user would, reads the backups as an auditor would.
//!
//! Deliberately not the worker's engine, which is what is being proved.

use aws_sdk_s3::{
    config::{BehaviorVersion, Credentials, Region},
    operation::get_object::GetObjectOutput,
    primitives::ByteStream,
};

use super::files::DemoFile;

/// A store with one pair of keys.
#[derive(Debug)]
pub(crate) struct Store {
    client: aws_sdk_s3::Client,
}

impl Store {
    /// A client for the store at `endpoint`; nothing is sent yet.
    pub(crate) fn connect(endpoint: &str, (id, secret): (&str, &str)) -> Self {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(id, secret, None, None, "demo"))
            .force_path_style(true)
            .build();
        Self { client: aws_sdk_s3::Client::from_conf(config) }
    }

    /// Uploads a file with its type and metadata.
    pub(crate) async fn upload(&self, bucket: &str, file: &DemoFile) -> anyhow::Result<()> {
        self.client
            .put_object()
            .bucket(bucket)
            .key(&file.key)
            .content_type(file.content_type)
            .set_content_language(file.language.map(Into::into))
            .set_metadata(Some(file.metadata.clone().into_iter().collect()))
            .body(ByteStream::from_path(&file.path).await?)
            .send()
            .await?;
        Ok(())
    }

    /// Opens an object.
    pub(crate) async fn open(&self, bucket: &str, key: &str) -> anyhow::Result<GetObjectOutput> {
        Ok(self.client.get_object().bucket(bucket).key(key).send().await?)
    }
}
