//! What a Redis error means for the caller of the queue: ask again later, or change something first.
//!
//! One place, so that every call agrees. Nothing here may retry anything.

use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::writer::Retired;
use crate::queue::QueueError;

/// Whether repeating can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    /// Time, or a failover.
    Time,
    /// A person.
    Change,
}

/// The queue's word for a Redis error.
pub(super) fn from_redis(error: RedisError) -> QueueError {
    match cure(error.kind(), error.code()) {
        Cure::Time => QueueError::Unavailable(Box::new(error)),
        Cure::Change => QueueError::Rejected(Box::new(error)),
    }
}

/// An answer that no script of ours gives: another version's script under our name, or damaged keys.
pub(super) fn unexpected(what: &'static str) -> QueueError {
    QueueError::Rejected(Box::new(RedisError::from((ErrorKind::UnexpectedReturnType, what))))
}

/// The failure of a whole call, for one more of its items.
pub(super) fn same(failure: &QueueError) -> QueueError {
    let of_redis = |source: &(dyn std::error::Error + Send + Sync + 'static)| {
        source.downcast_ref::<RedisError>().cloned()
    };
    match failure {
        QueueError::Unfit(unfit) => QueueError::Unfit(Arc::clone(unfit)),
        QueueError::Unavailable(source) => match of_redis(source.as_ref()) {
            Some(error) => QueueError::Unavailable(Box::new(error)),
            None if source.is::<Retired>() => QueueError::Unavailable(Box::new(Retired)),
            None => QueueError::Unavailable(source.to_string().into()),
        },
        QueueError::Rejected(source) => match of_redis(source.as_ref()) {
            Some(error) => QueueError::Rejected(Box::new(error)),
            None => QueueError::Rejected(source.to_string().into()),
        },
        QueueError::Full
        | QueueError::TenantFull
        | QueueError::NotFound(_)
        | QueueError::NotDurable { .. }
        | QueueError::Corrupt { .. } => unexpected("the call that this was part of failed"),
    }
}

/// True when a key holds another type than the command is for.
pub(super) fn is_wrong_type(error: &QueueError) -> bool {
    match error {
        QueueError::Rejected(source) => {
            source.downcast_ref::<RedisError>().is_some_and(|error| error.code() == Some("WRONGTYPE"))
        }
        QueueError::Full
        | QueueError::TenantFull
        | QueueError::NotFound(_)
        | QueueError::Unavailable(_)
        | QueueError::NotDurable { .. }
        | QueueError::Unfit(_)
        | QueueError::Corrupt { .. } => false,
    }
}

fn cure(kind: ErrorKind, code: Option<&str>) -> Cure {
    match kind {
        // The connection broke or timed out, or what came over it made no sense: the next one may be better.
        ErrorKind::Io | ErrorKind::Parse => Cure::Time,
        // Sentinels and cluster nodes change their view during a failover.
        ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::NoValidReplicasFoundBySentinel
        | ErrorKind::ClusterConnectionNotFound => Cure::Time,
        ErrorKind::Server(server) => match server {
            // Starting, failing over, resharding.
            ServerErrorKind::BusyLoading
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly => Cure::Time,
            // Scripts are loaded again by the link; one that is missing after that was flushed at that moment.
            ServerErrorKind::NoScript => Cure::Time,
            // A bug of ours, keys of the wrong type, or missing rights.
            ServerErrorKind::ResponseError
            | ServerErrorKind::ExecAbort
            | ServerErrorKind::CrossSlot
            | ServerErrorKind::NotBusy
            | ServerErrorKind::NoSub
            | ServerErrorKind::NoPerm => Cure::Change,
            // The client library may learn new kinds; an unknown refusal is not worth hammering.
            _ => Cure::Change,
        },
        ErrorKind::Extension => match code {
            // Memory full, disk full, too few replicas, a script of somebody blocks the server: all can pass by themselves.
            Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" | "UNBLOCKED") => Cure::Time,
            Some(_) | None => Cure::Change,
        },
        ErrorKind::AuthenticationFailed
        | ErrorKind::UnexpectedReturnType
        | ErrorKind::InvalidClientConfig
        | ErrorKind::Client
        | ErrorKind::EmptySentinelList
        | ErrorKind::RESP3NotSupported => Cure::Change,
        _ => Cure::Change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_answer_and_a_failover_are_worth_a_repeat_and_a_refusal_is_not() {
        let passes = [
            (ErrorKind::Io, None),
            (ErrorKind::Server(ServerErrorKind::ReadOnly), Some("READONLY")),
            (ErrorKind::Server(ServerErrorKind::BusyLoading), Some("LOADING")),
            (ErrorKind::Extension, Some("OOM")),
            (ErrorKind::Extension, Some("MISCONF")),
            (ErrorKind::Extension, Some("NOREPLICAS")),
        ];
        for (kind, code) in passes {
            assert_eq!(cure(kind, code), Cure::Time, "{kind:?} {code:?}");
        }
        let stays = [
            (ErrorKind::AuthenticationFailed, Some("WRONGPASS")),
            (ErrorKind::Server(ServerErrorKind::NoPerm), Some("NOPERM")),
            (ErrorKind::Server(ServerErrorKind::ResponseError), Some("ERR")),
            (ErrorKind::Extension, Some("WRONGTYPE")),
        ];
        for (kind, code) in stays {
            assert_eq!(cure(kind, code), Cure::Change, "{kind:?} {code:?}");
        }
    }

    #[test]
    fn the_caller_can_tell_them_apart() {
        let lost = RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        assert!(from_redis(lost).is_retryable());
        assert!(!unexpected("answer").is_retryable());
    }
}
