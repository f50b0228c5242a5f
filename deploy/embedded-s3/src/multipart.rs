//! Multipart uploads up to their completion: create, upload and copy parts, list parts, abort.
//!
//! Completion, with all its checks, is in [`complete`](crate::complete).

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType, CopyPartResult,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag, ListPartsInput, ListPartsOutput,
    Part as ListedPart, Range, StorageClass, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::attributes::{insert, tags_from_headers};
use crate::checksums::{Algorithm, Checksum, ChecksumKind, Digests};
use crate::conditions::ReadConditions;
use crate::copy::{Source, digest, named_algorithm};
use crate::index::{Index, Record};
use crate::model::{Attributes, Content, Lock, Part, Upload};
use crate::output::{checksum_fields, count, owner, page_size, size};
use crate::receive::{Expected, Incoming, MAX_BODY_BYTES};
use crate::store::{Store, bucket_of, now_ms};
use crate::time::timestamp;

const MAX_PART_NUMBER: u16 = 10_000;

pub(crate) fn create(
    store: &Store,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let headers = &request.headers;
    let input = request.input;
    let checksum = requested_checksum(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
    let attributes = Attributes::from_headers(headers)?;
    let tags = tags_from_headers(headers)?;
    let id = format!("{:016x}", store.next_id());
    store.commit(|index| {
        let lock = Lock::from_headers(headers, &bucket_of(index, &input.bucket)?.state)?;
        let upload = Upload {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            initiated_ms: now_ms(),
            attributes,
            tags,
            lock,
            checksum,
            parts: std::collections::BTreeMap::new(),
        };
        Ok((vec![Record::Upload { id: id.clone(), upload }], ()))
    })?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        checksum_algorithm: checksum.map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
        checksum_type: checksum.map(|(_, kind)| ChecksumType::from_static(kind.name())),
        ..CreateMultipartUploadOutput::default()
    }))
}

pub(crate) async fn upload_part(
    store: &Store,
    mut request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let incoming = Incoming::take(&mut request, |input| input.body.take());
    let input = &request.input;
    let prepared = part_number(input.part_number).and_then(|number| {
        let expected = Expected::from_headers(&request.headers)?;
        store.read(|index| {
            let upload = upload_of(index, &input.bucket, &input.key, &input.upload_id)?;
            check_algorithm(upload, expected.algorithm())
        })?;
        Ok((number, expected))
    });
    let (number, expected) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(incoming.refuse(error).await),
    };
    let received = incoming.store(store, &expected, None).await?;
    let checksum = expected.algorithm().and_then(|algorithm| received.digests.get(algorithm)).cloned();
    let part = new_part(received.hold.content().clone(), &received.digests, checksum.clone());
    let etag = part.etag();
    add_part(store, (&input.bucket, &input.key, &input.upload_id), number, part)?;
    let mut headers = http::HeaderMap::new();
    if let Some(checksum) = checksum {
        insert(&mut headers, checksum.algorithm.header(), &checksum.value);
    }
    let output = UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..UploadPartOutput::default() };
    Ok(S3Response::with_headers(output, headers))
}

pub(crate) async fn upload_part_copy(
    store: &Store,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    let number = part_number(input.part_number)?;
    let algorithm = store.read(|index| {
        let upload = upload_of(index, &input.bucket, &input.key, &input.upload_id)?;
        Ok::<_, S3Error>(upload.checksum.map(|(algorithm, _)| algorithm))
    })?;
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let source = Source::open(store, &input.copy_source, &conditions, |object| object.content.clone())?;
    let whole = source.hold.content();
    let content = match &input.copy_source_range {
        None => whole.clone(),
        Some(range) => whole.slice(copy_range(range, whole.len())?),
    };
    if content.len() > MAX_BODY_BYTES {
        return Err(s3_error!(InvalidRequest, "The specified copy source is larger than a part may be"));
    }
    let digests = digest(store, &content, algorithm).await?;
    let checksum = algorithm.and_then(|algorithm| digests.get(algorithm)).cloned();
    let part = new_part(content, &digests, checksum.clone());
    let mut result = CopyPartResult {
        e_tag: Some(ETag::Strong(part.etag())),
        last_modified: Some(timestamp(part.modified_ms)),
        ..CopyPartResult::default()
    };
    if let Some(checksum) = &checksum {
        checksum_fields!(result, checksum);
    }
    add_part(store, (&input.bucket, &input.key, &input.upload_id), number, part)?;
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: source.found.shown_id,
        ..UploadPartCopyOutput::default()
    }))
}

pub(crate) fn list_parts(
    store: &Store,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = request.input;
    let max = page_size("max-parts", input.max_parts)?;
    let after = u16::try_from(input.part_number_marker.unwrap_or(0))
        .map_err(|error| s3_error!(error, InvalidArgument, "part-number-marker is not a part number"))?;
    store.read(|index| {
        let upload = upload_of(index, &input.bucket, &input.key, &input.upload_id)?;
        let mut rest = upload.parts.range(after.saturating_add(1)..);
        let page: Vec<_> = rest.by_ref().take(max).collect();
        let next = page.last().map(|(number, _)| i32::from(**number));
        let truncated = max > 0 && rest.next().is_some();
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket.clone()),
            key: Some(input.key.clone()),
            upload_id: Some(input.upload_id.clone()),
            max_parts: count(max),
            part_number_marker: Some(i32::from(after)),
            next_part_number_marker: next,
            is_truncated: Some(truncated),
            parts: Some(page.into_iter().map(|(number, part)| listed(*number, part)).collect()),
            checksum_algorithm: upload
                .checksum
                .map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
            checksum_type: upload.checksum.map(|(_, kind)| ChecksumType::from_static(kind.name())),
            storage_class: Some(StorageClass::from(upload.attributes.storage_class_name().to_owned())),
            owner: Some(owner()),
            ..ListPartsOutput::default()
        }))
    })
}

pub(crate) fn abort(
    store: &Store,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    store.commit(|index| {
        upload_of(index, &input.bucket, &input.key, &input.upload_id)?;
        Ok((vec![Record::UploadGone { id: input.upload_id.clone(), completed: None }], ()))
    })?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

/// The open upload, or the error that S3 gives.
///
/// # Errors
/// `NoSuchBucket`, `NoSuchUpload`.
pub(crate) fn upload_of<'a>(index: &'a Index, bucket: &str, key: &str, id: &str) -> S3Result<&'a Upload> {
    bucket_of(index, bucket)?;
    index.upload(id).filter(|upload| upload.bucket == bucket && upload.key == key).ok_or_else(no_such_upload)
}

/// 404.
pub(crate) fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or \
         completed."
    )
}

/// A part number as the index has it.
///
/// # Errors
/// `InvalidArgument` outside 1 to 10,000.
pub(crate) fn part_number(number: i32) -> S3Result<u16> {
    u16::try_from(number).ok().filter(|number| (1..=MAX_PART_NUMBER).contains(number)).ok_or_else(|| {
        s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")
    })
}

fn requested_checksum(
    algorithm: Option<&ChecksumAlgorithm>,
    kind: Option<&ChecksumType>,
) -> S3Result<Option<(Algorithm, ChecksumKind)>> {
    let algorithm = algorithm.map(|name| named_algorithm(name.as_str())).transpose()?;
    let kind =
        match kind.map(ChecksumType::as_str) {
            None => None,
            Some(name) => Some(ChecksumKind::from_name(name).ok_or_else(|| {
                s3_error!(InvalidRequest, "Value for x-amz-checksum-type header is invalid.")
            })?),
        };
    match (algorithm, kind) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(s3_error!(
            InvalidRequest,
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
        )),
        (Some(algorithm), kind) => {
            let kind = kind.unwrap_or(algorithm.default_kind());
            if algorithm.allows(kind) {
                return Ok(Some((algorithm, kind)));
            }
            Err(s3_error!(
                InvalidRequest,
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                kind.name(),
                algorithm.name()
            ))
        }
    }
}

fn check_algorithm(upload: &Upload, sent: Option<Algorithm>) -> S3Result<()> {
    match upload.checksum {
        Some((wanted, _)) if sent != Some(wanted) => Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            wanted.name().to_lowercase(),
            sent.map_or("null".to_owned(), |sent| sent.name().to_lowercase())
        )),
        Some(_) | None => Ok(()),
    }
}

fn new_part(content: Content, digests: &Digests, checksum: Option<Checksum>) -> Part {
    Part { content, modified_ms: now_ms(), md5: digests.md5, crc64: digests.crc64.clone(), checksum }
}

fn add_part(store: &Store, (bucket, key, id): (&str, &str, &str), number: u16, part: Part) -> S3Result<()> {
    store.commit(|index| {
        upload_of(index, bucket, key, id)?;
        Ok((vec![Record::Part { upload: id.to_owned(), number, part }], ()))
    })
}

fn copy_range(header: &str, size: u64) -> S3Result<std::ops::Range<u64>> {
    let invalid = || {
        s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy"
        )
    };
    match Range::parse(header) {
        Ok(Range::Int { first, last: Some(last) }) if last < size => Ok(first..last + 1),
        Ok(Range::Int { last: Some(_), .. }) => {
            Err(s3_error!(InvalidArgument, "Range specified is not valid for source object of size: {size}"))
        }
        Ok(Range::Int { last: None, .. } | Range::Suffix { .. }) | Err(_) => Err(invalid()),
    }
}

fn listed(number: u16, part: &Part) -> ListedPart {
    let mut listed = ListedPart {
        part_number: Some(i32::from(number)),
        e_tag: Some(ETag::Strong(part.etag())),
        last_modified: Some(timestamp(part.modified_ms)),
        size: size(part.content.len()),
        ..ListedPart::default()
    };
    if let Some(checksum) = &part.checksum {
        checksum_fields!(listed, checksum);
    }
    listed
}
