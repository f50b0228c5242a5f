//! What can be asked and changed about a stored version besides its bytes: attributes, tags, retention, legal hold.

use s3s::dto::{
    Checksum as ShownChecksum, ChecksumType, DeleteObjectTaggingInput, DeleteObjectTaggingOutput, ETag,
    GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts, GetObjectLegalHoldInput,
    GetObjectLegalHoldOutput, GetObjectRetentionInput, GetObjectRetentionOutput, GetObjectTaggingInput,
    GetObjectTaggingOutput, ObjectAttributes, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
    ObjectLockRetention, ObjectLockRetentionMode, ObjectPart as ShownPart, PutObjectLegalHoldInput,
    PutObjectLegalHoldOutput, PutObjectRetentionInput, PutObjectRetentionOutput, PutObjectTaggingInput,
    PutObjectTaggingOutput, StorageClass, Tag,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::attributes::{check_tags, legal_hold, require_object_lock};
use crate::index::Record;
use crate::model::{Lock, Object, ObjectPart, Retention, Tags};
use crate::object::find;
use crate::output::{checksum_fields, count, page_size, size};
use crate::store::{Store, bucket_of, now_ms};
use crate::time::{exact_timestamp, timestamp};

pub(crate) fn attributes(
    store: &Store,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let input = request.input;
    let max = page_size("x-amz-max-parts", input.max_parts)?;
    let after = input.part_number_marker.unwrap_or(0);
    // The client may send one list or many headers.
    let wanted: Vec<&str> =
        input.object_attributes.iter().flat_map(|list| list.as_str().split(',')).collect();
    let wanted = |name: &str| wanted.iter().any(|wanted| wanted.trim() == name);
    let found = store.read(|index| find(index, &input.bucket, &input.key, input.version_id.as_deref()))?;
    let object = found.object()?;
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(timestamp(found.version.modified_ms)),
        version_id: found.shown_id.clone(),
        ..GetObjectAttributesOutput::default()
    };
    if wanted(ObjectAttributes::ETAG) {
        output.e_tag = Some(ETag::Strong(object.etag.clone()));
    }
    if wanted(ObjectAttributes::CHECKSUM) {
        let mut shown = ShownChecksum::default();
        checksum_fields!(shown, &object.checksum);
        shown.checksum_type = Some(ChecksumType::from_static(object.checksum.kind.name()));
        output.checksum = Some(shown);
    }
    if wanted(ObjectAttributes::OBJECT_PARTS) && !object.parts.is_empty() {
        output.object_parts = Some(parts(object, max, after));
    }
    if wanted(ObjectAttributes::OBJECT_SIZE) {
        output.object_size = size(object.size());
    }
    if wanted(ObjectAttributes::STORAGE_CLASS) {
        output.storage_class = Some(StorageClass::from(object.attributes.storage_class_name().to_owned()));
    }
    Ok(S3Response::new(output))
}

pub(crate) fn tags(
    store: &Store,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    let found = store.read(|index| find(index, &input.bucket, &input.key, input.version_id.as_deref()))?;
    let tags = found.object()?.tags.iter();
    let tag_set =
        tags.map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect();
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set, version_id: found.shown_id }))
}

pub(crate) fn set_tags(
    store: &Store,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    let tags: Tags = input
        .tagging
        .tag_set
        .into_iter()
        .map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()))
        .collect();
    check_tags(&tags)?;
    let version_id = change_tags(store, &input.bucket, &input.key, input.version_id.as_deref(), tags)?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(crate) fn delete_tags(
    store: &Store,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let input = request.input;
    let version_id = change_tags(store, &input.bucket, &input.key, input.version_id.as_deref(), Tags::new())?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}

pub(crate) fn retention(
    store: &Store,
    request: S3Request<GetObjectRetentionInput>,
) -> S3Result<S3Response<GetObjectRetentionOutput>> {
    let input = request.input;
    let lock = lock_of(store, &input.bucket, &input.key, input.version_id.as_deref())?;
    let retention = lock.retention.ok_or_else(no_lock)?;
    Ok(S3Response::new(GetObjectRetentionOutput {
        retention: Some(ObjectLockRetention {
            mode: Some(ObjectLockRetentionMode::from_static(retention.mode())),
            retain_until_date: Some(exact_timestamp(retention.until_ms)),
        }),
    }))
}

pub(crate) fn set_retention(
    store: &Store,
    request: S3Request<PutObjectRetentionInput>,
) -> S3Result<S3Response<PutObjectRetentionOutput>> {
    let input = request.input;
    let asked = input.retention.unwrap_or_default();
    let retention = match (&asked.mode, &asked.retain_until_date) {
        (None, None) => None,
        (Some(mode), Some(until)) => Some(Retention::new(mode.as_str(), until)?),
        (Some(_), None) | (None, Some(_)) => {
            return Err(s3_error!(MalformedXML, "Mode and RetainUntilDate go together"));
        }
    };
    let bypass = input.bypass_governance_retention.unwrap_or(false);
    change_lock(store, &input.bucket, &input.key, input.version_id.as_deref(), |old| {
        if let Some(current) = old.retention.as_ref().filter(|current| current.until_ms > now_ms()) {
            let new = retention.as_ref();
            let not_shorter = new.is_some_and(|new| new.until_ms >= current.until_ms);
            let as_strict = new.is_some_and(|new| new.compliance || !current.compliance);
            if !(not_shorter && as_strict) && (current.compliance || !bypass) {
                return Err(s3_error!(
                    AccessDenied,
                    "Access Denied because object protected by object lock."
                ));
            }
        }
        Ok(Lock { retention, legal_hold: old.legal_hold })
    })?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

pub(crate) fn hold(
    store: &Store,
    request: S3Request<GetObjectLegalHoldInput>,
) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
    let input = request.input;
    let lock = lock_of(store, &input.bucket, &input.key, input.version_id.as_deref())?;
    let status = if lock.legal_hold { ObjectLockLegalHoldStatus::ON } else { ObjectLockLegalHoldStatus::OFF };
    let status = Some(ObjectLockLegalHoldStatus::from_static(status));
    Ok(S3Response::new(GetObjectLegalHoldOutput { legal_hold: Some(ObjectLockLegalHold { status }) }))
}

pub(crate) fn set_hold(
    store: &Store,
    request: S3Request<PutObjectLegalHoldInput>,
) -> S3Result<S3Response<PutObjectLegalHoldOutput>> {
    let input = request.input;
    let status = input.legal_hold.and_then(|hold| hold.status);
    let status = status.ok_or_else(|| s3_error!(MalformedXML, "a legal hold has a status"))?;
    let on = legal_hold(Some(status.as_str()))?;
    change_lock(store, &input.bucket, &input.key, input.version_id.as_deref(), |old| {
        Ok(Lock { legal_hold: on, retention: old.retention.clone() })
    })?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}

fn parts(object: &Object, max: usize, after: i32) -> GetObjectAttributesParts {
    let mut rest = object.parts.iter().filter(|part| i32::from(part.number) > after);
    let page: Vec<&ObjectPart> = rest.by_ref().take(max).collect();
    let truncated = rest.next().is_some();
    let next = page.last().map(|part| i32::from(part.number));
    // Without additional checksums S3 tells only how many parts there were.
    let detailed = object.parts.iter().any(|part| part.checksum.is_some());
    let shown = page.into_iter().map(|part| {
        let mut shown = ShownPart {
            part_number: Some(i32::from(part.number)),
            size: size(part.size),
            ..ShownPart::default()
        };
        if let Some(checksum) = &part.checksum {
            checksum_fields!(shown, checksum);
        }
        shown
    });
    GetObjectAttributesParts {
        total_parts_count: count(object.parts.len()),
        parts: detailed.then(|| shown.collect()),
        is_truncated: Some(detailed && truncated),
        max_parts: count(max),
        part_number_marker: Some(after),
        next_part_number_marker: next.filter(|_| detailed),
    }
}

fn change_tags(
    store: &Store,
    bucket: &str,
    key: &str,
    version_id: Option<&str>,
    tags: Tags,
) -> S3Result<Option<String>> {
    store.commit(|index| {
        let found = find(index, bucket, key, version_id)?;
        let version_id = found.version.id.clone();
        let record = Record::Tagged { bucket: bucket.to_owned(), key: key.to_owned(), version_id, tags };
        Ok((vec![record], found.shown_id))
    })
}

fn lock_of(store: &Store, bucket: &str, key: &str, version_id: Option<&str>) -> S3Result<Lock> {
    store.read(|index| {
        require_object_lock(&bucket_of(index, bucket)?.state)?;
        Ok(find(index, bucket, key, version_id)?.object()?.lock.clone())
    })
}

fn change_lock(
    store: &Store,
    bucket: &str,
    key: &str,
    version_id: Option<&str>,
    change: impl FnOnce(&Lock) -> S3Result<Lock>,
) -> S3Result<()> {
    store.commit(|index| {
        require_object_lock(&bucket_of(index, bucket)?.state)?;
        let found = find(index, bucket, key, version_id)?;
        let lock = change(&found.object()?.lock)?;
        let version_id = found.version.id.clone();
        Ok((vec![Record::Locked { bucket: bucket.to_owned(), key: key.to_owned(), version_id, lock }], ()))
    })
}

fn no_lock() -> s3s::S3Error {
    s3_error!(NoSuchObjectLockConfiguration, "The specified object does not have a ObjectLock configuration")
}
