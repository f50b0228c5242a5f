//! The nouns of the link: leases, assignments, progress and outcomes, checked once when they come off the wire.
//!
//! They exist so that nothing behind the wire meets a token of the wrong length or a number that is not one of an enum. They must
//! not hold anything of a transfer.

use std::{fmt, sync::Arc, time::Duration};

use backhaul_proto::v1;

/// The unguessable half of a lease. Never printed: who knows it can finish the task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token([u8; Token::LEN]);

/// A lease: the task and the token that was given for it. A later lease of the same task is another key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey {
    /// Task, 1 to 64 bytes.
    pub task_id: Arc<str>,
    /// Token.
    pub token: Token,
}

/// One object to copy, and the lease on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The lease.
    pub lease: LeaseKey,
    /// How long the lease lasts from when the assignment was received.
    pub lease_for: Duration,
    /// What to copy.
    pub object: v1::ObjectRef,
    /// Tenant, for logs and the backup's metadata.
    pub tenant: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Proof wanted; `Unspecified` means the location's level.
    pub verify: v1::VerifyLevel,
    /// Size in bytes as the caller named it, never trusted; `None` when not known.
    pub size_hint_bytes: Option<u64>,
    /// Multipart upload that an earlier attempt left; empty when none.
    pub resume_upload_id: String,
    /// W3C traceparent of the submit; empty when none.
    pub traceparent: String,
    /// Band; `Unspecified` never occurs here, it was read as `Normal`.
    pub priority: v1::Priority,
    /// Retention class of the copy; empty when none.
    pub retention_class: String,
}

/// How far a copy is, as heartbeats carry it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes acknowledged by the backup store.
    pub bytes_done: u64,
    /// Bytes in all; 0 while unknown.
    pub bytes_total: u64,
    /// Finished steps where no bytes pass through the worker.
    pub steps_done: u64,
    /// Multipart upload in progress; empty when none.
    pub upload_id: String,
}

/// Why a copy is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The lease is over: nothing may be written and nothing is reported.
    Lost,
    /// The task was cancelled: report `cancelled` when nothing of the copy is left.
    Cancelled,
    /// The worker leaves: report `handed_back`, with the upload that the next attempt can go on with.
    HandBack,
}

/// A copy that came to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The lease under which it ran.
    pub lease: LeaseKey,
    /// What it ended in.
    pub outcome: Box<v1::task_result::Outcome>,
}

impl Token {
    /// Length in bytes.
    pub const LEN: usize = 16;

    /// A token from its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl LeaseKey {
    /// Most bytes of a task id.
    pub const MAX_TASK_ID_BYTES: usize = 64;

    /// The key, if the task id and the token have the lengths that the contract gives them.
    #[must_use]
    pub fn from_wire(task_id: &str, token: &[u8]) -> Option<Self> {
        if task_id.is_empty() || task_id.len() > Self::MAX_TASK_ID_BYTES {
            return None;
        }
        Some(Self { task_id: task_id.into(), token: Token(token.try_into().ok()?) })
    }

    /// The token as it goes on the wire.
    pub(crate) fn wire_token(&self) -> prost::bytes::Bytes {
        prost::bytes::Bytes::copy_from_slice(self.token.as_bytes())
    }
}

impl fmt::Debug for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseKey({})", self.task_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_needs_a_task_id_and_sixteen_bytes_of_token() {
        assert!(LeaseKey::from_wire("t", &[7; 16]).is_some());
        for (task_id, token) in [("t", 15), ("t", 17), ("t", 0), ("", 16)] {
            assert_eq!(LeaseKey::from_wire(task_id, &vec![7; token]), None, "{task_id:?} {token}");
        }
        assert_eq!(LeaseKey::from_wire(&"x".repeat(65), &[7; 16]), None);
    }

    #[test]
    fn a_token_is_never_printed() {
        let key = LeaseKey::from_wire("t", &[0xab; 16]).expect("it is well formed");
        assert_eq!(format!("{key:?} {:?}", key.token), "LeaseKey(t) Token(..)");
    }
}
