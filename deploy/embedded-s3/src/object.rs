//! Reading objects: GetObject and HeadObject.
//!
//! Which version, whether the conditions let it through, which bytes, and the headers that describe them.

use std::ops::Range as ByteRange;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::dto::{GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Range, StreamingBlob};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::attributes::insert;
use crate::checksums::{Checksum, ChecksumKind};
use crate::conditions::{ReadConditions, Unmet, precondition_failed};
use crate::errors::custom;
use crate::faults::RequestFault;
use crate::index::Index;
use crate::model::{Object, Version, Versioning};
use crate::reader::ContentStream;
use crate::store::{Store, bucket_of};
use crate::time::http_date;

/// A version that is an object, found for a read.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) version: Arc<Version>,
    /// The id to show: absent while the bucket was never versioned.
    pub(crate) shown_id: Option<String>,
}

/// What a read asks for.
struct Selection {
    range: Option<Range>,
    part_number: Option<i32>,
    checksum_mode: bool,
}

/// Which bytes a read returns and how it is headed.
struct Answer {
    bytes: ByteRange<u64>,
    content_range: Option<String>,
    headers: HeaderMap,
}

pub(crate) fn get(
    store: &Store,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let fault = request.extensions.get::<RequestFault>().cloned().unwrap_or_default();
    let input = request.input;
    let conditions = ReadConditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    let selection = Selection {
        range: input.range.filter(|_| !fault.ignore_range),
        part_number: input.part_number,
        checksum_mode: input.checksum_mode.is_some_and(|mode| mode.as_str() == "ENABLED"),
    };
    let (answer, hold) = store.find_and_hold(|index| {
        let found = find(index, &input.bucket, &input.key, input.version_id.as_deref())?;
        let object = found.object()?;
        if object.attributes.is_archived() {
            return Err(s3_error!(
                InvalidObjectState,
                "The operation is not valid for the object's storage class"
            ));
        }
        let answer = answer(&found, object, &conditions, &selection)?;
        let content = object.content.slice(answer.bytes.clone());
        Ok((answer, content))
    })?;
    let output = GetObjectOutput {
        body: Some(StreamingBlob::new(ContentStream::new(hold))),
        content_length: i64::try_from(answer.bytes.end - answer.bytes.start).ok(),
        content_range: answer.content_range,
        ..GetObjectOutput::default()
    };
    let mut headers = answer.headers;
    override_headers(&mut headers, &request.uri);
    Ok(S3Response::with_headers(output, headers))
}

pub(crate) fn head(
    store: &Store,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = request.input;
    let conditions = ReadConditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    let selection = Selection {
        range: input.range,
        part_number: input.part_number,
        checksum_mode: input.checksum_mode.is_some_and(|mode| mode.as_str() == "ENABLED"),
    };
    let answer = store.read(|index| {
        let found = find(index, &input.bucket, &input.key, input.version_id.as_deref())?;
        answer(&found, found.object()?, &conditions, &selection)
    })?;
    let output = HeadObjectOutput {
        content_length: i64::try_from(answer.bytes.end - answer.bytes.start).ok(),
        content_range: answer.content_range,
        ..HeadObjectOutput::default()
    };
    Ok(S3Response::with_headers(output, answer.headers))
}

/// The version that a read of `key` means.
///
/// # Errors
/// `NoSuchBucket`, `NoSuchKey`, `NoSuchVersion`, or `MethodNotAllowed` for a delete marker named by its id.
pub(crate) fn find(index: &Index, bucket: &str, key: &str, version_id: Option<&str>) -> S3Result<Found> {
    let bucket = bucket_of(index, bucket)?;
    let shown = |version: &Version| (bucket.state.versioning != Versioning::Off).then(|| version.id.clone());
    let version = match version_id {
        Some(id) => bucket
            .version(key, id)
            .ok_or_else(|| s3_error!(NoSuchVersion, "The specified version does not exist."))?,
        None => bucket.current(key).ok_or_else(no_such_key)?,
    };
    if version.is_delete_marker() {
        let mut error = match version_id {
            Some(_) => {
                s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource.")
            }
            None => no_such_key(),
        };
        let mut headers = error_headers();
        headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
        insert(&mut headers, "x-amz-version-id", &version.id);
        if version_id.is_some() {
            insert(&mut headers, "last-modified", &http_date(version.modified_ms));
            headers.insert("allow", HeaderValue::from_static("DELETE"));
        }
        error.set_headers(headers);
        return Err(error);
    }
    Ok(Found { version: Arc::clone(version), shown_id: shown(version) })
}

/// 404.
pub(crate) fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

/// Headers of an error answer: setting any replaces the ones that it would have.
fn error_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/xml"));
    headers
}

impl Found {
    /// The object in the version.
    ///
    /// # Errors
    /// `NoSuchKey`, which [`find`] has ruled out.
    pub(crate) fn object(&self) -> S3Result<&Object> {
        self.version.object.as_deref().ok_or_else(no_such_key)
    }
}

fn answer(
    found: &Found,
    object: &Object,
    conditions: &ReadConditions,
    selection: &Selection,
) -> S3Result<Answer> {
    let size = object.size();
    let mut headers = HeaderMap::new();
    insert(&mut headers, "etag", &format!("\"{}\"", object.etag));
    insert(&mut headers, "last-modified", &http_date(found.version.modified_ms));
    if let Some(id) = &found.shown_id {
        insert(&mut headers, "x-amz-version-id", id);
    }
    match conditions.check(&object.etag, found.version.modified_ms) {
        Ok(()) => {}
        Err(Unmet::PreconditionFailed) => return Err(precondition_failed()),
        Err(Unmet::NotModified) => {
            let mut error = s3_error!(NotModified, "Not Modified");
            error.set_headers(headers);
            return Err(error);
        }
    }
    headers.insert("accept-ranges", HeaderValue::from_static("bytes"));
    object.attributes.write_to(&mut headers);
    object.lock.write_to(&mut headers);
    if !object.tags.is_empty() {
        headers.insert("x-amz-tagging-count", HeaderValue::from(object.tags.len()));
    }
    let (bytes, checksum) = select(object, size, selection, &mut headers)?;
    if selection.checksum_mode
        && let Some(checksum) = checksum
    {
        insert(&mut headers, checksum.algorithm.header(), &checksum.value);
        headers.insert("x-amz-checksum-type", HeaderValue::from_static(object.checksum.kind.name()));
    }
    let partial = selection.range.is_some() || selection.part_number.is_some();
    let content_range = (partial && size > 0)
        .then(|| format!("bytes {}-{}/{size}", bytes.start, bytes.end.saturating_sub(1)));
    Ok(Answer { bytes, content_range, headers })
}

/// The bytes asked for, and the checksum that covers exactly them.
fn select<'a>(
    object: &'a Object,
    size: u64,
    selection: &Selection,
    headers: &mut HeaderMap,
) -> S3Result<(ByteRange<u64>, Option<&'a Checksum>)> {
    match (&selection.range, selection.part_number) {
        (None, None) => Ok((0..size, Some(&object.checksum))),
        (Some(_), Some(_)) => {
            Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber query parameter"))
        }
        (Some(range), None) => {
            let bytes = range.check(size).ok().filter(|bytes| !bytes.is_empty());
            Ok((bytes.ok_or_else(|| range_error(size))?, None))
        }
        (None, Some(number)) => {
            if object.parts.is_empty() {
                // An object from one request is its own only part.
                return if number == 1 { Ok((0..size, Some(&object.checksum))) } else { Err(part_error()) };
            }
            headers.insert("x-amz-mp-parts-count", HeaderValue::from(object.parts.len()));
            let position = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            let position =
                position.filter(|position| *position < object.parts.len()).ok_or_else(part_error)?;
            let start = object.parts[..position].iter().map(|part| part.size).sum();
            let part = &object.parts[position];
            let composite = object.checksum.kind == ChecksumKind::Composite;
            Ok((start..start + part.size, part.checksum.as_ref().filter(|_| composite)))
        }
    }
}

fn range_error(size: u64) -> S3Error {
    let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable");
    let mut headers = error_headers();
    insert(&mut headers, "content-range", &format!("bytes */{size}"));
    error.set_headers(headers);
    error
}

fn part_error() -> S3Error {
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    custom("InvalidPartNumber", status, "The requested partnumber is not satisfiable")
}

/// The `response-*` parameters win over what is stored. The protocol crate sets them, but before our headers.
fn override_headers(headers: &mut HeaderMap, uri: &http::Uri) {
    const OVERRIDES: [&str; 6] = [
        "content-type",
        "content-language",
        "expires",
        "cache-control",
        "content-disposition",
        "content-encoding",
    ];
    let query = uri.query().unwrap_or_default();
    for name in OVERRIDES {
        let overridden = query.split('&').any(|pair| {
            pair.strip_prefix("response-").is_some_and(|rest| {
                rest.split_once('=').is_some_and(|(parameter, value)| parameter == name && !value.is_empty())
            })
        });
        if overridden {
            headers.remove(name);
        }
    }
}
