//! Prefix backups for people and for programs. The JSON form is an interface: fields are added, never renamed.

use backhaul_proto::v1::{self, PrefixBackupState as State};
use serde::Serialize;

/// A prefix backup as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct PrefixView {
    prefix_backup_id: String,
    request_id: String,
    location: String,
    bucket: String,
    prefix: String,
    versions: &'static str,
    state: &'static str,
    listed_all: bool,
    waits_for_room: bool,
    pages: u64,
    listed: u64,
    skipped: u64,
    already_backed_up: u64,
    submitted: u64,
    rejected: u64,
    unfinished: u64,
    done: u64,
    failed: u64,
    cancelled: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<String>,
}

/// A failed object as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct FailedView {
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    task_id: String,
    code: String,
    message: String,
}

impl From<&v1::PrefixBackup> for PrefixView {
    fn from(one: &v1::PrefixBackup) -> Self {
        let counts = one.counts.unwrap_or_default();
        let v1::PrefixRef { location, bucket, prefix } = one.prefix.clone().unwrap_or_default();
        Self {
            prefix_backup_id: one.prefix_backup_id.clone(),
            request_id: one.request_id.clone(),
            location,
            bucket,
            prefix,
            versions: match one.versions() {
                v1::ObjectVersions::Unspecified | v1::ObjectVersions::Current => "current",
                v1::ObjectVersions::All => "all",
            },
            state: state(one.state()),
            listed_all: one.listed_all,
            waits_for_room: one.waits_for_room,
            pages: counts.pages,
            listed: counts.listed,
            skipped: counts.skipped,
            already_backed_up: counts.already_backed_up,
            submitted: counts.submitted,
            rejected: counts.rejected,
            unfinished: counts.unfinished,
            done: counts.done,
            failed: counts.failed,
            cancelled: counts.cancelled,
            last_failure: one.last_failure.as_ref().map(failure),
        }
    }
}

impl From<&v1::FailedObject> for FailedView {
    fn from(failed: &v1::FailedObject) -> Self {
        let failure = failed.failure.clone().unwrap_or_default();
        Self {
            key: failed.key.clone(),
            version: failed.version.clone(),
            task_id: failed.task_id.clone(),
            code: failure.code,
            message: failure.message,
        }
    }
}

/// One line: what, how far, and what is wrong.
pub(super) fn line(one: &v1::PrefixBackup) -> String {
    let counts = one.counts.unwrap_or_default();
    let at = one.prefix.clone().unwrap_or_default();
    let mut text = format!(
        "{}  {:<9}  {}:{}/{}  {} listed, {} submitted, {} backed up already, {} skipped; {} done, {} failed, {} to do",
        one.prefix_backup_id,
        state(one.state()),
        at.location,
        at.bucket,
        at.prefix.escape_debug(),
        counts.listed,
        counts.submitted,
        counts.already_backed_up,
        counts.skipped,
        counts.done,
        counts.failed,
        counts.unfinished,
    );
    if counts.cancelled > 0 {
        text.push_str(&format!(", {} cancelled or gone", counts.cancelled));
    }
    if one.waits_for_room {
        text.push_str(" (listing rests until there is room)");
    } else if one.listed_all && one.state() == State::Running {
        text.push_str(" (all listed)");
    }
    if let Some(failed) = &one.last_failure {
        text.push_str(&format!("  last failure: {}", failure(failed)));
    }
    text
}

/// One line: which object, and why.
pub(super) fn failed_line(failed: &v1::FailedObject) -> String {
    let why = failed.failure.as_ref().map(failure).unwrap_or_default();
    let task = if failed.task_id.is_empty() { "-" } else { &failed.task_id };
    let version = if failed.version.is_empty() {
        String::new()
    } else {
        format!(" (version {})", failed.version.escape_debug())
    };
    format!("{task}  {}{version}  {why}", failed.key.escape_debug())
}

fn failure(failure: &v1::Failure) -> String {
    format!("{}: {}", failure.code, failure.message.escape_debug())
}

const fn state(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Running => "running",
        State::Paused => "paused",
        State::Done => "done",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}
