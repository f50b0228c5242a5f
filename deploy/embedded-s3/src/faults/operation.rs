//! Which S3 operation an HTTP request is, before anything is parsed or checked.
//!
//! Only for rules and counts. The protocol crate routes on its own.

use http::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;

/// An S3 operation, as far as this store tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are S3's own")]
pub enum Operation {
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    ListMultipartUploads,
    /// ListObjects, version 1.
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    GetObjectAttributes,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    HeadBucket,
    CreateBucket,
    DeleteBucket,
    ListBuckets,
    /// Everything else: bucket configuration, object lock, and what is not supported.
    Other,
}

/// A request as rules see it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) operation: Operation,
    pub(super) bucket: Option<String>,
    pub(super) key: Option<String>,
}

impl Operation {
    /// How many there are.
    pub(super) const COUNT: usize = Self::Other as usize + 1;

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl Target {
    pub(super) fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let path = uri.path().strip_prefix('/').unwrap_or_default();
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let decode = |part: &str| {
            (!part.is_empty()).then(|| percent_decode_str(part).decode_utf8_lossy().into_owned())
        };
        let (bucket, key) = (decode(bucket), decode(key));
        let query = uri.query().unwrap_or_default();
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        let operation = match (&bucket, &key) {
            (None, _) if *method == Method::GET => Operation::ListBuckets,
            (None, _) => Operation::Other,
            (Some(_), None) => bucket_operation(method, query, has),
            (Some(_), Some(_)) => object_operation(method, headers, has),
        };
        Self { operation, bucket, key }
    }
}

fn bucket_operation(method: &Method, query: &str, has: impl Fn(&str) -> bool) -> Operation {
    const CONFIGURATION: [&str; 9] = [
        "location",
        "versioning",
        "object-lock",
        "acl",
        "policy",
        "lifecycle",
        "tagging",
        "encryption",
        "cors",
    ];
    let configuration = CONFIGURATION.into_iter().any(&has);
    match *method {
        Method::HEAD => Operation::HeadBucket,
        Method::POST if has("delete") => Operation::DeleteObjects,
        Method::GET if has("uploads") => Operation::ListMultipartUploads,
        Method::GET if has("versions") => Operation::ListObjectVersions,
        Method::GET if query.split('&').any(|pair| pair == "list-type=2") => Operation::ListObjectsV2,
        Method::GET if !configuration => Operation::ListObjects,
        Method::PUT if !configuration => Operation::CreateBucket,
        Method::DELETE if !configuration => Operation::DeleteBucket,
        _ => Operation::Other,
    }
}

fn object_operation(method: &Method, headers: &HeaderMap, has: impl Fn(&str) -> bool) -> Operation {
    let copy = headers.contains_key("x-amz-copy-source");
    let other = ["acl", "retention", "legal-hold", "torrent", "restore", "select"].into_iter().any(&has);
    match *method {
        Method::HEAD => Operation::HeadObject,
        _ if other => Operation::Other,
        Method::GET if has("attributes") => Operation::GetObjectAttributes,
        Method::GET if has("tagging") => Operation::GetObjectTagging,
        Method::GET if has("uploadId") => Operation::ListParts,
        Method::GET => Operation::GetObject,
        Method::PUT if has("tagging") => Operation::PutObjectTagging,
        Method::PUT if has("uploadId") && copy => Operation::UploadPartCopy,
        Method::PUT if has("uploadId") => Operation::UploadPart,
        Method::PUT if copy => Operation::CopyObject,
        Method::PUT => Operation::PutObject,
        Method::POST if has("uploads") => Operation::CreateMultipartUpload,
        Method::POST if has("uploadId") => Operation::CompleteMultipartUpload,
        Method::DELETE if has("tagging") => Operation::DeleteObjectTagging,
        Method::DELETE if has("uploadId") => Operation::AbortMultipartUpload,
        Method::DELETE => Operation::DeleteObject,
        _ => Operation::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: Method, uri: &'static str, copy: bool) -> Target {
        let mut headers = HeaderMap::new();
        if copy {
            headers.insert("x-amz-copy-source", http::HeaderValue::from_static("b/k"));
        }
        Target::of(&method, &Uri::from_static(uri), &headers)
    }

    #[test]
    fn requests_are_told_apart_by_method_path_query_and_copy_source() {
        let table = [
            (Method::GET, "/b/k", false, Operation::GetObject),
            (Method::GET, "/b/k?versionId=1&x-id=GetObject", false, Operation::GetObject),
            (Method::GET, "/b/k?attributes", false, Operation::GetObjectAttributes),
            (Method::GET, "/b/k?uploadId=1", false, Operation::ListParts),
            (Method::PUT, "/b/k", false, Operation::PutObject),
            (Method::PUT, "/b/k", true, Operation::CopyObject),
            (Method::PUT, "/b/k?partNumber=1&uploadId=1", false, Operation::UploadPart),
            (Method::PUT, "/b/k?partNumber=1&uploadId=1", true, Operation::UploadPartCopy),
            (Method::POST, "/b/k?uploads", false, Operation::CreateMultipartUpload),
            (Method::POST, "/b/k?uploadId=1", false, Operation::CompleteMultipartUpload),
            (Method::DELETE, "/b/k?uploadId=1", false, Operation::AbortMultipartUpload),
            (Method::DELETE, "/b/k", false, Operation::DeleteObject),
            (Method::POST, "/b/?delete", false, Operation::DeleteObjects),
            (Method::GET, "/b/?list-type=2&prefix=uploads", false, Operation::ListObjectsV2),
            (Method::GET, "/b", false, Operation::ListObjects),
            (Method::GET, "/b?versions", false, Operation::ListObjectVersions),
            (Method::GET, "/b?location", false, Operation::Other),
            (Method::HEAD, "/b", false, Operation::HeadBucket),
            (Method::GET, "/", false, Operation::ListBuckets),
        ];
        for (method, uri, copy, expected) in table {
            assert_eq!(target(method.clone(), uri, copy).operation, expected, "{method} {uri}");
        }
    }

    #[test]
    fn keys_are_decoded_and_kept_exactly() {
        let found = target(Method::GET, "/b//a%2Fb/%C3%A9/", false);
        assert_eq!(found.bucket.as_deref(), Some("b"));
        assert_eq!(found.key.as_deref(), Some("/a/b/é/"));
    }
}
