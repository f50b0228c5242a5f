//! One object written by one request, and what its refusal or silence means.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    Step,
    capability::Capabilities,
    checksum::md5_of,
    failure::{Halt, Refusal, Side},
    job::Job,
};
use crate::store::{Attributes, Payload, Proof, Put, StoreErrorKind as Kind, Tag, Terms, Written};

/// What is written, whatever its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) body: &'a Payload,
    pub(super) proof: Proof,
    pub(super) attributes: &'a Attributes,
    pub(super) tags: &'a [Tag],
    pub(super) terms: Terms<'a>,
}

/// How a write ended.
#[derive(Debug)]
pub(super) enum PutEnd {
    Written(Written),
    /// The key exists. `uncertain`: an earlier try of ours may have made it.
    Exists {
        uncertain: bool,
    },
}

/// Writes an object; `None` when its MD5, which is `unproven`, turns out not to be that of its bytes.
pub(super) async fn put(
    job: &Job<'_>,
    capabilities: Capabilities,
    key: &str,
    object: Object<'_>,
    unproven: bool,
) -> Result<Option<PutEnd>, Halt> {
    let site = job.site(Side::Backup);
    let uncertain = AtomicBool::new(false);
    let Object { body, proof, attributes, tags, terms } = object;
    let create_only = capabilities.create_only;
    let put = Put { body, proof, attributes, tags, terms, create_only };
    let result = job
        .ask(Side::Backup, || async {
            site.gate.take_bytes(body.len()).await;
            match site.store.put(job.backup_path(key), put).await {
                Ok(written) => Ok(Some(PutEnd::Written(capabilities.believed(written)))),
                Err(error) => {
                    // An object that exists is compared with these bytes, so they must be the right ones.
                    let tells_nothing = matches!(error.kind, Kind::BadDigest | Kind::PreconditionFailed);
                    if unproven && tells_nothing && proof.md5 != Some(md5_of(body)) {
                        return Ok(None);
                    }
                    if error.kind.is_uncertain() {
                        uncertain.store(true, Ordering::Relaxed);
                    }
                    Err(error)
                }
            }
        })
        .await;
    match result {
        Ok(end) => Ok(end),
        Err(Refusal::Store(error)) if error.kind == Kind::PreconditionFailed => {
            Ok(Some(PutEnd::Exists { uncertain: uncertain.into_inner() }))
        }
        Err(refusal) => Err(job.halt(refusal, Side::Backup, Step::Write)),
    }
}
