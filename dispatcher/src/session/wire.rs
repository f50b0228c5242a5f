//! Protobuf to events and back: the only file that checks what a worker sent against the bounds of `worker.proto`.
//!
//! A broken message becomes [`Event::Broken`] and ends the stream. A single result that cannot be stored does not: it is
//! turned into a failure of that task, or it would come back with every Hello and keep the worker out for ever.

use std::time::Duration;

use backhaul_proto::{WORKER_PROTOCOL, v1 as pb};
use bytes::Bytes;
use pb::from_worker::Message;
use prost::Message as _;

use super::{
    Answer, CloseReason, Credit, Event, Excess, Held, Hello, PageAnswer, Report, TaskName, Violation,
    WorkerInfo,
};
use crate::queue::{
    Failure, FailureClass, LeaseToken, LeasedTask, Outcome, Priority, Progress, TaskId, UnixMs, VerifyLevel,
    walk::{FoundObject, PageFound, PageOrder, Versions},
};

/// Most credit in tasks.
const MAX_CREDIT_TASKS: u32 = 10_000;
/// Most leases in Hello or Heartbeat, and most unconfirmed results in Hello.
const MAX_HELD: u32 = 10_000;
/// Most entries in Accepts and Results.
const MAX_BATCH: u32 = 1_000;
/// Most locations of a worker.
const MAX_LOCATIONS: u32 = 1_000;
/// Most kinds of work of a worker, those that this version does not know included.
const MAX_KINDS: u32 = 100;
/// Most retention classes of a worker, and the longest name of one with its location's.
const MAX_CLASSES: u32 = 10_000;
const MAX_CLASS_BYTES: usize = 127;
/// Most objects and entries of a page.
const MAX_PAGE: u32 = 1_000;
/// Longest cursor of a listing.
const MAX_CURSOR_BYTES: usize = 16 * 1_024;
/// Longest key and version of an object.
const MAX_KEY_BYTES: usize = 1_024;
/// Longest multipart upload id.
const MAX_UPLOAD_ID_BYTES: usize = 1_024;
/// Longest receipt that the queue keeps.
const MAX_RECEIPT_BYTES: usize = 8 * 1_024;
/// Longest failure code and message.
const MAX_CODE_BYTES: usize = 64;
const MAX_MESSAGE_BYTES: usize = 512;
/// Longest wait that a failure or a drain may ask for.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads one message. `jitter` is drawn from for each failure, so that the decision about it stays pure.
pub(crate) fn decode(message: pb::FromWorker, jitter: &mut fastrand::Rng) -> Event {
    let Some(message) = message.message else { return Event::Unknown };
    let event = match message {
        Message::Hello(hello) => decode_hello(hello, jitter).map(|hello| Event::Hello(Box::new(hello))),
        Message::Credit(credit) => decode_credit(credit).map(Event::Credit),
        Message::Accepts(accepts) => decode_accepts(accepts).map(Event::Accepts),
        Message::Heartbeat(beat) => {
            decode_held("Heartbeat.held", beat.held).map(|held| Event::Heartbeat { seq: beat.seq, held })
        }
        Message::Results(results) => {
            decode_results("Results.results", MAX_BATCH, results.results, jitter).map(Event::Results)
        }
        Message::Paused(paused) => decode_paused("Paused.locations", paused.locations).map(Event::Paused),
        Message::Listed(listed) => decode_listed(listed).map(|(lease, answer)| Event::Listed(lease, answer)),
        Message::Draining(draining) => Ok(Event::WorkerDrains {
            finish_within: Duration::from_millis(draining.finish_within_ms).min(MAX_WAIT),
        }),
    };
    event.unwrap_or_else(Event::Broken)
}

fn decode_hello(hello: pb::Hello, jitter: &mut fastrand::Rng) -> Result<Hello, CloseReason> {
    if hello.protocol != WORKER_PROTOCOL {
        return Err(Violation::Protocol(hello.protocol).into());
    }
    let instance = hello.instance.as_ref().try_into().map_err(|_| Violation::Field("Hello.instance"))?;
    let is_name =
        (1..=128).contains(&hello.worker.len()) && hello.worker.bytes().all(|b| matches!(b, 0x20..=0x7e));
    if !is_name {
        return Err(Violation::Field("Hello.worker").into());
    }
    if hello.version.len() > 64 {
        return Err(Violation::Field("Hello.version").into());
    }
    bound("Hello.locations", hello.locations.len(), MAX_LOCATIONS)?;
    if !hello.locations.iter().all(|name| is_location(name)) {
        return Err(Violation::Field("Hello.locations").into());
    }
    bound("Hello.kinds", hello.kinds.len(), MAX_KINDS)?;
    bound("Hello.retention_classes", hello.retention_classes.len(), MAX_CLASSES)?;
    if !hello.retention_classes.iter().all(|class| class.len() <= MAX_CLASS_BYTES) {
        return Err(Violation::Field("Hello.retention_classes").into());
    }
    let lists = hello.kinds.contains(&pb::WorkKind::List.into());
    let mut locations = hello.locations;
    locations.sort_unstable();
    locations.dedup();
    Ok(Hello {
        worker: WorkerInfo {
            instance,
            name: hello.worker.into(),
            version: hello.version,
            locations: locations.into(),
            lists,
            retention_classes: hello.retention_classes.into_iter().collect(),
        },
        paused: decode_paused("Hello.paused", hello.paused)?,
        credit: hello.credit.map_or(Ok(Credit::default()), decode_credit)?,
        held: decode_held("Hello.held", hello.held)?,
        unconfirmed: decode_results("Hello.unconfirmed", MAX_HELD, hello.unconfirmed, jitter)?,
    })
}

fn decode_paused(field: &'static str, locations: Vec<String>) -> Result<Vec<String>, CloseReason> {
    bound(field, locations.len(), MAX_LOCATIONS)?;
    if locations.iter().all(|name| is_location(name)) {
        Ok(locations)
    } else {
        Err(Violation::Field(field).into())
    }
}

fn decode_credit(credit: pb::Credit) -> Result<Credit, CloseReason> {
    if credit.tasks > MAX_CREDIT_TASKS {
        return Err(Excess::Count { what: "Credit.tasks", limit: MAX_CREDIT_TASKS }.into());
    }
    Ok(Credit { tasks: credit.tasks, bytes: credit.bytes })
}

fn decode_accepts(accepts: pb::Accepts) -> Result<Vec<Answer>, CloseReason> {
    bound("Accepts.accepts", accepts.accepts.len(), MAX_BATCH)?;
    accepts
        .accepts
        .into_iter()
        .map(|accept| {
            Ok(Answer {
                task: task_name(accept.task_id)?,
                lease: token(&accept.lease)?,
                // A reason of a later version is still a refusal, and the mildest one fits.
                refusal: pb::AcceptRefusal::try_from(accept.refusal).unwrap_or(pb::AcceptRefusal::Busy),
            })
        })
        .collect()
}

fn decode_held(field: &'static str, held: Vec<pb::HeldLease>) -> Result<Vec<Held>, CloseReason> {
    bound(field, held.len(), MAX_HELD)?;
    held.into_iter()
        .map(|held| {
            Ok(Held {
                task: task_name(held.task_id)?,
                lease: token(&held.lease)?,
                progress: Progress {
                    bytes_done: held.bytes_done,
                    bytes_total: held.bytes_total,
                    steps_done: held.steps_done,
                },
                upload_id: upload_id(held.upload_id)?,
            })
        })
        .collect()
}

fn decode_results(
    field: &'static str,
    limit: u32,
    results: Vec<pb::TaskResult>,
    jitter: &mut fastrand::Rng,
) -> Result<Vec<Report>, CloseReason> {
    bound(field, results.len(), limit)?;
    results
        .into_iter()
        .map(|result| {
            Ok(Report {
                task: task_name(result.task_id)?,
                lease: token(&result.lease)?,
                outcome: decode_outcome(result.outcome, jitter)?,
            })
        })
        .collect()
}

fn decode_outcome(
    outcome: Option<pb::task_result::Outcome>,
    jitter: &mut fastrand::Rng,
) -> Result<Outcome, CloseReason> {
    use pb::task_result::Outcome as Wire;
    Ok(match outcome {
        Some(Wire::Receipt(receipt)) => {
            let size = receipt.encoded_len();
            if size > MAX_RECEIPT_BYTES {
                let message =
                    format!("the worker's receipt has {size} bytes; at most {MAX_RECEIPT_BYTES} are kept");
                broken_result(FailureClass::Permanent, "receipt_too_large", message, jitter)
            } else if !receipt.backup.as_ref().is_some_and(names_an_object) {
                // No proof of anything. The next attempt finds the copy, if there is one.
                let message = "the worker's receipt does not say where the copy is".into();
                broken_result(FailureClass::Retry, "receipt_incomplete", message, jitter)
            } else {
                Outcome::Done { receipt: receipt.encode_to_vec().into() }
            }
        }
        Some(Wire::Failure(failure)) => {
            Outcome::Failed { failure: decode_failure(failure), jitter: jitter.f64() }
        }
        Some(Wire::Cancelled(_)) => Outcome::Cancelled,
        Some(Wire::HandedBack(stopped)) => {
            Outcome::HandedBack { upload_id: upload_id(stopped.upload_id)?, delay: Duration::ZERO }
        }
        None => {
            let message = "the worker reported an outcome that this dispatcher does not know".into();
            broken_result(FailureClass::Retry, "outcome_unknown", message, jitter)
        }
    })
}

/// A page. What it claims must add up: objects are backed up, skipped or named, and nothing else.
fn decode_listed(page: pb::ListedPage) -> Result<(LeaseToken, PageAnswer), CloseReason> {
    let lease = token(&page.lease)?;
    if let Some(failure) = page.failure {
        return Ok((lease, Err(decode_failure(failure))));
    }
    bound("ListedPage.objects", page.objects.len(), MAX_PAGE)?;
    let is_key = |object: &pb::ListedObject| {
        (1..=MAX_KEY_BYTES).contains(&object.key.len()) && object.version.len() <= MAX_KEY_BYTES
    };
    if !page.objects.iter().all(is_key) {
        return Err(Violation::Field("ListedPage.objects").into());
    }
    let named = page.objects.len() as u64;
    let counted = page.skipped.checked_add(page.backed_up).and_then(|sum| sum.checked_add(named));
    if counted != Some(page.listed) || page.listed > u64::from(MAX_PAGE) {
        return Err(Violation::Field("ListedPage.listed").into());
    }
    if page.next_cursor.len() > MAX_CURSOR_BYTES {
        return Err(Violation::Field("ListedPage.next_cursor").into());
    }
    let objects = page.objects.into_iter().map(|object| FoundObject {
        key: object.key,
        version: (!object.version.is_empty()).then_some(object.version),
        size_bytes: object.size_bytes,
    });
    let found = PageFound {
        objects: objects.collect(),
        listed: page.listed,
        skipped: page.skipped,
        backed_up: page.backed_up,
        next: (!page.next_cursor.is_empty()).then_some(page.next_cursor),
    };
    Ok((lease, Ok(found)))
}

/// A page to list, for the wire.
pub(crate) fn list_page(lease: LeaseToken, order: &PageOrder) -> pb::ListPage {
    let spec = &order.spec;
    let filter = &spec.filter;
    pb::ListPage {
        prefix_backup_id: order.walk.as_str().to_owned(),
        lease: token_bytes(lease),
        prefix: Some(pb::PrefixRef {
            location: spec.location.clone(),
            bucket: spec.bucket.clone(),
            prefix: spec.prefix.clone(),
        }),
        versions: match spec.versions {
            Versions::Current => pb::ObjectVersions::Current,
            Versions::All => pb::ObjectVersions::All,
        }
        .into(),
        filter: Some(pb::ObjectFilter {
            suffix: filter.suffix.clone(),
            min_size_bytes: filter.min_size_bytes,
            max_size_bytes: filter.max_size_bytes,
            modified_since: filter.modified_since.map(timestamp),
        }),
        cursor: order.cursor.clone(),
        max_entries: order.max_entries,
        within_ms: millis(order.within),
    }
}

fn timestamp(at: UnixMs) -> prost_types::Timestamp {
    let (seconds, ms) = (at.0 / 1_000, at.0 % 1_000);
    prost_types::Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms * 1_000_000).unwrap_or_default(),
    }
}

fn names_an_object(backup: &pb::BackupObject) -> bool {
    !backup.location.is_empty() && !backup.bucket.is_empty() && !backup.key.is_empty()
}

fn broken_result(class: FailureClass, code: &str, message: String, jitter: &mut fastrand::Rng) -> Outcome {
    let failure = Failure { class, code: code.into(), message, retry_after: Duration::ZERO };
    Outcome::Failed { failure, jitter: jitter.f64() }
}

fn decode_failure(failure: pb::Failure) -> Failure {
    let class = match failure.class() {
        pb::FailureClass::Unspecified | pb::FailureClass::Retry => FailureClass::Retry,
        pb::FailureClass::Throttled => FailureClass::Throttled,
        pb::FailureClass::Permanent => FailureClass::Permanent,
        pb::FailureClass::SourceGone => FailureClass::SourceGone,
    };
    let is_code = (1..=MAX_CODE_BYTES).contains(&failure.code.len())
        && failure.code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    Failure {
        class,
        code: if is_code { failure.code } else { "unnamed".into() },
        message: cut(failure.message, MAX_MESSAGE_BYTES),
        retry_after: Duration::from_millis(failure.retry_after_ms).min(MAX_WAIT),
    }
}

fn bound(what: &'static str, count: usize, limit: u32) -> Result<(), CloseReason> {
    if u32::try_from(count).is_ok_and(|count| count <= limit) {
        Ok(())
    } else {
        Err(Excess::Count { what, limit }.into())
    }
}

fn token(bytes: &Bytes) -> Result<LeaseToken, CloseReason> {
    LeaseToken::from_slice(bytes).ok_or(CloseReason::Broken(Violation::Field("lease")))
}

fn task_name(text: String) -> Result<TaskName, CloseReason> {
    match TaskId::parse(&text) {
        Ok(id) => Ok(TaskName::Known(id)),
        Err(_) if is_task_name(&text) => Ok(TaskName::Foreign(text)),
        Err(_) => Err(Violation::Field("task_id").into()),
    }
}

fn is_task_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-')
}

fn is_location(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn upload_id(text: String) -> Result<String, CloseReason> {
    if text.len() <= MAX_UPLOAD_ID_BYTES { Ok(text) } else { Err(Violation::Field("upload_id").into()) }
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
    }
    text
}

/// A whole number of milliseconds for the wire.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The bytes of a token for the wire.
pub(crate) fn token_bytes(lease: LeaseToken) -> Bytes {
    Bytes::copy_from_slice(lease.as_bytes())
}

/// An assignment for the wire. `lease` is how long leases last once accepted.
pub(crate) fn assignment(task: LeasedTask, lease: Duration) -> pb::Assignment {
    let LeasedTask { id, lease: token, spec, attempts, accept_within: _, upload_id } = task;
    pb::Assignment {
        task_id: id.as_str().to_owned(),
        lease: token_bytes(token),
        object: Some(pb::ObjectRef {
            location: spec.object.location,
            bucket: spec.object.bucket,
            key: spec.object.key,
            version: spec.object.version.unwrap_or_default(),
        }),
        tenant: spec.tenant,
        attempt: attempts.saturating_add(1),
        lease_ms: millis(lease),
        processing_timeout_ms: millis(spec.processing_timeout),
        verify: match spec.verify {
            None => pb::VerifyLevel::Unspecified,
            Some(VerifyLevel::Receipt) => pb::VerifyLevel::Receipt,
            Some(VerifyLevel::Head) => pb::VerifyLevel::Head,
            Some(VerifyLevel::Readback) => pb::VerifyLevel::Readback,
        }
        .into(),
        size_hint_bytes: spec.size_hint_bytes,
        resume_upload_id: upload_id,
        traceparent: spec.traceparent,
        priority: match spec.priority {
            Priority::High => pb::Priority::High,
            Priority::Normal => pb::Priority::Normal,
            Priority::Low => pb::Priority::Low,
        }
        .into(),
        retention_class: spec.retention_class,
    }
}

/// An entry of a Cancel for the wire.
pub(crate) fn cancel(key: &super::LeaseKey) -> pb::CancelLease {
    pb::CancelLease { task_id: key.id.as_str().to_owned(), lease: token_bytes(key.lease) }
}

/// An answer to a result for the wire.
pub(crate) fn confirm(task: TaskName, lease: LeaseToken, verdict: pb::ConfirmVerdict) -> pb::Confirm {
    pb::Confirm { task_id: task.into_string(), lease: token_bytes(lease), verdict: verdict.into() }
}

/// A verdict on a lease for the wire.
pub(crate) fn update(
    task: TaskName,
    lease: LeaseToken,
    verdict: pb::LeaseVerdict,
    keep: Duration,
) -> pb::LeaseUpdate {
    pb::LeaseUpdate {
        task_id: task.into_string(),
        lease: token_bytes(lease),
        verdict: verdict.into(),
        lease_ms: millis(keep),
    }
}

#[cfg(test)]
mod tests;
