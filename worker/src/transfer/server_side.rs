//! Copies inside one store: no byte passes through the worker.
//!
//! Large objects are copied part by part, so that progress shows and no request takes minutes. The proof is the store's word about the copy,
//! compared with its word about the source. Where these cannot be compared the worker reads the source, and the copy too where the store
//! says nothing about it; at level `readback` it reads both.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    CopyReceipt, Step, TransferErrorKind, VerifyLevel,
    capability::Capabilities,
    checksum::Crc,
    existing::{examine, settle},
    failure::{Halt, Refusal, Side, failed},
    janitor::Watch,
    job::Job,
    key::MAX_REPAIRS,
    manifest::write_manifest,
    metadata::Record,
    plan::PartPlan,
    receipt::{Outcome, receipt},
    source::Source,
    upload::{Completed, Upload, complete, create, end, redo},
    verify::{hash, same_md5},
    whole::{REPAIRS, gave_up, warn_bad},
};
use crate::store::{
    Attributes, ByteRange, ObjectInfo, PartWritten, Pin, StoreErrorKind as Kind, WriteOptions, Written,
};

/// How a copy inside a store ended.
#[derive(Debug)]
pub(super) enum Inside {
    /// Done.
    Copied(Box<CopyReceipt>),
    /// The bytes have to pass through the worker.
    Not(Why),
}

/// Why a store does not copy an object by itself.
#[derive(Debug)]
pub(super) enum Why {
    /// The store or the credentials do not allow it, whatever the object.
    Unable(String),
    /// It does not find for a copy what it showed before. Gone by now, or a key that its copies take for another: only reading tells.
    Unseen,
}

/// How one try on one key ended.
enum Tried {
    Done(Outcome),
    /// The copy that was made is damaged.
    Damaged,
    /// A damaged copy of an earlier attempt has the key.
    Taken,
    Not(Why),
}

/// Copies an object.
pub(super) async fn copy(
    job: &Job<'_>,
    capabilities: Capabilities,
    mut source: Source,
) -> Result<Inside, Halt> {
    if !capabilities.tagging && (!source.tags.is_empty() || source.info.tag_count.is_some_and(|n| n > 0)) {
        source.loses("tags");
    }
    if !capabilities.storage_class {
        source.loses("storage-class");
    }
    let record = source.record(job, source.info.crc64nvme, source.info.sha256.filter(|_| job.sha256));
    let placement = record.place(source.key.is_hashed());
    let mut spoiled = 0;
    for repair in 0..=MAX_REPAIRS {
        let key = source.key.object(repair);
        if (!capabilities.create_only_copy || !in_one_request(job, &source))
            && let Some(found) = examine(job, &source, &key, None).await?
        {
            match settle(found, &key)? {
                Some(outcome) => return Ok(copied(job, &source, key, outcome)),
                None => continue,
            }
        }
        if placement.manifest && !manifest(job, capabilities, &source, repair, &record).await? {
            continue;
        }
        let tried = if in_one_request(job, &source) {
            whole(job, capabilities, &source, &key, &placement.attributes).await?
        } else {
            in_parts(job, capabilities, &source, &key, &placement.attributes).await?
        };
        match tried {
            Tried::Done(outcome) => return Ok(copied(job, &source, key, outcome)),
            Tried::Taken => {}
            Tried::Damaged => {
                spoiled += 1;
                if spoiled > REPAIRS {
                    break;
                }
            }
            Tried::Not(why) => return Ok(Inside::Not(why)),
        }
    }
    Err(gave_up())
}

fn copied(job: &Job<'_>, source: &Source, key: String, outcome: Outcome) -> Inside {
    Inside::Copied(Box::new(receipt(job, source, key, outcome)))
}

fn in_one_request(job: &Job<'_>, source: &Source) -> bool {
    source.info.size_bytes <= job.settings.copy_part_bytes
}

async fn manifest(
    job: &Job<'_>,
    capabilities: Capabilities,
    source: &Source,
    repair: u32,
    record: &Record,
) -> Result<bool, Halt> {
    write_manifest(job, capabilities, &source.key.manifest(repair), record).await
}

async fn whole(
    job: &Job<'_>,
    capabilities: Capabilities,
    source: &Source,
    key: &str,
    attributes: &Attributes,
) -> Result<Tried, Halt> {
    let write = WriteOptions {
        attributes,
        tags: &[],
        terms: job.terms(),
        crc64nvme: capabilities.crc64nvme,
        create_only: capabilities.create_only_copy,
    };
    let site = job.site(Side::Backup);
    let to = job.backup_path(key);
    let uncertain = AtomicBool::new(false);
    let answer = job.ask(Side::Backup, || async {
        let result = site.store.copy(job.source_path(), &source.pin, to, &write).await;
        if result.as_ref().is_err_and(|e| e.kind.is_uncertain()) {
            uncertain.store(true, Ordering::Relaxed);
        }
        result
    });
    let answer = answer.await;
    let uncertain = uncertain.into_inner();
    match answer {
        Ok(written) => {
            job.progress.add_step();
            proven(job, source, key, capabilities.believed(written), 0).await
        }
        // Either the source is another one now, or the key exists: only a look tells.
        Err(Refusal::Store(error)) if error.kind == Kind::PreconditionFailed => {
            let found = examine(job, source, key, None).await?.ok_or(Halt::Changed)?;
            // After a lost answer the copy is our own.
            let ours = |o| Outcome { already_present: !uncertain, server_side: uncertain, ..o };
            Ok(settle(found, key)?.map_or(Tried::Taken, |outcome| Tried::Done(ours(outcome))))
        }
        Err(refusal) => why_not(job, refusal).map(Tried::Not),
    }
}

async fn in_parts(
    job: &Job<'_>,
    capabilities: Capabilities,
    source: &Source,
    key: &str,
    attributes: &Attributes,
) -> Result<Tried, Halt> {
    let size = source.info.size_bytes;
    let plan = PartPlan::new(size, job.settings.copy_part_bytes, None, job.settings.limits)
        .map_err(|e| failed(Step::Discover, TransferErrorKind::Unsupported, e.to_string()))?;
    let tags = if capabilities.tagging { source.tags.as_slice() } else { &[] };
    let write = WriteOptions {
        attributes,
        tags,
        terms: job.terms(),
        crc64nvme: capabilities.crc64nvme,
        create_only: capabilities.create_only,
    };
    let upload = create(job, key, &write).await?;
    let watch = Watch::new(job, &upload.key, Some(&upload.id));
    let filled = async {
        let parts = match copy_parts(job, source, &plan, &upload).await? {
            Ok(parts) => parts,
            Err(why) => return Ok(Err(why)),
        };
        let expected = source.info.crc64nvme.map(|crc| super::verify::Expected {
            crc: Crc::reported(crc, size),
            sha256: None,
            md5_etag: None,
        });
        Ok(Ok(complete(job, capabilities, source, &upload, &parts, expected.as_ref()).await?))
    };
    let filled = Box::pin(filled).await;
    let ended = end(job, &upload, filled).await;
    watch.end();
    let completed = match ended? {
        Ok(completed) => completed,
        Err(why) => {
            super::upload::abort(job, &upload).await;
            return Ok(Tried::Not(why));
        }
    };
    match completed {
        Completed::Written(written) => proven(job, source, key, written, plan.count()).await,
        Completed::Present(outcome) => {
            super::upload::abort(job, &upload).await;
            let (ours, parts) = (!outcome.already_present, plan.count());
            let parts = if ours { parts } else { 0 };
            Ok(Tried::Done(Outcome { server_side: ours, parts, ..outcome }))
        }
        Completed::Damaged => {
            super::upload::abort(job, &upload).await;
            Ok(Tried::Damaged)
        }
    }
}

/// Copies all parts; the inner error says why the store cannot.
async fn copy_parts(
    job: &Job<'_>,
    source: &Source,
    plan: &PartPlan,
    upload: &Upload,
) -> Result<Result<Vec<PartWritten>, Why>, Halt> {
    let site = job.site(Side::Backup);
    let copies = stream::iter(plan.parts()).map(|part| async move {
        let range = ByteRange { start: part.start, length: part.length };
        let answer = job
            .ask(Side::Backup, || {
                site.store.copy_part(upload.at(job), part.number, job.source_path(), &source.pin, range)
            })
            .await;
        if answer.is_ok() {
            job.progress.add_step();
        }
        answer
    });
    let parts: Result<Vec<PartWritten>, Refusal> = copies.buffered(job.settings.window).try_collect().await;
    match parts {
        Ok(parts) => Ok(Ok(parts)),
        Err(Refusal::Store(error)) if error.kind == Kind::PreconditionFailed => Err(Halt::Changed),
        Err(Refusal::Store(error)) if error.kind == Kind::NoSuchUpload => {
            Err(redo(TransferErrorKind::Io, &error.to_string()))
        }
        Err(refusal) => why_not(job, refusal).map(Err),
    }
}

/// Why the store does not copy by itself, if that is what a refusal means; else the attempt is over.
fn why_not(job: &Job<'_>, refusal: Refusal) -> Result<Why, Halt> {
    if let Refusal::Store(error) = &refusal {
        if matches!(error.kind, Kind::Denied | Kind::NotImplemented | Kind::Rejected | Kind::TooLarge) {
            return Ok(Why::Unable(error.to_string()));
        }
        if matches!(error.kind, Kind::NoSuchKey | Kind::NoSuchVersion) {
            return Ok(Why::Unseen);
        }
    }
    Err(job.halt(refusal, Side::Backup, Step::Write))
}

/// Proves the copy: by what the store says about it and its source where that can be compared, else by reading.
async fn proven(
    job: &Job<'_>,
    source: &Source,
    key: &str,
    written: Written,
    parts: u32,
) -> Result<Tried, Halt> {
    let size = source.info.size_bytes;
    let known = source.info.crc64nvme;
    let at = job.backup_path(key);
    let pin = Pin { version: written.version.clone(), etag: None };
    let mut reported = written.crc64nvme;
    let mut same_etag = same_md5(source, &written.etag);
    let mut level = VerifyLevel::Receipt;
    let bad = |why| {
        warn_bad(job, key, why);
        Ok(Tried::Damaged)
    };
    if contradict(known, reported) {
        return bad("the store reports another checksum for the copy than for its source");
    }
    if job.verify >= VerifyLevel::Head || !(same_etag || known.is_some() && reported.is_some()) {
        let site = job.site(Side::Backup);
        let info: ObjectInfo = job
            .ask(Side::Backup, || site.store.head(at, &pin))
            .await
            .map_err(|r| job.halt(r, Side::Backup, Step::Verify))?;
        if info.size_bytes != size || contradict(known, info.crc64nvme) {
            return bad("the store describes another object than it was to copy");
        }
        reported = reported.or(info.crc64nvme);
        same_etag |= !info.opaque_etag && same_md5(source, &info.etag);
        level = VerifyLevel::Head;
    }
    let mut sha256 = source.info.sha256.filter(|_| job.sha256);
    let mut crc = known.or(reported.filter(|_| same_etag));
    let is_said = same_etag || known.is_some() && reported.is_some();
    if job.verify >= VerifyLevel::Readback || !is_said {
        let (theirs, source_sha256) = hash(job, Side::Source, job.source_path(), &source.pin, size).await?;
        source.check_read(theirs, source_sha256)?;
        match reported.filter(|_| job.verify < VerifyLevel::Readback) {
            Some(reported) if reported == theirs.value() => {}
            Some(_) => return bad("the store reports another checksum for the copy than its source has"),
            None => {
                let (ours, copy_sha256) = hash(job, Side::Backup, at, &pin, size).await?;
                if theirs != ours || source_sha256 != copy_sha256 {
                    return bad("read back, the copy differs from its source");
                }
                level = VerifyLevel::Readback;
            }
        }
        (crc, sha256) = (Some(theirs.value()), source_sha256);
    }
    let crc = Crc::reported(crc.unwrap_or(0), size);
    Ok(Tried::Done(Outcome { parts, server_side: true, ..Outcome::new(written, crc, sha256, level) }))
}

fn contradict(source: Option<u64>, copy: Option<u64>) -> bool {
    source.zip(copy).is_some_and(|(source, copy)| source != copy)
}
