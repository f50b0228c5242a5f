//! What a store answers when it does not do what it was asked: one kind per reaction, whatever the store's own words were.
//!
//! The engine decides by kind alone. The text is for people; it never holds a credential or a signed header.

use std::{fmt, time::Duration};

use backhaul_runtime::address::ForbiddenAddress;

/// A request to a store that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {kind}{}", Said(code.as_deref(), message, request_id.as_deref()))]
pub struct StoreError {
    /// What was asked.
    pub operation: Operation,
    /// What the caller may rely on.
    pub kind: StoreErrorKind,
    /// The store's own word (`SlowDown`, `NoSuchKey`), where it sent one.
    pub code: Option<String>,
    /// For people.
    pub message: String,
    /// The store's id of the request, for its operators.
    pub request_id: Option<String>,
    /// What the client library said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The verbs, for messages and for tests that make one of them fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// [`super::ObjectStore::head`]
    Head,
    /// [`super::ObjectStore::get`]
    Get,
    /// [`super::ObjectStore::get_tags`]
    GetTags,
    /// [`super::ObjectStore::has_grants`]
    GetAcl,
    /// [`super::ObjectStore::put`]
    Put,
    /// [`super::ObjectStore::copy`]
    Copy,
    /// [`super::ObjectStore::create_upload`]
    CreateUpload,
    /// [`super::ObjectStore::upload_part`]
    UploadPart,
    /// [`super::ObjectStore::copy_part`]
    CopyPart,
    /// [`super::ObjectStore::list_uploads`] and [`super::ObjectStore::list_uploads_under`]
    ListUploads,
    /// [`super::ObjectStore::list_objects`]
    ListObjects,
    /// [`super::ObjectStore::list_versions`]
    ListVersions,
    /// [`super::ObjectStore::list_parts`]
    ListParts,
    /// [`super::ObjectStore::complete_upload`]
    CompleteUpload,
    /// [`super::ObjectStore::abort_upload`]
    AbortUpload,
}

/// Why a request did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// A HEAD answered 404: the bucket, the key or the version does not exist.
    NotFound,
    /// The key does not exist, or its latest version is a delete marker.
    NoSuchKey,
    /// The version does not exist, or is a delete marker.
    NoSuchVersion,
    /// The bucket does not exist.
    NoSuchBucket,
    /// The multipart upload does not exist (any more).
    NoSuchUpload,
    /// A part named in a completion is not there, or is another one.
    InvalidPart,
    /// A pin or a create-only write did not hold. Nothing was changed.
    PreconditionFailed,
    /// Another write to the same key was going on (409). Nothing was changed by this one.
    Conflict,
    /// The range lies outside the object.
    InvalidRange,
    /// The credentials or the action were refused.
    Denied,
    /// The endpoint leads elsewhere: it answered with a redirect, which is not followed, or its name to an address that no store may have.
    Misdirected,
    /// The credentials have run out; new ones may work.
    CredentialsExpired,
    /// The clocks of worker and store differ too much for signatures.
    ClockSkew,
    /// The store asks for less load.
    Throttled {
        /// How long it asked to wait; zero when it did not say.
        retry_after: Duration,
    },
    /// The store received other bytes than were sent.
    BadDigest,
    /// The object is archived and must be restored by its owner first.
    Archived,
    /// Larger than the store takes.
    TooLarge,
    /// The store cannot do this at all.
    NotImplemented,
    /// The store does not accept the request as it is (key, metadata, tag).
    Rejected,
    /// The store failed (5xx).
    Server,
    /// No answer in time.
    Timeout,
    /// The connection broke, or was never made.
    Connection,
    /// An answer that makes no sense.
    BadAnswer,
}

struct Said<'a>(Option<&'a str>, &'a str, Option<&'a str>);

impl StoreError {
    /// An error without words of the store.
    #[must_use]
    pub fn new(operation: Operation, kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { operation, kind, code: None, message: message.into(), request_id: None, source: None }
    }

    /// No request was sent, because of the address that the endpoint leads to.
    pub(super) fn forbidden(
        operation: Operation,
        why: ForbiddenAddress,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let message = format!("{why}; if the store is there: allow_link_local");
        Self { source: Some(Box::new(source)), ..Self::new(operation, StoreErrorKind::Misdirected, message) }
    }

    /// Says what else a refusal may mean: the request named the account that the bucket must belong to.
    pub(super) fn doubting(mut self, bucket: &str, owner: &str) -> Self {
        if self.kind == StoreErrorKind::Denied {
            let separator = if self.message.is_empty() { "" } else { "; " };
            self.message += &format!("{separator}unless {bucket} belongs to {owner} (owner), this is why");
        }
        self
    }
}

impl StoreErrorKind {
    /// The same request, sent again after a while, may succeed.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Conflict
            | Self::CredentialsExpired
            | Self::Throttled { .. }
            | Self::BadDigest
            | Self::Server
            | Self::Timeout
            | Self::Connection
            | Self::BadAnswer => true,
            Self::NotFound
            | Self::NoSuchKey
            | Self::NoSuchVersion
            | Self::NoSuchBucket
            | Self::NoSuchUpload
            | Self::InvalidPart
            | Self::PreconditionFailed
            | Self::InvalidRange
            | Self::Denied
            | Self::Misdirected
            | Self::ClockSkew
            | Self::Archived
            | Self::TooLarge
            | Self::NotImplemented
            | Self::Rejected => false,
        }
    }

    /// The request may have been executed although it failed here.
    #[must_use]
    pub const fn is_uncertain(self) -> bool {
        match self {
            Self::Server | Self::Timeout | Self::Connection | Self::BadAnswer => true,
            Self::Conflict
            | Self::CredentialsExpired
            | Self::Throttled { .. }
            | Self::BadDigest
            | Self::NotFound
            | Self::NoSuchKey
            | Self::NoSuchVersion
            | Self::NoSuchBucket
            | Self::NoSuchUpload
            | Self::InvalidPart
            | Self::PreconditionFailed
            | Self::InvalidRange
            | Self::Denied
            | Self::Misdirected
            | Self::ClockSkew
            | Self::Archived
            | Self::TooLarge
            | Self::NotImplemented
            | Self::Rejected => false,
        }
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::NoSuchKey => "no such key",
            Self::NoSuchVersion => "no such version",
            Self::NoSuchBucket => "no such bucket",
            Self::NoSuchUpload => "no such multipart upload",
            Self::InvalidPart => "a part is missing or another one",
            Self::PreconditionFailed => "a precondition did not hold",
            Self::Conflict => "another write was going on",
            Self::InvalidRange => "the range lies outside the object",
            Self::Denied => "denied",
            Self::Misdirected => "the endpoint leads elsewhere",
            Self::CredentialsExpired => "the credentials have run out",
            Self::ClockSkew => "the clocks of worker and store differ too much",
            Self::Throttled { .. } => "the store asks for less load",
            Self::BadDigest => "the store received other bytes than were sent",
            Self::Archived => "the object is archived",
            Self::TooLarge => "too large for the store",
            Self::NotImplemented => "the store cannot do this",
            Self::Rejected => "the store does not accept the request",
            Self::Server => "the store failed",
            Self::Timeout => "no answer in time",
            Self::Connection => "the connection broke",
            Self::BadAnswer => "the answer makes no sense",
        })
    }
}

impl Operation {
    /// The name that S3 gives it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HeadObject",
            Self::Get => "GetObject",
            Self::GetTags => "GetObjectTagging",
            Self::GetAcl => "GetObjectAcl",
            Self::Put => "PutObject",
            Self::Copy => "CopyObject",
            Self::CreateUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::CopyPart => "UploadPartCopy",
            Self::ListUploads => "ListMultipartUploads",
            Self::ListObjects => "ListObjects",
            Self::ListVersions => "ListVersions",
            Self::ListParts => "ListParts",
            Self::CompleteUpload => "CompleteMultipartUpload",
            Self::AbortUpload => "AbortMultipartUpload",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(code, message, request_id) = self;
        if let Some(code) = code {
            write!(f, " [{code}]")?;
        }
        if !message.is_empty() {
            write!(f, ": {message}")?;
        }
        if let Some(id) = request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}
