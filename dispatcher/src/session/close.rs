//! Every way a stream can end, and the gRPC status that tells the worker. The one place where sessions meet `tonic::Status`.

use std::{collections::HashMap, time::Duration};

use backhaul_proto::v1::DrainReason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Domain of the `google.rpc.ErrorInfo` in statuses.
pub const ERROR_DOMAIN: &str = "backhaul";

/// How long a worker is asked to wait before it tries this dispatcher again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a stream ended, or was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The worker closed it. What it reported before is answered first.
    #[error("closed by the worker")]
    PeerClosed,
    /// The connection broke. Accepted leases live on.
    #[error("connection lost")]
    PeerLost,
    /// No Hello in time.
    #[error("no Hello within {0:?}")]
    HelloMissing(Duration),
    /// Nothing came from the worker for this long.
    #[error("nothing received for {0:?}")]
    PeerSilent(Duration),
    /// The worker said that it drains, and did not close the stream in the time it named.
    #[error("the worker did not close the stream when its drain was over")]
    DrainOverstayed,
    /// The worker broke a rule of the contract.
    #[error(transparent)]
    Broken(#[from] Violation),
    /// The worker sent or held up more than is allowed.
    #[error(transparent)]
    TooMuch(#[from] Excess),
    /// A newer stream of the same worker instance took over.
    #[error("replaced by a newer stream of the same worker instance")]
    Superseded,
    /// The worker was told to connect elsewhere, and its time is over.
    #[error("drained ({})", super::drain_word(*.0))]
    Drained(DrainReason),
    /// The peer has proved to be a program that is no worker.
    #[error("the certificate names a program that is no worker")]
    NotAWorker,
    /// The dispatcher ends, or takes no streams any more.
    #[error("the dispatcher is shutting down")]
    Stopping,
    /// The random source of the operating system failed; no safe id can be made.
    #[error("internal error")]
    NoRandomness,
}

/// A broken rule of the worker protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Something came before Hello.
    #[error("the first message must be Hello")]
    HelloNotFirst,
    /// Hello came again.
    #[error("Hello may be sent only once")]
    SecondHello,
    /// The worker speaks another version of the protocol.
    #[error("protocol version {0} is not supported; this dispatcher speaks version 1")]
    Protocol(u32),
    /// A field does not have the form that the contract gives it.
    #[error("{0} does not have the form that the contract gives it")]
    Field(&'static str),
    /// Heartbeats do not count up.
    #[error("Heartbeat.seq must count up")]
    HeartbeatOrder,
    /// A message is not of the protocol at all.
    #[error("a message could not be decoded")]
    Undecodable,
}

/// A bound that a worker went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// A repeated field or a number is above its bound.
    #[error("{what} is above {limit}")]
    Count {
        /// Field.
        what: &'static str,
        /// Its bound.
        limit: u32,
    },
    /// Too many messages that answer nothing.
    #[error("more than {0} messages a second")]
    Messages(u32),
    /// A message is larger than is read.
    #[error("a message is too large")]
    MessageSize,
    /// The worker does not read what it is sent.
    #[error("the worker does not read what it is sent")]
    NotReading,
    /// No room for another stream.
    #[error("this dispatcher has as many streams as it may")]
    Streams,
    /// No room for another stream from there.
    #[error("this dispatcher has as many streams from that address as it may")]
    StreamsOfAddress,
    /// No room for another stream of whom the certificate names.
    #[error("this dispatcher has as many streams of that identity as it may")]
    StreamsOfIdentity,
}

impl CloseReason {
    /// True when nothing more is worth sending: the status goes out at once.
    pub(crate) const fn is_immediate(self) -> bool {
        match self {
            Self::PeerClosed | Self::Superseded | Self::Drained(_) | Self::DrainOverstayed => false,
            Self::PeerLost
            | Self::HelloMissing(_)
            | Self::PeerSilent(_)
            | Self::Broken(_)
            | Self::TooMuch(_)
            | Self::NotAWorker
            | Self::Stopping
            | Self::NoRandomness => true,
        }
    }

    /// True when a person should know: the worker misbehaves.
    pub(crate) const fn is_misbehaviour(self) -> bool {
        match self {
            Self::HelloMissing(_)
            | Self::PeerSilent(_)
            | Self::DrainOverstayed
            | Self::Broken(_)
            | Self::TooMuch(_)
            | Self::NotAWorker
            | Self::NoRandomness => true,
            Self::PeerClosed | Self::PeerLost | Self::Superseded | Self::Drained(_) | Self::Stopping => false,
        }
    }

    /// The stable word of the reason in `ErrorInfo`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::PeerClosed => "CLOSED_BY_WORKER",
            Self::PeerLost => "CONNECTION_LOST",
            Self::HelloMissing(_) => "HELLO_MISSING",
            Self::PeerSilent(_) => "WORKER_SILENT",
            Self::DrainOverstayed => "DRAIN_OVERSTAYED",
            Self::Broken(Violation::Protocol(_)) => "UNSUPPORTED_PROTOCOL",
            Self::Broken(
                Violation::HelloNotFirst
                | Violation::SecondHello
                | Violation::Field(_)
                | Violation::HeartbeatOrder
                | Violation::Undecodable,
            ) => "PROTOCOL_VIOLATION",
            Self::TooMuch(Excess::Streams | Excess::StreamsOfAddress | Excess::StreamsOfIdentity) => {
                "TOO_MANY_STREAMS"
            }
            Self::TooMuch(
                Excess::Count { .. } | Excess::Messages(_) | Excess::MessageSize | Excess::NotReading,
            ) => "LIMIT_EXCEEDED",
            Self::Superseded => "SUPERSEDED",
            Self::Drained(_) => "DRAINED",
            Self::NotAWorker => "ROLE_NOT_ALLOWED",
            Self::Stopping => "SHUTTING_DOWN",
            Self::NoRandomness => "INTERNAL",
        }
    }

    /// The status that ends the stream; `None` when the worker ended it and there is nothing to tell.
    #[must_use]
    pub fn status(self) -> Option<Status> {
        let (code, retry) = match self {
            Self::PeerClosed | Self::PeerLost => return None,
            Self::HelloMissing(_) | Self::PeerSilent(_) | Self::DrainOverstayed => {
                (Code::DeadlineExceeded, false)
            }
            Self::Broken(_) => (Code::InvalidArgument, false),
            Self::TooMuch(Excess::Streams | Excess::StreamsOfAddress | Excess::StreamsOfIdentity) => {
                (Code::ResourceExhausted, true)
            }
            Self::TooMuch(
                Excess::Count { .. } | Excess::Messages(_) | Excess::MessageSize | Excess::NotReading,
            ) => (Code::ResourceExhausted, false),
            Self::Superseded => (Code::Aborted, false),
            Self::NotAWorker => (Code::PermissionDenied, false),
            Self::Drained(_) | Self::Stopping => (Code::Unavailable, true),
            Self::NoRandomness => (Code::Internal, false),
        };
        let mut details = ErrorDetails::with_error_info(self.word(), ERROR_DOMAIN, HashMap::new());
        if retry {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        Some(Status::with_error_details(code, self.to_string(), details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_ends_the_stream_with_the_code_that_the_contract_names() {
        let second = Duration::from_secs(1);
        let table = [
            (CloseReason::HelloMissing(second), Some(Code::DeadlineExceeded)),
            (CloseReason::PeerSilent(second), Some(Code::DeadlineExceeded)),
            (CloseReason::DrainOverstayed, Some(Code::DeadlineExceeded)),
            (Violation::SecondHello.into(), Some(Code::InvalidArgument)),
            (Violation::Protocol(2).into(), Some(Code::InvalidArgument)),
            (Excess::Messages(100).into(), Some(Code::ResourceExhausted)),
            (Excess::Streams.into(), Some(Code::ResourceExhausted)),
            (Excess::StreamsOfAddress.into(), Some(Code::ResourceExhausted)),
            (Excess::StreamsOfIdentity.into(), Some(Code::ResourceExhausted)),
            (CloseReason::Superseded, Some(Code::Aborted)),
            (CloseReason::NotAWorker, Some(Code::PermissionDenied)),
            (CloseReason::Drained(DrainReason::Shutdown), Some(Code::Unavailable)),
            (CloseReason::Stopping, Some(Code::Unavailable)),
            (CloseReason::PeerClosed, None),
            (CloseReason::PeerLost, None),
        ];
        for (reason, code) in table {
            assert_eq!(reason.status().map(|status| status.code()), code, "{reason:?}");
        }
    }

    #[test]
    fn a_status_says_why_in_a_form_for_programs() {
        let status = CloseReason::Stopping.status().unwrap();
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("SHUTTING_DOWN", "backhaul"));
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(RETRY_AFTER));
    }
}
