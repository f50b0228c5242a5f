//! Tasks for people and for programs: the names of states, one-line and full texts, and the JSON form.
//!
//! The JSON form is an interface: fields are added, never renamed.

use std::collections::BTreeMap;

use backhaul_proto::v1;
use backhaul_runtime::units::display_size;
use serde::Serialize;

use crate::object;

/// A task as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct BackupView {
    task_id: String,
    run: u32,
    location: String,
    bucket: String,
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    priority: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    retention_class: String,
    attempts: u32,
    max_attempts: u32,
    crashes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<FailureView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptView>,
    #[serde(skip_serializing_if = "String::is_empty")]
    worker: String,
    runs_again: bool,
}

#[derive(Debug, Serialize)]
struct ProgressView {
    bytes_done: u64,
    bytes_total: u64,
}

#[derive(Debug, Serialize)]
struct FailureView {
    class: &'static str,
    code: String,
    message: String,
}

#[derive(Debug, Serialize)]
struct ReceiptView {
    source_version: String,
    source_etag: String,
    backup_location: String,
    backup_bucket: String,
    backup_key: String,
    backup_version: String,
    backup_etag: String,
    size_bytes: u64,
    crc64nvme: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sha256: String,
    verified: &'static str,
    already_present: bool,
    server_side_copy: bool,
    not_kept: Vec<String>,
    parts: u32,
    elapsed_ms: u64,
    worker: String,
}

/// True in the states that a task never leaves by itself.
pub(crate) fn is_finished(task: &v1::Backup) -> bool {
    matches!(task.state(), v1::TaskState::Done | v1::TaskState::Dead | v1::TaskState::Cancelled)
}

/// One line about a task.
pub(crate) fn line(task: &v1::Backup) -> String {
    let name = task.object.as_ref().map(object::display).unwrap_or_default();
    let mut text = format!("{}  {:<9}  {name}", task.task_id, state(task.state()));
    if let Some(progress) = task.progress.filter(|p| p.bytes_total > 0) {
        text.push_str(&format!(
            "  {} of {}",
            display_size(progress.bytes_done),
            display_size(progress.bytes_total)
        ));
    }
    if let Some(receipt) = &task.receipt {
        text.push_str(&format!("  {} in {} ms", display_size(receipt.size_bytes), receipt.elapsed_ms));
        if receipt.already_present {
            text.push_str(", already present");
        }
    } else if let Some(failure) = &task.last_failure {
        text.push_str(&format!(
            "  attempt {} of {}: {}",
            task.attempts,
            task.max_attempts,
            failure.message.escape_debug()
        ));
    }
    text
}

/// All there is to say about a task, a line each.
pub(crate) fn full(task: &v1::Backup) -> String {
    let mut lines = vec![line(task)];
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("  {name:<12} {value}"));
        }
    };
    add("run", task.run.to_string());
    add("reason", reason(task.reason()).to_owned());
    add("priority", priority(task.priority()).to_owned());
    let mut labels: Vec<_> = task.labels.iter().map(|(k, v)| format!("{k}={}", v.escape_debug())).collect();
    labels.sort();
    add("labels", labels.join(" "));
    add("retention class", task.retention_class.clone());
    add("attempts", format!("{} of {}, {} crashes", task.attempts, task.max_attempts, task.crashes));
    add("created", task.created_at.as_ref().map(instant).unwrap_or_default());
    add("acted on", task.process_at.as_ref().map(instant).unwrap_or_default());
    add("finished", task.finished_at.as_ref().map(instant).unwrap_or_default());
    add("worker", task.worker.escape_debug().to_string());
    if let Some(failure) = &task.last_failure {
        add(
            "last failure",
            format!("{} ({}): {}", failure.code, class(failure.class()), failure.message.escape_debug()),
        );
    }
    if let Some(receipt) = task.receipt.as_ref() {
        let backup = receipt.backup.clone().unwrap_or_default();
        let source = receipt.source.clone().unwrap_or_default();
        add("source", format!("etag {} {}", source.etag, source.version).trim_end().to_owned());
        add("backup", format!("{}:{}/{}", backup.location, backup.bucket, backup.key.escape_debug()));
        add("size", format!("{} bytes, {} parts", receipt.size_bytes, receipt.parts));
        add("crc64nvme", format!("{:016x}", receipt.crc64nvme));
        add("sha256", hex(&receipt.sha256));
        add("verified", verify(receipt.verified()).to_owned());
        add("not kept", receipt.not_kept.join(", "));
    }
    lines.join("\n")
}

/// The JSON form of a task.
pub(crate) fn json(task: &v1::Backup) -> BackupView {
    let object = task.object.clone().unwrap_or_default();
    BackupView {
        task_id: task.task_id.clone(),
        run: task.run,
        location: object.location,
        bucket: object.bucket,
        key: object.key,
        version: object.version,
        state: state(task.state()),
        reason: reason(task.reason()),
        priority: priority(task.priority()),
        labels: task.labels.clone().into_iter().collect(),
        retention_class: task.retention_class.clone(),
        attempts: task.attempts,
        max_attempts: task.max_attempts,
        crashes: task.crashes,
        created_at: task.created_at.as_ref().map(instant),
        process_at: task.process_at.as_ref().map(instant),
        finished_at: task.finished_at.as_ref().map(instant),
        progress: task
            .progress
            .map(|p| ProgressView { bytes_done: p.bytes_done, bytes_total: p.bytes_total }),
        last_failure: task.last_failure.as_ref().map(|f| FailureView {
            class: class(f.class()),
            code: f.code.clone(),
            message: f.message.clone(),
        }),
        receipt: task.receipt.as_ref().map(receipt_json),
        worker: task.worker.clone(),
        runs_again: task.runs_again,
    }
}

fn receipt_json(receipt: &v1::Receipt) -> ReceiptView {
    let source = receipt.source.clone().unwrap_or_default();
    let backup = receipt.backup.clone().unwrap_or_default();
    ReceiptView {
        source_version: source.version,
        source_etag: source.etag,
        backup_location: backup.location,
        backup_bucket: backup.bucket,
        backup_key: backup.key,
        backup_version: backup.version,
        backup_etag: backup.etag,
        size_bytes: receipt.size_bytes,
        crc64nvme: format!("{:016x}", receipt.crc64nvme),
        sha256: hex(&receipt.sha256),
        verified: verify(receipt.verified()),
        already_present: receipt.already_present,
        server_side_copy: receipt.server_side_copy,
        not_kept: receipt.not_kept.clone(),
        parts: receipt.parts,
        elapsed_ms: receipt.elapsed_ms,
        worker: receipt.worker.clone(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An instant as RFC 3339 in UTC, to the millisecond.
pub(crate) fn instant(at: &prost_types::Timestamp) -> String {
    std::time::SystemTime::try_from(*at)
        .map(|time| humantime::format_rfc3339_millis(time).to_string())
        .unwrap_or_default()
}

/// A state as the command line names it.
pub(crate) const fn state(state: v1::TaskState) -> &'static str {
    match state {
        v1::TaskState::Unspecified => "unknown",
        v1::TaskState::Scheduled => "scheduled",
        v1::TaskState::Pending => "pending",
        v1::TaskState::Working => "working",
        v1::TaskState::Delayed => "delayed",
        v1::TaskState::Done => "done",
        v1::TaskState::Dead => "dead",
        v1::TaskState::Cancelled => "cancelled",
    }
}

/// How a submit was met, in a word.
pub(crate) const fn outcome(outcome: v1::SubmitOutcome) -> &'static str {
    match outcome {
        v1::SubmitOutcome::Unspecified => "unknown",
        v1::SubmitOutcome::Created => "created",
        v1::SubmitOutcome::Duplicate => "duplicate",
        v1::SubmitOutcome::Coalesced => "coalesced",
        v1::SubmitOutcome::RunsAgain => "runs_again",
    }
}

const fn reason(reason: v1::TaskReason) -> &'static str {
    match reason {
        v1::TaskReason::Unspecified => "",
        v1::TaskReason::BackingOff => "backing_off",
        v1::TaskReason::Throttled => "throttled",
        v1::TaskReason::HandedBack => "handed_back",
        v1::TaskReason::LeaseExpired => "lease_expired",
        v1::TaskReason::PermanentFailure => "permanent_failure",
        v1::TaskReason::AttemptsUsedUp => "attempts_used_up",
        v1::TaskReason::CrashedTooOften => "crashed_too_often",
        v1::TaskReason::CancelledByCaller => "cancelled_by_caller",
        v1::TaskReason::SourceGone => "source_gone",
    }
}

const fn priority(priority: v1::Priority) -> &'static str {
    match priority {
        v1::Priority::Unspecified | v1::Priority::Normal => "normal",
        v1::Priority::High => "high",
        v1::Priority::Low => "low",
    }
}

const fn class(class: v1::FailureClass) -> &'static str {
    match class {
        v1::FailureClass::Unspecified | v1::FailureClass::Retry => "retry",
        v1::FailureClass::Throttled => "throttled",
        v1::FailureClass::Permanent => "permanent",
        v1::FailureClass::SourceGone => "source_gone",
    }
}

const fn verify(level: v1::VerifyLevel) -> &'static str {
    match level {
        v1::VerifyLevel::Unspecified => "",
        v1::VerifyLevel::Receipt => "receipt",
        v1::VerifyLevel::Head => "head",
        v1::VerifyLevel::Readback => "readback",
    }
}
