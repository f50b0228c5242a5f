//! Objects of more than one part: ranges are read and parts are written side by side, in a bounded window.
//!
//! At any time at most `window` parts of one copy are in memory, and those of all copies fit into the budget. Memory is asked for in the
//! order of the parts, so that hashing them in order never waits for a part that waits for memory.

use std::collections::BTreeMap;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};

use super::{
    CopyReceipt, Step, TransferErrorKind, VerifyLevel,
    capability::Capabilities,
    checksum::{Crc, WholeDigests, md5_of, multipart_etag},
    existing::{examine, settle},
    failure::{Halt, Refusal, Side, failed},
    janitor::Watch,
    job::Job,
    key::MAX_REPAIRS,
    manifest::write_manifest,
    permits::MemoryPermit,
    plan::{Part, PartPlan},
    read::{Wanted, read},
    receipt::{Outcome, receipt},
    source::Source,
    upload::{Completed, Upload, abort, complete, create, end, handle, orphans, redo, resumable},
    verify::{Expected, Proof as Proven, prove},
    whole::{REPAIRS, gave_up, warn_bad},
};
use crate::store::{PartListed, PartWritten, Proof, StoreErrorKind as Kind, WriteOptions};

/// What became of all parts.
struct Moved {
    parts: Vec<PartWritten>,
    expected: Expected,
    /// Of the whole object, where the origin tells one.
    md5: Option<[u8; 16]>,
}

/// What became of one part.
struct MovedPart {
    part: PartWritten,
    crc: Crc,
    md5: Option<[u8; 16]>,
}

/// Copies an object. `leftover` is the upload of an earlier attempt; it is resumed or aborted here.
pub(super) async fn copy(
    job: &Job<'_>,
    capabilities: Capabilities,
    mut source: Source,
    leftover: &mut Option<Upload>,
) -> Result<CopyReceipt, Halt> {
    let plan = PartPlan::new(
        source.info.size_bytes,
        job.settings.part_bytes,
        Some(job.memory.total_bytes()),
        job.settings.limits,
    );
    let plan = plan.map_err(|e| failed(Step::Discover, TransferErrorKind::Unsupported, e.to_string()))?;
    if !capabilities.tagging && !source.tags.is_empty() {
        source.loses("tags");
    }
    if !capabilities.storage_class {
        source.loses("storage-class");
    }
    let mut spoiled = 0;
    for repair in 0..=MAX_REPAIRS {
        let key = source.key.object(repair);
        if let Some(found) = examine(job, &source, &key, None).await? {
            match settle(found, &key)? {
                Some(outcome) => return Ok(receipt(job, &source, key, outcome)),
                None => continue,
            }
        }
        if let Some(outcome) = upload(job, capabilities, &source, &plan, repair, leftover).await? {
            return Ok(receipt(job, &source, key, outcome));
        }
        spoiled += 1;
        if spoiled > REPAIRS {
            break;
        }
    }
    Err(gave_up())
}

/// Uploads the object to one key; `None` when what is there now is a damaged copy of ours.
async fn upload(
    job: &Job<'_>,
    capabilities: Capabilities,
    source: &Source,
    plan: &PartPlan,
    repair: u32,
    leftover: &mut Option<Upload>,
) -> Result<Option<Outcome>, Halt> {
    let key = source.key.object(repair);
    let (upload, held) = match take_up(job, plan, &key, leftover).await? {
        Some(resumed) => resumed,
        None => {
            let record = source.record(job, source.info.crc64nvme, None);
            let placement = record.place(needs_manifest(job, capabilities, source));
            let write = WriteOptions {
                attributes: &placement.attributes,
                tags: if capabilities.tagging { &source.tags } else { &[] },
                terms: job.terms(),
                crc64nvme: capabilities.crc64nvme,
                create_only: capabilities.create_only,
            };
            (create(job, &key, &write).await?, BTreeMap::new())
        }
    };
    job.progress.set_upload_id(&handle(&source.key, repair, &upload).unwrap_or_default());
    let watch = Watch::new(job, &upload.key, Some(&upload.id));
    let result = Box::pin(fill(job, capabilities, source, plan, repair, &upload, held)).await;
    let result = end(job, &upload, result).await;
    watch.end();
    result
}

/// Resumes an upload that an earlier attempt left for this key, and aborts all others. The one that it was told of stays in `leftover`
/// until it is resumed or aborted, so that it is not forgotten when the copy ends before.
async fn take_up(
    job: &Job<'_>,
    plan: &PartPlan,
    key: &str,
    leftover: &mut Option<Upload>,
) -> Result<Option<(Upload, BTreeMap<u32, PartListed>)>, Halt> {
    let mut taken = None;
    if let Some(upload) = leftover.as_ref() {
        let held = if upload.key == key { resumable(job, upload, plan).await? } else { None };
        if held.is_none() {
            abort(job, upload).await;
        }
        taken = leftover.take().zip(held);
    }
    for orphan in orphans(job, key).await? {
        if taken.as_ref().is_some_and(|(upload, _)| *upload == orphan) {
            continue;
        }
        let held = if taken.is_none() { resumable(job, &orphan, plan).await? } else { None };
        match held {
            Some(held) => taken = Some((orphan, held)),
            None => abort(job, &orphan).await,
        }
    }
    Ok(taken)
}

/// Moves the parts, completes the upload and proves the object.
async fn fill(
    job: &Job<'_>,
    capabilities: Capabilities,
    source: &Source,
    plan: &PartPlan,
    repair: u32,
    upload: &Upload,
    held: BTreeMap<u32, PartListed>,
) -> Result<Option<Outcome>, Halt> {
    let moved = Box::pin(move_parts(job, capabilities, source, plan, upload, held)).await?;
    let expected = moved.expected;
    source.check_read(expected.crc, expected.sha256)?;
    let md5_differs = moved.md5 != source.told_md5();
    if md5_differs {
        source.settle_md5(job, expected.crc).await?;
    }
    let record = source.record(job, Some(expected.crc.value()), expected.sha256);
    if record.place(needs_manifest(job, capabilities, source)).manifest {
        let manifest = source.key.manifest(repair);
        if !write_manifest(job, capabilities, &manifest, &record).await? {
            abort(job, upload).await;
            return Ok(None);
        }
    }
    let parts = plan.count();
    match complete(job, capabilities, source, upload, &moved.parts, Some(&expected)).await? {
        Completed::Written(written) => match prove(job, &upload.key, &written, &expected).await? {
            Proven::Proven(level) => {
                let outcome = Outcome::new(written, expected.crc, expected.sha256, level);
                Ok(Some(Outcome { parts, md5_differs, ..outcome }))
            }
            Proven::Bad(why) => {
                warn_bad(job, &upload.key, why);
                Ok(None)
            }
        },
        Completed::Present(outcome) => {
            abort(job, upload).await;
            let level = outcome.level.max(VerifyLevel::Head);
            let parts = if outcome.already_present { 0 } else { parts };
            Ok(Some(Outcome { parts, level, sha256: expected.sha256, md5_differs, ..outcome }))
        }
        Completed::Damaged => {
            abort(job, upload).await;
            Ok(None)
        }
    }
}

/// Whether a restore would miss something that is known only when the parts have been read, and that the store does not keep.
fn needs_manifest(job: &Job<'_>, capabilities: Capabilities, source: &Source) -> bool {
    let crc_is_kept = source.info.crc64nvme.is_some() || capabilities.crc64nvme;
    source.key.is_hashed() || job.sha256 || !crc_is_kept
}

async fn move_parts(
    job: &Job<'_>,
    capabilities: Capabilities,
    source: &Source,
    plan: &PartPlan,
    upload: &Upload,
    mut held: BTreeMap<u32, PartListed>,
) -> Result<Moved, Halt> {
    let digests = WholeDigests::new(job.sha256, source.told_md5().is_some());
    let mut done: BTreeMap<u32, MovedPart> = BTreeMap::new();
    if digests.is_empty() {
        for (number, listed) in std::mem::take(&mut held) {
            if let Some(part) = resumed(listed) {
                job.progress.add_bytes(part.crc.length());
                done.insert(number, part);
            }
        }
    }
    let mut todo: Vec<Part> = plan.parts().filter(|p| !done.contains_key(&p.number)).collect();
    todo.reverse();
    let mut moving = FuturesUnordered::new();
    // Kept while it waits, or it would lose its place among those who wait for memory.
    let mut memory: Option<BoxFuture<'_, (Part, MemoryPermit)>> = None;
    loop {
        if memory.is_none() && moving.len() < job.settings.window {
            memory = todo.pop().map(|p| job.memory.acquire(p.length).map(move |m| (p, m)).boxed());
        }
        if memory.is_none() && moving.is_empty() {
            break;
        }
        let next = async {
            tokio::select! {
                started = async { memory.as_mut()?.await.into() }, if memory.is_some() => Next::Start(started),
                Some(ended) = moving.next(), if !moving.is_empty() => Next::Ended(ended),
            }
        };
        match job.unless_stopped(next).await.map_err(|r| job.halt(r, Side::Backup, Step::Write))? {
            Next::Start(started) => {
                memory = None;
                if let Some((part, permit)) = started {
                    let listed = held.remove(&part.number);
                    let digests = &digests;
                    moving.push(move_part(job, capabilities, source, upload, part, permit, digests, listed));
                }
            }
            Next::Ended(ended) => {
                let moved = ended?;
                job.progress.add_bytes(moved.crc.length());
                done.insert(moved.part.number, moved);
            }
        }
    }
    drop(moving);
    let crc = done.values().map(|p| p.crc).fold(Crc::EMPTY, Crc::followed_by);
    let md5s: Option<Vec<[u8; 16]>> = done.values().map(|p| p.md5).collect();
    let (sha256, md5) = digests.finish();
    let expected = Expected { crc, sha256, md5_etag: md5s.map(|md5s| multipart_etag(md5s.iter())) };
    Ok(Moved { parts: done.into_values().map(|p| p.part).collect(), expected, md5 })
}

enum Next {
    Start(Option<(Part, MemoryPermit)>),
    Ended(Result<MovedPart, Halt>),
}

fn resumed(listed: PartListed) -> Option<MovedPart> {
    let crc = Crc::reported(listed.part.crc64nvme?, listed.size_bytes);
    Some(MovedPart { part: listed.part, crc, md5: None })
}

#[expect(clippy::too_many_arguments, reason = "everything that one part depends on")]
async fn move_part(
    job: &Job<'_>,
    capabilities: Capabilities,
    source: &Source,
    upload: &Upload,
    part: Part,
    _memory: MemoryPermit,
    digests: &WholeDigests,
    listed: Option<PartListed>,
) -> Result<MovedPart, Halt> {
    let wanted = Wanted {
        side: Side::Source,
        step: Step::Read,
        at: job.source_path(),
        pin: &source.pin,
        start: part.start,
        length: part.length,
        total: source.info.size_bytes,
    };
    let (body, crc) = read(job, wanted, None).await?;
    digests.add(part.number, &body).await;
    // Uploaded by an earlier attempt, and read again only to be hashed.
    if let Some(resumed) = listed.and_then(resumed)
        && resumed.crc == crc
    {
        return Ok(resumed);
    }
    let md5 = (!capabilities.crc64nvme).then(|| md5_of(&body));
    let proof = Proof { crc64nvme: capabilities.crc64nvme.then(|| crc.value()), md5 };
    let site = job.site(Side::Backup);
    let sent = job.ask(Side::Backup, || async {
        site.gate.take_bytes(body.len()).await;
        site.store.upload_part(upload.at(job), part.number, &body, proof).await
    });
    let sent = sent.await;
    let written = match sent {
        Ok(written) => written,
        Err(Refusal::Store(error)) if error.kind == Kind::NoSuchUpload => {
            return Err(redo(TransferErrorKind::Io, &error.to_string()));
        }
        Err(refusal) => return Err(job.halt(refusal, Side::Backup, Step::Write)),
    };
    if written.crc64nvme.is_some_and(|kept| kept != crc.value()) {
        return Err(redo(
            TransferErrorKind::Integrity,
            "the store keeps another checksum of a part than was sent",
        ));
    }
    Ok(MovedPart { part: written, crc, md5 })
}
