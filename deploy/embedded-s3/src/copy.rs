//! CopyObject and the source side of UploadPartCopy.
//!
//! A copy shares its bodies with the source and moves no bytes; they are read only where a digest is needed that the
//! source does not have.

use http::HeaderMap;
use s3s::dto::{CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, ETag};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::attributes::{storage_class, tags_from_headers};
use crate::blobs::Hold;
use crate::checksums::{Algorithm, ChecksumKind, Digester, Digests};
use crate::conditions::{ReadConditions, WriteConditions, precondition_failed};
use crate::model::{Attributes, Content, Lock, Object};
use crate::object::{Found, find, no_such_key};
use crate::output::checksum_fields;
use crate::put::write;
use crate::reader::ContentStream;
use crate::receive::MAX_BODY_BYTES;
use crate::store::{Store, bucket_of};
use crate::time::timestamp;

/// The object that a copy reads, its bodies kept.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) found: Found,
    pub(crate) hold: Hold,
    bucket: String,
    key: String,
    explicit_version: bool,
}

pub(crate) async fn copy(
    store: &Store,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let headers = &request.headers;
    let input = request.input;
    let conditions = WriteConditions::from_headers(headers)?;
    let lock = store.read(|index| Lock::from_headers(headers, &bucket_of(index, &input.bucket)?.state))?;
    let source_conditions = ReadConditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let source =
        Source::open(store, &input.copy_source, &source_conditions, |object| object.content.clone())?;
    let object = source.found.object()?;
    if object.size() > MAX_BODY_BYTES {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy source: {MAX_BODY_BYTES}"
        ));
    }
    let replace = replaces(headers, "x-amz-metadata-directive")?;
    let storage_class = storage_class(headers)?;
    let onto_itself = source.bucket == input.bucket && source.key == input.key && !source.explicit_version;
    if onto_itself && !replace && storage_class == object.attributes.storage_class {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata, storage class, website redirect location or encryption attributes."
        ));
    }
    let attributes = if replace {
        Attributes::from_headers(headers)?
    } else {
        let mut kept = object.attributes.clone();
        // The redirect is the one header that a copy never inherits.
        kept.headers.remove("x-amz-website-redirect-location");
        Attributes { storage_class, ..kept }
    };
    let tags = if replaces(headers, "x-amz-tagging-directive")? {
        tags_from_headers(headers)?
    } else {
        object.tags.clone()
    };
    let algorithm = match headers.get("x-amz-checksum-algorithm") {
        None => object.checksum.algorithm,
        Some(name) => named_algorithm(name.to_str().unwrap_or_default())?,
    };
    let plain = object.parts.is_empty() && object.checksum.kind == ChecksumKind::FullObject;
    let (etag, checksum) = if plain && object.checksum.algorithm == algorithm {
        (object.etag.clone(), object.checksum.clone())
    } else {
        let digests = digest(store, &object.content, Some(algorithm)).await?;
        let checksum = digests.get(algorithm).unwrap_or(&digests.crc64).clone();
        (hex::encode(digests.md5), checksum)
    };
    let content = source.hold.content().clone();
    let copy = Object { content, etag, checksum, parts: Vec::new(), attributes, tags, lock };
    let written = write(store, &input.bucket, &input.key, copy, &conditions)?;
    let mut result = CopyObjectResult {
        e_tag: Some(ETag::Strong(written.etag)),
        last_modified: Some(timestamp(written.modified_ms)),
        ..CopyObjectResult::default()
    };
    checksum_fields!(result, &written.checksum);
    result.checksum_type = Some(written.checksum.kind.name().to_owned().into());
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id: source.found.shown_id,
        version_id: written.shown_id,
        ..CopyObjectOutput::default()
    }))
}

impl Source {
    /// Finds the source of a copy and keeps the bodies of what `select` takes from it.
    ///
    /// # Errors
    /// Those of a read, with 412 for every condition that is not met.
    pub(crate) fn open(
        store: &Store,
        source: &CopySource,
        conditions: &ReadConditions,
        select: impl FnOnce(&Object) -> Content,
    ) -> S3Result<Self> {
        let (bucket, key, version_id) = match source {
            CopySource::Bucket { bucket, key, version_id } => (bucket, key, version_id.as_deref()),
            CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
                return Err(s3_error!(NotImplemented, "a copy source is a bucket and a key"));
            }
        };
        let (found, hold) = store.find_and_hold(|index| {
            let found =
                find(index, bucket, key, version_id).map_err(|error| source_error(error, version_id))?;
            let object = found.object()?;
            if object.attributes.is_archived() {
                return Err(s3_error!(
                    InvalidObjectState,
                    "The source object's storage class does not allow this"
                ));
            }
            conditions.check(&object.etag, found.version.modified_ms).map_err(|_| precondition_failed())?;
            let content = select(object);
            Ok((found, content))
        })?;
        let explicit_version = version_id.is_some();
        Ok(Self { found, hold, bucket: bucket.to_string(), key: key.to_string(), explicit_version })
    }
}

/// Digests of stored bytes.
///
/// # Errors
/// `InternalError` when they cannot be read.
pub(crate) async fn digest(
    store: &Store,
    content: &Content,
    algorithm: Option<Algorithm>,
) -> S3Result<Digests> {
    let hold = store.blobs.hold(content).ok_or_else(no_such_key)?;
    let mut stream = ContentStream::new(hold);
    let mut digester = Digester::new(algorithm);
    while let Some(chunk) = stream.next_chunk().await.map_err(S3Error::internal_error)? {
        digester.update(&chunk);
    }
    Ok(digester.finish())
}

/// # Errors
/// `InvalidRequest` for an algorithm that S3 does not know.
pub(crate) fn named_algorithm(name: &str) -> S3Result<Algorithm> {
    Algorithm::from_name(name).ok_or_else(|| {
        s3_error!(
            InvalidRequest,
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: \
             [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"
        )
    })
}

fn source_error(error: S3Error, version_id: Option<&str>) -> S3Error {
    if error.code().as_str() == "MethodNotAllowed" && version_id.is_some() {
        return s3_error!(
            InvalidRequest,
            "The source of a copy request may not specifically refer to a delete marker by version id."
        );
    }
    if error.code().as_str() == "NoSuchKey" {
        return no_such_key();
    }
    error
}

fn replaces(headers: &HeaderMap, name: &str) -> S3Result<bool> {
    match headers.get(name).map(http::HeaderValue::as_bytes) {
        None | Some(b"COPY") => Ok(false),
        Some(b"REPLACE") => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "{name} is COPY or REPLACE")),
    }
}
