//! Rights, for tests that need a store which refuses: somebody of the caller's choice is asked before each request, and what a caller must not
//! know is left out of answers as S3 leaves it out.
//!
//! What rights are, and how they are written down, is not decided here.

use std::fmt;

use http::HeaderMap;
use s3s::{S3Error, S3ErrorCode, s3_error};

/// Decides about the requests of a store.
pub trait Guard: Send + Sync + fmt::Debug + 'static {
    /// What becomes of a request whose signature is good.
    fn judge(&self, request: &Asked<'_>) -> Verdict;
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who signed it.
    pub access_key: &'a str,
    /// The name that S3 gives the operation, such as `GetObject`.
    pub operation: &'a str,
    /// Bucket; empty where it is about none.
    pub bucket: &'a str,
    /// Key; empty where it is about none.
    pub key: &'a str,
    /// As it came.
    pub query: &'a str,
    /// As they came.
    pub headers: &'a HeaderMap,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 403 `AccessDenied`.
    Refused,
    /// It is carried out.
    Admitted(Unseen),
}

/// What an answer about an object does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a right of its own")]
pub struct Unseen {
    /// Whether an object is missing: 403 in place of 404.
    pub missing: bool,
    /// The number of tags.
    pub tags: bool,
    /// Retention.
    pub retention: bool,
    /// Legal hold.
    pub hold: bool,
}

impl Unseen {
    /// What an error becomes.
    pub(crate) fn in_error(self, error: S3Error) -> S3Error {
        let missing = matches!(error.code(), S3ErrorCode::NoSuchKey | S3ErrorCode::NoSuchVersion);
        if self.missing && missing { s3_error!(AccessDenied, "Access Denied") } else { error }
    }

    /// Takes out of an answer what is not told.
    pub(crate) fn in_headers(self, headers: &mut HeaderMap) {
        let names = [
            (self.tags, "x-amz-tagging-count"),
            (self.retention, "x-amz-object-lock-mode"),
            (self.retention, "x-amz-object-lock-retain-until-date"),
            (self.hold, "x-amz-object-lock-legal-hold"),
        ];
        for (_, name) in names.into_iter().filter(|(unseen, _)| *unseen) {
            headers.remove(name);
        }
    }
}
