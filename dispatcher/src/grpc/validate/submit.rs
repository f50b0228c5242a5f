//! A request to back up one object: checked, authorised, and turned into what the queue keeps.
//!
//! Form comes first (INVALID_ARGUMENT, all violations), then what the tenant may name. Must not ask the queue anything.

use std::time::Duration;

use backhaul_proto::v1 as pb;
use backhaul_runtime::locations::{Locations, is_location_name};
use prost_types::Timestamp;

use super::{MAX_KEY_BYTES, Violations, labels};
use crate::{
    audit,
    grpc::status::ApiError,
    queue::{NewTask, ObjectRef, Priority, TaskSpec, UnixMs, VerifyLevel},
    rules::Rules,
};

pub(super) const BUCKET_BYTES: std::ops::RangeInclusive<usize> = 3..=63;
const MAX_VERSION_BYTES: usize = 1024;
const MAX_AHEAD: Duration = Duration::from_secs(366 * 24 * 3600);
/// Largest size hint.
pub(crate) const MAX_SIZE_HINT_BYTES: u64 = 1 << 50;
const NANOS_PER_SECOND: i32 = 1_000_000_000;
/// Bytes of a traceparent, version 00.
const TRACEPARENT_BYTES: usize = 55;

/// Most failed attempts that a request may ask for.
pub const MAX_ATTEMPTS: u32 = 100;
/// Shortest processing time that a request may ask for.
pub const MIN_PROCESSING_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest processing time that a request may ask for.
pub const MAX_PROCESSING_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// What a request means where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubmitDefaults {
    /// Failed attempts before a task is dead.
    pub max_attempts: u32,
    /// Longest time without progress before a copy loses its lease.
    pub processing_timeout: Duration,
}

/// What one call's requests are checked against.
pub(crate) struct SubmitRules<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) locations: &'a Locations,
    pub(crate) defaults: SubmitDefaults,
    /// Now, for `process_at`.
    pub(crate) now: UnixMs,
    /// The `traceparent` header of the call, if any.
    pub(crate) traceparent: Option<&'a str>,
    /// What operators say about objects.
    pub(crate) rules: &'a Rules,
}

impl SubmitRules<'_> {
    /// The task that `request` asks for.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with all violations; [`ApiError::Refused`] for an object that the tenant may not name.
    pub(crate) fn check(&self, request: pb::SubmitBackupRequest) -> Result<NewTask, ApiError> {
        let mut violations = Violations::default();
        let object = self::object(request.object, &mut violations);
        let options = request.options.unwrap_or_default();
        let spec = TaskSpec {
            tenant: self.tenant.to_owned(),
            retention_class: self.rules.class_of(self.tenant, &object),
            object,
            priority: priority(options.priority, &mut violations),
            max_attempts: max_attempts(options.max_attempts, self.defaults, &mut violations),
            labels: labels("options.labels", options.labels, &mut violations),
            size_hint_bytes: options.size_hint_bytes,
            verify: verify(options.verify, &mut violations),
            processing_timeout: processing_timeout(
                options.processing_timeout,
                self.defaults,
                &mut violations,
            ),
            traceparent: self.traceparent.filter(|t| is_traceparent(t)).unwrap_or_default().to_owned(),
        };
        violations.require(
            spec.size_hint_bytes <= MAX_SIZE_HINT_BYTES,
            "options.size_hint_bytes",
            "must be at most 2^50",
        );
        let process_at = self.process_at(options.process_at, &mut violations);
        if !violations.is_empty() {
            audit::refused_object(&spec.object, "invalid fields");
        }
        let task = violations.finish(NewTask { spec, process_at })?;

        let object = &task.spec.object;
        let granted = self.locations.authorize(self.tenant, &object.location, &object.bucket, &object.key);
        granted.map_err(|refusal| {
            audit::refused_object(object, "not granted");
            ApiError::Refused { refusal, location: object.location.clone() }
        })?;
        Ok(task)
    }

    /// Rounded up to the next millisecond, because a task must not start before the instant that was asked for.
    fn process_at(&self, asked: Option<Timestamp>, violations: &mut Violations) -> Option<UnixMs> {
        const FIELD: &str = "options.process_at";
        // Before 1970 is the past, and the past means now.
        let at = instant(asked?, FIELD, violations)?;
        violations.require(at <= self.now.plus(MAX_AHEAD), FIELD, "must be at most 366 days ahead");
        (at > self.now).then_some(at)
    }
}

pub(super) fn max_attempts(asked: u32, defaults: SubmitDefaults, violations: &mut Violations) -> u32 {
    violations.require(
        asked <= MAX_ATTEMPTS,
        "options.max_attempts",
        "must be 1 to 100, or 0 for the default",
    );
    if asked == 0 { defaults.max_attempts } else { asked }
}

pub(super) fn processing_timeout(
    asked: Option<prost_types::Duration>,
    defaults: SubmitDefaults,
    violations: &mut Violations,
) -> Duration {
    let Some(asked) = asked else { return defaults.processing_timeout };
    // Only what is within the bounds has to be a valid Duration, and that is positive.
    let nanos_valid = (0..NANOS_PER_SECOND).contains(&asked.nanos);
    let timeout = match (u64::try_from(asked.seconds), u32::try_from(asked.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos_valid => Duration::new(seconds, nanos),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => Duration::ZERO,
    };
    violations.require(
        (MIN_PROCESSING_TIMEOUT..=MAX_PROCESSING_TIMEOUT).contains(&timeout),
        "options.processing_timeout",
        "must be a valid Duration of 1 s to 24 h",
    );
    timeout
}

/// An instant, rounded up to the next millisecond; `None` also for one before 1970.
pub(super) fn instant(asked: Timestamp, field: &str, violations: &mut Violations) -> Option<UnixMs> {
    /// The years 1 to 9999, which a Timestamp may hold.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    if !(0..NANOS_PER_SECOND).contains(&asked.nanos) || !SECONDS.contains(&asked.seconds) {
        violations.add(field, "must be a valid Timestamp");
        return None;
    }
    let seconds = u64::try_from(asked.seconds).ok()?;
    let sub_ms = u64::try_from(asked.nanos).unwrap_or_default().div_ceil(1_000_000);
    Some(UnixMs(seconds * 1000 + sub_ms))
}

fn object(object: Option<pb::ObjectRef>, violations: &mut Violations) -> ObjectRef {
    let Some(object) = object else {
        violations.add("object", "is required");
        return ObjectRef {
            location: String::new(),
            bucket: String::new(),
            key: String::new(),
            version: None,
        };
    };
    violations.require(
        is_location_name(&object.location),
        "object.location",
        "must be 1 to 63 bytes of a-z, 0-9 and -, starting with a letter",
    );
    violations.require(BUCKET_BYTES.contains(&object.bucket.len()), "object.bucket", "must be 3 to 63 bytes");
    violations.require(
        (1..=MAX_KEY_BYTES).contains(&object.key.len()),
        "object.key",
        "must be 1 to 1024 bytes",
    );
    violations.require(
        object.version.len() <= MAX_VERSION_BYTES,
        "object.version",
        "must be at most 1024 bytes",
    );
    ObjectRef {
        location: object.location,
        bucket: object.bucket,
        key: object.key,
        version: (!object.version.is_empty()).then_some(object.version),
    }
}

pub(super) fn priority(asked: i32, violations: &mut Violations) -> Priority {
    match pb::Priority::try_from(asked) {
        Ok(pb::Priority::Low) => Priority::Low,
        Ok(pb::Priority::Unspecified | pb::Priority::Normal) => Priority::Normal,
        Ok(pb::Priority::High) => Priority::High,
        Err(_) => {
            violations.add("options.priority", "is not a known value");
            Priority::Normal
        }
    }
}

pub(super) fn verify(asked: i32, violations: &mut Violations) -> Option<VerifyLevel> {
    match pb::VerifyLevel::try_from(asked) {
        Ok(pb::VerifyLevel::Unspecified) => None,
        Ok(pb::VerifyLevel::Receipt) => Some(VerifyLevel::Receipt),
        Ok(pb::VerifyLevel::Head) => Some(VerifyLevel::Head),
        Ok(pb::VerifyLevel::Readback) => Some(VerifyLevel::Readback),
        Err(_) => {
            violations.add("options.verify", "is not a known value");
            None
        }
    }
}

/// W3C Trace Context, version 00. Anything else is dropped: tracing must never fail a backup.
fn is_traceparent(text: &str) -> bool {
    text.len() == TRACEPARENT_BYTES
        && text.bytes().enumerate().all(|(at, b)| match at {
            2 | 35 | 52 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
        && text.starts_with("00-")
}

#[cfg(test)]
mod tests;
