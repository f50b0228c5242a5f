//! What already lies under the key of a copy: an equal copy, a damaged one of our own, or something else that must not be touched.

use super::{
    Step, VerifyLevel,
    checksum::Crc,
    failure::{Halt, Refusal, Side},
    job::Job,
    source::Source,
    verify::{Expected, Verdict, claims_to_be, compare, hash},
};
use crate::store::{ObjectInfo, Pin, StoreError, StoreErrorKind as Kind};

/// What was found.
#[derive(Debug)]
pub(super) enum Standing {
    /// Nothing.
    Absent,
    /// The copy, proven at the level given.
    Equal { info: ObjectInfo, crc: Crc, sha256: Option<[u8; 32]>, level: VerifyLevel },
    /// A copy of this version by this system, with other bytes than it should have.
    Damaged,
    /// Something else.
    Foreign,
}

/// Looks at `key`. What it must be equal to is `expected`, where the source has been read, and else what the origin says, or the source
/// itself, which is then read only to be compared.
pub(super) async fn examine(
    job: &Job<'_>,
    source: &Source,
    key: &str,
    expected: Option<&Expected>,
) -> Result<Standing, Halt> {
    let at = job.backup_path(key);
    let site = job.site(Side::Backup);
    let latest = Pin::default();
    let info = match job.ask(Side::Backup, || site.store.head(at, &latest)).await {
        Ok(info) => info,
        Err(Refusal::Store(StoreError { kind: Kind::NotFound | Kind::NoSuchKey, .. })) => {
            return Ok(Standing::Absent);
        }
        Err(refusal) => return Err(job.halt(refusal, Side::Backup, Step::Verify)),
    };
    let bad = |crc| {
        let ours = claims_to_be(&info, &source.name(job), crc);
        Ok(if ours { Standing::Damaged } else { Standing::Foreign })
    };
    if info.size_bytes != source.info.size_bytes {
        return bad(expected.map(|e| e.crc.value()));
    }
    let expected = match expected {
        Some(expected) => expected.clone(),
        None => expect(job, source, &info).await?,
    };
    let pin = Pin { version: info.version.clone(), etag: Some(info.etag.clone()).filter(|e| !e.is_empty()) };
    let verdict = compare(&info, &expected);
    if verdict == Verdict::Different {
        return bad(Some(expected.crc.value()));
    }
    let unproven_sha = job.sha256 && expected.sha256.is_none();
    if verdict == Verdict::Equal && job.verify < VerifyLevel::Readback && !unproven_sha {
        let (crc, sha256) = (expected.crc, expected.sha256);
        return Ok(Standing::Equal { info, crc, sha256, level: VerifyLevel::Head });
    }
    let (crc, sha256) = hash(job, Side::Backup, at, &pin, info.size_bytes).await?;
    if crc != expected.crc || (expected.sha256.is_some() && sha256 != expected.sha256) {
        return bad(Some(expected.crc.value()));
    }
    Ok(Standing::Equal { info, crc, sha256, level: VerifyLevel::Readback })
}

/// What a copy of a source that has not been read must be equal to.
async fn expect(job: &Job<'_>, source: &Source, found: &ObjectInfo) -> Result<Expected, Halt> {
    let size = source.info.size_bytes;
    let known = match source.info.crc64nvme {
        Some(crc) => Some(crc),
        // A copy that names this very version had its checksum compared by the store when it was completed.
        None if claims_to_be(found, &source.name(job), None) => found.crc64nvme,
        None => None,
    };
    let (crc, sha256) = match known {
        Some(crc) => (Crc::reported(crc, size), None),
        None => hash(job, Side::Source, job.source_path(), &source.pin, size).await?,
    };
    Ok(Expected { crc, sha256, md5_etag: None })
}
