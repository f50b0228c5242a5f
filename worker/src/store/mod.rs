//! Object stores as the transfer engine sees them: the S3 verbs it uses and no more.
//!
//! It exists so that copying is written, and tested with faults, without a store's client library. It has no verb that deletes an
//! object and none that overwrites on purpose: the data path cannot destroy a backup. Nothing here retries, decides or logs.

mod body;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
mod credentials;
mod error;
#[cfg(any(test, feature = "test-util"))]
pub mod faulty;
mod listed;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
mod s3;
#[cfg(test)]
mod s3_away_tests;
mod s3_client;
mod s3_direct;
mod s3_error;
mod s3_guard;
mod s3_listings;
mod s3_scratch;
mod s3_shapes;
#[cfg(test)]
pub(crate) mod s3_tests;
#[cfg(test)]
mod s3_verbs;
mod s3_waits;
#[cfg(test)]
mod s3_wire_tests;

use std::{collections::BTreeMap, fmt, pin::Pin as PinBox};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};

pub use body::Payload;
pub use credentials::{CredentialsError, CredentialsProblem};
pub use error::{Operation, StoreError, StoreErrorKind};
pub use listed::{ObjectListed, ObjectsPage, VersionMarker, VersionsPage};
pub use s3::S3Store;
pub use s3_client::{CaBundleError, ClientSettings, Clients};
pub use s3_scratch::{ScratchArea, ScratchError};

/// One S3-compatible store, reached with one set of credentials.
///
/// Every method is one request to the store, except where it says otherwise. An `Err` whose
/// [`StoreErrorKind::is_uncertain`] is true may hide a success: the request may have been executed although no answer came.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug + 'static {
    /// Describes an object without its bytes, stored checksums included.
    ///
    /// # Errors
    /// [`StoreError`]; a HEAD has no body, so a missing bucket cannot be told from a missing key
    /// ([`StoreErrorKind::NotFound`]).
    async fn head(&self, at: ObjectPath<'_>, pin: &Pin) -> Result<ObjectInfo, StoreError>;

    /// Reads an object or a part of it. Where the store sends no length at all, a HEAD finds it out.
    ///
    /// # Errors
    /// [`StoreError`], until the response headers; the body has its own.
    async fn get(
        &self,
        at: ObjectPath<'_>,
        pin: &Pin,
        range: Option<ByteRange>,
    ) -> Result<GetResponse, StoreError>;

    /// Reads an object's tags.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn get_tags(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<Vec<Tag>, StoreError>;

    /// Whether somebody besides its owner was given rights on the object itself (an ACL of its own).
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreErrorKind::NotImplemented`] where objects have no ACLs.
    async fn has_grants(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<bool, StoreError>;

    /// Writes a whole object.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreErrorKind::PreconditionFailed`] when the key exists and [`Put::create_only`] is set.
    async fn put(&self, at: ObjectPath<'_>, put: Put<'_>) -> Result<Written, StoreError>;

    /// Copies an object of at most 5 GiB inside the store; tags travel along, metadata is replaced.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreErrorKind::PreconditionFailed`] when the source is not as pinned or the key exists.
    async fn copy(
        &self,
        from: ObjectPath<'_>,
        pin: &Pin,
        to: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<Written, StoreError>;

    /// Starts a multipart upload and returns its id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn create_upload(&self, at: ObjectPath<'_>, write: &WriteOptions<'_>)
    -> Result<String, StoreError>;

    /// Writes one part; a part of the same number is replaced.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn upload_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        body: &Payload,
        proof: Proof,
    ) -> Result<PartWritten, StoreError>;

    /// Copies a range of an object of the same store into a part.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreErrorKind::PreconditionFailed`] when the source is not as pinned.
    async fn copy_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        from: ObjectPath<'_>,
        pin: &Pin,
        range: ByteRange,
    ) -> Result<PartWritten, StoreError>;

    /// Ids of the uploads in progress for one key, at most 1,000.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_uploads(&self, at: ObjectPath<'_>) -> Result<Vec<String>, StoreError>;

    /// Lists up to 1,000 uploads in progress whose keys begin with `prefix`, from behind `after` on.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_uploads_under(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&UploadListed>,
    ) -> Result<UploadsPage, StoreError>;

    /// Lists up to `most` (at most 1,000) objects whose keys begin with `prefix`, from behind the key `after` on, in the store's own order.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        most: u32,
    ) -> Result<ObjectsPage, StoreError>;

    /// As [`ObjectStore::list_objects`], all versions that are kept; delete markers are left out, so that a page may be short. `after` is
    /// the [`VersionsPage::next`] of the page before.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_versions(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&VersionMarker>,
        most: u32,
    ) -> Result<VersionsPage, StoreError>;

    /// Lists up to 1,000 parts of an upload with a number above `after`, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_parts(&self, upload: UploadRef<'_>, after: u32) -> Result<PartsPage, StoreError>;

    /// Makes the parts one object.
    ///
    /// # Errors
    /// [`StoreError`]; an answer of status 200 that carries an error is an error.
    async fn complete_upload(
        &self,
        upload: UploadRef<'_>,
        parts: &[PartWritten],
        completion: Completion,
    ) -> Result<Written, StoreError>;

    /// Ends an upload and drops its parts. An upload that does not exist is no error.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn abort_upload(&self, upload: UploadRef<'_>) -> Result<(), StoreError>;
}

/// Where an object is inside its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectPath<'a> {
    /// Bucket.
    pub bucket: &'a str,
    /// Key, byte for byte.
    pub key: &'a str,
}

/// A multipart upload in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadRef<'a> {
    /// The object that it will become.
    pub at: ObjectPath<'a>,
    /// The store's id of the upload.
    pub id: &'a str,
}

/// Which state of an object a read accepts; both empty means the latest, whatever it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pin {
    /// Version id.
    pub version: Option<String>,
    /// ETag without quotes, sent as `If-Match`.
    pub etag: Option<String>,
}

/// A part of an object; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// Bytes; at least 1.
    pub length: u64,
}

/// What a store says about an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObjectInfo {
    /// Length of the whole object.
    pub size_bytes: u64,
    /// ETag without quotes; empty when the store sent none.
    pub etag: String,
    /// Version id; `None` where the bucket keeps no versions.
    pub version: Option<String>,
    /// Last-Modified, as seconds since the epoch and nanoseconds.
    pub modified: Option<(i64, u32)>,
    /// CRC-64/NVME of the whole object, where the store keeps it.
    pub crc64nvme: Option<u64>,
    /// SHA-256 of the whole object, where the store keeps it.
    pub sha256: Option<[u8; 32]>,
    /// Content headers and user metadata.
    pub attributes: Attributes,
    /// Number of tags; `None` when the store did not say.
    pub tag_count: Option<u32>,
    /// Storage class; `None` for the standard one.
    pub storage_class: Option<String>,
    /// The bytes are encrypted with a key whose use keeps the ETag from being an MD5.
    pub opaque_etag: bool,
    /// Retention or a legal hold is set on it.
    pub locked: bool,
    /// Until when it is retained, where a retention is set on it.
    pub retained: Option<Retention>,
    /// It has user metadata that the store cannot put into headers and leaves out.
    pub hidden_metadata: bool,
}

/// What belongs to an object besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Content-Type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Content-Encoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// Content-Disposition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    /// Content-Language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    /// Cache-Control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// Expires, as the store sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Where a website endpoint sends those who ask for the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website_redirect: Option<String>,
    /// User metadata, names in lower case and without `x-amz-meta-`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// One tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tag {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// The start of a read: headers, and the body to come.
pub struct GetResponse {
    /// About the whole object.
    pub info: ObjectInfo,
    /// What the store says it sends, as first byte and total; `None` when it claims to send everything.
    pub range: Option<ContentRange>,
    /// Bytes that the store announced for this body; `None` when it did not.
    pub length: Option<u64>,
    /// The bytes.
    pub body: BodyStream,
}

/// Content-Range of a partial answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive.
    pub end: u64,
    /// Length of the whole object.
    pub total: u64,
}

/// Bytes of a body in order; ends early only with an `Err`, as far as the store's protocol can tell.
pub type BodyStream = PinBox<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>;

/// What is sent so that the store can check the bytes it receives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proof {
    /// CRC-64/NVME of the bytes, for stores that take it.
    pub crc64nvme: Option<u64>,
    /// MD5 of the bytes, for stores that take nothing better.
    pub md5: Option<[u8; 16]>,
}

/// What a store is asked to do with an object besides keeping it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms<'a> {
    /// Storage class; `None` for the bucket's own.
    pub storage_class: Option<&'a str>,
    /// Object lock; `None` for the bucket's own.
    pub retention: Option<Retention>,
}

/// A time in which nobody can delete or overwrite an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Nobody at all can shorten it; otherwise those with a special right can.
    pub compliance: bool,
    /// Its end, in seconds since the epoch.
    pub until: i64,
}

/// How an object is to be created.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions<'a> {
    /// Content headers and user metadata.
    pub attributes: &'a Attributes,
    /// Tags; empty for none.
    pub tags: &'a [Tag],
    /// Storage class and retention.
    pub terms: Terms<'a>,
    /// The store keeps a CRC-64/NVME of the whole object: ask for one.
    pub crc64nvme: bool,
    /// Fail where the key exists (`If-None-Match: *`); ignored by [`ObjectStore::create_upload`], see [`Completion`].
    pub create_only: bool,
}

/// A whole object to write.
#[derive(Debug, Clone, Copy)]
pub struct Put<'a> {
    /// The bytes.
    pub body: &'a Payload,
    /// How the store can check them.
    pub proof: Proof,
    /// Content headers and user metadata.
    pub attributes: &'a Attributes,
    /// Tags; empty for none.
    pub tags: &'a [Tag],
    /// Storage class and retention.
    pub terms: Terms<'a>,
    /// Fail where the key exists (`If-None-Match: *`).
    pub create_only: bool,
}

/// What a store says about an object that it has just made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// ETag without quotes.
    pub etag: String,
    /// Version id; `None` where the bucket keeps no versions.
    pub version: Option<String>,
    /// CRC-64/NVME of the whole object, where the store reports it.
    pub crc64nvme: Option<u64>,
}

/// A part that a store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartWritten {
    /// Number, from 1.
    pub number: u32,
    /// ETag without quotes.
    pub etag: String,
    /// CRC-64/NVME of the part, where the store reports it.
    pub crc64nvme: Option<u64>,
}

/// A part as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartListed {
    /// Number, ETag and checksum.
    pub part: PartWritten,
    /// Length.
    pub size_bytes: u64,
    /// When it was written, in seconds since the epoch; `None` when the store did not say.
    pub modified: Option<i64>,
}

/// An upload in progress, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadListed {
    /// The key that it is for.
    pub key: String,
    /// Its id.
    pub id: String,
    /// When it was started, in seconds since the epoch; `None` when the store did not say.
    pub initiated: Option<i64>,
}

/// Up to 1,000 uploads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadsPage {
    /// As the store sorts them.
    pub uploads: Vec<UploadListed>,
    /// More follow after the last one.
    pub more: bool,
}

/// Up to 1,000 parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartsPage {
    /// In order of their numbers.
    pub parts: Vec<PartListed>,
    /// More follow after the last one.
    pub more: bool,
}

/// What a completion asks the store to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Length of the whole object.
    pub size_bytes: u64,
    /// CRC-64/NVME of the whole object, where the upload was created with it.
    pub crc64nvme: Option<u64>,
    /// Fail where the key exists (`If-None-Match: *`).
    pub create_only: bool,
}

impl ByteRange {
    /// One past the last byte.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.length
    }
}

impl fmt::Debug for GetResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetResponse")
            .field("info", &self.info)
            .field("range", &self.range)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ObjectPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.key)
    }
}
