//! DeleteObject and DeleteObjects: versions, delete markers and what forbids them to go.

use http::HeaderMap;
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag,
    ETagCondition, Error,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::conditions::WriteConditions;
use crate::index::{Index, Record};
use crate::model::{Version, Versioning};
use crate::put::new_version_id;
use crate::store::{Store, bucket_of, now_ms};

/// S3's limit for one DeleteObjects.
const MAX_KEYS: usize = 1000;

/// One key, or one version of it, to delete.
struct Target<'a> {
    bucket: &'a str,
    key: &'a str,
    version_id: Option<&'a str>,
    bypass_governance: bool,
}

/// What deleting did.
#[derive(Debug, Default)]
struct Deleted {
    /// A delete marker was made or removed.
    delete_marker: bool,
    /// The version that was made or removed.
    version_id: Option<String>,
}

pub(crate) fn delete(
    store: &Store,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = &request.input;
    if input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
        return Err(s3_error!(NotImplemented, "only directory buckets know these conditions"));
    }
    let conditions = WriteConditions::from_headers(&request.headers)?;
    let target = Target {
        bucket: &input.bucket,
        key: &input.key,
        version_id: input.version_id.as_deref(),
        bypass_governance: input.bypass_governance_retention.unwrap_or(false),
    };
    let new_id = store.next_id();
    let deleted = store.commit(|index| decide(index, &target, &conditions, new_id))?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deleted.delete_marker.then_some(true),
        version_id: deleted.version_id,
        ..DeleteObjectOutput::default()
    }))
}

pub(crate) fn delete_many(
    store: &Store,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let input = request.input;
    if input.delete.objects.is_empty() || input.delete.objects.len() > MAX_KEYS {
        return Err(s3_error!(MalformedXML, "DeleteObjects takes 1 to 1000 keys"));
    }
    store.read(|index| bucket_of(index, &input.bucket).map(drop))?;
    let quiet = input.delete.quiet.unwrap_or(false);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for object in input.delete.objects {
        let target = Target {
            bucket: &input.bucket,
            key: &object.key,
            version_id: object.version_id.as_deref(),
            bypass_governance: input.bypass_governance_retention.unwrap_or(false),
        };
        let new_id = store.next_id();
        let outcome = if object.size.is_some() || object.last_modified_time.is_some() {
            Err(s3_error!(NotImplemented, "only directory buckets know these conditions"))
        } else {
            etag_condition(object.e_tag.as_ref())
                .and_then(|conditions| store.commit(|index| decide(index, &target, &conditions, new_id)))
        };
        match outcome {
            Ok(_) if quiet => {}
            Ok(done) => deleted.push(DeletedObject {
                delete_marker: done.delete_marker.then_some(true),
                delete_marker_version_id: done.version_id.filter(|_| done.delete_marker),
                key: Some(object.key),
                version_id: object.version_id,
            }),
            Err(error) => errors.push(Error {
                code: Some(error.code().as_str().to_owned()),
                key: Some(object.key),
                message: error.message().map(str::to_owned),
                version_id: object.version_id,
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        ..DeleteObjectsOutput::default()
    }))
}

fn etag_condition(etag: Option<&ETag>) -> S3Result<WriteConditions> {
    let mut headers = HeaderMap::new();
    if let Some(etag) = etag {
        let value = ETagCondition::ETag(etag.clone()).to_http_header();
        headers.insert("if-match", value.map_err(|error| s3_error!(error, InvalidArgument))?);
    }
    WriteConditions::from_headers(&headers)
}

fn decide(
    index: &Index,
    target: &Target<'_>,
    conditions: &WriteConditions,
    new_id: u64,
) -> S3Result<(Vec<Record>, Deleted)> {
    let entry = bucket_of(index, target.bucket)?;
    let gone = |version_id: &str| Record::Gone {
        bucket: target.bucket.to_owned(),
        key: target.key.to_owned(),
        version_id: version_id.to_owned(),
    };
    if let Some(id) = target.version_id {
        // Deleting what is not there succeeds, so that a repeat does.
        let deleted = |delete_marker| Deleted { delete_marker, version_id: Some(id.to_owned()) };
        let Some(version) = entry.version(target.key, id) else { return Ok((Vec::new(), deleted(false))) };
        conditions.check(Some(version))?;
        let forbidden =
            |object: &crate::model::Object| object.lock.forbids_delete(now_ms(), target.bypass_governance);
        if version.object.as_deref().is_some_and(forbidden) {
            return Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock."));
        }
        return Ok((vec![gone(id)], deleted(version.is_delete_marker())));
    }
    conditions.check(entry.current(target.key).map(AsRef::as_ref))?;
    let id = new_version_id(entry.state.versioning, new_id);
    match entry.state.versioning {
        Versioning::Off => Ok((vec![gone(&id)], Deleted::default())),
        Versioning::Enabled | Versioning::Suspended => {
            let version = Version { id: id.clone(), modified_ms: now_ms(), object: None };
            let record =
                Record::Put { bucket: target.bucket.to_owned(), key: target.key.to_owned(), version };
            Ok((vec![record], Deleted { delete_marker: true, version_id: Some(id) }))
        }
    }
}
