//! One page of a prefix: what the origin lists, less what a filter leaves out and what is backed up already.
//!
//! Whether an object is backed up is asked of the backup store key by key: listings of two stores need not have the same order, so they
//! are never merged. Only a copy that names this very version counts; whatever is not certain is copied, which finds an equal copy
//! soon enough. Nothing here may know who asked, or write anything.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    Engine, Step, TransferError, TransferErrorKind,
    clock::compact_utc,
    failure::{Halt, Refusal, Side, failed},
    key::{BackupKey, ParsedKey, SourceName},
    length::blame_the_length,
    metadata::Record,
    route::{Route, Site},
    verify::claims_to_be,
};
use crate::store::{
    ObjectInfo, ObjectListed, ObjectPath, Pin, StoreError, StoreErrorKind as Kind, VersionMarker,
};

/// Objects whose backup is asked for at a time. The gate of the location bounds requests beyond that.
const AT_ONCE: usize = 32;
/// Copies of one second that are looked at: more versions of one object and one size within a second are not told apart.
const CANDIDATES: u32 = 10;

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Name of a configured location.
    pub location: String,
    /// Bucket at that location.
    pub bucket: String,
    /// What keys begin with.
    pub prefix: String,
    /// All versions instead of those that a reader gets.
    pub all_versions: bool,
    /// Which of them.
    pub filter: PageFilter,
    /// Where the page begins; empty for the first.
    pub cursor: String,
    /// Most entries.
    pub max_entries: u32,
}

/// Which objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageFilter {
    /// What keys end with.
    pub suffix: String,
    /// Least size in bytes.
    pub min_size_bytes: u64,
    /// Largest size in bytes.
    pub max_size_bytes: Option<u64>,
    /// Modified at this instant or later: seconds since the epoch and nanoseconds.
    pub modified_since: Option<(i64, u32)>,
}

/// What is on a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageFound {
    /// What is to be backed up; the version is `None` for the latest.
    pub missing: Vec<ObjectListed>,
    /// Looked at.
    pub listed: u64,
    /// Left out by the filter.
    pub skipped: u64,
    /// Backed up already.
    pub backed_up: u64,
    /// Where the next page begins; empty after the last.
    pub next: String,
}

/// A place in a listing, as dispatchers keep it: by name, so that it is good after any time.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Cursor {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

impl Engine {
    /// Lists one page.
    ///
    /// # Errors
    /// [`TransferError`]: its kind says whether the page can be listed another time.
    pub async fn list_page(&self, request: &PageRequest) -> Result<PageFound, TransferError> {
        let Some(route) = self.routes.get(&request.location) else {
            let message = format!("no location `{}` that can be backed up", request.location);
            return Err(failed(Step::Discover, TransferErrorKind::Unsupported, message));
        };
        self.page(route, request).await.map_err(|error| match (error.kind, route.away_until()) {
            // A store that is away is not the listing's fault.
            (TransferErrorKind::Io, Some(until)) => {
                let retry_after = until.saturating_duration_since(Instant::now());
                TransferError { kind: TransferErrorKind::Throttled { retry_after }, ..error }
            }
            _ => error,
        })
    }

    async fn page(&self, route: &Route, request: &PageRequest) -> Result<PageFound, TransferError> {
        let (entries, next) = self.list(route, request).await?;
        let listed = entries.len() as u64;
        let passed: Vec<ObjectListed> =
            entries.into_iter().filter(|entry| request.filter.lets_pass(entry)).collect();
        let skipped = listed - passed.len() as u64;
        let checked = passed.len() as u64;
        let missing =
            self.missing(route, request, passed).await?.into_iter().map(to_submit).collect::<Vec<_>>();
        let backed_up = checked - missing.len() as u64;
        Ok(PageFound { missing, listed, skipped, backed_up, next })
    }

    async fn list(
        &self,
        route: &Route,
        request: &PageRequest,
    ) -> Result<(Vec<ObjectListed>, String), TransferError> {
        let cursor: Option<Cursor> = match request.cursor.as_str() {
            "" => None,
            text => Some(serde_json::from_str(text).map_err(|_| {
                failed(Step::Discover, TransferErrorKind::Unsupported, "the cursor of the listing is none")
            })?),
        };
        let PageRequest { bucket, prefix, max_entries, .. } = request;
        let origin = &route.origin;
        let at = ObjectPath { bucket, key: prefix };
        if request.all_versions {
            let after = cursor.map(|c| VersionMarker { key: c.key, version: c.version });
            let list = || origin.store.list_versions(bucket, prefix, after.as_ref(), *max_entries);
            let page = match self.ask(origin, Side::Source, list).await {
                Ok(page) => page,
                Err(error) => return Err(blame_the_length(origin, Side::Source, at, error).await),
            };
            let next = page.next.map(|at| Cursor { key: at.key, version: at.version });
            Ok((page.versions, text(next)))
        } else {
            let after = cursor.map(|c| c.key);
            let list = || origin.store.list_objects(bucket, prefix, after.as_deref(), *max_entries);
            let page = match self.ask(origin, Side::Source, list).await {
                Ok(page) => page,
                Err(error) => return Err(blame_the_length(origin, Side::Source, at, error).await),
            };
            Ok((page.objects, text(page.next.map(|key| Cursor { key, version: None }))))
        }
    }

    /// Those of the entries that have no copy.
    async fn missing(
        &self,
        route: &Route,
        request: &PageRequest,
        entries: Vec<ObjectListed>,
    ) -> Result<Vec<ObjectListed>, TransferError> {
        if entries.is_empty() {
            return Ok(entries);
        }
        // How copies are named depends on what the store takes.
        let target = &route.target;
        target.capabilities().await.map_err(|error| hopeless(error, Side::Backup, &target.site.name))?;
        // Where nothing begins as all copies of this page would, nothing needs to be asked one by one.
        if self.is_untouched(route, request, &entries).await? {
            return Ok(entries);
        }
        let keeps_versions =
            !request.all_versions && self.keeps_versions(route, request, &entries[0]).await?;
        let missing: Vec<Option<ObjectListed>> = stream::iter(entries)
            .map(|entry| async move {
                let is_there = match () {
                    () if entry.etag.is_empty() => false,
                    () if keeps_versions => self.has_nameless_copy(route, request, &entry).await?,
                    () => self.has_copy(route, request, &entry).await?,
                };
                Ok::<_, TransferError>((!is_there).then_some(entry))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(missing.into_iter().flatten().collect())
    }

    /// Whether the backup store has nothing at all that begins as every copy of these entries would.
    async fn is_untouched(
        &self,
        route: &Route,
        request: &PageRequest,
        entries: &[ObjectListed],
    ) -> Result<bool, TransferError> {
        let target = &route.target;
        let stem = |entry| BackupKey::new(target.naming(), &name(request, entry)).stem().to_owned();
        let mut common = stem(&entries[0]);
        for entry in &entries[1..] {
            let other = stem(entry);
            let same = common.chars().zip(other.chars()).take_while(|(a, b)| a == b);
            let bytes = same.map(|(a, _)| a.len_utf8()).sum();
            common.truncate(bytes);
        }
        let list = || target.site.store.list_objects(&target.bucket, &common, None, 1);
        Ok(self.ask(&target.site, Side::Backup, list).await?.objects.is_empty())
    }

    /// Whether the bucket keeps versions, by one of its objects: a listing of objects does not say so. Where old objects have none, the
    /// worst that comes of it is a copy that is found to be there already.
    async fn keeps_versions(
        &self,
        route: &Route,
        request: &PageRequest,
        entry: &ObjectListed,
    ) -> Result<bool, TransferError> {
        let (origin, latest) = (&route.origin, Pin::default());
        let at = ObjectPath { bucket: &request.bucket, key: &entry.key };
        let head = async || match origin.store.head(at, &latest).await {
            // Gone since it was listed.
            Err(StoreError { kind: Kind::NotFound | Kind::NoSuchKey, .. }) => Ok(None),
            answer => answer.map(Some),
        };
        let info = self.ask(origin, Side::Source, head).await?;
        Ok(info.and_then(|info| info.version).is_some_and(|version| version != "null"))
    }

    /// Whether the backup store has a copy of this very version, where its name says which that is.
    async fn has_copy(
        &self,
        route: &Route,
        request: &PageRequest,
        entry: &ObjectListed,
    ) -> Result<bool, TransferError> {
        let source = name(request, entry);
        let expected = BackupKey::new(route.target.naming(), &source);
        // A version of a bucket without versions is named `null` in listings and not at all elsewhere.
        let nameless = SourceName { version: source.version.filter(|version| *version != "null"), ..source };
        let info = self.copy_info(route, &expected.object(0)).await?;
        Ok(info
            .is_some_and(|info| info.size_bytes == entry.size_bytes && claims_to_be(&info, &nameless, None)))
    }

    /// The same, where a listing of objects does not say which version it is: one of the copies of that second may be of this one.
    async fn has_nameless_copy(
        &self,
        route: &Route,
        request: &PageRequest,
        entry: &ObjectListed,
    ) -> Result<bool, TransferError> {
        let (target, source) = (&route.target, name(request, entry));
        let expected = BackupKey::new(target.naming(), &source);
        let second = compact_utc(entry.modified.map(|(seconds, _)| seconds));
        let stem = format!("{}{second}-", expected.stem());
        let list = || target.site.store.list_objects(&target.bucket, &stem, None, CANDIDATES);
        let page = self.ask(&target.site, Side::Backup, list).await?;
        for candidate in page.objects.iter().filter(|copy| copy.size_bytes == entry.size_bytes) {
            let is_copy = ParsedKey::parse(&target.prefix, &candidate.key).is_some_and(|key| !key.manifest);
            if is_copy
                && let Some(info) = self.copy_info(route, &candidate.key).await?
                && is_copy_of(&info, &source)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn copy_info(&self, route: &Route, key: &str) -> Result<Option<ObjectInfo>, TransferError> {
        let (target, latest) = (&route.target, Pin::default());
        let at = ObjectPath { bucket: &target.bucket, key };
        let head = async || match target.site.store.head(at, &latest).await {
            Err(StoreError { kind: Kind::NotFound | Kind::NoSuchKey, .. }) => Ok(None),
            answer => answer.map(Some),
        };
        self.ask(&target.site, Side::Backup, head).await
    }

    /// Sends a request until it is answered or refused for good.
    async fn ask<T, R>(
        &self,
        site: &Arc<Site>,
        side: Side,
        mut call: impl FnMut() -> R + Send,
    ) -> Result<T, TransferError>
    where
        R: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut tries = 0;
        loop {
            let error = match site.gate.pass(call()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            tries += 1;
            let Some(pause) = self.settings.retry.pause(tries, error.kind, fastrand::f64()) else {
                return Err(hopeless(error, side, &site.name));
            };
            site.gate.repeated.inc();
            sleep(pause).await;
        }
    }
}

impl PageFilter {
    fn lets_pass(&self, entry: &ObjectListed) -> bool {
        entry.key.as_bytes().ends_with(self.suffix.as_bytes())
            && entry.size_bytes >= self.min_size_bytes
            && self.max_size_bytes.is_none_or(|most| entry.size_bytes <= most)
            // One whose time is not known is not left out: better a copy too many.
            && self.modified_since.is_none_or(|since| entry.modified.is_none_or(|at| at >= since))
    }
}

fn name<'a>(request: &'a PageRequest, entry: &'a ObjectListed) -> SourceName<'a> {
    SourceName {
        location: &request.location,
        bucket: &request.bucket,
        key: &entry.key,
        version: entry.version.as_deref(),
        etag: &entry.etag,
        size_bytes: entry.size_bytes,
        modified: entry.modified,
    }
}

/// A copy whose record, or whose note of it, names this version by its ETag.
fn is_copy_of(info: &ObjectInfo, source: &SourceName<'_>) -> bool {
    if info.size_bytes != source.size_bytes {
        return false;
    }
    match Record::from_object(info) {
        Some(record) => record.is_of(&SourceName { version: record.version.as_deref(), ..*source }),
        None => claims_to_be(info, source, None),
    }
}

/// The current version of an object is asked for as the latest: whatever it is when the copy starts is what is wanted.
fn to_submit(entry: ObjectListed) -> ObjectListed {
    let nameless = entry.version.as_deref() == Some("null") && entry.is_latest;
    ObjectListed { version: entry.version.filter(|_| !nameless), ..entry }
}

fn text(cursor: Option<Cursor>) -> String {
    cursor.and_then(|cursor| serde_json::to_string(&cursor).ok()).unwrap_or_default()
}

fn hopeless(error: StoreError, side: Side, location: &str) -> TransferError {
    let retry_after =
        if let Kind::Throttled { retry_after } = error.kind { retry_after } else { Duration::ZERO };
    match Refusal::Store(error).halt(side, Step::Discover, location) {
        Halt::Failed(error) => error,
        Halt::Changed | Halt::Redo(_) | Halt::Aborted | Halt::HandedBack => {
            let kind = TransferErrorKind::Throttled { retry_after };
            failed(Step::Discover, kind, format!("{side} `{location}`: the request cannot be made now"))
        }
    }
}
