//! Objects of at most one part: read by the request that discovers them, held in memory, written by one request.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::{
    CopyReceipt, Step, TransferErrorKind,
    capability::Capabilities,
    checksum::{Crc, md5_of},
    existing::{examine, settle},
    failure::{Halt, Refusal, Side, failed},
    job::Job,
    key::MAX_REPAIRS,
    metadata::Record,
    read::{Wanted, read},
    receipt::{Outcome, receipt},
    source::Source,
    verify::{Expected, Proof as Proven, prove},
};
use crate::store::{
    Attributes, GetResponse, ObjectPath, Payload, Pin, Proof, Put, StoreErrorKind as Kind, Tag, Terms,
    Written,
};

/// Copies of its own that may turn out bad before an attempt gives up. Those of earlier attempts do not count: they would block the
/// object's backup for good.
pub(super) const REPAIRS: u32 = 3;

/// Copies an object whose bytes have begun to come.
pub(super) async fn copy(
    job: &Job<'_>,
    capabilities: Capabilities,
    source: Source,
    response: GetResponse,
) -> Result<CopyReceipt, Halt> {
    let size = source.info.size_bytes;
    let permit = job.unless_stopped(job.memory.acquire(size)).await;
    let _permit = permit.map_err(|r| job.halt(r, Side::Source, Step::Read))?;
    let payload = read_whole(job, &source, Some(response)).await?;
    let crc = Crc::of(&payload);
    let sha256 = job.sha256.then(|| sha256_of(&payload));
    source.check_read(crc, sha256)?;
    settle_doubts(job, &source, &payload, crc).await?;
    let expected =
        Expected { crc, sha256, md5_etag: (!capabilities.crc64nvme).then(|| hex::encode(md5_of(&payload))) };
    write(job, capabilities, source, &payload, expected).await
}

async fn read_whole(job: &Job<'_>, source: &Source, first: Option<GetResponse>) -> Result<Payload, Halt> {
    let size = source.info.size_bytes;
    let wanted = Wanted {
        side: Side::Source,
        step: Step::Read,
        at: job.source_path(),
        pin: &source.pin,
        start: 0,
        length: size,
        total: size,
    };
    read(job, wanted, first).await
}

/// Where the ETag looks like an MD5 of other bytes, they are read once more: equal bytes mean that it is no MD5.
async fn settle_doubts(job: &Job<'_>, source: &Source, payload: &Payload, crc: Crc) -> Result<(), Halt> {
    let route = job.route;
    if route.etag_is_no_md5.load(Ordering::Relaxed) || !source.etag_doubts(payload) {
        return Ok(());
    }
    let (again, _) =
        super::verify::hash(job, Side::Source, job.source_path(), &source.pin, source.info.size_bytes)
            .await?;
    if again != crc {
        let message = "two reads of the same version brought different bytes";
        return Err(Halt::Redo(failed(Step::Read, TransferErrorKind::Integrity, message)));
    }
    route.etag_is_no_md5.store(true, Ordering::Relaxed);
    Ok(())
}

async fn write(
    job: &Job<'_>,
    capabilities: Capabilities,
    mut source: Source,
    payload: &Payload,
    expected: Expected,
) -> Result<CopyReceipt, Halt> {
    let record = source.record(job, Some(expected.crc.value()), expected.sha256);
    let placement = record.place(source.key.is_hashed());
    let keeps_tags = capabilities.tagging || source.tags.is_empty();
    if !keeps_tags {
        source.loses("tags");
    }
    if !capabilities.storage_class {
        source.loses("storage-class");
    }
    let object = Object {
        body: payload,
        proof: proof(capabilities, expected.crc, payload),
        attributes: &placement.attributes,
        tags: if keeps_tags { &source.tags } else { &[] },
        terms: job.terms(),
    };
    let mut spoiled = 0;
    for repair in 0..=MAX_REPAIRS {
        let key = source.key.object(repair);
        if !capabilities.create_only
            && let Some(found) = examine(job, &source, &key, Some(&expected)).await?
        {
            match settle(found, &key)? {
                Some(outcome) => return Ok(receipt(job, &source, key, outcome)),
                None => continue,
            }
        }
        let manifest = placement.manifest.then(|| source.key.manifest(repair));
        if let Some(manifest) = manifest
            && !write_manifest(job, capabilities, &manifest, &record).await?
        {
            continue;
        }
        match put(job, capabilities, &key, object).await? {
            PutEnd::Written(written) => {
                job.progress.add_bytes(payload.len());
                match prove(job, &key, &written, &expected).await? {
                    Proven::Proven(level) => {
                        let outcome = Outcome::new(written, expected.crc, expected.sha256, level);
                        return Ok(receipt(job, &source, key, outcome));
                    }
                    Proven::Bad(why) => {
                        warn_bad(job, &key, why);
                        spoiled += 1;
                        if spoiled > REPAIRS {
                            break;
                        }
                    }
                }
            }
            PutEnd::Exists { uncertain } => {
                let found = examine(job, &source, &key, Some(&expected)).await?;
                let found = found.ok_or_else(|| vanished(&key))?;
                if let Some(mut outcome) = settle(found, &key)? {
                    // After a lost answer the object is our own.
                    outcome.already_present = !uncertain;
                    job.progress.add_bytes(payload.len());
                    return Ok(receipt(job, &source, key, outcome));
                }
            }
        }
    }
    Err(gave_up())
}

/// Nobody may delete backups, so the store contradicts itself.
fn vanished(key: &str) -> Halt {
    let message = format!("the store first had an object under {key} and then had none");
    failed(Step::Verify, TransferErrorKind::Io, message).into()
}

pub(super) fn gave_up() -> Halt {
    let message = "the copies of this version turned out bad, one after the other";
    failed(Step::Verify, TransferErrorKind::Integrity, message).into()
}

pub(super) fn warn_bad(job: &Job<'_>, key: &str, why: &str) {
    warn!(
        task.id = %job.request.task_id,
        location = %job.site(Side::Backup).name,
        key,
        why,
        "copy turned out bad; writing it again under a repair key"
    );
}

/// What is written, whatever its key.
#[derive(Debug, Clone, Copy)]
struct Object<'a> {
    body: &'a Payload,
    proof: Proof,
    attributes: &'a Attributes,
    tags: &'a [Tag],
    terms: Terms<'a>,
}

/// How a write ended.
#[derive(Debug)]
enum PutEnd {
    Written(Written),
    /// The key exists. `uncertain`: an earlier try of ours may have made it.
    Exists {
        uncertain: bool,
    },
}

async fn put(
    job: &Job<'_>,
    capabilities: Capabilities,
    key: &str,
    object: Object<'_>,
) -> Result<PutEnd, Halt> {
    let site = job.site(Side::Backup);
    let uncertain = AtomicBool::new(false);
    let Object { body, proof, attributes, tags, terms } = object;
    let create_only = capabilities.create_only;
    let put = Put { body, proof, attributes, tags, terms, create_only };
    let result = job
        .ask(Side::Backup, || async {
            site.gate.take_bytes(body.len()).await;
            let result = site.store.put(job.backup_path(key), put).await;
            if result.as_ref().is_err_and(|e| e.kind.is_uncertain()) {
                uncertain.store(true, Ordering::Relaxed);
            }
            result
        })
        .await;
    match result {
        Ok(written) => Ok(PutEnd::Written(written)),
        Err(Refusal::Store(error)) if error.kind == Kind::PreconditionFailed => {
            Ok(PutEnd::Exists { uncertain: uncertain.into_inner() })
        }
        Err(refusal) => Err(job.halt(refusal, Side::Backup, Step::Write)),
    }
}

/// Writes the manifest of a copy; `false` when a manifest of something else is there.
pub(super) async fn write_manifest(
    job: &Job<'_>,
    capabilities: Capabilities,
    key: &str,
    record: &Record,
) -> Result<bool, Halt> {
    let json = serde_json::to_vec_pretty(record).map_err(|source| super::TransferError {
        step: Step::Write,
        kind: TransferErrorKind::Unsupported,
        message: "the manifest cannot be written as JSON".to_owned(),
        source: Some(Box::new(source)),
    })?;
    let body = Payload::from(Bytes::from(json));
    let attributes =
        Attributes { content_type: Some("application/json".to_owned()), ..Attributes::default() };
    if !capabilities.create_only
        && let Some(found) = read_manifest(job, job.backup_path(key)).await?
    {
        return Ok(agrees(&found, record));
    }
    let object = Object {
        body: &body,
        proof: proof(capabilities, Crc::of(&body), &body),
        attributes: &attributes,
        tags: &[],
        // As long-lived as its object, but read at each restore: not in a class that is slow to read.
        terms: Terms { storage_class: None, ..job.terms() },
    };
    match put(job, capabilities, key, object).await? {
        PutEnd::Written(_) => Ok(true),
        PutEnd::Exists { .. } => {
            let found = read_manifest(job, job.backup_path(key)).await?;
            Ok(found.is_some_and(|found| agrees(&found, record)))
        }
    }
}

/// Reads a manifest; `None` where there is none or it is not one.
async fn read_manifest(job: &Job<'_>, at: ObjectPath<'_>) -> Result<Option<Record>, Halt> {
    let site = job.site(Side::Backup);
    let latest = Pin::default();
    let info = match job.ask(Side::Backup, || site.store.head(at, &latest)).await {
        Ok(info) => info,
        Err(Refusal::Store(error)) if matches!(error.kind, Kind::NotFound | Kind::NoSuchKey) => {
            return Ok(None);
        }
        Err(refusal) => return Err(job.halt(refusal, Side::Backup, Step::Verify)),
    };
    if info.size_bytes > job.settings.part_bytes {
        return Ok(Some(Record::default()));
    }
    let pin = Pin { version: info.version.clone(), etag: None };
    let wanted = Wanted {
        side: Side::Backup,
        step: Step::Verify,
        at,
        pin: &pin,
        start: 0,
        length: info.size_bytes,
        total: info.size_bytes,
    };
    let bytes = read(job, wanted, None).await?.to_bytes();
    Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default()))
}

/// Whether a manifest tells the same about the same version; who asked for it when may differ.
fn agrees(found: &Record, ours: &Record) -> bool {
    let tellable = |r: &Record| Record { tenant: String::new(), task_id: String::new(), ..r.clone() };
    tellable(found) == tellable(ours)
}

fn proof(capabilities: Capabilities, crc: Crc, payload: &Payload) -> Proof {
    if capabilities.crc64nvme {
        Proof { crc64nvme: Some(crc.value()), md5: None }
    } else {
        Proof { crc64nvme: None, md5: Some(md5_of(payload)) }
    }
}

fn sha256_of(payload: &Payload) -> [u8; 32] {
    let mut digest = Sha256::new();
    for piece in payload.pieces() {
        digest.update(piece);
    }
    digest.finalize().into()
}
