//! Multipart uploads that nobody goes on with: aborted here when the copy itself could not.
//!
//! Two kinds. Those of this worker, whose copy was cancelled and then cut off, or whose abort failed: known by name and ended as soon as
//! the store lets us. And orphans, left by workers that were killed and whose task nobody repeats: found by listing the backup prefix.
//! An orphan is ended only when its key is one of ours and nothing has happened to it for days; whatever else is in the bucket belongs to
//! somebody else.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{sync::Notify, time::timeout};
use tracing::{debug, info, warn};

use super::{job::Job, key::ParsedKey, route::Target};
use crate::store::{ObjectPath, StoreError, UploadListed, UploadRef};

/// Most uploads that wait to be aborted; beyond it the oldest is left to the orphans.
const MOST_WAITING: usize = 10_000;
/// Tries to abort one of them.
const TRIES: u32 = 5;
/// Between two tries.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Aborts side by side.
const AT_ONCE: usize = 4;
/// Pages of one listing.
const MOST_PAGES: usize = 100;

/// What waits to be aborted.
#[derive(Debug, Default)]
pub(super) struct Janitor {
    waiting: Mutex<VecDeque<Waste>>,
    /// Number of the next one.
    next: AtomicU64,
    added: Notify,
}

/// An upload that nobody wants.
#[derive(Debug, Clone)]
struct Waste {
    number: u64,
    target: Arc<Target>,
    key: String,
    /// `None` when the store never told: whatever is open for the key.
    id: Option<String>,
    tries: u32,
}

/// Looks after an upload while its copy runs: a copy that is dropped after it was cancelled leaves it to the janitor.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    job: Job<'a>,
    key: String,
    id: Option<String>,
    ended: bool,
}

impl Janitor {
    /// Leaves an upload to be aborted later.
    pub(super) fn leave(&self, target: &Arc<Target>, key: &str, id: Option<&str>) {
        let waste = Waste {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            target: Arc::clone(target),
            key: key.to_owned(),
            id: id.map(ToOwned::to_owned),
            tries: 0,
        };
        {
            let mut waiting = self.waiting();
            if waiting.len() >= MOST_WAITING {
                waiting.pop_front();
            }
            waiting.push_back(waste);
        }
        self.added.notify_one();
    }

    /// Waits until there is something to do.
    pub(super) async fn next(&self) {
        let added = self.added.notified();
        if self.waiting().is_empty() {
            added.await;
        } else if timeout(RETRY_AFTER, added).await.is_err() {
            debug!("trying again to abort uploads");
        }
    }

    /// Tries to abort all that waits. What fails goes on waiting, and so does all that is under way when this is dropped.
    pub(super) async fn work(&self) {
        let waiting = self.waiting().clone();
        stream::iter(waiting).for_each_concurrent(AT_ONCE, |waste| self.abort(waste)).await;
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waste>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn abort(&self, mut waste: Waste) {
        let answer = timeout(ANSWER_WITHIN, waste.abort()).await;
        let why = match answer {
            Ok(Ok(())) => return self.waiting().retain(|w| w.number != waste.number),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        waste.tries += 1;
        let given_up = waste.tries >= TRIES;
        self.waiting().retain_mut(|w| {
            let same = w.number == waste.number;
            if same {
                w.tries = waste.tries;
            }
            !(same && given_up)
        });
        if given_up {
            warn!(
                location = %waste.target.site.name,
                key = %waste.key,
                upload.id = waste.id,
                error = why,
                "multipart upload could not be aborted; it is an orphan now"
            );
        }
    }
}

impl Waste {
    async fn abort(&self) -> Result<(), StoreError> {
        let Target { site, bucket, .. } = &*self.target;
        let at = ObjectPath { bucket, key: &self.key };
        let ids = match &self.id {
            Some(id) => vec![id.clone()],
            None => site.store.list_uploads(at).await?,
        };
        for id in &ids {
            site.store.abort_upload(UploadRef { at, id }).await?;
        }
        Ok(())
    }
}

impl<'a> Watch<'a> {
    pub(super) fn new(job: &Job<'a>, key: &str, id: Option<&str>) -> Self {
        Self { job: *job, key: key.to_owned(), id: id.map(ToOwned::to_owned), ended: false }
    }

    /// The copy has decided itself what becomes of the upload.
    pub(super) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // A successor goes on with whatever is left in any other case.
        if !self.ended && self.job.stop.abort.is_cancelled() {
            self.job.janitor.leave(&self.job.route.target, &self.key, self.id.as_deref());
        }
    }
}

/// Aborts the orphans below a target's prefix: uploads of `origins` that were neither started nor written to after `before` (seconds
/// since the epoch). How many there were.
pub(super) async fn sweep(target: &Target, origins: &[&str], before: i64) -> Result<usize, StoreError> {
    let Target { site, bucket, prefix, .. } = target;
    let root = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let mut aborted = 0;
    let mut after: Option<UploadListed> = None;
    for _ in 0..MOST_PAGES {
        let page = site.gate.pass(site.store.list_uploads_under(bucket, &root, after.as_ref())).await?;
        for upload in &page.uploads {
            let old = upload.initiated.is_some_and(|at| at < before);
            if !old || !is_ours(prefix, origins, &upload.key) {
                continue;
            }
            let at = UploadRef { at: ObjectPath { bucket, key: &upload.key }, id: &upload.id };
            if written_since(target, at, before).await? {
                continue;
            }
            site.gate.pass(site.store.abort_upload(at)).await?;
            info!(location = %site.name, key = %upload.key, upload.id = %upload.id, "orphaned upload aborted");
            aborted += 1;
        }
        after = page.uploads.last().cloned();
        if !page.more || after.is_none() {
            break;
        }
    }
    debug!(location = %site.name, %bucket, aborted, "looked for orphaned uploads");
    Ok(aborted)
}

fn is_ours(prefix: &str, origins: &[&str], key: &str) -> bool {
    ParsedKey::parse(prefix, key).is_some_and(|k| !k.manifest && origins.contains(&k.location.as_str()))
}

/// Whether a part was written lately: a copy that takes days is no orphan.
async fn written_since(target: &Target, upload: UploadRef<'_>, before: i64) -> Result<bool, StoreError> {
    let site = &target.site;
    let mut after = 0;
    loop {
        let page = site.gate.pass(site.store.list_parts(upload, after)).await?;
        // A part without a time may be a new one.
        if page.parts.iter().any(|p| p.modified.is_none_or(|at| at >= before)) {
            return Ok(true);
        }
        match page.parts.last().map(|p| p.part.number).filter(|n| page.more && *n > after) {
            Some(last) => after = last,
            None => return Ok(false),
        }
    }
}
