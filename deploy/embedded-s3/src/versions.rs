//! ListObjectVersions and ListMultipartUploads: listings with two markers, because a key can occur more than once.

use s3s::dto::{
    ChecksumAlgorithm, ChecksumType, CommonPrefix, DeleteMarkerEntry, ETag, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectVersionsInput, ListObjectVersionsOutput, MultipartUpload,
    ObjectVersion, ObjectVersionStorageClass, StorageClass,
};
use s3s::{S3Request, S3Response, S3Result};

use crate::listing::{Query, fold};
use crate::model::{Upload, Version};
use crate::output::{KeyEncoding, count, owner, page_size, size};
use crate::store::{Store, bucket_of};
use crate::time::timestamp;

/// A listing of (key, id) pairs being cut into a page.
struct Paging<'a> {
    query: Query<'a>,
    /// With the key marker: continue behind this id.
    after_id: Option<&'a str>,
    taken: usize,
    last: Option<(String, Option<String>)>,
    folded: Vec<String>,
    truncated: bool,
}

/// What to do with one pair.
enum Verdict {
    Take,
    Skip,
    Stop,
}

impl<'a> Paging<'a> {
    fn new(query: Query<'a>, after_id: Option<&'a str>) -> Self {
        Self { query, after_id, taken: 0, last: None, folded: Vec::new(), truncated: false }
    }

    /// Judges the next pair in order. `behind` says whether it comes behind the marker, where the key is the marker's.
    fn judge(&mut self, key: &str, id: &str, behind: impl FnOnce(&str) -> bool) -> Verdict {
        if !key.starts_with(self.query.prefix) || key < self.query.after {
            return Verdict::Skip;
        }
        if key == self.query.after && !self.after_id.is_some_and(behind) {
            return Verdict::Skip;
        }
        let folded = fold(key, self.query);
        if folded.is_some_and(|folded| {
            folded <= self.query.after || self.folded.last().is_some_and(|last| last == folded)
        }) {
            return Verdict::Skip;
        }
        if self.taken == self.query.max {
            self.truncated = self.query.max > 0;
            return Verdict::Stop;
        }
        self.taken += 1;
        match folded {
            Some(folded) => {
                self.folded.push(folded.to_owned());
                self.last = Some((folded.to_owned(), None));
                Verdict::Skip
            }
            None => {
                self.last = Some((key.to_owned(), Some(id.to_owned())));
                Verdict::Take
            }
        }
    }

    fn next(&self) -> (Option<String>, Option<String>) {
        match &self.last {
            Some((key, id)) if self.truncated => (Some(key.clone()), id.clone()),
            Some(_) | None => (None, None),
        }
    }

    fn common_prefixes(&self, encoding: KeyEncoding) -> Vec<CommonPrefix> {
        self.folded.iter().map(|prefix| CommonPrefix { prefix: Some(encoding.encode(prefix)) }).collect()
    }
}

pub(crate) fn list_versions(
    store: &Store,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = request.input;
    let encoding = KeyEncoding::new(input.encoding_type.as_ref())?;
    let max = page_size("max-keys", input.max_keys)?;
    let (prefix, delimiter) = (input.prefix.unwrap_or_default(), input.delimiter.unwrap_or_default());
    let key_marker = input.key_marker.unwrap_or_default();
    store.read(|index| {
        let bucket = bucket_of(index, &input.bucket)?;
        let query = Query { prefix: &prefix, delimiter: &delimiter, after: &key_marker, max };
        let mut paging = Paging::new(query, input.version_id_marker.as_deref());
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        let start = if key_marker >= prefix { &key_marker } else { &prefix };
        'keys: for (key, all) in bucket.keys.range(start.clone()..) {
            if !key.starts_with(&prefix) {
                break;
            }
            let position = |id: &str| all.iter().rev().position(|version| version.id == id);
            for (age, version) in all.iter().rev().enumerate() {
                let behind = |marker: &str| position(marker).is_some_and(|marker| age > marker);
                match paging.judge(key, &version.id, behind) {
                    Verdict::Skip => {}
                    Verdict::Stop => break 'keys,
                    Verdict::Take if version.is_delete_marker() => {
                        markers.push(listed_marker(encoding.encode(key), version, age == 0));
                    }
                    Verdict::Take => versions.extend(listed_version(encoding.encode(key), version, age == 0)),
                }
            }
        }
        let (next_key_marker, next_version_id_marker) = paging.next();
        Ok(S3Response::new(ListObjectVersionsOutput {
            name: Some(input.bucket.clone()),
            prefix: Some(encoding.encode(&prefix)),
            delimiter: (!delimiter.is_empty()).then(|| encoding.encode(&delimiter)),
            key_marker: Some(encoding.encode(&key_marker)),
            version_id_marker: input.version_id_marker.clone(),
            max_keys: count(max),
            is_truncated: Some(paging.truncated),
            next_key_marker: next_key_marker.map(|key| encoding.encode(&key)),
            next_version_id_marker,
            common_prefixes: Some(paging.common_prefixes(encoding)),
            versions: Some(versions),
            delete_markers: Some(markers),
            encoding_type: encoding.shown(),
            ..ListObjectVersionsOutput::default()
        }))
    })
}

pub(crate) fn list_uploads(
    store: &Store,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    let encoding = KeyEncoding::new(input.encoding_type.as_ref())?;
    let max = page_size("max-uploads", input.max_uploads)?;
    let (prefix, delimiter) = (input.prefix.unwrap_or_default(), input.delimiter.unwrap_or_default());
    let key_marker = input.key_marker.unwrap_or_default();
    store.read(|index| {
        bucket_of(index, &input.bucket)?;
        let query = Query { prefix: &prefix, delimiter: &delimiter, after: &key_marker, max };
        let mut paging = Paging::new(query, input.upload_id_marker.as_deref());
        // Ids grow with time, so the sort is by key, then by age.
        let mut open: Vec<(&String, &String, &Upload)> =
            index.uploads(&input.bucket).map(|(id, upload)| (&upload.key, id, upload)).collect();
        open.sort_by_key(|(key, id, _)| (*key, *id));
        let mut uploads = Vec::new();
        for (key, id, upload) in open {
            match paging.judge(key, id, |marker| id.as_str() > marker) {
                Verdict::Skip => {}
                Verdict::Stop => break,
                Verdict::Take => uploads.push(listed_upload(encoding.encode(key), id, upload)),
            }
        }
        let (next_key_marker, next_upload_id_marker) = paging.next();
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            prefix: Some(encoding.encode(&prefix)),
            delimiter: (!delimiter.is_empty()).then(|| encoding.encode(&delimiter)),
            key_marker: Some(encoding.encode(&key_marker)),
            upload_id_marker: input.upload_id_marker.clone(),
            max_uploads: count(max),
            is_truncated: Some(paging.truncated),
            next_key_marker: next_key_marker.map(|key| encoding.encode(&key)),
            next_upload_id_marker,
            common_prefixes: Some(paging.common_prefixes(encoding)),
            uploads: Some(uploads),
            encoding_type: encoding.shown(),
            ..ListMultipartUploadsOutput::default()
        }))
    })
}

fn listed_version(key: String, version: &Version, is_latest: bool) -> Option<ObjectVersion> {
    let object = version.object.as_deref()?;
    Some(ObjectVersion {
        key: Some(key),
        version_id: Some(version.id.clone()),
        is_latest: Some(is_latest),
        e_tag: Some(ETag::Strong(object.etag.clone())),
        last_modified: Some(timestamp(version.modified_ms)),
        size: size(object.size()),
        storage_class: Some(ObjectVersionStorageClass::from(
            object.attributes.storage_class_name().to_owned(),
        )),
        checksum_algorithm: Some(vec![ChecksumAlgorithm::from_static(object.checksum.algorithm.name())]),
        checksum_type: Some(ChecksumType::from_static(object.checksum.kind.name())),
        owner: Some(owner()),
        ..ObjectVersion::default()
    })
}

fn listed_marker(key: String, version: &Version, is_latest: bool) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        key: Some(key),
        version_id: Some(version.id.clone()),
        is_latest: Some(is_latest),
        last_modified: Some(timestamp(version.modified_ms)),
        owner: Some(owner()),
    }
}

fn listed_upload(key: String, id: &str, upload: &Upload) -> MultipartUpload {
    MultipartUpload {
        key: Some(key),
        upload_id: Some(id.to_owned()),
        initiated: Some(timestamp(upload.initiated_ms)),
        storage_class: Some(StorageClass::from(upload.attributes.storage_class_name().to_owned())),
        checksum_algorithm: upload
            .checksum
            .map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
        checksum_type: upload.checksum.map(|(_, kind)| ChecksumType::from_static(kind.name())),
        owner: Some(owner()),
        ..MultipartUpload::default()
    }
}
