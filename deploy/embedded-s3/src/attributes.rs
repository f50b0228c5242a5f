//! What a client says about an object in headers: system headers, user metadata, tags, storage class, object lock.
//!
//! Taken from and returned in the raw headers, not the protocol crate's fields: those re-encode user metadata and
//! re-format dates, and a backup must find back exactly what was stored.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::percent_decode_str;
use s3s::dto::{Timestamp, TimestampFormat};
use s3s::{S3Error, S3Result, s3_error};

use crate::conditions::timestamp_ms;
use crate::errors::custom;
use crate::model::{Attributes, BucketState, Lock, Retention, Tags};
use crate::time::datetime;

const METADATA_PREFIX: &str = "x-amz-meta-";
const METADATA_MAX_BYTES: usize = 2048;
const MAX_TAGS: usize = 10;
const MAX_TAG_KEY_CHARS: usize = 128;
const MAX_TAG_VALUE_CHARS: usize = 256;

const SYSTEM_HEADERS: [&str; 7] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-website-redirect-location",
];

const STORAGE_CLASSES: [&str; 8] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "GLACIER_IR",
];

impl Attributes {
    /// Reads system headers, user metadata and storage class.
    ///
    /// # Errors
    /// `MetadataTooLarge`, `InvalidStorageClass`, or `InvalidArgument` for a header that is not UTF-8.
    pub(crate) fn from_headers(headers: &HeaderMap) -> S3Result<Self> {
        let mut attributes = Self { storage_class: storage_class(headers)?, ..Self::default() };
        for (name, value) in headers {
            let name = name.as_str();
            if let Some(key) = name.strip_prefix(METADATA_PREFIX) {
                attributes.metadata.insert(key.to_owned(), text(name, value)?);
            } else if SYSTEM_HEADERS.contains(&name) {
                let value = text(name, value)?;
                let value = if name == "content-encoding" { without_aws_chunked(&value) } else { value };
                if !value.is_empty() {
                    attributes.headers.insert(name.to_owned(), value);
                }
            }
        }
        let size: usize = attributes.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > METADATA_MAX_BYTES {
            return Err(s3_error!(
                MetadataTooLarge,
                "Your metadata headers exceed the maximum allowed metadata size"
            ));
        }
        Ok(attributes)
    }

    /// Adds the headers of a read.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        // What S3 says about an object whose writer did not.
        headers.insert("content-type", HeaderValue::from_static("binary/octet-stream"));
        for (name, value) in &self.headers {
            insert(headers, name, value);
        }
        for (key, value) in &self.metadata {
            insert(headers, &format!("{METADATA_PREFIX}{key}"), value);
        }
        if let Some(class) = &self.storage_class {
            insert(headers, "x-amz-storage-class", class);
        }
    }

    /// Whether S3 refuses reads until the object is restored.
    pub(crate) fn is_archived(&self) -> bool {
        matches!(self.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE"))
    }

    /// The storage class as listings show it.
    pub(crate) fn storage_class_name(&self) -> &str {
        self.storage_class.as_deref().unwrap_or("STANDARD")
    }
}

/// The storage class that a request asks for; `None` is STANDARD.
///
/// # Errors
/// `InvalidStorageClass`.
pub(crate) fn storage_class(headers: &HeaderMap) -> S3Result<Option<String>> {
    let Some(value) = headers.get("x-amz-storage-class") else { return Ok(None) };
    match STORAGE_CLASSES.into_iter().find(|class| class.as_bytes() == value.as_bytes()) {
        Some("STANDARD") => Ok(None),
        Some(class) => Ok(Some(class.to_owned())),
        None => Err(s3_error!(InvalidStorageClass, "The storage class you specified is not valid")),
    }
}

/// The tags in `x-amz-tagging`, which is a query string.
///
/// # Errors
/// `InvalidArgument` for what is not one, `InvalidTag` and `BadRequest` for what S3's limits forbid.
pub(crate) fn tags_from_headers(headers: &HeaderMap) -> S3Result<Tags> {
    let Some(value) = headers.get("x-amz-tagging") else { return Ok(Tags::new()) };
    let value = text("x-amz-tagging", value)?;
    let decode = |part: &str| {
        let part = part.replace('+', " ");
        percent_decode_str(&part).decode_utf8().map(std::borrow::Cow::into_owned)
    };
    let mut tags = Tags::new();
    for pair in value.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let invalid = |error| s3_error!(error, InvalidArgument, "x-amz-tagging is not a query string");
        tags.push((decode(key).map_err(invalid)?, decode(value).map_err(invalid)?));
    }
    check_tags(&tags)?;
    Ok(tags)
}

/// Applies S3's limits.
///
/// # Errors
/// `BadRequest` for more than ten tags, `InvalidTag` for an empty, long or repeated key or a long value.
pub(crate) fn check_tags(tags: &Tags) -> S3Result<()> {
    if tags.len() > MAX_TAGS {
        return Err(custom("BadRequest", StatusCode::BAD_REQUEST, "Object tags cannot be greater than 10"));
    }
    let mut keys = HashSet::new();
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > MAX_TAG_KEY_CHARS {
            return Err(s3_error!(InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > MAX_TAG_VALUE_CHARS {
            return Err(s3_error!(InvalidTag, "The TagValue you have provided is invalid"));
        }
        if !keys.insert(key) {
            return Err(s3_error!(InvalidTag, "Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(())
}

impl Lock {
    /// Reads the object lock headers.
    ///
    /// # Errors
    /// `InvalidArgument` for half a retention or an unknown value, `InvalidRequest` in a bucket without object lock.
    pub(crate) fn from_headers(headers: &HeaderMap, bucket: &BucketState) -> S3Result<Self> {
        let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let until = get("x-amz-object-lock-retain-until-date");
        let retention = match (get("x-amz-object-lock-mode"), until) {
            (None, None) => None,
            (Some(mode), Some(until)) => {
                let until = Timestamp::parse(TimestampFormat::DateTime, until).map_err(|error| {
                    s3_error!(error, InvalidArgument, "the retain until date is not a time")
                })?;
                Some(Retention::new(mode, &until)?)
            }
            (Some(_), None) | (None, Some(_)) => {
                return Err(s3_error!(InvalidArgument, "object lock mode and retain until date go together"));
            }
        };
        let lock = Self { retention, legal_hold: legal_hold(get("x-amz-object-lock-legal-hold"))? };
        if lock != Self::default() {
            require_object_lock(bucket)?;
        }
        Ok(lock)
    }

    /// Adds the headers of a read.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        if let Some(retention) = &self.retention {
            insert(headers, "x-amz-object-lock-mode", retention.mode());
            insert(headers, "x-amz-object-lock-retain-until-date", &datetime(retention.until_ms));
        }
        if self.legal_hold {
            insert(headers, "x-amz-object-lock-legal-hold", "ON");
        }
    }

    /// Whether the version may not be deleted now.
    pub(crate) fn forbids_delete(&self, now_ms: u64, bypass_governance: bool) -> bool {
        let retained = self.retention.as_ref().is_some_and(|retention| {
            retention.until_ms > now_ms && (retention.compliance || !bypass_governance)
        });
        retained || self.legal_hold
    }
}

impl Retention {
    /// # Errors
    /// `InvalidArgument` for an unknown mode.
    pub(crate) fn new(mode: &str, until: &Timestamp) -> S3Result<Self> {
        let compliance = match mode {
            "COMPLIANCE" => true,
            "GOVERNANCE" => false,
            _ => return Err(s3_error!(InvalidArgument, "Unknown wormMode directive.")),
        };
        Ok(Self { compliance, until_ms: timestamp_ms(until) })
    }

    pub(crate) fn mode(&self) -> &'static str {
        if self.compliance { "COMPLIANCE" } else { "GOVERNANCE" }
    }
}

/// # Errors
/// `InvalidArgument` for anything but ON, OFF and nothing.
pub(crate) fn legal_hold(value: Option<&str>) -> S3Result<bool> {
    match value {
        None | Some("OFF") => Ok(false),
        Some("ON") => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "Legal Hold must be either of 'ON' or 'OFF'")),
    }
}

/// # Errors
/// `InvalidRequest` in a bucket without object lock.
pub(crate) fn require_object_lock(bucket: &BucketState) -> S3Result<()> {
    if bucket.object_lock {
        return Ok(());
    }
    Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"))
}

/// Inserts a header whose value came in as one.
pub(crate) fn insert(headers: &mut HeaderMap, name: &str, value: &str) {
    // Cannot fail for what was read from a header; an object must not become unreadable if that is ever wrong.
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
        headers.insert(name, value);
    }
}

fn text(name: &str, value: &HeaderValue) -> S3Result<String> {
    let invalid = |error| -> S3Error { s3_error!(error, InvalidArgument, "header {name} is not UTF-8") };
    std::str::from_utf8(value.as_bytes()).map(str::to_owned).map_err(invalid)
}

/// The transfer's own encoding is not the object's.
fn without_aws_chunked(value: &str) -> String {
    let kept: Vec<&str> = value.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked").collect();
    kept.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_transfer_encoding_of_the_sdk_is_not_stored() {
        let stored = |value| {
            let attributes =
                Attributes::from_headers(&headers(&[("content-encoding", value)])).expect("valid");
            attributes.headers.get("content-encoding").cloned()
        };
        assert_eq!(stored("aws-chunked"), None);
        assert_eq!(stored("gzip, aws-chunked").as_deref(), Some("gzip"));
        assert_eq!(stored("br").as_deref(), Some("br"));
    }

    #[test]
    fn metadata_is_limited_by_bytes_of_names_and_values() {
        let exactly = "x".repeat(METADATA_MAX_BYTES - 1);
        let mut map = HeaderMap::new();
        map.insert("x-amz-meta-a", HeaderValue::from_str(&exactly).expect("ascii"));
        assert!(Attributes::from_headers(&map).is_ok());
        map.insert("x-amz-meta-b", HeaderValue::from_static(""));
        let error = Attributes::from_headers(&map).expect_err("one byte too many");
        assert_eq!(error.code().as_str(), "MetadataTooLarge");
    }

    #[test]
    fn a_tagging_header_is_decoded_once() {
        let tags =
            tags_from_headers(&headers(&[("x-amz-tagging", "a=1&b%20c=x+y%2B&empty=")])).expect("valid");
        let expected = [("a", "1"), ("b c", "x y+"), ("empty", "")];
        assert_eq!(tags, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let error = tags_from_headers(&headers(&[("x-amz-tagging", "a=1&a=2")])).expect_err("a repeated key");
        assert_eq!(error.code().as_str(), "InvalidTag");
    }

    #[test]
    fn compliance_retention_has_no_bypass() {
        let until = Timestamp::parse(TimestampFormat::EpochSeconds, "10").expect("a time");
        let lock =
            |mode| Lock { retention: Some(Retention::new(mode, &until).expect("a mode")), legal_hold: false };
        assert!(lock("COMPLIANCE").forbids_delete(9_999, true));
        assert!(!lock("COMPLIANCE").forbids_delete(10_000, false));
        assert!(lock("GOVERNANCE").forbids_delete(9_999, false));
        assert!(!lock("GOVERNANCE").forbids_delete(9_999, true));
        assert!(Lock { retention: None, legal_hold: true }.forbids_delete(0, true));
    }
}
