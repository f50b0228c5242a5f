//! The version that is copied: found out once, pinned from then on, and described for the backup.

use tracing::warn;

use super::{
    Step, TransferErrorKind,
    checksum::{Crc, md5_in},
    failure::{Halt, Refusal, Side, failed},
    job::Job,
    key::{BackupKey, SourceName},
    length::blame_the_length,
    metadata::{Record, crc_text},
    sight::{Asked, Silence},
    verify::hash,
};
use crate::store::{GetResponse, ObjectInfo, Pin, StoreError, StoreErrorKind as Kind, Tag};

/// What is known about the version.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) info: ObjectInfo,
    pub(super) pin: Pin,
    pub(super) key: BackupKey,
    /// Empty where they could not be read; `not_kept` says so.
    pub(super) tags: Vec<Tag>,
    pub(super) not_kept: Vec<String>,
}

/// Opens the object: one request that tells everything and already brings the bytes.
pub(super) async fn open(job: &Job<'_>) -> Result<GetResponse, Halt> {
    let pin = Pin { version: job.request.version.clone(), etag: None };
    let site = job.site(Side::Source);
    match job.ask(Side::Source, || site.store.get(job.source_path(), &pin, None)).await {
        Ok(response) => Ok(response),
        Err(refusal) => Err(refused(job, refusal).await),
    }
}

/// Looks at the object without opening it.
pub(super) async fn look(job: &Job<'_>) -> Result<ObjectInfo, Halt> {
    let pin = Pin { version: job.request.version.clone(), etag: None };
    let site = job.site(Side::Source);
    match job.ask(Side::Source, || site.store.head(job.source_path(), &pin)).await {
        Ok(info) => Ok(info),
        // A HEAD cannot say what is missing, and "gone" must not be guessed.
        Err(Refusal::Store(StoreError { kind: Kind::NotFound, .. })) => Ok(open(job).await?.info),
        Err(refusal) => Err(refused(job, refusal).await),
    }
}

async fn refused(job: &Job<'_>, refusal: Refusal) -> Halt {
    match job.halt(refusal, Side::Source, Step::Discover) {
        Halt::Failed(error) => {
            let (site, at) = (job.site(Side::Source), job.source_path());
            Halt::Failed(blame_the_length(site, Side::Source, at, error).await)
        }
        halt @ (Halt::Changed | Halt::Redo(_) | Halt::Aborted | Halt::HandedBack) => halt,
    }
}

impl Source {
    /// Pins what was found and reads its tags where it has some.
    pub(super) async fn new(job: &Job<'_>, info: ObjectInfo, tags: TagsWanted) -> Result<Self, Halt> {
        if info.etag.is_empty() && info.version.is_none() {
            let message = "the origin sends neither ETag nor version, so nothing can be copied consistently";
            return Err(failed(Step::Discover, TransferErrorKind::Unsupported, message).into());
        }
        let asked = job.request.version.as_deref().filter(|asked| *asked != "null");
        if let Some(asked) = asked.filter(|asked| info.version.as_deref() != Some(*asked)) {
            let got = info
                .version
                .as_deref()
                .map_or_else(|| "one without".to_owned(), |v| format!("version `{v}`"));
            let message =
                format!("the origin was asked for version `{asked}` and sent {got}: it keeps no versions");
            return Err(failed(Step::Discover, TransferErrorKind::Unsupported, message).into());
        }
        job.progress.set_total(info.size_bytes);
        let pin = Pin {
            version: info.version.clone().or_else(|| job.request.version.clone()),
            etag: Some(info.etag.clone()).filter(|e| !e.is_empty()),
        };
        let naming = job.route.target.naming();
        let key = BackupKey::new(naming, &name(job, &info));
        if key.longest() > naming.key_max_bytes {
            let message = format!(
                "the copy's key could take {} bytes, and backup location `{}` takes keys of {} at most: shorten the prefix",
                key.longest(),
                job.route.target.site.name,
                naming.key_max_bytes
            );
            return Err(failed(Step::Discover, TransferErrorKind::Unsupported, message).into());
        }
        let mut source = Self { info, pin, key, tags: Vec::new(), not_kept: Vec::new() };
        if source.info.locked {
            source.loses("object-lock");
        }
        if source.info.hidden_metadata {
            source.loses("metadata");
        }
        if tags == TagsWanted::Yes {
            source.look_for_tags(job).await?;
        }
        if job.route.acls {
            source.look_for_grants(job).await?;
        }
        Ok(source)
    }

    async fn look_for_tags(&mut self, job: &Job<'_>) -> Result<(), Halt> {
        match self.info.tag_count {
            Some(0) => Ok(()),
            Some(_) => self.read_tags(job).await,
            None => match job.route.tags.silence(&job.request.bucket) {
                Silence::Believed => Ok(()),
                Silence::Doubted => self.read_tags(job).await,
                Silence::Hidden => {
                    self.loses("tags");
                    Ok(())
                }
            },
        }
    }

    async fn read_tags(&mut self, job: &Job<'_>) -> Result<(), Halt> {
        let site = job.site(Side::Source);
        let version = self.pin.version.as_deref();
        let answer = job.ask(Side::Source, || site.store.get_tags(job.source_path(), version)).await;
        let asked = match answer {
            Ok(tags) => {
                self.tags = tags;
                if self.tags.is_empty() { Asked::None } else { Asked::Untold }
            }
            // There may be some: better named in vain than lost in silence.
            Err(Refusal::Store(StoreError { kind: Kind::Denied, .. })) => {
                self.loses("tags");
                Asked::Denied
            }
            Err(Refusal::Store(StoreError { kind: Kind::NotImplemented, .. })) => {
                if self.info.tag_count.is_some() {
                    self.loses("tags");
                }
                Asked::None
            }
            Err(refusal) => return Err(job.halt(refusal, Side::Source, Step::Discover)),
        };
        if self.info.tag_count.is_none() {
            job.route.tags.asked(&job.request.bucket, asked);
        }
        Ok(())
    }

    /// Rights on single objects are not copied: whoever may read an object need not be allowed to read its backup.
    async fn look_for_grants(&mut self, job: &Job<'_>) -> Result<(), Halt> {
        let site = job.site(Side::Source);
        let version = self.pin.version.as_deref();
        match job.ask(Side::Source, || site.store.has_grants(job.source_path(), version)).await {
            Ok(false) => {}
            Ok(true) => self.loses("acl"),
            Err(Refusal::Store(StoreError { kind: Kind::Denied, .. })) => self.loses("acl"),
            Err(Refusal::Store(StoreError { kind: Kind::NotImplemented, .. })) => {}
            Err(refusal) => return Err(job.halt(refusal, Side::Source, Step::Discover)),
        }
        Ok(())
    }

    /// Names something that the copy does not have.
    pub(super) fn loses(&mut self, what: &str) {
        self.not_kept.push(what.to_owned());
    }

    pub(super) fn name<'s>(&'s self, job: &Job<'s>) -> SourceName<'s> {
        name(job, &self.info)
    }

    /// The record of a copy; checksums as far as they are known.
    pub(super) fn record(&self, job: &Job<'_>, crc: Option<u64>, sha256: Option<[u8; 32]>) -> Record {
        Record {
            format: "1".to_owned(),
            location: job.request.location.clone(),
            bucket: job.request.bucket.clone(),
            key: job.request.key.clone(),
            version: self.info.version.clone(),
            etag: self.info.etag.clone(),
            modified: self.info.modified,
            size_bytes: self.info.size_bytes,
            crc64nvme: crc.map(crc_text),
            sha256: sha256.map(hex::encode),
            tenant: job.request.tenant.clone(),
            task_id: job.request.task_id.clone(),
            storage_class: self.info.storage_class.clone(),
            attributes: self.info.attributes.clone(),
            tags: self.tags.clone(),
        }
    }

    /// Compares what was read with what the origin knows about its object.
    pub(super) fn check_read(&self, crc: Crc, sha256: Option<[u8; 32]>) -> Result<(), Halt> {
        let integrity =
            |message: &str| Err(Halt::Redo(failed(Step::Read, TransferErrorKind::Integrity, message)));
        if crc.length() != self.info.size_bytes {
            return integrity("the length read is not the length of the object");
        }
        if self.info.crc64nvme.is_some_and(|stored| stored != crc.value()) {
            return integrity("the bytes read have another CRC-64/NVME than the origin keeps");
        }
        if let (Some(stored), Some(ours)) = (self.info.sha256, sha256)
            && stored != ours
        {
            return integrity("the bytes read have another SHA-256 than the origin keeps");
        }
        Ok(())
    }

    /// The MD5 of the bytes that the origin seems to tell by its ETag, where it keeps nothing better.
    pub(super) fn told_md5(&self) -> Option<[u8; 16]> {
        let is_best = self.info.crc64nvme.is_none() && !self.info.opaque_etag;
        is_best.then(|| md5_in(&self.info.etag)).flatten()
    }

    /// Finds out what it means that the bytes read, with this checksum, have another MD5 than the origin tells: they are read once more.
    /// Other bytes mean that reading went wrong. The same bytes are what the origin has: its ETag is no MD5, or it has lost the bytes that
    /// it was the MD5 of. Nobody can tell which, so it is decided, and told, for each object by itself.
    pub(super) async fn settle_md5(&self, job: &Job<'_>, crc: Crc) -> Result<(), Halt> {
        let (again, _) = hash(job, Side::Source, job.source_path(), &self.pin, self.info.size_bytes).await?;
        if again != crc {
            let message = "two reads of the same version brought different bytes";
            return Err(Halt::Redo(failed(Step::Read, TransferErrorKind::Integrity, message)));
        }
        warn!(
            task.id = %job.request.task_id,
            location = %job.request.location,
            bucket = %job.request.bucket,
            key = %job.request.key,
            etag = %self.info.etag,
            "the bytes at the origin are not those that its ETag seems to be the MD5 of; copied as they are"
        );
        Ok(())
    }
}

/// Whether an object's tags are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagsWanted {
    /// Where the object has some, or may have.
    Yes,
    /// The store copies them by itself.
    No,
}

fn name<'s>(job: &Job<'s>, info: &'s ObjectInfo) -> SourceName<'s> {
    SourceName {
        location: &job.request.location,
        bucket: &job.request.bucket,
        key: &job.request.key,
        version: info.version.as_deref(),
        etag: &info.etag,
        size_bytes: info.size_bytes,
        modified: info.modified,
    }
}
