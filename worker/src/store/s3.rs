//! An S3-compatible store over its REST API.
//!
//! One method, one request (two where a store sends no length). Bodies are sent from the pieces in memory without being copied or
//! hashed again: their checksum travels in a header that the engine has already computed. The requests of every copy go past the client
//! library where they can (`s3_direct`).

use std::{error::Error, sync::Arc};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    primitives::{ByteStream, DateTime, SdkBody},
    types::{
        ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart,
        MetadataDirective, StorageClass,
    },
};
use backhaul_runtime::locations::Owners;
use futures_util::stream;

use super::{
    BodyStream, ByteRange, Completion, GetResponse, ObjectInfo, ObjectPath, ObjectStore, ObjectsPage,
    Operation, PartWritten, PartsPage, Payload, Pin, Proof, Put, StoreError, StoreErrorKind, Tag,
    UploadListed, UploadRef, UploadsPage, VersionMarker, VersionsPage, WriteOptions, Written,
    s3_direct::Direct,
    s3_error::{from_body, from_sdk},
    s3_listings,
    s3_shapes::{
        content_range, copy_source, crc64, crc64_header, grants_to_others, if_match, info_of_get,
        info_of_head, lock_mode, md5_header, none_match, part, quoted, range_header, signed, signed_number,
        tagging, unquoted,
    },
};

/// One location's store.
#[derive(Debug, Clone)]
pub struct S3Store {
    location: String,
    client: Client,
    direct: Option<Direct>,
    owners: Arc<Owners>,
}

/// Sets the content headers and user metadata of three request builders that have no common trait.
macro_rules! with_attributes {
    ($request:expr, $attributes:expr) => {{
        let a = $attributes;
        $request
            .set_content_type(a.content_type.clone())
            .set_content_encoding(a.content_encoding.clone())
            .set_content_disposition(a.content_disposition.clone())
            .set_content_language(a.content_language.clone())
            .set_cache_control(a.cache_control.clone())
            .set_website_redirect_location(a.website_redirect.clone())
            .set_metadata(
                (!a.metadata.is_empty())
                    .then(|| a.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
            )
    }};
}

/// Asks for a storage class and a retention, of three request builders that have no common trait.
macro_rules! with_terms {
    ($request:expr, $terms:expr) => {{
        let t = $terms;
        $request
            .set_storage_class(t.storage_class.map(StorageClass::from))
            .set_object_lock_mode(t.retention.map(|r| lock_mode(r.compliance)))
            .set_object_lock_retain_until_date(t.retention.map(|r| DateTime::from_secs(r.until)))
    }};
}

/// Sends a request with its `Expires` as it was read: the library's own type cannot hold every value that stores keep.
macro_rules! send_with_expires {
    ($request:expr, $expires:expr) => {{
        match $expires.clone() {
            None => $request.send().await,
            Some(expires) => {
                $request
                    .customize()
                    .mutate_request(move |r| {
                        r.headers_mut().insert("expires", expires.clone());
                    })
                    .send()
                    .await
            }
        }
    }};
}

impl S3Store {
    pub(super) fn new(location: &str, client: Client, direct: Option<Direct>, owners: Arc<Owners>) -> Self {
        Self { location: location.to_owned(), client, direct, owners }
    }

    /// The same store, with every request made by the client library.
    #[cfg(test)]
    pub(super) fn without_direct(self) -> Self {
        Self { direct: None, ..self }
    }

    /// For requests that the engine must not be able to make.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// The account that a bucket must belong to, for the request to say so.
    pub(super) fn owner(&self, bucket: &str) -> Option<String> {
        self.owners.of(bucket).map(ToOwned::to_owned)
    }

    pub(super) fn refused<E>(
        &self,
        operation: Operation,
        bucket: &str,
        error: SdkError<E, HttpResponse>,
    ) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        self.doubting(from_sdk(operation, error), &[bucket])
    }

    /// Says what else a refusal may mean, where the request named the accounts that buckets must belong to.
    fn doubting(&self, error: StoreError, buckets: &[&str]) -> StoreError {
        let owned = buckets.iter().filter_map(|bucket| Some((*bucket, self.owners.of(bucket)?)));
        owned.fold(error, |error, (bucket, owner)| error.doubting(bucket, owner))
    }

    /// Name of the location.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn head(&self, at: ObjectPath<'_>, pin: &Pin) -> Result<ObjectInfo, StoreError> {
        if let Some(direct) = &self.direct {
            return direct.head(at, pin).await.map_err(|e| self.doubting(e, &[at.bucket]));
        }
        let output = self
            .client
            .head_object()
            .bucket(at.bucket)
            .set_expected_bucket_owner(self.owner(at.bucket))
            .key(at.key)
            .set_version_id(pin.version.clone())
            .set_if_match(if_match(pin))
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await
            .map_err(|e| self.refused(Operation::Head, at.bucket, e))?;
        Ok(info_of_head(&output))
    }

    async fn get(
        &self,
        at: ObjectPath<'_>,
        pin: &Pin,
        range: Option<ByteRange>,
    ) -> Result<GetResponse, StoreError> {
        if let Some(direct) = &self.direct {
            return direct.get(at, pin, range).await.map_err(|e| self.doubting(e, &[at.bucket]));
        }
        let mut output = self
            .client
            .get_object()
            .bucket(at.bucket)
            .set_expected_bucket_owner(self.owner(at.bucket))
            .key(at.key)
            .set_version_id(pin.version.clone())
            .set_if_match(if_match(pin))
            .set_range(range.map(range_header))
            .customize()
            // As a header of our own: the library would hash every byte that the engine hashes anyway.
            .mutate_request(|r| {
                r.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
            })
            .send()
            .await
            .map_err(|e| self.refused(Operation::Get, at.bucket, e))?;
        let sent = match output.content_range() {
            None => None,
            Some(header) => Some(content_range(header).ok_or_else(|| {
                StoreError::new(Operation::Get, StoreErrorKind::BadAnswer, "malformed Content-Range")
            })?),
        };
        let length = output.content_length().and_then(|n| u64::try_from(n).ok());
        let size_bytes = match (sent, length) {
            (Some(sent), _) => sent.total,
            (None, Some(length)) => length,
            (None, None) => {
                let pin = Pin {
                    version: output.version_id().map(str::to_owned),
                    etag: Some(unquoted(output.e_tag())).filter(|e| !e.is_empty()),
                };
                self.head(at, &pin).await?.size_bytes
            }
        };
        let body = std::mem::take(&mut output.body);
        Ok(GetResponse { info: info_of_get(&output, size_bytes), range: sent, length, body: pieces(body) })
    }

    async fn get_tags(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<Vec<Tag>, StoreError> {
        let output = self
            .client
            .get_object_tagging()
            .bucket(at.bucket)
            .set_expected_bucket_owner(self.owner(at.bucket))
            .key(at.key)
            .set_version_id(version.map(str::to_owned))
            .send()
            .await
            .map_err(|e| self.refused(Operation::GetTags, at.bucket, e))?;
        let tags = output.tag_set.into_iter();
        Ok(tags.map(|t| Tag { key: t.key, value: t.value }).collect())
    }

    async fn has_grants(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<bool, StoreError> {
        let output = self
            .client
            .get_object_acl()
            .bucket(at.bucket)
            .set_expected_bucket_owner(self.owner(at.bucket))
            .key(at.key)
            .set_version_id(version.map(str::to_owned))
            .send()
            .await
            .map_err(|e| self.refused(Operation::GetAcl, at.bucket, e))?;
        Ok(grants_to_others(&output))
    }

    async fn put(&self, at: ObjectPath<'_>, put: Put<'_>) -> Result<Written, StoreError> {
        if let Some(direct) = &self.direct {
            return direct.put(at, put).await.map_err(|e| self.doubting(e, &[at.bucket]));
        }
        let request = self
            .client
            .put_object()
            .bucket(at.bucket)
            .set_expected_bucket_owner(self.owner(at.bucket))
            .key(at.key)
            .body(streamed(put.body))
            .content_length(signed(put.body.len()))
            .set_checksum_crc64_nvme(put.proof.crc64nvme.map(crc64_header))
            .set_content_md5(put.proof.md5.map(md5_header))
            .set_tagging(tagging(put.tags))
            .set_if_none_match(none_match(put.create_only));
        let request = with_terms!(with_attributes!(request, put.attributes), put.terms);
        let output = send_with_expires!(request, put.attributes.expires)
            .map_err(|e| self.refused(Operation::Put, at.bucket, e))?;
        Ok(Written {
            etag: unquoted(output.e_tag()),
            crc64nvme: output.checksum_crc64_nvme().and_then(crc64),
            version: output.version_id,
        })
    }

    async fn copy(
        &self,
        from: ObjectPath<'_>,
        pin: &Pin,
        to: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<Written, StoreError> {
        if let Some(direct) = &self.direct {
            return direct
                .copy(from, pin, to, write)
                .await
                .map_err(|e| self.doubting(e, &[to.bucket, from.bucket]));
        }
        let request = self
            .client
            .copy_object()
            .copy_source(copy_source(from, pin.version.as_deref()))
            .set_copy_source_if_match(if_match(pin))
            .set_expected_source_bucket_owner(self.owner(from.bucket))
            .bucket(to.bucket)
            .set_expected_bucket_owner(self.owner(to.bucket))
            .key(to.key)
            .metadata_directive(MetadataDirective::Replace)
            .set_checksum_algorithm(write.crc64nvme.then_some(ChecksumAlgorithm::Crc64Nvme))
            .set_if_none_match(none_match(write.create_only));
        let request = with_terms!(with_attributes!(request, write.attributes), write.terms);
        let output = send_with_expires!(request, write.attributes.expires)
            .map_err(|e| self.doubting(self.refused(Operation::Copy, to.bucket, e), &[from.bucket]))?;
        let result = output.copy_object_result();
        Ok(Written {
            etag: unquoted(result.and_then(|r| r.e_tag())),
            crc64nvme: result.and_then(|r| r.checksum_crc64_nvme()).and_then(crc64),
            version: output.version_id,
        })
    }

    async fn create_upload(
        &self,
        at: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<String, StoreError> {
        let request = self
            .client
            .create_multipart_upload()
            .bucket(at.bucket)
            .set_expected_bucket_owner(self.owner(at.bucket))
            .key(at.key)
            .set_checksum_algorithm(write.crc64nvme.then_some(ChecksumAlgorithm::Crc64Nvme))
            .set_checksum_type(write.crc64nvme.then_some(ChecksumType::FullObject))
            .set_tagging(tagging(write.tags));
        let request = with_terms!(with_attributes!(request, write.attributes), write.terms);
        let output = send_with_expires!(request, write.attributes.expires)
            .map_err(|e| self.refused(Operation::CreateUpload, at.bucket, e))?;
        output.upload_id.filter(|id| !id.is_empty()).ok_or_else(|| {
            StoreError::new(Operation::CreateUpload, StoreErrorKind::BadAnswer, "no upload id")
        })
    }

    async fn upload_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        body: &Payload,
        proof: Proof,
    ) -> Result<PartWritten, StoreError> {
        if let Some(direct) = &self.direct {
            return direct
                .upload_part(upload, number, body, proof)
                .await
                .map_err(|e| self.doubting(e, &[upload.at.bucket]));
        }
        let output = self
            .client
            .upload_part()
            .bucket(upload.at.bucket)
            .set_expected_bucket_owner(self.owner(upload.at.bucket))
            .key(upload.at.key)
            .upload_id(upload.id)
            .part_number(signed_number(number))
            .body(streamed(body))
            .content_length(signed(body.len()))
            .set_checksum_crc64_nvme(proof.crc64nvme.map(crc64_header))
            .set_content_md5(proof.md5.map(md5_header))
            .send()
            .await
            .map_err(|e| self.refused(Operation::UploadPart, upload.at.bucket, e))?;
        part(Operation::UploadPart, number, output.e_tag(), output.checksum_crc64_nvme())
    }

    async fn copy_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        from: ObjectPath<'_>,
        pin: &Pin,
        range: ByteRange,
    ) -> Result<PartWritten, StoreError> {
        let output = self
            .client
            .upload_part_copy()
            .copy_source(copy_source(from, pin.version.as_deref()))
            .set_copy_source_if_match(if_match(pin))
            .set_expected_source_bucket_owner(self.owner(from.bucket))
            .copy_source_range(range_header(range))
            .bucket(upload.at.bucket)
            .set_expected_bucket_owner(self.owner(upload.at.bucket))
            .key(upload.at.key)
            .upload_id(upload.id)
            .part_number(signed_number(number))
            .send()
            .await
            .map_err(|e| {
                self.doubting(self.refused(Operation::CopyPart, upload.at.bucket, e), &[from.bucket])
            })?;
        let result = output.copy_part_result();
        part(
            Operation::CopyPart,
            number,
            result.and_then(|r| r.e_tag()),
            result.and_then(|r| r.checksum_crc64_nvme()),
        )
    }

    async fn list_uploads(&self, at: ObjectPath<'_>) -> Result<Vec<String>, StoreError> {
        s3_listings::uploads_of(self, at).await
    }

    async fn list_uploads_under(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&UploadListed>,
    ) -> Result<UploadsPage, StoreError> {
        s3_listings::uploads(self, bucket, prefix, after).await
    }

    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        most: u32,
    ) -> Result<ObjectsPage, StoreError> {
        s3_listings::objects(self, bucket, prefix, after, most).await
    }

    async fn list_versions(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&VersionMarker>,
        most: u32,
    ) -> Result<VersionsPage, StoreError> {
        s3_listings::versions(self, bucket, prefix, after, most).await
    }

    async fn list_parts(&self, upload: UploadRef<'_>, after: u32) -> Result<PartsPage, StoreError> {
        s3_listings::parts(self, upload, after).await
    }

    async fn complete_upload(
        &self,
        upload: UploadRef<'_>,
        parts: &[PartWritten],
        completion: Completion,
    ) -> Result<Written, StoreError> {
        let parts = parts
            .iter()
            .map(|p| {
                CompletedPart::builder()
                    .part_number(signed_number(p.number))
                    .e_tag(quoted(&p.etag))
                    .set_checksum_crc64_nvme(
                        p.crc64nvme.filter(|_| completion.crc64nvme.is_some()).map(crc64_header),
                    )
                    .build()
            })
            .collect();
        let output = self
            .client
            .complete_multipart_upload()
            .bucket(upload.at.bucket)
            .set_expected_bucket_owner(self.owner(upload.at.bucket))
            .key(upload.at.key)
            .upload_id(upload.id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .mpu_object_size(signed(completion.size_bytes))
            .set_checksum_crc64_nvme(completion.crc64nvme.map(crc64_header))
            .set_checksum_type(completion.crc64nvme.map(|_| ChecksumType::FullObject))
            .set_if_none_match(none_match(completion.create_only))
            .send()
            .await
            .map_err(|e| self.refused(Operation::CompleteUpload, upload.at.bucket, e))?;
        Ok(Written {
            etag: unquoted(output.e_tag()),
            crc64nvme: output.checksum_crc64_nvme().and_then(crc64),
            version: output.version_id,
        })
    }

    async fn abort_upload(&self, upload: UploadRef<'_>) -> Result<(), StoreError> {
        let answer = self
            .client
            .abort_multipart_upload()
            .bucket(upload.at.bucket)
            .set_expected_bucket_owner(self.owner(upload.at.bucket))
            .key(upload.at.key)
            .upload_id(upload.id)
            .send()
            .await
            .map_err(|e| self.refused(Operation::AbortUpload, upload.at.bucket, e));
        match answer {
            Ok(_) => Ok(()),
            Err(e) if e.kind == StoreErrorKind::NoSuchUpload => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// A body that the library neither copies nor hashes.
fn streamed(payload: &Payload) -> ByteStream {
    let payload = payload.clone();
    ByteStream::new(SdkBody::retryable(move || SdkBody::from_body_1_x(payload.body())))
}

pub(super) fn pieces(body: ByteStream) -> BodyStream {
    Box::pin(stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match body.next().await? {
            Ok(piece) => Some((Ok(piece), Some(body))),
            Err(error) => Some((Err(from_body(error)), None)),
        }
    }))
}
