//! CompleteMultipartUpload: the checks between a list of parts and an object.
//!
//! All of it happens in one commit: two completions of one upload, or a completion and a conditional write of the same
//! key, cannot both win. No bytes are moved; the object is made of the parts' bodies.

use http::HeaderMap;
use s3s::dto::{CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart, ETag};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::checksums::{Algorithm, Checksum, ChecksumKind, multipart_etag};
use crate::conditions::WriteConditions;
use crate::index::{Index, Record};
use crate::model::{Completed, Content, NULL_VERSION, Object, ObjectPart, Part, Upload};
use crate::multipart::{part_number, upload_of};
use crate::output::checksum_fields;
use crate::put::{Written, put_record};
use crate::receive::Expected;
use crate::store::{Store, bucket_of};

/// Every part but the last must have this many bytes.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;

/// What the request says about the object besides its parts.
struct Claims {
    conditions: WriteConditions,
    /// `x-amz-checksum-*`: algorithm and value.
    checksum: Option<(Algorithm, String)>,
    kind: Option<String>,
    size: Option<i64>,
}

pub(crate) fn complete(
    store: &Store,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let claims = Claims::new(&request)?;
    let host = request.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let input = request.input;
    let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    let named = named_parts(&named)?;
    let new_id = store.next_id();
    let written = store.commit(|index| {
        if let Some(written) = repeated(index, &input.bucket, &input.key, &input.upload_id, &named) {
            return Ok((Vec::new(), written));
        }
        let upload = upload_of(index, &input.bucket, &input.key, &input.upload_id)?;
        let object = assemble(upload, &named, &claims)?;
        let entry = bucket_of(index, &input.bucket)?;
        claims.conditions.check(entry.current(&input.key).map(AsRef::as_ref))?;
        let (put, written) = put_record(entry, &input.bucket, &input.key, object, new_id);
        let completed = Completed {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            version_id: written.shown_id.clone().unwrap_or_else(|| NULL_VERSION.to_owned()),
            parts: named.iter().map(|part| (part.number, part.etag.clone())).collect(),
        };
        let gone = Record::UploadGone { id: input.upload_id.clone(), completed: Some(completed) };
        Ok((vec![put, gone], written))
    })?;
    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("http://{host}/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(ETag::Strong(written.etag)),
        version_id: written.shown_id,
        ..CompleteMultipartUploadOutput::default()
    };
    checksum_fields!(output, &written.checksum);
    output.checksum_type = Some(written.checksum.kind.name().to_owned().into());
    Ok(S3Response::new(output))
}

/// One part as the request names it.
struct NamedPart {
    number: u16,
    etag: String,
    checksum: Option<(Algorithm, String)>,
}

impl Claims {
    fn new(request: &S3Request<CompleteMultipartUploadInput>) -> S3Result<Self> {
        let headers = &request.headers;
        let input = &request.input;
        let mut checksum = None;
        if let Some(algorithm) = Expected::from_headers(&without_part_count(headers))?.algorithm() {
            let value = headers.get(algorithm.header()).and_then(|value| value.to_str().ok());
            checksum = value.map(|value| (algorithm, value.to_owned()));
        }
        Ok(Self {
            conditions: WriteConditions::from_headers(headers)?,
            checksum,
            kind: input.checksum_type.as_ref().map(|kind| kind.as_str().to_owned()),
            size: input.mpu_object_size,
        })
    }
}

/// A composite value may carry its part count here, where other operations know only plain digests.
fn without_part_count(headers: &HeaderMap) -> HeaderMap {
    let mut plain = HeaderMap::new();
    for algorithm in Algorithm::ALL {
        let value = headers.get(algorithm.header()).and_then(|value| value.to_str().ok());
        let digest = value.map(|value| value.split_once('-').map_or(value, |(digest, _)| digest));
        if let Some(Ok(digest)) = digest.map(http::HeaderValue::from_str) {
            plain.insert(algorithm.header(), digest);
        }
    }
    plain
}

/// The answer to a completion that has already happened with these very parts and whose object is still there.
fn repeated(index: &Index, bucket: &str, key: &str, id: &str, named: &[NamedPart]) -> Option<Written> {
    let completed =
        index.completed(id).filter(|completed| completed.bucket == bucket && completed.key == key)?;
    let same = completed.parts.len() == named.len()
        && completed
            .parts
            .iter()
            .zip(named)
            .all(|(known, part)| known.0 == part.number && known.1 == part.etag);
    let version = index.bucket(bucket)?.version(key, &completed.version_id).filter(|_| same)?;
    let object = version.object.as_deref()?;
    // Without versioning the id says nothing about which write this is.
    let parts = object.parts.iter().map(|part| part.number);
    if !parts.eq(named.iter().map(|part| part.number)) {
        return None;
    }
    Some(Written {
        etag: object.etag.clone(),
        checksum: object.checksum.clone(),
        modified_ms: version.modified_ms,
        shown_id: (version.id != NULL_VERSION).then(|| version.id.clone()),
    })
}

fn named_parts(parts: &[CompletedPart]) -> S3Result<Vec<NamedPart>> {
    if parts.is_empty() {
        return Err(s3_error!(MalformedXML, "The request names no part"));
    }
    let mut named: Vec<NamedPart> = Vec::with_capacity(parts.len());
    for part in parts {
        let number = part_number(part.part_number.unwrap_or(0))?;
        if named.last().is_some_and(|last| last.number >= number) {
            return Err(s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order. Parts must be ordered by part number."
            ));
        }
        let etag = part.e_tag.as_ref().ok_or_else(|| s3_error!(MalformedXML, "A part has no ETag"))?;
        named.push(NamedPart { number, etag: etag.value().to_owned(), checksum: part_checksum(part) });
    }
    Ok(named)
}

fn part_checksum(part: &CompletedPart) -> Option<(Algorithm, String)> {
    let values = [
        (Algorithm::Crc32, &part.checksum_crc32),
        (Algorithm::Crc32c, &part.checksum_crc32c),
        (Algorithm::Crc64Nvme, &part.checksum_crc64nvme),
        (Algorithm::Sha1, &part.checksum_sha1),
        (Algorithm::Sha256, &part.checksum_sha256),
    ];
    values.into_iter().find_map(|(algorithm, value)| value.clone().map(|value| (algorithm, value)))
}

fn assemble(upload: &Upload, named: &[NamedPart], claims: &Claims) -> S3Result<Object> {
    let parts: Vec<&Part> = named.iter().map(|named| chosen_part(upload, named)).collect::<S3Result<_>>()?;
    let all_but_last = &parts[..parts.len() - 1];
    if all_but_last.iter().any(|part| part.content.len() < MIN_PART_BYTES) {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size"
        ));
    }
    let content = Content(parts.iter().flat_map(|part| part.content.0.iter().cloned()).collect());
    if let Some(size) = claims.size
        && u64::try_from(size).ok() != Some(content.len())
    {
        return Err(s3_error!(
            InvalidRequest,
            "The provided 'x-amz-mp-object-size' header value {size} does not match what was computed: {}",
            content.len()
        ));
    }
    let checksum = object_checksum(upload, &parts)?;
    check_claimed_checksum(upload, &checksum, claims)?;
    let object_parts = named.iter().zip(&parts).map(|(named, part)| ObjectPart {
        number: named.number,
        size: part.content.len(),
        checksum: part.checksum.clone().filter(|_| upload.checksum.is_some()),
    });
    Ok(Object {
        etag: multipart_etag(parts.iter().map(|part| &part.md5)),
        parts: object_parts.collect(),
        content,
        checksum,
        attributes: upload.attributes.clone(),
        tags: upload.tags.clone(),
        lock: upload.lock.clone(),
    })
}

fn chosen_part<'a>(upload: &'a Upload, named: &NamedPart) -> S3Result<&'a Part> {
    let invalid = || {
        s3_error!(
            InvalidPart,
            "One or more of the specified parts could not be found. The part may not have been uploaded, or the \
             specified entity tag may not match the part's entity tag."
        )
    };
    let part =
        upload.parts.get(&named.number).filter(|part| part.etag() == named.etag).ok_or_else(invalid)?;
    match (&named.checksum, upload.checksum) {
        (Some((algorithm, value)), _) => {
            let known = part.checksum.as_ref();
            if known.is_some_and(|known| known.algorithm == *algorithm && known.value != *value) {
                return Err(invalid());
            }
        }
        (None, Some((algorithm, ChecksumKind::Composite))) => {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using a {} checksum. The complete request must include the checksum for each \
                 part. It was missing for part {} in the request.",
                algorithm.name().to_lowercase(),
                named.number
            ));
        }
        (None, Some((_, ChecksumKind::FullObject)) | None) => {}
    }
    Ok(part)
}

fn object_checksum(upload: &Upload, parts: &[&Part]) -> S3Result<Checksum> {
    let broken = || -> S3Error { s3_error!(InternalError, "a part has lost its checksum") };
    match upload.checksum {
        Some((algorithm, ChecksumKind::Composite)) => {
            let checksums: Option<Vec<&Checksum>> = parts.iter().map(|part| part.checksum.as_ref()).collect();
            Checksum::composite(algorithm, checksums.ok_or_else(broken)?.into_iter()).ok_or_else(broken)
        }
        Some((algorithm, ChecksumKind::FullObject)) => {
            let checksums: Option<Vec<_>> = parts
                .iter()
                .map(|part| part.checksum.as_ref().map(|sum| (sum, part.content.len())))
                .collect();
            Checksum::combine(algorithm, &checksums.ok_or_else(broken)?).ok_or_else(broken)
        }
        None => {
            let checksums: Vec<_> = parts.iter().map(|part| (&part.crc64, part.content.len())).collect();
            Checksum::combine(Algorithm::Crc64Nvme, &checksums).ok_or_else(broken)
        }
    }
}

fn check_claimed_checksum(upload: &Upload, computed: &Checksum, claims: &Claims) -> S3Result<()> {
    if claims.kind.as_deref().is_some_and(|kind| upload.checksum.is_some() && kind != computed.kind.name()) {
        return Err(s3_error!(
            InvalidRequest,
            "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
            computed.kind.name()
        ));
    }
    let Some((algorithm, claimed)) = &claims.checksum else { return Ok(()) };
    if *algorithm != computed.algorithm {
        return Err(s3_error!(
            BadDigest,
            "The {} you specified was not computed for this upload",
            algorithm.name()
        ));
    }
    let digest = computed.value.split_once('-').map_or(computed.value.as_str(), |(digest, _)| digest);
    if *claimed == computed.value || claimed == digest {
        return Ok(());
    }
    Err(s3_error!(BadDigest, "The {} you specified did not match the calculated checksum.", algorithm.name()))
}
