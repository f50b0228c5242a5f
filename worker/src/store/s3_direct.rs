//! The requests that are made for every object, without the client library's machinery around each: that costs more processor time than
//! everything else about a small copy.
//!
//! Only for stores that are reached at an endpoint of their own with the bucket in the path, where a request is what the S3 reference says
//! and nothing more. Whatever else there is (AWS's own endpoints, access points, directory buckets), and the rarer verbs, go through the
//! library. Connections, TLS and credentials are the library's in both cases, and the conformance suite runs on both.

mod answers;
mod send;
mod sign;

use std::sync::Arc;

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_types::date_time::{DateTime, Format};
use backhaul_runtime::locations::Owners;
use futures_util::TryFutureExt as _;
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use self::{
    answers::{copied, info_of, part_of, written_of},
    send::Wire,
    sign::Signer,
};
use super::{
    Attributes, ByteRange, GetResponse, ObjectInfo, ObjectPath, Operation, PartWritten, Payload, Pin, Proof,
    Put, StoreError, StoreErrorKind, Terms, UploadRef, WriteOptions, Written,
    s3::pieces,
    s3_shapes::{
        content_range, copy_source, crc64_header, if_match, md5_header, none_match, range_header, tagging,
        unquoted,
    },
};

pub(super) use self::send::Transport;

/// What stands for itself in a path and in a query: the unreserved characters, and in a path the slash.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// Requests to one store.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    wire: Wire,
    owners: Arc<Owners>,
}

/// A request that has yet to be signed.
#[derive(Debug)]
struct Draft<'a> {
    operation: Operation,
    method: Method,
    /// Of the object, encoded.
    path: String,
    /// Encoded, and in the order of the names.
    query: String,
    headers: Vec<(Name, String)>,
    body: Option<&'a Payload>,
}

/// The name of a header, in lower case.
type Name = std::borrow::Cow<'static, str>;

impl Direct {
    /// Requests to the store at `endpoint`; unsigned without credentials. `None` where the endpoint is not one that can be used this way.
    pub(super) fn new(
        transport: &Transport,
        endpoint: &str,
        region: &str,
        credentials: Option<SharedCredentialsProvider>,
        owners: Arc<Owners>,
    ) -> Option<Self> {
        let signer = credentials.map(|provider| Signer::new(provider, region));
        Wire::new(transport, endpoint, signer).map(|wire| Self { wire, owners })
    }

    /// A request about an object, which says whose bucket is meant.
    fn draft<'a>(
        &self,
        operation: Operation,
        method: Method,
        at: ObjectPath<'_>,
        version: Option<&str>,
    ) -> Draft<'a> {
        Draft::of_object(operation, method, at, version).with("x-amz-expected-bucket-owner", self.owner(at))
    }

    fn owner(&self, at: ObjectPath<'_>) -> Option<String> {
        self.owners.of(at.bucket).map(ToOwned::to_owned)
    }

    pub(super) async fn head(&self, at: ObjectPath<'_>, pin: &Pin) -> Result<ObjectInfo, StoreError> {
        let draft = self.draft(Operation::Head, Method::HEAD, at, pin.version.as_deref()).pinned(pin);
        let answer = self.wire.send(draft).await?;
        let length = answer.headers().get("content-length").and_then(|n| n.parse().ok());
        Ok(info_of(answer.headers(), length.unwrap_or(0)))
    }

    pub(super) async fn get(
        &self,
        at: ObjectPath<'_>,
        pin: &Pin,
        range: Option<ByteRange>,
    ) -> Result<GetResponse, StoreError> {
        let draft = self
            .draft(Operation::Get, Method::GET, at, pin.version.as_deref())
            .pinned(pin)
            .with("range", range.map(range_header));
        let answer = self.wire.send(draft).await?;
        let sent = match answer.headers().get("content-range") {
            None => None,
            Some(header) => Some(content_range(header).ok_or_else(|| {
                StoreError::new(Operation::Get, StoreErrorKind::BadAnswer, "malformed Content-Range")
            })?),
        };
        let length: Option<u64> = answer.headers().get("content-length").and_then(|n| n.parse().ok());
        let size_bytes = match (sent, length) {
            (Some(sent), _) => sent.total,
            (None, Some(length)) => length,
            (None, None) => {
                let pin = Pin {
                    version: answer.headers().get("x-amz-version-id").map(str::to_owned),
                    etag: Some(unquoted(answer.headers().get("etag"))).filter(|e| !e.is_empty()),
                };
                self.head(at, &pin).await?.size_bytes
            }
        };
        let info = info_of(answer.headers(), size_bytes);
        Ok(GetResponse { info, range: sent, length, body: pieces(answer.into_body().into()) })
    }

    pub(super) async fn put(&self, at: ObjectPath<'_>, put: Put<'_>) -> Result<Written, StoreError> {
        let draft = self
            .draft(Operation::Put, Method::PUT, at, None)
            .carrying(put.attributes, put.terms)
            .proving(put.body, put.proof)
            .with("x-amz-tagging", tagging(put.tags))
            .with("if-none-match", none_match(put.create_only));
        let answer =
            self.wire.send(draft).and_then(|answer| self.wire.finish(Operation::Put, answer)).await?;
        Ok(written_of(answer.headers()))
    }

    pub(super) async fn copy(
        &self,
        from: ObjectPath<'_>,
        pin: &Pin,
        to: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<Written, StoreError> {
        let draft = self
            .draft(Operation::Copy, Method::PUT, to, None)
            .carrying(write.attributes, write.terms)
            .with("x-amz-copy-source", Some(copy_source(from, pin.version.as_deref())))
            .with("x-amz-source-expected-bucket-owner", self.owner(from))
            .with("x-amz-copy-source-if-match", if_match(pin))
            .with("x-amz-metadata-directive", Some("REPLACE".to_owned()))
            .with("x-amz-checksum-algorithm", write.crc64nvme.then(|| "CRC64NVME".to_owned()))
            .with("if-none-match", none_match(write.create_only));
        let answer = self.wire.send(draft).await?;
        let (headers, text) = self.wire.text(Operation::Copy, answer).await?;
        copied(&headers, &text)
    }

    pub(super) async fn upload_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        body: &Payload,
        proof: Proof,
    ) -> Result<PartWritten, StoreError> {
        let mut draft = self.draft(Operation::UploadPart, Method::PUT, upload.at, None).proving(body, proof);
        draft.query = format!("partNumber={number}&uploadId={}", utf8_percent_encode(upload.id, QUERY));
        let sent = self.wire.send(draft);
        let answer = sent.and_then(|answer| self.wire.finish(Operation::UploadPart, answer)).await?;
        part_of(answer.headers(), number)
    }
}

impl<'a> Draft<'a> {
    fn of_object(operation: Operation, method: Method, at: ObjectPath<'_>, version: Option<&str>) -> Self {
        let path = format!("/{}/{}", utf8_percent_encode(at.bucket, PATH), utf8_percent_encode(at.key, PATH));
        let query = version.map(|v| format!("versionId={}", utf8_percent_encode(v, QUERY)));
        Self {
            operation,
            method,
            path,
            query: query.unwrap_or_default(),
            headers: Vec::with_capacity(32),
            body: None,
        }
    }

    fn with(mut self, name: &'static str, value: Option<String>) -> Self {
        self.headers.extend(value.map(|value| (name.into(), value)));
        self
    }

    /// A read of exactly one state, which also tells the checksums that the store keeps.
    fn pinned(self, pin: &Pin) -> Self {
        self.with("if-match", if_match(pin)).with("x-amz-checksum-mode", Some("ENABLED".to_owned()))
    }

    fn proving(mut self, body: &'a Payload, proof: Proof) -> Self {
        self.body = Some(body);
        self.with("x-amz-checksum-crc64nvme", proof.crc64nvme.map(crc64_header))
            .with("content-md5", proof.md5.map(md5_header))
    }

    fn carrying(mut self, attributes: &Attributes, terms: Terms<'_>) -> Self {
        let a = attributes;
        for (name, value) in &a.metadata {
            self.headers.push((format!("x-amz-meta-{}", name.to_ascii_lowercase()).into(), value.clone()));
        }
        let mode = |compliance| if compliance { "COMPLIANCE" } else { "GOVERNANCE" };
        let until = |seconds| DateTime::from_secs(seconds).fmt(Format::DateTime).ok();
        self.with("content-type", a.content_type.clone())
            .with("content-encoding", a.content_encoding.clone())
            .with("content-disposition", a.content_disposition.clone())
            .with("content-language", a.content_language.clone())
            .with("cache-control", a.cache_control.clone())
            .with("expires", a.expires.clone())
            .with("x-amz-website-redirect-location", a.website_redirect.clone())
            .with("x-amz-storage-class", terms.storage_class.map(str::to_owned))
            .with("x-amz-object-lock-mode", terms.retention.map(|r| mode(r.compliance).to_owned()))
            .with("x-amz-object-lock-retain-until-date", terms.retention.and_then(|r| until(r.until)))
    }
}
