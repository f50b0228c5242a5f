//! The manifest beside a copy whose own metadata cannot hold all that a restore needs: written before the copy, never overwritten.

use bytes::Bytes;

use super::{
    Step, TransferErrorKind,
    capability::Capabilities,
    checksum::{Crc, md5_of},
    failure::{Halt, Refusal, Side},
    job::Job,
    metadata::Record,
    put::{Object, PutEnd, put},
    read::{Wanted, read},
};
use crate::store::{Attributes, ObjectPath, Payload, Pin, Proof, StoreErrorKind as Kind, Terms};

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
        proof: if capabilities.crc64nvme {
            Proof { crc64nvme: Some(Crc::of(&body).value()), md5: None }
        } else {
            Proof { crc64nvme: None, md5: Some(md5_of(&body)) }
        },
        attributes: &attributes,
        tags: &[],
        // As long-lived as its object, but read at each restore: not in a class that is slow to read.
        terms: Terms { storage_class: None, ..job.terms() },
    };
    match put(job, capabilities, key, object, false).await? {
        Some(PutEnd::Written(_)) => Ok(true),
        Some(PutEnd::Exists { .. }) | None => {
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
    let bytes = read(job, wanted, None).await?.0.to_bytes();
    Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default()))
}

/// Whether a manifest tells the same about the same version; who asked for it when may differ.
fn agrees(found: &Record, ours: &Record) -> bool {
    let tellable = |r: &Record| Record { tenant: String::new(), task_id: String::new(), ..r.clone() };
    tellable(found) == tellable(ours)
}
