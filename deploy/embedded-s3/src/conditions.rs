//! Conditional requests: which of `If-Match` and its relatives let a request through.
//!
//! Pure. Reads follow RFC 9110 with S3's pairings; writes know `If-None-Match: *` and `If-Match` only, as S3 does.

use http::HeaderMap;
use s3s::dto::{ETag, ETagCondition, Timestamp, TimestampFormat};
use s3s::{S3Error, S3Result, s3_error};

use crate::model::{Object, Version};

/// The four conditions of a read, or of the source of a copy.
#[derive(Debug, Default)]
pub(crate) struct ReadConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<Timestamp>,
    pub(crate) if_unmodified_since: Option<Timestamp>,
}

/// How a read condition failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmet {
    /// 304 for a read.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// The conditions of a write.
#[derive(Debug, Default)]
pub(crate) struct WriteConditions {
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
}

impl ReadConditions {
    /// Checks an object with this ETag (without quotes), last changed at `modified_ms`.
    ///
    /// # Errors
    /// The first condition that is not met. A matching `If-Match` overrules `If-Unmodified-Since`, a differing
    /// `If-None-Match` overrules `If-Modified-Since`.
    pub(crate) fn check(&self, etag: &str, modified_ms: u64) -> Result<(), Unmet> {
        let modified_s = modified_ms / 1000;
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !strong_match(condition, etag) => return Err(Unmet::PreconditionFailed),
            (None, Some(limit)) if modified_s > timestamp_ms(limit) / 1000 => {
                return Err(Unmet::PreconditionFailed);
            }
            (Some(_), _) | (None, _) => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) if weak_match(condition, etag) => Err(Unmet::NotModified),
            (None, Some(limit)) if modified_s <= timestamp_ms(limit) / 1000 => Err(Unmet::NotModified),
            (Some(_), _) | (None, _) => Ok(()),
        }
    }
}

impl WriteConditions {
    /// Takes the conditions from the headers: the protocol crate does not know them for every operation.
    ///
    /// # Errors
    /// `InvalidArgument` for what is not an ETag, `NotImplemented` for `If-None-Match` with one, as in S3.
    pub(crate) fn from_headers(headers: &HeaderMap) -> S3Result<Self> {
        let conditions = Self {
            if_match: condition(headers, "if-match")?,
            if_none_match: condition(headers, "if-none-match")?,
        };
        if matches!(conditions.if_none_match, Some(ETagCondition::ETag(_))) {
            return Err(s3_error!(NotImplemented, "If-None-Match takes only * here"));
        }
        Ok(conditions)
    }

    /// Checks what is there now: the current version unless it is a delete marker.
    ///
    /// # Errors
    /// `PreconditionFailed`, or `NoSuchKey` when `If-Match` finds nothing.
    pub(crate) fn check(&self, current: Option<&Version>) -> S3Result<()> {
        let current: Option<&Object> = current.and_then(|version| version.object.as_deref());
        if self.if_none_match.is_some() && current.is_some() {
            return Err(precondition_failed());
        }
        match (&self.if_match, current) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
            (Some(condition), Some(object)) if strong_match(condition, &object.etag) => Ok(()),
            (Some(_), Some(_)) => Err(precondition_failed()),
        }
    }
}

/// 412.
pub(crate) fn precondition_failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

/// Milliseconds since 1970; 0 for times before.
pub(crate) fn timestamp_ms(timestamp: &Timestamp) -> u64 {
    let mut text = Vec::new();
    if timestamp.format(TimestampFormat::EpochSeconds, &mut text).is_err() {
        return 0;
    }
    let text = String::from_utf8(text).unwrap_or_default();
    let (seconds, fraction) = text.split_once('.').unwrap_or((text.as_str(), ""));
    let millis: u64 = format!("{fraction:0<3}").get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    seconds.parse::<u64>().map_or(0, |seconds| seconds.saturating_mul(1000).saturating_add(millis))
}

fn condition(headers: &HeaderMap, name: &str) -> S3Result<Option<ETagCondition>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    ETagCondition::parse_http_header(value.as_bytes())
        .map(Some)
        .map_err(|error| s3_error!(error, InvalidArgument, "{name} is not an entity tag"))
}

fn strong_match(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(ETag::Strong(value)) => value == etag,
        ETagCondition::ETag(ETag::Weak(_)) => false,
    }
}

fn weak_match(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(ETag::Strong(value) | ETag::Weak(value)) => value == etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED_MS: u64 = 1_700_000_000_500;

    fn tag(value: &str) -> Option<ETagCondition> {
        Some(ETagCondition::ETag(ETag::Strong(value.into())))
    }

    fn at(seconds: u64) -> Option<Timestamp> {
        Some(Timestamp::parse(TimestampFormat::EpochSeconds, &seconds.to_string()).expect("seconds"))
    }

    fn check(conditions: ReadConditions) -> Result<(), Unmet> {
        conditions.check("e", MODIFIED_MS)
    }

    #[test]
    fn read_conditions_pair_as_in_s3() {
        let (now, before, after) = (1_700_000_000, 1_699_999_999, 1_700_000_001);
        let none = ReadConditions::default;
        let table = [
            (none(), Ok(())),
            (ReadConditions { if_match: tag("e"), ..none() }, Ok(())),
            (ReadConditions { if_match: tag("x"), ..none() }, Err(Unmet::PreconditionFailed)),
            (ReadConditions { if_none_match: tag("e"), ..none() }, Err(Unmet::NotModified)),
            (ReadConditions { if_none_match: tag("x"), ..none() }, Ok(())),
            (ReadConditions { if_none_match: Some(ETagCondition::Any), ..none() }, Err(Unmet::NotModified)),
            (ReadConditions { if_unmodified_since: at(now), ..none() }, Ok(())),
            (ReadConditions { if_unmodified_since: at(before), ..none() }, Err(Unmet::PreconditionFailed)),
            (ReadConditions { if_match: tag("e"), if_unmodified_since: at(before), ..none() }, Ok(())),
            (ReadConditions { if_modified_since: at(now), ..none() }, Err(Unmet::NotModified)),
            (ReadConditions { if_modified_since: at(after), ..none() }, Err(Unmet::NotModified)),
            (ReadConditions { if_modified_since: at(before), ..none() }, Ok(())),
            (ReadConditions { if_none_match: tag("x"), if_modified_since: at(after), ..none() }, Ok(())),
        ];
        for (conditions, expected) in table {
            let shown = format!("{conditions:?}");
            assert_eq!(check(conditions), expected, "{shown}");
        }
    }

    #[test]
    fn a_weak_tag_never_satisfies_if_match() {
        let weak = Some(ETagCondition::ETag(ETag::Weak("e".into())));
        let conditions = ReadConditions { if_match: weak.clone(), ..ReadConditions::default() };
        assert_eq!(check(conditions), Err(Unmet::PreconditionFailed));
        let conditions = ReadConditions { if_none_match: weak, ..ReadConditions::default() };
        assert_eq!(check(conditions), Err(Unmet::NotModified));
    }

    #[test]
    fn timestamps_keep_their_milliseconds() {
        let parse = |text| Timestamp::parse(TimestampFormat::DateTime, text).expect("a time");
        assert_eq!(timestamp_ms(&parse("2023-11-14T22:13:20.5Z")), MODIFIED_MS);
        assert_eq!(timestamp_ms(&parse("2023-11-14T22:13:20Z")), MODIFIED_MS - 500);
        assert_eq!(timestamp_ms(&parse("1960-01-01T00:00:00Z")), 0);
    }
}
