//! Whether what the backup store has is what was read. Judgements are pure; reading back is the last resort and the strictest level.

use sha2::{Digest as _, Sha256};

use super::{
    Step, TransferErrorKind, VerifyLevel,
    checksum::{Crc, md5_in},
    failure::{Halt, Side, failed},
    job::Job,
    key::SourceName,
    metadata::{Record, crc_text},
    read::{Wanted, read},
    source::Source,
};
use crate::store::{ByteRange, ObjectInfo, ObjectPath, Pin, Written};

/// What a copy must be equal to.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) crc: Crc,
    pub(super) sha256: Option<[u8; 32]>,
    /// The ETag that the store gives such an object if its ETags are MD5s.
    pub(super) md5_etag: Option<String>,
}

/// What can be said without reading bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Equal,
    Different,
    /// The store says nothing that could be compared.
    Unknown,
}

/// How a proof ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// Equal, at least at the level asked for.
    Proven(VerifyLevel),
    /// Not equal; why.
    Bad(&'static str),
}

/// Compares a description with what is expected.
pub(super) fn compare(info: &ObjectInfo, expected: &Expected) -> Verdict {
    if info.size_bytes != expected.crc.length() {
        return Verdict::Different;
    }
    compare_sums(info.crc64nvme, &info.etag, info.opaque_etag, expected)
}

fn compare_sums(crc: Option<u64>, etag: &str, opaque: bool, expected: &Expected) -> Verdict {
    match (crc, &expected.md5_etag) {
        (Some(crc), _) if crc == expected.crc.value() => Verdict::Equal,
        (Some(_), _) => Verdict::Different,
        (None, Some(md5)) if !opaque && etag.eq_ignore_ascii_case(md5) => Verdict::Equal,
        // Another ETag proves nothing: it may be no MD5, or of other parts.
        (None, _) => Verdict::Unknown,
    }
}

/// Whether an object under a backup key says that it is a copy of that version with that checksum.
pub(super) fn claims_to_be(info: &ObjectInfo, source: &SourceName<'_>, crc: Option<u64>) -> bool {
    let agrees = |claimed: Option<u64>| claimed.is_none() || crc.is_none() || claimed == crc;
    if let Some(record) = Record::from_object(info) {
        return record.is_of(source) && agrees(record.crc());
    }
    Record::beside_manifest(info).is_some_and(|(etag, claimed)| {
        etag.is_some_and(|etag| etag == source.etag)
            && claimed.is_none_or(|claimed| crc.is_none_or(|crc| claimed == crc_text(crc)))
    })
}

/// The CRC-64/NVME that an object under a backup key carries with it: that of the bytes that were read when it was written.
pub(super) fn claimed_crc(info: &ObjectInfo) -> Option<u64> {
    match Record::from_object(info) {
        Some(record) => record.crc(),
        None => u64::from_str_radix(&Record::beside_manifest(info)?.1?, 16).ok(),
    }
}

/// Proves an object that was just written, at the level that the job asks for.
pub(super) async fn prove(
    job: &Job<'_>,
    key: &str,
    written: &Written,
    expected: &Expected,
) -> Result<Proof, Halt> {
    let pin = Pin { version: written.version.clone(), etag: None };
    let at = job.backup_path(key);
    let mut verdict = compare_sums(written.crc64nvme, &written.etag, false, expected);
    let mut reached = VerifyLevel::Receipt;
    if verdict == Verdict::Different {
        return Ok(Proof::Bad("the store reports another checksum for what was written"));
    }
    if verdict == Verdict::Unknown || job.verify >= VerifyLevel::Head {
        let site = job.site(Side::Backup);
        let info = job.ask(Side::Backup, || site.store.head(at, &pin)).await;
        let info = info.map_err(|r| job.halt(r, Side::Backup, Step::Verify))?;
        match compare(&info, expected) {
            Verdict::Equal => verdict = Verdict::Equal,
            Verdict::Different => {
                return Ok(Proof::Bad("the store describes another object than was written"));
            }
            // Proven by the answer to the write; the HEAD adds length and existence.
            Verdict::Unknown => {}
        }
        reached = VerifyLevel::Head;
    }
    if verdict == Verdict::Unknown || job.verify >= VerifyLevel::Readback {
        let (crc, sha256) = hash(job, Side::Backup, at, &pin, expected.crc.length()).await?;
        if crc != expected.crc || (expected.sha256.is_some() && sha256 != expected.sha256) {
            return Ok(Proof::Bad("read back, the copy has another checksum"));
        }
        reached = VerifyLevel::Readback;
    }
    Ok(Proof::Proven(reached))
}

/// Reads an object in parts, one after the other, and hashes it. Its memory has a budget of its own: the caller may hold some of the other,
/// and must not wait for more of that.
pub(super) async fn hash(
    job: &Job<'_>,
    side: Side,
    at: ObjectPath<'_>,
    pin: &Pin,
    size_bytes: u64,
) -> Result<(Crc, Option<[u8; 32]>), Halt> {
    let step = Step::Verify;
    let mut sha256 = job.sha256.then(Sha256::new);
    let mut crc = Crc::EMPTY;
    while crc.length() < size_bytes {
        let part = ByteRange {
            start: crc.length(),
            length: (size_bytes - crc.length()).min(job.settings.part_bytes),
        };
        let permit = job.unless_stopped(job.readback_memory.acquire(part.length)).await;
        let _permit = permit.map_err(|r| job.halt(r, side, step))?;
        let wanted =
            Wanted { side, step, at, pin, start: part.start, length: part.length, total: size_bytes };
        let (payload, read_crc) = read(job, wanted, None).await.map_err(|halt| {
            if side == Side::Backup && matches!(halt, Halt::Changed) {
                let message = "the copy was replaced while it was read back";
                failed(step, TransferErrorKind::Integrity, message).into()
            } else {
                halt
            }
        })?;
        crc = crc.followed_by(read_crc);
        if let Some(sha256) = &mut sha256 {
            payload.pieces().for_each(|piece| sha256.update(piece));
        }
    }
    Ok((crc, sha256.map(|digest| digest.finalize().into())))
}

/// Whether an ETag, unchanged by a copy inside a store, proves equal bytes: an MD5 of them, or of the MD5s of the same parts.
pub(super) fn same_md5(source: &Source, etag: &str) -> bool {
    let ours = &source.info.etag;
    let md5 = ours.split_once('-').map_or(ours.as_str(), |(md5, _)| md5);
    !source.info.opaque_etag && md5_in(md5).is_some() && ours.eq_ignore_ascii_case(etag)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::Attributes;

    fn expected() -> Expected {
        Expected { crc: Crc::reported(7, 10), sha256: None, md5_etag: Some("AB".repeat(16)) }
    }

    fn info(size_bytes: u64, crc64nvme: Option<u64>, etag: &str) -> ObjectInfo {
        ObjectInfo { size_bytes, crc64nvme, etag: etag.to_owned(), ..ObjectInfo::default() }
    }

    #[test]
    fn a_checksum_decides_before_an_etag_and_a_length_before_both() {
        let md5 = "ab".repeat(16);
        let table = [
            (info(10, Some(7), "x"), Verdict::Equal),
            (info(10, Some(8), &md5), Verdict::Different),
            (info(9, Some(7), &md5), Verdict::Different),
            (info(10, None, &md5), Verdict::Equal),
            (info(10, None, "other"), Verdict::Unknown),
            (ObjectInfo { opaque_etag: true, ..info(10, None, &md5) }, Verdict::Unknown),
        ];
        for (info, verdict) in table {
            assert_eq!(compare(&info, &expected()), verdict, "{info:?}");
        }
    }

    #[test]
    fn only_an_object_that_names_this_very_version_is_ours() {
        let source = SourceName {
            location: "l",
            bucket: "b",
            key: "k",
            version: None,
            etag: "e",
            size_bytes: 10,
            modified: None,
        };
        let record = Record {
            format: "1".into(),
            location: "l".into(),
            bucket: "b".into(),
            key: "k".into(),
            etag: "e".into(),
            size_bytes: 10,
            crc64nvme: Some(crc_text(7)),
            ..Record::default()
        };
        let object = |record: &Record, manifest| ObjectInfo {
            attributes: record.place(manifest).attributes,
            ..info(10, None, "e2")
        };
        for manifest in [false, true] {
            assert!(claims_to_be(&object(&record, manifest), &source, Some(7)));
            assert!(claims_to_be(&object(&record, manifest), &source, None));
            assert!(!claims_to_be(&object(&record, manifest), &source, Some(8)));
            let other = Record { etag: "f".into(), ..record.clone() };
            assert!(!claims_to_be(&object(&other, manifest), &source, Some(7)));
        }
        let bare = ObjectInfo {
            attributes: Attributes { metadata: BTreeMap::new(), ..Attributes::default() },
            ..info(10, None, "e")
        };
        assert!(!claims_to_be(&bare, &source, Some(7)));
    }
}
