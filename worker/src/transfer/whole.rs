//! Objects that move in one piece: read by the request that discovers them, held in memory, written by one request.

use sha2::{Digest, Sha256};
use tracing::warn;

use super::{
    CopyReceipt, Step, TransferErrorKind,
    capability::Capabilities,
    checksum::{Crc, md5_of},
    existing::{examine, settle},
    failure::{Halt, Side, failed},
    job::Job,
    key::MAX_REPAIRS,
    manifest::write_manifest,
    put::{Object, PutEnd, put},
    read::{Wanted, read},
    receipt::{Outcome, receipt},
    source::Source,
    verify::{Expected, Proof as Proven, prove},
};
use crate::store::{GetResponse, Payload, Proof};

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
    let wanted = Wanted {
        side: Side::Source,
        step: Step::Read,
        at: job.source_path(),
        pin: &source.pin,
        start: 0,
        length: size,
        total: size,
    };
    let (payload, crc) = read(job, wanted, Some(response)).await?;
    let sha256 = job.sha256.then(|| sha256_of(&payload));
    source.check_read(crc, sha256)?;
    write(job, capabilities, source, &payload, crc, sha256).await
}

async fn write(
    job: &Job<'_>,
    capabilities: Capabilities,
    mut source: Source,
    payload: &Payload,
    crc: Crc,
    sha256: Option<[u8; 32]>,
) -> Result<CopyReceipt, Halt> {
    let record = source.record(job, Some(crc.value()), sha256);
    let placement = record.place(source.key.is_hashed());
    let keeps_tags = capabilities.tagging || source.tags.is_empty();
    if !keeps_tags {
        source.loses("tags");
    }
    if !capabilities.storage_class {
        source.loses("storage-class");
    }
    let mut md5 = Md5s::new(job, capabilities, &source, payload, crc).await?;
    let mut spoiled = 0;
    for repair in 0..=MAX_REPAIRS {
        let key = source.key.object(repair);
        if !capabilities.create_only
            && let Some(found) = examine(job, &source, &key, Some(&md5.expected(crc, sha256))).await?
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
        let end = loop {
            let object = Object {
                body: payload,
                proof: Proof { crc64nvme: capabilities.crc64nvme.then(|| crc.value()), md5: md5.proof },
                attributes: &placement.attributes,
                tags: if keeps_tags { &source.tags } else { &[] },
                terms: job.terms(),
            };
            if let Some(end) = put(job, capabilities, &key, object, md5.unproven).await? {
                break end;
            }
            source.settle_md5(job, crc).await?;
            md5.differs(capabilities, payload);
        };
        let expected = md5.expected(crc, sha256);
        let told = |outcome| Outcome { md5_differs: md5.differs, ..outcome };
        match end {
            PutEnd::Written(written) => {
                job.progress.add_bytes(payload.len());
                match prove(job, &key, &written, &expected).await? {
                    Proven::Proven(level) => {
                        let outcome = told(Outcome::new(written, crc, sha256, level));
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
                    return Ok(receipt(job, &source, key, told(outcome)));
                }
            }
        }
    }
    Err(gave_up())
}

/// What is known of the MD5 of the bytes in memory, and what is sent of it.
///
/// An origin that keeps no CRC tells an MD5 by its ETag. Where the backup store checks an MD5 anyway it gets that one, which proves the
/// bytes from the origin's disk to the store's without a pass over them here.
#[derive(Debug, Clone, Copy)]
struct Md5s {
    /// For the store to check.
    proof: Option<[u8; 16]>,
    /// It is the origin's, and nobody has compared it with the bytes yet.
    unproven: bool,
    /// The bytes, read twice, have another one than the origin tells.
    differs: bool,
    /// The store's ETags have to prove what it keeps.
    in_etag: bool,
}

impl Md5s {
    async fn new(
        job: &Job<'_>,
        capabilities: Capabilities,
        source: &Source,
        payload: &Payload,
        crc: Crc,
    ) -> Result<Self, Halt> {
        let in_etag = !capabilities.crc64nvme;
        let mut md5s = Self { proof: None, unproven: false, differs: false, in_etag };
        match source.told_md5() {
            // A store that is looked at before it is written to needs to know the bytes before that.
            Some(told) if capabilities.md5 && capabilities.create_only => {
                md5s.proof = Some(told);
                md5s.unproven = true;
            }
            Some(told) => {
                let ours = md5_of(payload);
                if ours != told {
                    source.settle_md5(job, crc).await?;
                    md5s.differs = true;
                }
                md5s.proof = in_etag.then_some(ours);
            }
            None => md5s.proof = in_etag.then(|| md5_of(payload)),
        }
        Ok(md5s)
    }

    /// Takes note that the bytes have another MD5 than the origin tells.
    fn differs(&mut self, capabilities: Capabilities, payload: &Payload) {
        self.differs = true;
        self.unproven = false;
        self.proof = (!capabilities.crc64nvme).then(|| md5_of(payload));
    }

    fn expected(&self, crc: Crc, sha256: Option<[u8; 32]>) -> Expected {
        Expected { crc, sha256, md5_etag: self.proof.filter(|_| self.in_etag).map(hex::encode) }
    }
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

fn sha256_of(payload: &Payload) -> [u8; 32] {
    let mut digest = Sha256::new();
    for piece in payload.pieces() {
        digest.update(piece);
    }
    digest.finalize().into()
}
