//! The proof that a finished copy leaves.

use super::{CopyReceipt, VerifyLevel, checksum::Crc, job::Job, source::Source};
use crate::store::Written;

/// What the strategies tell about their copy.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) written: Written,
    pub(super) crc: Crc,
    pub(super) sha256: Option<[u8; 32]>,
    pub(super) level: VerifyLevel,
    pub(super) already_present: bool,
    pub(super) parts: u32,
    pub(super) server_side: bool,
    /// The copy was there already, without the retention that is asked for now.
    pub(super) unretained: bool,
    /// The bytes are not those that the origin's ETag seems to be the MD5 of.
    pub(super) md5_differs: bool,
}

impl Outcome {
    /// A copy written by one request.
    pub(super) const fn new(
        written: Written,
        crc: Crc,
        sha256: Option<[u8; 32]>,
        level: VerifyLevel,
    ) -> Self {
        Self {
            written,
            crc,
            sha256,
            level,
            already_present: false,
            parts: 0,
            server_side: false,
            unretained: false,
            md5_differs: false,
        }
    }
}

pub(super) fn receipt(job: &Job<'_>, source: &Source, key: String, outcome: Outcome) -> CopyReceipt {
    let mut not_kept = source.not_kept.clone();
    if outcome.unretained {
        not_kept.push("retention".to_owned());
    }
    if outcome.md5_differs {
        not_kept.push("source-md5".to_owned());
    }
    not_kept.sort_unstable();
    not_kept.dedup();
    CopyReceipt {
        source_version: source.info.version.clone().unwrap_or_default(),
        source_etag: source.info.etag.clone(),
        source_modified: source.info.modified,
        backup_location: job.route.target.site.name.clone(),
        backup_bucket: job.route.target.bucket.clone(),
        backup_key: key,
        backup_version: outcome.written.version.unwrap_or_default(),
        backup_etag: outcome.written.etag,
        size_bytes: source.info.size_bytes,
        crc64nvme: outcome.crc.value(),
        sha256: outcome.sha256,
        verified: outcome.level,
        already_present: outcome.already_present,
        not_kept,
        parts: outcome.parts,
        server_side: outcome.server_side,
        elapsed: job.started.elapsed(),
    }
}
