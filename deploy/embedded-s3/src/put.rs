//! PutObject, and the steps that all writes of whole objects share.

use http::HeaderMap;
use s3s::dto::{ETag, PutObjectInput, PutObjectOutput};
use s3s::{S3Request, S3Response, S3Result};

use crate::attributes::{insert, tags_from_headers};
use crate::checksums::Checksum;
use crate::conditions::WriteConditions;
use crate::index::{BucketEntry, Record};
use crate::model::{Attributes, Lock, NULL_VERSION, Object, Tags, Version, Versioning};
use crate::receive::{Expected, Incoming};
use crate::store::{Store, bucket_of, now_ms};

/// What is known about a write before its body is read.
struct Prepared {
    expected: Expected,
    conditions: WriteConditions,
    attributes: Attributes,
    tags: Tags,
    lock: Lock,
}

/// Where a write ended up.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) etag: String,
    pub(crate) checksum: Checksum,
    pub(crate) modified_ms: u64,
    /// The id to show: absent while the bucket was never versioned.
    pub(crate) shown_id: Option<String>,
}

pub(crate) async fn put(
    store: &Store,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let incoming = Incoming::take(&mut request, |input| input.body.take());
    let prepared = match prepare(store, &request) {
        Ok(prepared) => prepared,
        Err(error) => return Err(incoming.refuse(error).await),
    };
    let received = incoming.store(store, &prepared.expected, None).await?;
    let digests = received.digests;
    let checksum =
        prepared.expected.algorithm().and_then(|algorithm| digests.get(algorithm)).unwrap_or(&digests.crc64);
    let object = Object {
        content: received.hold.content().clone(),
        etag: hex::encode(digests.md5),
        checksum: checksum.clone(),
        parts: Vec::new(),
        attributes: prepared.attributes,
        tags: prepared.tags,
        lock: prepared.lock,
    };
    let written = write(store, &request.input.bucket, &request.input.key, object, &prepared.conditions)?;
    let output = PutObjectOutput {
        e_tag: Some(ETag::Strong(written.etag)),
        version_id: written.shown_id,
        ..PutObjectOutput::default()
    };
    let mut headers = HeaderMap::new();
    insert(&mut headers, written.checksum.algorithm.header(), &written.checksum.value);
    insert(&mut headers, "x-amz-checksum-type", written.checksum.kind.name());
    Ok(S3Response::with_headers(output, headers))
}

/// Makes `object` the current version of its key, if the conditions hold at that moment.
///
/// # Errors
/// `NoSuchBucket` and those of the conditions.
pub(crate) fn write(
    store: &Store,
    bucket: &str,
    key: &str,
    object: Object,
    conditions: &WriteConditions,
) -> S3Result<Written> {
    let new_id = store.next_id();
    store.commit(|index| {
        let entry = bucket_of(index, bucket)?;
        conditions.check(entry.current(key).map(AsRef::as_ref))?;
        let (record, written) = put_record(entry, bucket, key, object, new_id);
        Ok((vec![record], written))
    })
}

/// The record that makes `object` the current version of its key. Takes `new_id` as the version id where the bucket
/// is versioned.
pub(crate) fn put_record(
    entry: &BucketEntry,
    bucket: &str,
    key: &str,
    object: Object,
    new_id: u64,
) -> (Record, Written) {
    let id = new_version_id(entry.state.versioning, new_id);
    let written = Written {
        etag: object.etag.clone(),
        checksum: object.checksum.clone(),
        modified_ms: now_ms(),
        shown_id: (entry.state.versioning != Versioning::Off).then(|| id.clone()),
    };
    let version = Version { id, modified_ms: written.modified_ms, object: Some(Box::new(object)) };
    (Record::Put { bucket: bucket.to_owned(), key: key.to_owned(), version }, written)
}

/// The id of a version made now.
pub(crate) fn new_version_id(versioning: Versioning, new_id: u64) -> String {
    match versioning {
        Versioning::Enabled => format!("{new_id:016x}"),
        Versioning::Off | Versioning::Suspended => NULL_VERSION.to_owned(),
    }
}

fn prepare(store: &Store, request: &S3Request<PutObjectInput>) -> S3Result<Prepared> {
    let headers = &request.headers;
    let conditions = WriteConditions::from_headers(headers)?;
    let lock = store.read(|index| {
        let bucket = bucket_of(index, &request.input.bucket)?;
        // Decided again when the body is there; a write that cannot succeed is not worth reading.
        conditions.check(bucket.current(&request.input.key).map(AsRef::as_ref))?;
        Lock::from_headers(headers, &bucket.state)
    })?;
    Ok(Prepared {
        expected: Expected::from_headers(headers)?,
        conditions,
        attributes: Attributes::from_headers(headers)?,
        tags: tags_from_headers(headers)?,
        lock,
    })
}
