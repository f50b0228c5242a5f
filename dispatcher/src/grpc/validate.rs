//! What callers may send: every bound that the contract writes beside a field, checked before anything is stored.
//!
//! All violations of a request are collected, so that a caller can mend them in one go. Lengths are bytes of UTF-8. Texts are
//! compared as they came: nothing is decoded, trimmed or normalised, because an object key is bytes to its store, and a check
//! that reads a name differently than the store does is a hole.

pub(crate) mod list;
pub(crate) mod prefix;
pub(crate) mod retry;
pub(crate) mod submit;
pub(crate) mod watch;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    ops::RangeInclusive,
};

use super::status::ApiError;
use crate::queue::TaskId;

/// Most violations told in one answer: the details travel in a header, and clients take 16 KiB of headers.
const MAX_VIOLATIONS: usize = 32;
const MAX_KEY_BYTES: usize = 1024;
const MAX_LABELS: usize = 16;
const MAX_IDS: usize = 1000;
const LABEL_NAME_BYTES: RangeInclusive<usize> = 1..=63;
const MAX_LABEL_VALUE_BYTES: usize = 255;

/// One field that breaks a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Path within the request, such as `object.key`.
    pub(crate) field: String,
    /// What is wrong; never repeats what was sent, except names of labels, escaped and cut.
    pub(crate) description: String,
}

/// All that is wrong with one request.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    told: Vec<Violation>,
    untold: usize,
}

impl Violations {
    pub(crate) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.told.len() < MAX_VIOLATIONS {
            self.told.push(Violation { field: field.into(), description: description.into() });
        } else {
            self.untold += 1;
        }
    }

    /// Adds a violation unless `holds`.
    pub(crate) fn require(&mut self, holds: bool, field: &str, description: &str) {
        if !holds {
            self.add(field, description);
        }
    }

    /// Whether nothing is wrong.
    pub(crate) const fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// `value`, if nothing was wrong.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, ApiError> {
        if self.told.is_empty() { Ok(value) } else { Err(ApiError::Invalid(self)) }
    }

    /// One line for people: the first violation, and how many more there are.
    pub(crate) fn summary(&self) -> String {
        let mut text = "invalid request".to_owned();
        if let Some(first) = self.told.first() {
            // Writing to a String cannot fail.
            let _infallible = write!(text, ": {} {}", first.field, first.description);
        }
        let more = (self.told.len() + self.untold).saturating_sub(1);
        if more > 0 {
            let _infallible = write!(text, " (and {more} more)");
        }
        text
    }
}

impl IntoIterator for Violations {
    type Item = Violation;
    type IntoIter = std::vec::IntoIter<Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.told.into_iter()
    }
}

/// A single violation as an error.
pub(crate) fn invalid(field: &str, description: &str) -> ApiError {
    let mut violations = Violations::default();
    violations.add(field, description);
    ApiError::Invalid(violations)
}

/// Reads the id of a task.
pub(crate) fn task_id(text: &str) -> Result<TaskId, ApiError> {
    TaskId::parse(text).map_err(|_| invalid("task_id", "must be an id as SubmitBackup gives it"))
}

/// Reads ids of tasks, each once, in their order.
fn task_ids(texts: &[String], violations: &mut Violations) -> Vec<TaskId> {
    if texts.len() > MAX_IDS {
        violations.add("task_ids", "must be at most 1000 ids");
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let mut ids = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        match TaskId::parse(text) {
            Ok(id) => ids.extend(seen.insert(id.clone()).then_some(id)),
            Err(_) => violations.add(format!("task_ids[{at}]"), "must be an id as SubmitBackup gives it"),
        }
    }
    ids
}

/// Labels of a task or of a filter, in order of their names.
fn labels(
    field: &str,
    labels: HashMap<String, String>,
    violations: &mut Violations,
) -> BTreeMap<String, String> {
    // Too many are not looked at one by one: a message can hold tens of thousands.
    if labels.len() > MAX_LABELS {
        violations.add(field, "must be at most 16 labels");
        return BTreeMap::new();
    }
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    for (name, value) in &labels {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if !LABEL_NAME_BYTES.contains(&name.len()) || !name.bytes().all(allowed) {
            violations.add(
                format!("{field}[{}]", shown(name)),
                "must have a name of 1 to 63 bytes of a-z, 0-9, ., _ and -",
            );
        }
        if value.len() > MAX_LABEL_VALUE_BYTES {
            violations.add(format!("{field}[{}]", shown(name)), "must have a value of at most 255 bytes");
        }
    }
    labels
}

/// A name that somebody sent, fit for a log or a terminal.
fn shown(name: &str) -> String {
    name.chars().take(32).flat_map(char::escape_default).take(63).collect()
}

#[cfg(test)]
mod tests;
