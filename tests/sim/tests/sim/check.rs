//! What must hold at the end of every run, whatever has happened.

use std::collections::BTreeMap;

use backhaul_dispatcher::queue::{TaskId, TaskQueue as _, TaskReason, TaskRecord, TaskState};
use backhaul_proto::v1 as pb;
use backhaul_worker::store::memory::Stored;
use futures_util::FutureExt as _;
use prost::Message as _;

use crate::{
    callers::Promise,
    plan::Mood,
    sabotage::Sabotage,
    world::{VAULT, World},
};

/// Checks the whole world.
pub(crate) fn everything(world: &World) {
    if world.sabotage == Some(Sabotage::Rot) {
        let rotten =
            world.vault.keys(VAULT).into_iter().find(|key| is_copy(key) && !bytes_of(world, key).is_empty());
        world.vault.rot(VAULT, &rotten.unwrap_or_default());
    }
    let promises = world.promises.all().clone();
    let mut kept = BTreeMap::new();
    for promise in &promises {
        if let Some(record) = kept_promise(world, promise) {
            kept.insert(record.id.to_string(), record);
        }
    }
    nothing_from_nowhere(world, &kept);
    nothing_overwritten(world);
    if world.plan.mood == Mood::Graceful {
        nothing_wasted(world, kept.values());
    }
}

/// None lost, and what is done is right.
fn kept_promise(world: &World, promise: &Promise) -> Option<TaskRecord> {
    let wrong =
        |what: &str| world.history.violation(format_args!("{}/{}: {what}", promise.bucket, promise.key));
    let Some(id) = &promise.task else {
        wrong("never accepted");
        return None;
    };
    let record = TaskId::parse(id).ok().and_then(|id| read(world, &id));
    let Some(record) = record else {
        wrong("accepted and lost");
        return None;
    };
    match record.state {
        TaskState::Done => done_is_right(world, promise, &record),
        TaskState::Cancelled
            if promise.may_be_cancelled && record.reason == TaskReason::CancelledByCaller => {}
        TaskState::Scheduled
        | TaskState::Pending
        | TaskState::Working
        | TaskState::Delayed
        | TaskState::Dead
        | TaskState::Cancelled => wrong(&format!(
            "ended as {:?} ({:?}) after {} attempts and {} crashes: {:?}",
            record.state, record.reason, record.attempts, record.crashes, record.last_failure
        )),
    }
    Some(record)
}

/// The receipt names a version of the source that is not older than the request, and a backup that has its bytes.
fn done_is_right(world: &World, promise: &Promise, record: &TaskRecord) {
    let wrong =
        |what: &str| world.history.violation(format_args!("{}/{}: {what}", promise.bucket, promise.key));
    let Ok(receipt) = pb::Receipt::decode(&*record.receipt) else {
        return wrong("its receipt cannot be read");
    };
    let (source, backup) = (receipt.source.unwrap_or_default(), receipt.backup.unwrap_or_default());
    if backup.bucket != VAULT {
        return wrong("its backup is in another bucket");
    }
    let kept = world.vault.versions(VAULT, &backup.key);
    let Some(copy) = kept.last() else { return wrong("its backup does not exist") };
    let versions = world.origin.versions(promise.bucket, &promise.key);
    let named = |version: &&Stored| match &version.info.version {
        Some(id) => *id == source.version,
        None => version.info.etag == source.etag,
    };
    // A bucket without versions has only the newest; an older one was there when it was copied.
    let Some(original) = versions.iter().find(named) else {
        return wrong("its receipt names no version of the source");
    };
    if original.bytes != copy.bytes {
        wrong("its backup has other bytes than the source");
    }
    if receipt.size_bytes != original.bytes.len() as u64 {
        wrong("its receipt has another size");
    }
    if !promise.version.is_empty() {
        if source.version != promise.version {
            wrong("another version was copied than the one that was asked for");
        }
    } else if versions.len() > 1 && versions.iter().position(|v| named(&v)) < Some(promise.newest - 1) {
        wrong("an older version was copied than the one there was when it was asked for");
    }
}

/// Every task belongs to a request, and every backup to a source.
fn nothing_from_nowhere(world: &World, kept: &BTreeMap<String, TaskRecord>) {
    for id in world.queue.ledger().all_tasks() {
        if !kept.contains_key(id.as_str()) {
            world.history.violation(format_args!("task {id} was never asked for"));
        }
    }
}

/// A backup is written once and then left alone.
fn nothing_overwritten(world: &World) {
    for key in world.vault.keys(VAULT) {
        let count = world.vault.versions(VAULT, &key).len();
        if is_copy(&key) && count != 1 {
            world.history.violation(format_args!("{key} was written {count} times"));
        }
    }
}

/// A restart in order costs no attempt, no crash and no copy.
fn nothing_wasted<'a>(world: &World, records: impl Iterator<Item = &'a TaskRecord>) {
    for record in records {
        let count = world.copies.of(record.id.as_str());
        let (attempts, crashes) = (record.attempts, record.crashes);
        // Each further request for the latest version may have made it run once more.
        let runs = usize::try_from(record.run).unwrap_or(usize::MAX);
        if attempts > 0 || crashes > 0 || count.begun > runs || count.finished > runs {
            world.history.violation(format_args!(
                "{} cost {attempts} attempts, {crashes} crashes and {count:?} in {runs} runs",
                record.id
            ));
        }
    }
    let open = world.vault.open_uploads();
    if !open.is_empty() {
        world.history.violation(format_args!("uploads are left: {open:?}"));
    }
}

fn is_copy(key: &str) -> bool {
    !key.contains("/.backhaul/")
}

fn bytes_of(world: &World, key: &str) -> bytes::Bytes {
    world.vault.versions(VAULT, key).pop().map(|stored| stored.bytes).unwrap_or_default()
}

/// The queue itself answers at once.
fn read(world: &World, id: &TaskId) -> Option<TaskRecord> {
    world.queue.inner.get(id).now_or_never()?.ok()
}
