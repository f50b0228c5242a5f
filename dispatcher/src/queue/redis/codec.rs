//! Task records as they lie in Redis: a fixed binary head that scripts change in place, then texts of any length.
//!
//! Two reasons: a pending task must cost few bytes, and a script must reach what it checks without parsing the spec. The
//! layout is the same as in `lua/_record.lua`; a test compares them through a real server. What scripts never look into (spec,
//! failure) is protobuf, private to this file: fields may be added, numbers never change.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;

use crate::queue::{
    DEFAULT_COST_BYTES, Failure, FailureClass, LeaseToken, NewTask, ObjectRef, Priority, Progress,
    QueueError, TaskId, TaskReason, TaskRecord, TaskSpec, TaskState, UnixMs, VerifyLevel,
};

/// First byte of every record.
pub(super) const VERSION: u8 = 2;
/// Bytes of the head.
pub(super) const HEAD_BYTES: usize = 98;
/// Where the head says which band.
#[cfg(test)]
pub(super) const BAND_AT: usize = 95;
/// Bytes of the head from the processing timeout on.
pub(super) const BODY_HEAD_BYTES: usize = 19;
/// First and last byte of the time at which a task was asked for.
pub(super) const CREATED_AT: (usize, usize) = (67, 72);
/// Scripts count in doubles, which are exact up to here.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// The worker has accepted the newest lease.
const ACCEPTED: u8 = 1;
/// Asked for again during the copy.
const DIRTY: u8 = 2;
/// Cancel was asked for during the copy.
const CANCEL: u8 = 4;
/// The request names no version.
const LATEST: u8 = 8;

/// Why something cannot be stored as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unstorable {
    /// A record has no room for it.
    #[error("{field} is longer than {limit} bytes")]
    TooLong {
        /// Which part of it.
        field: &'static str,
        /// What the record has room for.
        limit: usize,
    },
    /// It would make a key that can be read in two ways.
    #[error("a location's name cannot have a colon")]
    Colon,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpecMessage {
    #[prost(string, tag = "1")]
    bucket: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, optional, tag = "3")]
    version: Option<String>,
    #[prost(uint32, tag = "4")]
    max_attempts: u32,
    #[prost(btree_map = "string, string", tag = "5")]
    labels: BTreeMap<String, String>,
    /// 0 for the location's own level, else one more than the level's place in the enum.
    #[prost(uint32, tag = "6")]
    verify: u32,
    #[prost(string, tag = "7")]
    traceparent: String,
    #[prost(uint64, tag = "8")]
    size_hint_bytes: u64,
    /// What the head, in whole milliseconds, cannot hold of the processing timeout.
    #[prost(uint64, tag = "9")]
    timeout_nanos: u64,
    #[prost(string, tag = "10")]
    retention_class: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FailureMessage {
    #[prost(uint32, tag = "1")]
    class: u32,
    #[prost(string, tag = "2")]
    code: String,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(uint64, tag = "4")]
    retry_after_secs: u64,
    #[prost(uint32, tag = "5")]
    retry_after_nanos: u32,
}

/// A new task as `submit.lua` takes it, which adds what only it can know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewRecord {
    /// Flags and processing time.
    pub(super) start: [u8; 7],
    /// The record from the processing timeout on.
    pub(super) body: Vec<u8>,
}

/// Encodes a new task.
pub(super) fn encode_new(task: &NewTask) -> Result<NewRecord, Unstorable> {
    let spec = &task.spec;
    if spec.object.location.contains(':') {
        return Err(Unstorable::Colon);
    }
    let message = SpecMessage {
        bucket: spec.object.bucket.clone(),
        key: spec.object.key.clone(),
        version: spec.object.version.clone(),
        max_attempts: spec.max_attempts,
        labels: spec.labels.clone(),
        verify: spec.verify.map_or(0, verify_code),
        traceparent: spec.traceparent.clone(),
        size_hint_bytes: spec.size_hint_bytes,
        timeout_nanos: u64::from(spec.processing_timeout.subsec_nanos() % 1_000_000),
        retention_class: spec.retention_class.clone(),
    };
    let spec_bytes = message.encoded_len();
    let tenant_length = fits("tenant", spec.tenant.len(), 0xff)?;
    let location_length = fits("location", spec.object.location.len(), 0xff)?;
    let spec_length = fits("spec", spec_bytes, 0xff_ffff)?;
    let timeout_ms = u64::try_from(spec.processing_timeout.as_millis()).unwrap_or(u64::MAX);
    let cost = if spec.size_hint_bytes == 0 { DEFAULT_COST_BYTES } else { spec.size_hint_bytes };

    let mut body =
        Vec::with_capacity(BODY_HEAD_BYTES + spec.tenant.len() + spec.object.location.len() + spec_bytes);
    body.put_u32(u32::try_from(timeout_ms).unwrap_or(u32::MAX));
    body.put_uint(countable(cost), 6);
    body.put_uint(spec_length, 3);
    // No failure, and no report that started this run.
    body.put_bytes(0, 2 + 1);
    body.put_u8(priority_code(spec.priority));
    body.put_uint(tenant_length, 1);
    body.put_uint(location_length, 1);
    body.put_slice(spec.tenant.as_bytes());
    body.put_slice(spec.object.location.as_bytes());
    body.extend_from_slice(&message.encode_to_vec());

    let mut start = [0; 7];
    start[0] = if spec.object.version.is_none() { LATEST } else { 0 };
    start[1..].copy_from_slice(&exact_ms(task.process_at.map_or(0, |at| at.0)).to_be_bytes()[2..]);
    Ok(NewRecord { start, body })
}

/// A failure as the record keeps it.
pub(super) fn encode_failure(failure: &Failure) -> Vec<u8> {
    let class = match failure.class {
        FailureClass::Retry => 1,
        FailureClass::Throttled => 2,
        FailureClass::Permanent => 3,
        FailureClass::SourceGone => 4,
    };
    FailureMessage {
        class,
        code: failure.code.clone(),
        message: failure.message.clone(),
        retry_after_secs: failure.retry_after.as_secs(),
        retry_after_nanos: failure.retry_after.subsec_nanos(),
    }
    .encode_to_vec()
}

/// The record of task `id` in `raw`.
///
/// # Errors
/// [`QueueError::Corrupt`], whatever the bytes are.
pub(super) fn decode(id: &TaskId, raw: &[u8]) -> Result<TaskRecord, QueueError> {
    read(id, raw).map_err(|what| QueueError::Corrupt { task: id.to_string(), what })
}

fn read(id: &TaskId, mut raw: &[u8]) -> Result<TaskRecord, &'static str> {
    if raw.len() < HEAD_BYTES {
        return Err("shorter than the head of a record");
    }
    if raw.get_u8() != VERSION {
        return Err("unknown version");
    }
    let state = TaskState::ALL.get(usize::from(raw.get_u8()).wrapping_sub(1)).ok_or("unknown state")?;
    let reason = reason(raw.get_u8()).ok_or("unknown reason")?;
    let flags = raw.get_u8();
    raw.advance(1); // How the newest lease ended: only scripts ask.
    let at = UnixMs(raw.get_uint(6));
    let mut token = [0; LeaseToken::LEN];
    raw.copy_to_slice(&mut token);
    raw.advance(6); // End of the processing time: only scripts ask.
    let progress =
        Progress { bytes_done: raw.get_uint(6), bytes_total: raw.get_uint(6), steps_done: raw.get_uint(6) };
    let returns = u32::from(raw.get_u16());
    let (upload_length, worker_length) = (raw.get_uint(2), raw.get_uint(1));
    let (session_length, receipt_length) = (raw.get_uint(1), raw.get_uint(2));
    let (run, attempts, crashes) = (raw.get_u32(), u32::from(raw.get_u16()), u32::from(raw.get_u16()));
    let created_at = UnixMs(raw.get_uint(6));
    raw.advance(6); // Place in line: only scripts ask.
    let timeout_ms = u64::from(raw.get_u32());
    raw.advance(6); // What it costs of the byte credit: only scripts ask.
    let (spec_length, failure_length, parent_length) = (raw.get_uint(3), raw.get_uint(2), raw.get_uint(1));
    let priority = *Priority::ALL.get(usize::from(raw.get_u8())).ok_or("unknown band")?;
    let (tenant_length, location_length) = (raw.get_uint(1), raw.get_uint(1));

    let mut next = |length: u64| -> Result<&[u8], &'static str> {
        let length = usize::try_from(length).map_err(|_| "length out of range")?;
        let (text, rest) = raw.split_at_checked(length).ok_or("shorter than its head says")?;
        raw = rest;
        Ok(text)
    };
    let (tenant, location) = (next(tenant_length)?, next(location_length)?);
    let (spec, _parent, failure) = (next(spec_length)?, next(parent_length)?, next(failure_length)?);
    let (upload_id, worker) = (next(upload_length)?, next(worker_length)?);
    let (_session, receipt) = (next(session_length)?, next(receipt_length)?);
    if !raw.is_empty() {
        return Err("longer than its head says");
    }
    let message = SpecMessage::decode(spec).map_err(|_| "spec cannot be decoded")?;
    let spec = TaskSpec {
        tenant: text(tenant)?,
        object: ObjectRef {
            location: text(location)?,
            bucket: message.bucket,
            key: message.key,
            version: message.version,
        },
        priority,
        max_attempts: message.max_attempts,
        labels: message.labels,
        size_hint_bytes: message.size_hint_bytes,
        verify: verify(message.verify)?,
        processing_timeout: Duration::from_millis(timeout_ms)
            .saturating_add(Duration::from_nanos(message.timeout_nanos)),
        traceparent: message.traceparent,
        retention_class: message.retention_class,
    };
    let waits = matches!(state, TaskState::Scheduled | TaskState::Working | TaskState::Delayed);
    Ok(TaskRecord {
        id: id.clone(),
        run,
        spec,
        state: *state,
        reason,
        attempts,
        crashes,
        returns,
        created_at,
        process_at: waits.then_some(at),
        finished_at: state.is_finished().then_some(at),
        progress,
        last_failure: decode_failure(failure)?,
        receipt: Bytes::copy_from_slice(receipt),
        worker: text(worker)?,
        lease: (token != [0; LeaseToken::LEN]).then(|| LeaseToken::from_bytes(token)),
        accepted: flags & ACCEPTED != 0,
        dirty: flags & DIRTY != 0,
        cancel_requested: flags & CANCEL != 0,
        upload_id: text(upload_id)?,
    })
}

fn decode_failure(raw: &[u8]) -> Result<Option<Failure>, &'static str> {
    if raw.is_empty() {
        return Ok(None);
    }
    let message = FailureMessage::decode(raw).map_err(|_| "failure cannot be decoded")?;
    let class = match message.class {
        1 => FailureClass::Retry,
        2 => FailureClass::Throttled,
        3 => FailureClass::Permanent,
        4 => FailureClass::SourceGone,
        _ => return Err("unknown failure class"),
    };
    let retry_after = Duration::from_secs(message.retry_after_secs)
        .saturating_add(Duration::from_nanos(u64::from(message.retry_after_nanos)));
    Ok(Some(Failure { class, code: message.code, message: message.message, retry_after }))
}

fn text(raw: &[u8]) -> Result<String, &'static str> {
    std::str::from_utf8(raw).map(str::to_owned).map_err(|_| "text is not UTF-8")
}

/// The flags of a record that change during a run.
pub(super) fn flags(record: &TaskRecord) -> u8 {
    let flag = |set, flag| if set { flag } else { 0 };
    flag(record.accepted, ACCEPTED) | flag(record.dirty, DIRTY) | flag(record.cancel_requested, CANCEL)
}

/// Pending tasks by band in a shard's `meta`, which `lua/_shard.lua` lays out; `None` when it is something else.
pub(super) fn pending(mut meta: &[u8]) -> Option<[u64; 3]> {
    if meta.len() != 3 * 6 + 9 * 7 {
        return None;
    }
    meta.advance(3 * 6 + 2 * 7);
    Some([meta.get_uint(7), meta.get_uint(7), meta.get_uint(7)])
}

/// How far a shard is in time, from its `meta`: where it was at its last move, and what it adds to its server's clock (ms).
pub(super) fn clock(mut meta: &[u8]) -> Option<(u64, u64)> {
    (meta.len() >= 2 * 6).then(|| (meta.get_uint(6), meta.get_uint(6)))
}

/// The newest place in line in a shard, from its `meta`.
pub(super) fn newest_place(meta: &[u8]) -> Option<u64> {
    meta.get(3 * 6..3 * 6 + 7).map(|mut place| place.get_uint(7))
}

/// When a task was asked for, from the bytes at [`CREATED_AT`]; `None` when they are not all there.
pub(super) fn created_ms(mut bytes: &[u8]) -> Option<u64> {
    (bytes.len() == 6).then(|| bytes.get_uint(6))
}

/// `value`, or the greatest that scripts can count with.
pub(super) fn exact(value: u64) -> u64 {
    value.min(MAX_EXACT)
}

/// `value`, or the most that a record has room for: bytes or steps of 256 TiB are more than any object has.
pub(super) fn countable(value: u64) -> u64 {
    value.min((1 << 48) - 1)
}

/// An instant, or the latest that a record can hold (in the year 10889).
pub(super) fn exact_ms(ms: u64) -> u64 {
    ms.min((1 << 48) - 1)
}

/// The length of a field if the record has room for it.
pub(super) fn fits(field: &'static str, length: usize, limit: usize) -> Result<u64, Unstorable> {
    if length > limit { Err(Unstorable::TooLong { field, limit }) } else { Ok(length as u64) }
}

/// The number of a state in a record and in the answers of scripts.
pub(super) const fn state_code(state: TaskState) -> u8 {
    match state {
        TaskState::Scheduled => 1,
        TaskState::Pending => 2,
        TaskState::Working => 3,
        TaskState::Delayed => 4,
        TaskState::Done => 5,
        TaskState::Dead => 6,
        TaskState::Cancelled => 7,
    }
}

/// The state with that number.
pub(super) fn state_of(code: i64) -> Option<TaskState> {
    TaskState::ALL.into_iter().find(|state| i64::from(state_code(*state)) == code)
}

/// The number of a reason in a record.
pub(super) const fn reason_code(reason: TaskReason) -> u8 {
    match reason {
        TaskReason::None => 0,
        TaskReason::BackingOff => 1,
        TaskReason::Throttled => 2,
        TaskReason::HandedBack => 3,
        TaskReason::LeaseExpired => 4,
        TaskReason::PermanentFailure => 5,
        TaskReason::AttemptsUsedUp => 6,
        TaskReason::CrashedTooOften => 7,
        TaskReason::CancelledByCaller => 8,
        TaskReason::SourceGone => 9,
    }
}

fn reason(code: u8) -> Option<TaskReason> {
    [
        TaskReason::None,
        TaskReason::BackingOff,
        TaskReason::Throttled,
        TaskReason::HandedBack,
        TaskReason::LeaseExpired,
        TaskReason::PermanentFailure,
        TaskReason::AttemptsUsedUp,
        TaskReason::CrashedTooOften,
        TaskReason::CancelledByCaller,
        TaskReason::SourceGone,
    ]
    .into_iter()
    .find(|reason| reason_code(*reason) == code)
}

const fn priority_code(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

const fn verify_code(level: VerifyLevel) -> u32 {
    match level {
        VerifyLevel::Receipt => 1,
        VerifyLevel::Head => 2,
        VerifyLevel::Readback => 3,
    }
}

fn verify(code: u32) -> Result<Option<VerifyLevel>, &'static str> {
    match code {
        0 => Ok(None),
        1 => Ok(Some(VerifyLevel::Receipt)),
        2 => Ok(Some(VerifyLevel::Head)),
        3 => Ok(Some(VerifyLevel::Readback)),
        _ => Err("unknown verify level"),
    }
}
