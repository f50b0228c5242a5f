//! `WatchBackups`: a watch as a stream of the contract's messages.
//!
//! The stream is the watch and nothing else: it is asked for the next update when the last one has been sent, so a slow caller holds
//! up itself only.

use backhaul_proto::v1 as pb;
use futures_util::stream;
use tokio_stream::Stream;
use tonic::Status;

use crate::{
    grpc::{present, status::ApiError, validate},
    queue::QueueError,
    watch::{Update, Watch, WatchEnd, WatchRefusal},
};

/// The updates of a watch, the last of them an error.
pub(super) fn updates(watch: Watch) -> impl Stream<Item = Result<pb::WatchBackupsResponse, Status>> + Send {
    stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        match watch.next().await {
            Ok(update) => Some((Ok(message(update)), Some(watch))),
            Err(end) => Some((Err(status(end)), None)),
        }
    })
}

fn message(update: Update) -> pb::WatchBackupsResponse {
    pb::WatchBackupsResponse {
        backups: update.records.into_iter().map(present::listed).collect(),
        gone: update.gone.iter().map(ToString::to_string).collect(),
        cursor: update.cursor.map(|cursor| cursor.0).unwrap_or_default(),
        missed: update.missed,
        incomplete: update.incomplete,
    }
}

fn status(end: WatchEnd) -> Status {
    match end {
        WatchEnd::Stopping => ApiError::WatchRefused(WatchRefusal::Stopping).into(),
        // The only text of a caller's that a watch hands on.
        WatchEnd::Queue(QueueError::Rejected(_)) => {
            validate::invalid("cursor", "must be the cursor of an earlier message").into()
        }
        WatchEnd::Queue(error) => ApiError::from(error).into(),
    }
}
