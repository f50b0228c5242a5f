//! Rules and their runs for people and for programs. The JSON form is an interface: fields are added, never renamed.

use backhaul_proto::v1::{self, RuleRunState as State};
use serde::Serialize;

use crate::view::instant;

/// A rule as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct RuleView {
    rule: String,
    tenant: String,
    location: String,
    bucket: String,
    prefix: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    retention_class: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    schedule: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    time_zone: String,
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_run_at: Option<String>,
    passed_over: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run: Option<RunView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_complete_run: Option<RunView>,
}

/// A run as `--json` prints it.
#[derive(Debug, Serialize)]
struct RunView {
    at: String,
    asked_for: bool,
    state: &'static str,
    listed: u64,
    missing: u64,
    failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix_backup_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unfinished: Option<u64>,
}

impl From<&v1::Rule> for RuleView {
    fn from(rule: &v1::Rule) -> Self {
        let v1::PrefixRef { location, bucket, prefix } = rule.prefix.clone().unwrap_or_default();
        Self {
            rule: rule.name.clone(),
            tenant: rule.tenant.clone(),
            location,
            bucket,
            prefix,
            retention_class: rule.retention_class.clone(),
            schedule: rule.schedule.clone(),
            time_zone: rule.time_zone.clone(),
            paused: rule.paused,
            next_run_at: rule.next_run_at.as_ref().map(instant),
            passed_over: rule.passed_over,
            last_run: rule.last_run.as_ref().map(RunView::from),
            last_complete_run: rule.last_complete_run.as_ref().map(RunView::from),
        }
    }
}

impl From<&v1::RuleRun> for RunView {
    fn from(run: &v1::RuleRun) -> Self {
        let backup = run.prefix_backup.as_ref();
        Self {
            at: run.at.as_ref().map(instant).unwrap_or_default(),
            asked_for: run.asked_for,
            state: state(run.state()),
            listed: run.listed,
            missing: run.missing,
            failed: run.failed,
            finished_at: run.finished_at.as_ref().map(instant),
            prefix_backup_id: backup.map(|backup| backup.prefix_backup_id.clone()),
            unfinished: backup.and_then(|backup| backup.counts.as_ref()).map(|counts| counts.unfinished),
        }
    }
}

/// One line: what, when next, and what became of the last run.
pub(super) fn line(rule: &v1::Rule) -> String {
    let at = rule.prefix.clone().unwrap_or_default();
    let mut text = format!("{}  {}:{}/{}", rule.name, at.location, at.bucket, at.prefix.escape_debug());
    match (rule.paused, &rule.next_run_at) {
        (true, _) => text.push_str("  paused"),
        (false, Some(next)) => text.push_str(&format!("  next {}", instant(next))),
        (false, None) => text.push_str("  no schedule"),
    }
    let Some(run) = &rule.last_run else {
        text.push_str("  never run");
        return text;
    };
    let begun = run.at.as_ref().map(instant).unwrap_or_default();
    let (listed, missing, failed) = (run.listed, run.missing, run.failed);
    text.push_str(&format!(
        "  last {begun} {}: {listed} listed, {missing} missing, {failed} failed",
        state(run.state())
    ));
    if let Some(backup) = &run.prefix_backup {
        let to_do = backup.counts.as_ref().map(|counts| counts.unfinished).filter(|to_do| *to_do > 0);
        text.push_str(&to_do.map(|to_do| format!(", {to_do} to do")).unwrap_or_default());
        text.push_str(&format!("  ({})", backup.prefix_backup_id));
    }
    if rule.passed_over > 0 {
        text.push_str(&format!("  {} times passed over while it went on", rule.passed_over));
    }
    text
}

const fn state(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Running => "running",
        State::Paused => "paused",
        State::Done => "done",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
        State::Forgotten => "forgotten",
    }
}
