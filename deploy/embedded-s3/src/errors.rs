//! Error codes of S3 that the protocol crate has no name for.

use http::StatusCode;
use s3s::{S3Error, S3ErrorCode};

/// An error with a code spelt out.
pub(crate) fn custom(code: &'static str, status: StatusCode, message: &'static str) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}
