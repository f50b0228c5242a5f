//! The life of a multipart upload: created or resumed, completed once, or aborted.
//!
//! A success ends it; a hand-back and a failure that may pass by itself leave it to the next attempt, so that hours of uploading
//! survive a store that is away for a minute; every other exit aborts it. The next attempt is told the id or finds it by its key,
//! also after a kill; without one it is the business of the bucket's lifecycle rule (`AbortIncompleteMultipartUpload`).

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::timeout;
use tracing::debug;

use super::{
    Step, TransferErrorKind,
    capability::Capabilities,
    existing::{Found, examine, settle},
    failure::{Halt, Refusal, Side, failed},
    janitor::Watch,
    job::Job,
    key::BackupKey,
    plan::PartPlan,
    receipt::Outcome,
    source::Source,
    verify::Expected,
};
use crate::store::{
    Completion, PartListed, PartWritten, StoreErrorKind as Kind, UploadRef, WriteOptions, Written,
};

/// Longest name of an upload that a successor is told.
const HANDLE_MAX_BYTES: usize = 1024;
/// Longest time spent on aborting.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// An upload, and the key that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) id: String,
}

/// How a completion ended.
#[derive(Debug)]
pub(super) enum Completed {
    /// The object was made now.
    Written(Written),
    /// An equal copy is there.
    Present(Outcome),
    /// A damaged copy of ours is there.
    Damaged,
}

/// The name of an upload as a successor is told it: what tells its key from those of other versions, and the store's id.
pub(super) fn handle(key: &BackupKey, repair: u32, upload: &Upload) -> Option<String> {
    let suffix = if repair == 0 { String::new() } else { format!("~r{repair}") };
    let handle = format!("{}{suffix}/{}", key.version(), upload.id);
    (handle.len() <= HANDLE_MAX_BYTES).then_some(handle)
}

/// The upload that an earlier attempt of this task left, if any.
pub(super) fn leftover(job: &Job<'_>) -> Option<Upload> {
    let request = job.request;
    let (name, id) = request.resume_upload_id.split_once('/').filter(|(_, id)| !id.is_empty())?;
    let (version, repair) = match name.split_once("~r") {
        Some((version, repair)) => (version, repair.parse().ok()?),
        None => (name, 0),
    };
    let naming = job.route.target.naming();
    let key = BackupKey::with_version(naming, &request.location, &request.bucket, &request.key, version);
    Some(Upload { key: key.object(repair), id: id.to_owned() })
}

/// The uploads for a key that nobody has ended: what attempts left that were killed before they could tell anybody. They can only be of
/// this object's version, which the key names. Not being able to look is no reason not to copy.
pub(super) async fn orphans(job: &Job<'_>, key: &str) -> Result<Vec<Upload>, Halt> {
    let site = job.site(Side::Backup);
    match job.ask(Side::Backup, || site.store.list_uploads(job.backup_path(key))).await {
        Ok(ids) => Ok(ids.into_iter().map(|id| Upload { key: key.to_owned(), id }).collect()),
        Err(Refusal::Store(error)) => {
            debug!(task.id = %job.request.task_id, %error, "cannot look for uploads of earlier attempts");
            Ok(Vec::new())
        }
        Err(Refusal::Stopped(halt)) => Err(halt),
    }
}

/// Starts an upload. Waits for the answer even when told to stop, so that no upload is left that nobody knows.
pub(super) async fn create(job: &Job<'_>, key: &str, write: &WriteOptions<'_>) -> Result<Upload, Halt> {
    let site = job.site(Side::Backup);
    // Should the copy be dropped before the answer, nobody knows the id.
    let watch = Watch::new(job, key, None);
    let uncertain = AtomicBool::new(false);
    let created = job
        .ask_through(Side::Backup, || async {
            let result = site.store.create_upload(job.backup_path(key), write).await;
            if result.as_ref().is_err_and(|e| e.kind.is_uncertain()) {
                uncertain.store(true, Ordering::Relaxed);
            }
            result
        })
        .await;
    watch.end();
    let id = created.map_err(|r| job.halt(r, Side::Backup, Step::Write))?;
    let upload = Upload { key: key.to_owned(), id };
    if uncertain.into_inner() {
        // A try without an answer may have started one, too.
        let watch = Watch::new(job, key, Some(&upload.id));
        for other in orphans(job, key).await?.into_iter().filter(|other| *other != upload) {
            abort(job, &other).await;
        }
        watch.end();
    }
    Ok(upload)
}

/// The parts that an earlier attempt has uploaded, if its upload can be gone on with: the same key, which names the version, and the same
/// plan. Parts without a checksum are uploaded again.
pub(super) async fn resumable(
    job: &Job<'_>,
    upload: &Upload,
    plan: &PartPlan,
) -> Result<Option<BTreeMap<u32, PartListed>>, Halt> {
    let site = job.site(Side::Backup);
    let mut parts = BTreeMap::new();
    let mut after = 0;
    loop {
        let page = match job.ask(Side::Backup, || site.store.list_parts(upload.at(job), after)).await {
            Ok(page) => page,
            Err(Refusal::Store(error)) => {
                debug!(task.id = %job.request.task_id, %error, "cannot resume the upload of an earlier attempt");
                return Ok(None);
            }
            Err(Refusal::Stopped(halt)) => return Err(halt),
        };
        for listed in page.parts {
            let number = listed.part.number;
            if plan.part(number).is_none_or(|p| p.length != listed.size_bytes) || number <= after {
                return Ok(None);
            }
            after = number;
            if listed.part.crc64nvme.is_some() {
                parts.insert(number, listed);
            }
        }
        if !page.more {
            return Ok(Some(parts));
        }
    }
}

/// Completes an upload, whatever becomes of the answers on the way.
pub(super) async fn complete(
    job: &Job<'_>,
    capabilities: Capabilities,
    source: &Source,
    upload: &Upload,
    parts: &[PartWritten],
    expected: Option<&Expected>,
) -> Result<Completed, Halt> {
    if !capabilities.create_only
        && let Some(found) = examine(job, source, &upload.key, expected).await?
    {
        return present(found, &upload.key, false);
    }
    let completion = Completion {
        size_bytes: source.info.size_bytes,
        crc64nvme: expected.map(|e| e.crc.value()).filter(|_| capabilities.crc64nvme),
        create_only: capabilities.create_only,
    };
    let site = job.site(Side::Backup);
    let mut tries = 0;
    let mut uncertain = false;
    loop {
        job.unless_stopped(async {}).await.map_err(|r| job.halt(r, Side::Backup, Step::Complete))?;
        // Not given up half-way: whether the object exists must be known.
        let error = match site.gate.pass(site.store.complete_upload(upload.at(job), parts, completion)).await
        {
            Ok(written) => return Ok(Completed::Written(capabilities.believed(written))),
            Err(error) => error,
        };
        let kind = error.kind;
        // Both may be our own success, of an earlier try or of a predecessor with the same upload.
        if matches!(kind, Kind::PreconditionFailed | Kind::NoSuchUpload) {
            return match examine(job, source, &upload.key, expected).await? {
                Some(found) => present(found, &upload.key, uncertain || kind == Kind::NoSuchUpload),
                None => Err(redo(TransferErrorKind::Io, &error.to_string())),
            };
        }
        // S3 asks for a new upload in these cases.
        if matches!(kind, Kind::Conflict | Kind::InvalidPart) {
            return Err(redo(TransferErrorKind::Io, &error.to_string()));
        }
        if kind == Kind::BadDigest {
            return Err(redo(TransferErrorKind::Integrity, &error.to_string()));
        }
        uncertain |= kind.is_uncertain();
        tries += 1;
        let paused = job.pause(Side::Backup, tries, error).await;
        paused.map_err(|r| job.halt(r, Side::Backup, Step::Complete))?;
    }
}

fn present(found: Found, key: &str, ours: bool) -> Result<Completed, Halt> {
    Ok(match settle(found, key)? {
        Some(outcome) => Completed::Present(Outcome { already_present: !ours, ..outcome }),
        None => Completed::Damaged,
    })
}

pub(super) fn redo(kind: TransferErrorKind, message: &str) -> Halt {
    Halt::Redo(failed(Step::Complete, kind, message))
}

/// Aborts an upload, for a bounded time and whatever the copy was told. What does not succeed is left to the janitor.
pub(super) async fn abort(job: &Job<'_>, upload: &Upload) {
    let site = job.site(Side::Backup);
    let mut tries = 0;
    let aborting = async {
        loop {
            let error = match site.store.abort_upload(upload.at(job)).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tries += 1;
            match job.settings.retry.pause(tries, error.kind, fastrand::f64()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error.to_string()),
            }
        }
    };
    let ended = timeout(ABORT_TIMEOUT, aborting).await;
    if let Err(error) = ended.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
        debug!(
            task.id = %job.request.task_id,
            location = %site.name,
            key = %upload.key,
            upload.id = %upload.id,
            error,
            "multipart upload is aborted later"
        );
        job.janitor.leave(&job.route.target, &upload.key, Some(&upload.id));
    }
}

/// Ends an upload as the end of its copy demands: kept for a successor where one can go on with it, else aborted.
pub(super) async fn end<T>(job: &Job<'_>, upload: &Upload, result: Result<T, Halt>) -> Result<T, Halt> {
    match &result {
        Ok(_) => job.progress.set_upload_id(""),
        Err(Halt::HandedBack) if is_named(job) => {}
        Err(Halt::Failed(error)) if is_named(job) && error.kind.passing().is_some() => {}
        Err(Halt::HandedBack | Halt::Changed | Halt::Redo(_) | Halt::Aborted | Halt::Failed(_)) => {
            abort(job, upload).await;
            job.progress.set_upload_id("");
        }
    }
    result
}

/// Whether heartbeats tell a successor of the upload.
fn is_named(job: &Job<'_>) -> bool {
    !job.progress.upload_id().is_empty()
}

impl Upload {
    pub(super) fn at<'k>(&'k self, job: &Job<'k>) -> UploadRef<'k> {
        UploadRef { at: job.backup_path(&self.key), id: &self.id }
    }
}
