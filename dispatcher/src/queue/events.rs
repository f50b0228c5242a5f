//! The log of changes, as a reader sees it.
//!
//! Plain data. The log names tasks and says nothing about them: who wants to know reads the task, and so never shows an old state after
//! a newer one.

use std::{sync::Arc, time::Duration};

use super::id::TaskId;

/// How long changes go on being logged after somebody has read the log.
pub const KEPT: Duration = Duration::from_secs(600);

/// Longest cursor in bytes.
pub const MAX_CURSOR_BYTES: usize = 24 * 1024;

/// A place in the log: an opaque text of the implementation, at most [`MAX_CURSOR_BYTES`] of printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCursor(pub String);

/// What the log has after a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Tasks that have changed, with their tenants: for each task in the order of its changes.
    pub changed: Vec<(Arc<str>, TaskId)>,
    /// Where to read on.
    pub next: EventCursor,
    /// Changes before `next` are lost: whoever followed tasks has to read them anew.
    pub missed: bool,
    /// There may be more already.
    pub more: bool,
    /// Shards could not be asked. `next` keeps their place, so what they have is told when they can be asked again; where there was no place
    /// yet, it is told as missed then.
    pub incomplete: bool,
}
