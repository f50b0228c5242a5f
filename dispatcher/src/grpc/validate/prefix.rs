//! A request to back up a prefix: checked, authorised, and turned into what is kept of it.
//!
//! A tenant that may name a prefix may name every key that begins with it, so what a listing brings needs no further permission. Must not ask
//! the store anything.

use backhaul_proto::v1 as pb;
use backhaul_runtime::locations::{Locations, is_location_name};

use super::{
    MAX_KEY_BYTES, MAX_LABELS, Violations, invalid, labels,
    submit::{BUCKET_BYTES, SubmitDefaults, instant, max_attempts, priority, processing_timeout, verify},
};
use crate::{
    grpc::status::ApiError,
    queue::{
        Priority,
        walk::{LABEL, Versions, WalkFilter, WalkId, WalkSpec},
    },
};

const REQUEST_ID_BYTES: std::ops::RangeInclusive<usize> = 1..=128;

/// What `request` of `tenant` asks for.
///
/// # Errors
/// [`ApiError::Invalid`] with all violations; [`ApiError::Refused`] for a prefix that the tenant may not name.
pub(crate) fn spec(
    tenant: &str,
    locations: &Locations,
    defaults: SubmitDefaults,
    request: pb::SubmitPrefixBackupRequest,
) -> Result<WalkSpec, ApiError> {
    let mut violations = Violations::default();
    let is_name =
        |id: &str| REQUEST_ID_BYTES.contains(&id.len()) && id.bytes().all(|b| matches!(b, 0x20..=0x7e));
    violations.require(
        is_name(&request.request_id),
        "request_id",
        "must be 1 to 128 bytes of printable ASCII",
    );
    let at = request.prefix.unwrap_or_else(|| {
        violations.add("prefix", "is required");
        pb::PrefixRef::default()
    });
    violations.require(
        is_location_name(&at.location),
        "prefix.location",
        "must be 1 to 63 bytes of a-z, 0-9 and -, starting with a letter",
    );
    violations.require(BUCKET_BYTES.contains(&at.bucket.len()), "prefix.bucket", "must be 3 to 63 bytes");
    violations.require(at.prefix.len() <= MAX_KEY_BYTES, "prefix.prefix", "must be at most 1024 bytes");
    let filter = filter(request.filter.unwrap_or_default(), &mut violations);
    let versions = match pb::ObjectVersions::try_from(request.versions) {
        Ok(pb::ObjectVersions::Unspecified | pb::ObjectVersions::Current) => Versions::Current,
        Ok(pb::ObjectVersions::All) => Versions::All,
        Err(_) => {
            violations.add("versions", "is not a known value");
            Versions::Current
        }
    };
    let options = request.options.unwrap_or_default();
    let labels = labels("options.labels", options.labels, &mut violations);
    violations.require(
        labels.len() < MAX_LABELS && !labels.contains_key(LABEL),
        "options.labels",
        "must be at most 15 labels, and not `prefix-backup`",
    );
    // Bulk work gives way, unless the caller says otherwise.
    let unspecified = options.priority == i32::from(pb::Priority::Unspecified);
    let spec = WalkSpec {
        tenant: tenant.to_owned(),
        request_id: request.request_id,
        location: at.location,
        bucket: at.bucket,
        prefix: at.prefix,
        filter,
        versions,
        priority: if unspecified { Priority::Low } else { priority(options.priority, &mut violations) },
        max_attempts: max_attempts(options.max_attempts, defaults, &mut violations),
        labels,
        verify: verify(options.verify, &mut violations),
        processing_timeout: processing_timeout(options.processing_timeout, defaults, &mut violations),
    };
    let spec = violations.finish(spec)?;
    locations
        .authorize(tenant, &spec.location, &spec.bucket, &spec.prefix)
        .map_err(|refusal| ApiError::Refused { refusal, location: spec.location.clone() })?;
    Ok(spec)
}

/// Reads the id of a prefix backup.
pub(crate) fn id(text: &str) -> Result<WalkId, ApiError> {
    WalkId::parse(text)
        .map_err(|_| invalid("prefix_backup_id", "must be an id as SubmitPrefixBackup gives it"))
}

fn filter(filter: pb::ObjectFilter, violations: &mut Violations) -> WalkFilter {
    violations.require(filter.suffix.len() <= MAX_KEY_BYTES, "filter.suffix", "must be at most 1024 bytes");
    violations.require(
        filter.max_size_bytes.is_none_or(|most| most >= filter.min_size_bytes),
        "filter.max_size_bytes",
        "must be at least min_size_bytes",
    );
    WalkFilter {
        suffix: filter.suffix,
        min_size_bytes: filter.min_size_bytes,
        max_size_bytes: filter.max_size_bytes,
        modified_since: filter.modified_since.and_then(|at| instant(at, "filter.modified_since", violations)),
    }
}
