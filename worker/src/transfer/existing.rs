//! What already lies under the key of a copy: an equal copy, a damaged one of our own, or something else that must not be touched.

use super::{
    Step, TransferErrorKind, VerifyLevel,
    checksum::Crc,
    failure::{Halt, Refusal, Side, failed},
    job::Job,
    receipt::Outcome,
    source::Source,
    verify::{Expected, Verdict, claimed_crc, claims_to_be, compare, hash},
};
use crate::store::{ObjectInfo, Pin, StoreError, StoreErrorKind as Kind, Written};

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    /// The copy, proven.
    Equal(Outcome),
    /// A copy of this version by this system, with other bytes than it should have.
    Damaged,
    /// Something else.
    Foreign,
}

/// Looks at `key`; `None` where there is nothing. What it must be equal to is `expected`, where the source has been read, and else what the origin says, or the source
/// itself, which is then read only to be compared.
pub(super) async fn examine(
    job: &Job<'_>,
    source: &Source,
    key: &str,
    expected: Option<&Expected>,
) -> Result<Option<Found>, Halt> {
    let at = job.backup_path(key);
    let site = job.site(Side::Backup);
    let latest = Pin::default();
    let info = match job.ask(Side::Backup, || site.store.head(at, &latest)).await {
        Ok(info) => info,
        Err(Refusal::Store(StoreError { kind: Kind::NotFound | Kind::NoSuchKey, .. })) => {
            return Ok(None);
        }
        Err(refusal) => return Err(job.halt(refusal, Side::Backup, Step::Verify)),
    };
    let bad = |crc| {
        let ours = claims_to_be(&info, &source.name(job), crc);
        Ok(Some(if ours { Found::Damaged } else { Found::Foreign }))
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
        return Ok(Some(equal(job, info, crc, sha256, VerifyLevel::Head)));
    }
    let (crc, sha256) = hash(job, Side::Backup, at, &pin, info.size_bytes).await?;
    if crc != expected.crc || (expected.sha256.is_some() && sha256 != expected.sha256) {
        return bad(Some(expected.crc.value()));
    }
    Ok(Some(equal(job, info, crc, sha256, VerifyLevel::Readback)))
}

fn equal(job: &Job<'_>, info: ObjectInfo, crc: Crc, sha256: Option<[u8; 32]>, level: VerifyLevel) -> Found {
    let unretained = job.terms().retention.is_some_and(|wanted| {
        info.retained
            .is_none_or(|has| has.until <= job.started_wall || (wanted.compliance && !has.compliance))
    });
    let written = Written { etag: info.etag, version: info.version, crc64nvme: info.crc64nvme };
    Found::Equal(Outcome { already_present: true, unretained, ..Outcome::new(written, crc, sha256, level) })
}

/// What it means for the copy: an outcome, a reason to go on to the next repair key (`None`), or a conflict.
pub(super) fn settle(found: Found, key: &str) -> Result<Option<Outcome>, Halt> {
    match found {
        Found::Equal(outcome) => Ok(Some(outcome)),
        Found::Damaged => Ok(None),
        Found::Foreign => {
            let message = format!("another object is stored under {key}");
            Err(failed(Step::Write, TransferErrorKind::DestinationConflict, message).into())
        }
    }
}

/// What a copy of a source that has not been read must be equal to.
async fn expect(job: &Job<'_>, source: &Source, found: &ObjectInfo) -> Result<Expected, Halt> {
    let size = source.info.size_bytes;
    let known = match source.info.crc64nvme {
        Some(crc) => Some(crc),
        // A copy that names this very version carries the checksum of what was read. What the store reports about it by itself is no
        // proof: whoever wrote it may have died before it was compared with anything.
        None if claims_to_be(found, &source.name(job), None) => claimed_crc(found),
        None => None,
    };
    let (crc, sha256) = match known {
        Some(crc) => (Crc::reported(crc, size), None),
        None => hash(job, Side::Source, job.source_path(), &source.pin, size).await?,
    };
    Ok(Expected { crc, sha256, md5_etag: None })
}
