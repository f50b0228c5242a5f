//! The targets of fuzzing, by name: functions that take any bytes, give them to the code that meets such bytes in production, and panic when
//! it does not keep its promises. Shared by the tests that replay the corpus and by the program that fuzzes.

mod audit_log;
mod backup_keys;
mod names;

use backhaul_dispatcher::fuzzing;

/// A target.
pub(crate) type Target = fn(&[u8]);

/// All of them. Each has a folder of its name in the corpus.
pub(crate) const TARGETS: [(&str, Target); 12] = [
    ("audit-log", audit_log::edited),
    ("backup-keys", backup_keys::keys),
    ("calls", fuzzing::call),
    ("certificates", names::certificate),
    ("cursors", fuzzing::cursor),
    ("events", fuzzing::events),
    ("page-tokens", fuzzing::page_tokens),
    ("records", fuzzing::record),
    ("roles", fuzzing::roles),
    ("settings", fuzzing::settings),
    ("walks", fuzzing::walk),
    ("worker-messages", fuzzing::worker_message),
];

/// The target of that name.
pub(crate) fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
