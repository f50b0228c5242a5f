//! What a store's refusal means for a copy: one table, from the store's kind to the task's fate.

use std::fmt;

use super::{Step, TransferError, TransferErrorKind};
use crate::store::{StoreError, StoreErrorKind as Kind};

/// Longest message of an error.
const MESSAGE_MAX_BYTES: usize = 512;

/// Which of the two stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// The origin.
    Source,
    /// The backup location.
    Backup,
}

/// Why a step did not end as it should.
#[derive(Debug)]
pub(super) enum Halt {
    /// The source is not what it was: begin again with what it is now.
    Changed,
    /// What was read or uploaded so far is of no use: begin again, a bounded number of times.
    Redo(TransferError),
    /// Told to stop and to leave nothing.
    Aborted,
    /// Told to stop and to leave the upload to a successor.
    HandedBack,
    /// The copy failed.
    Failed(TransferError),
}

/// A request that was not answered as hoped.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Told to stop meanwhile.
    Stopped(Halt),
    /// The store said no, after all retries.
    Store(StoreError),
}

impl Refusal {
    /// What it means when nothing can be done about it here.
    pub(super) fn halt(self, side: Side, step: Step, location: &str) -> Halt {
        let error = match self {
            Self::Stopped(halt) => return halt,
            Self::Store(error) => error,
        };
        if side == Side::Source && matches!(error.kind, Kind::PreconditionFailed | Kind::InvalidRange) {
            return Halt::Changed;
        }
        let kind = transfer_kind(side, error.kind);
        let message = clip(format!("{side} `{location}`: {error}"));
        Halt::Failed(TransferError { step, kind, message, source: Some(Box::new(error)) })
    }
}

pub(super) fn failed(step: Step, kind: TransferErrorKind, message: impl Into<String>) -> TransferError {
    TransferError { step, kind, message: clip(message.into()), source: None }
}

impl From<TransferError> for Halt {
    fn from(error: TransferError) -> Self {
        Self::Failed(error)
    }
}

fn transfer_kind(side: Side, kind: Kind) -> TransferErrorKind {
    match kind {
        Kind::NoSuchKey | Kind::NoSuchVersion => match side {
            Side::Source => TransferErrorKind::SourceGone,
            // A copy that was there a moment ago.
            Side::Backup => TransferErrorKind::Integrity,
        },
        // A 404 that does not say what is missing comes from a wrong endpoint or bucket more often than from a deleted object.
        Kind::NotFound | Kind::Denied | Kind::ClockSkew => TransferErrorKind::Denied,
        Kind::Misdirected => TransferErrorKind::Misdirected,
        Kind::NoSuchBucket => TransferErrorKind::NoSuchBucket,
        Kind::Throttled { retry_after } => TransferErrorKind::Throttled { retry_after },
        Kind::BadDigest => TransferErrorKind::Integrity,
        Kind::Archived | Kind::TooLarge | Kind::NotImplemented | Kind::Rejected => {
            TransferErrorKind::Unsupported
        }
        Kind::NoSuchUpload
        | Kind::InvalidPart
        | Kind::PreconditionFailed
        | Kind::Conflict
        | Kind::InvalidRange
        | Kind::CredentialsExpired
        | Kind::Server
        | Kind::Timeout
        | Kind::Connection
        | Kind::BadAnswer => TransferErrorKind::Io,
    }
}

fn clip(mut text: String) -> String {
    if text.len() > MESSAGE_MAX_BYTES {
        let mut end = MESSAGE_MAX_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "origin",
            Self::Backup => "backup location",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Operation;

    #[test]
    fn a_store_s_answer_decides_the_fate_of_the_task() {
        let throttled = Kind::Throttled { retry_after: Duration::from_secs(3) };
        let table = [
            (Side::Source, Kind::NoSuchKey, "source_gone"),
            (Side::Source, Kind::NoSuchVersion, "source_gone"),
            (Side::Source, Kind::NoSuchBucket, "no_such_bucket"),
            (Side::Source, Kind::NotFound, "denied"),
            (Side::Source, Kind::Misdirected, "misdirected"),
            (Side::Backup, Kind::Misdirected, "misdirected"),
            (Side::Source, Kind::Archived, "unsupported"),
            (Side::Source, Kind::ClockSkew, "denied"),
            (Side::Backup, Kind::NoSuchKey, "integrity"),
            (Side::Backup, Kind::BadDigest, "integrity"),
            (Side::Backup, throttled, "throttled"),
            (Side::Backup, Kind::Server, "io"),
            (Side::Backup, Kind::CredentialsExpired, "io"),
        ];
        for (side, kind, code) in table {
            let refusal = Refusal::Store(StoreError::new(Operation::Get, kind, "x".repeat(1_000)));
            let halt = refusal.halt(side, Step::Read, "photos");
            let Halt::Failed(error) = halt else { panic!("{side} {kind}: {halt:?}") };
            assert_eq!(error.kind.code(), code, "{side} {kind}");
            assert!(error.message.len() <= MESSAGE_MAX_BYTES);
        }
    }

    #[test]
    fn a_pin_that_does_not_hold_means_a_new_version_and_not_a_failure() {
        let refusal = Refusal::Store(StoreError::new(Operation::Get, Kind::PreconditionFailed, ""));
        assert!(matches!(refusal.halt(Side::Source, Step::Read, "photos"), Halt::Changed));
    }
}
