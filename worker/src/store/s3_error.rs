//! What the client library says about a failed request, as one of our kinds.
//!
//! First the store's own error code, because the status alone hides what matters (404 for a missing bucket, 400 for a slow body);
//! then the status, because some stores send no code; never the text.

use std::{borrow::Cow, error::Error, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};
use aws_smithy_runtime_api::http::Headers;
use backhaul_runtime::address::ForbiddenAddress;
use http::Uri;

use super::{
    error::{Operation, StoreError, StoreErrorKind as Kind},
    s3_shapes::xml_text,
};

/// Longest text taken from a store.
const MESSAGE_MAX: usize = 300;

pub(super) fn from_sdk<E>(operation: Operation, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if let Some(forbidden) = cause::<ForbiddenAddress>(&error) {
        return StoreError::forbidden(operation, *forbidden, error);
    }
    let code = error.code().filter(|c| !c.is_empty()).map(str::to_owned);
    let message = error.message().unwrap_or_default();
    let message = match error.raw_response() {
        Some(raw) => said(raw.status().as_u16(), raw.headers(), message),
        None => clip(message),
    };
    let request_id = error.raw_response().and_then(|r| r.request_id()).map(str::to_owned);
    let kind = match &error {
        SdkError::ConstructionFailure(_) => credentials_kind(&error).unwrap_or(Kind::Rejected),
        SdkError::TimeoutError(_) => Kind::Timeout,
        SdkError::DispatchFailure(e) if e.is_timeout() => Kind::Timeout,
        SdkError::DispatchFailure(e) if e.is_user() => Kind::Rejected,
        SdkError::DispatchFailure(_) => credentials_kind(&error).unwrap_or(Kind::Connection),
        SdkError::ResponseError(e) => {
            kind_of_unreadable(e.raw().status().as_u16(), retry_after(e.raw().headers()))
        }
        SdkError::ServiceError(e) => {
            let raw = e.raw();
            let marker = raw.headers().get("x-amz-delete-marker") == Some("true");
            kind_of(operation, code.as_deref(), raw.status().as_u16(), marker, retry_after(raw.headers()))
        }
        _ => Kind::BadAnswer,
    };
    StoreError { operation, kind, code, message, request_id, source: Some(Box::new(error)) }
}

/// What the store says about a request that was refused, without the client library between.
pub(super) fn refusal(operation: Operation, status: u16, headers: &Headers, text: &str) -> StoreError {
    let code = xml_text(text, "Code").filter(|code| !code.is_empty()).map(Cow::into_owned);
    let marker = headers.get("x-amz-delete-marker") == Some("true");
    StoreError {
        operation,
        kind: kind_of(operation, code.as_deref(), status, marker, retry_after(headers)),
        code,
        message: said(status, headers, &xml_text(text, "Message").unwrap_or_default()),
        request_id: headers.get("x-amz-request-id").map(str::to_owned),
        source: None,
    }
}

/// Error in a body, after the headers have come.
pub(super) fn from_body(error: impl Error + Send + Sync + 'static) -> StoreError {
    StoreError {
        operation: Operation::Get,
        kind: Kind::Connection,
        code: None,
        message: "the body broke off".to_owned(),
        request_id: None,
        source: Some(Box::new(error)),
    }
}

/// The table: code first, then status.
pub(super) fn kind_of(
    operation: Operation,
    code: Option<&str>,
    status: u16,
    delete_marker: bool,
    retry_after: Duration,
) -> Kind {
    if is_redirect(status) {
        // Whatever it says besides: nothing was done here, and nothing is done there.
        return Kind::Misdirected;
    }
    let throttled = Kind::Throttled { retry_after };
    match code.unwrap_or_default() {
        "NoSuchKey" => Kind::NoSuchKey,
        "NoSuchVersion" => Kind::NoSuchVersion,
        "NoSuchBucket" => Kind::NoSuchBucket,
        "NoSuchUpload" => Kind::NoSuchUpload,
        "InvalidPart" | "InvalidPartOrder" => Kind::InvalidPart,
        "PreconditionFailed" => Kind::PreconditionFailed,
        "ConditionalRequestConflict" | "OperationAborted" => Kind::Conflict,
        "InvalidRange" => Kind::InvalidRange,
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired" => {
            Kind::CredentialsExpired
        }
        "RequestTimeTooSkewed" => Kind::ClockSkew,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "TooManyRequests"
        | "BandwidthLimitExceeded" => throttled,
        "RequestTimeout" | "RequestTimeoutException" => Kind::Timeout,
        "BadDigest"
        | "IncompleteBody"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch" => Kind::BadDigest,
        "InvalidObjectState" => Kind::Archived,
        "EntityTooLarge" => Kind::TooLarge,
        "NotImplemented" => Kind::NotImplemented,
        "InternalError" => Kind::Server,
        "MethodNotAllowed" if delete_marker => Kind::NoSuchVersion,
        "AccessDenied"
        | "AllAccessDisabled"
        | "AuthorizationHeaderMalformed"
        | "InvalidAccessKeyId"
        | "InvalidToken"
        | "NotSignedUp"
        | "SignatureDoesNotMatch" => Kind::Denied,
        other if other.starts_with("KMS.") => Kind::Denied,
        _ => match status {
            401 | 403 => Kind::Denied,
            404 if delete_marker && operation == Operation::Head => Kind::NoSuchKey,
            404 => Kind::NotFound,
            405 if delete_marker => Kind::NoSuchVersion,
            405 | 501 => Kind::NotImplemented,
            408 => Kind::Timeout,
            409 => Kind::Conflict,
            412 => Kind::PreconditionFailed,
            416 => Kind::InvalidRange,
            429 | 503 => throttled,
            // An error in a body of status 200 means that the store failed after it had begun to answer.
            200..=299 | 500..=599 => Kind::Server,
            _ => Kind::Rejected,
        },
    }
}

fn kind_of_unreadable(status: u16, retry_after: Duration) -> Kind {
    match status {
        429 | 503 => Kind::Throttled { retry_after },
        500..=599 => Kind::Server,
        401 | 403 => Kind::Denied,
        _ if is_redirect(status) => Kind::Misdirected,
        _ => Kind::BadAnswer,
    }
}

fn retry_after(headers: &Headers) -> Duration {
    let seconds = headers.get("retry-after").and_then(|v| v.trim().parse::<u64>().ok());
    Duration::from_secs(seconds.unwrap_or(0).min(86_400))
}

/// What a refusal says for people: the store's own text, and of a redirect where it leads and what to do about it.
fn said(status: u16, headers: &Headers, message: &str) -> String {
    if !is_redirect(status) {
        return clip(message);
    }
    let region = headers
        .get("x-amz-bucket-region")
        .map(|region| format!("; the bucket is in region {}", clip(region)));
    // Of its address only the host: the rest may be signed.
    let host = headers.get("location").and_then(|to| to.parse::<Uri>().ok()?.host().map(clip));
    let place = host.map_or_else(String::new, |host| format!(" to {host}"));
    let region = region.unwrap_or_default();
    clip(&format!(
        "redirected ({status}){place}, which is not followed: check endpoint and region of the location{region}"
    ))
}

/// 304 is none: it says that there is nothing new.
const fn is_redirect(status: u16) -> bool {
    matches!(status, 300..=303 | 305..=308)
}

/// Credentials that could not be had are the reason of a failed request more often than they are named as such.
pub(super) fn credentials_kind(error: &(dyn Error + 'static)) -> Option<Kind> {
    let passing = matches!(
        cause::<CredentialsError>(error)?,
        CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_)
    );
    Some(if passing { Kind::CredentialsExpired } else { Kind::Denied })
}

/// The error of that type that an error came from.
pub(super) fn cause<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_a_store_has_one_kind() {
        let wait = Duration::from_secs(7);
        let throttled = Kind::Throttled { retry_after: wait };
        let table = [
            (Some("NoSuchKey"), 404, false, Kind::NoSuchKey),
            (Some("NoSuchBucket"), 404, false, Kind::NoSuchBucket),
            (Some("SlowDown"), 503, false, throttled),
            (None, 503, false, throttled),
            (None, 429, false, throttled),
            (Some("RequestTimeout"), 400, false, Kind::Timeout),
            (Some("AccessDenied"), 403, false, Kind::Denied),
            (Some("KMS.DisabledException"), 400, false, Kind::Denied),
            (Some("ExpiredToken"), 400, false, Kind::CredentialsExpired),
            (Some("RequestTimeTooSkewed"), 403, false, Kind::ClockSkew),
            (Some("InvalidObjectState"), 403, false, Kind::Archived),
            (Some("MethodNotAllowed"), 405, true, Kind::NoSuchVersion),
            (Some("MethodNotAllowed"), 405, false, Kind::NotImplemented),
            (Some("InternalError"), 200, false, Kind::Server),
            (Some("SomethingNew"), 200, false, Kind::Server),
            (Some("ConditionalRequestConflict"), 409, false, Kind::Conflict),
            (None, 404, false, Kind::NotFound),
            (None, 301, false, Kind::Misdirected),
            (Some("PermanentRedirect"), 301, false, Kind::Misdirected),
            (Some("AccessDenied"), 302, false, Kind::Misdirected),
            (Some("TemporaryRedirect"), 307, false, Kind::Misdirected),
            (None, 308, false, Kind::Misdirected),
            (None, 304, false, Kind::Rejected),
            (Some("InvalidRequest"), 400, false, Kind::Rejected),
        ];
        for (code, status, marker, kind) in table {
            assert_eq!(kind_of(Operation::Get, code, status, marker, wait), kind, "{code:?} {status}");
        }
    }

    #[test]
    fn text_of_a_store_is_bounded_and_cannot_forge_log_lines() {
        let clipped = clip(&format!("a\nb\u{1b}[0m{}", "x".repeat(5_000)));
        assert!(clipped.starts_with("ab[0m") && clipped.chars().count() == MESSAGE_MAX);
    }
}
