//! A stream of changes that outlives its connections: when one breaks, the next goes on where it ended, at whichever dispatcher
//! answers then.
//!
//! Only how to go on is known here, not what is shown.

use std::time::Duration;

use backhaul_proto::v1::{self, backup_service_client::BackupServiceClient};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::client::{ClientError, Transport};

/// A watch, through any number of connections.
#[derive(Debug)]
pub(crate) struct Watching {
    service: BackupServiceClient<Transport>,
    /// What is followed, and from where.
    request: v1::WatchBackupsRequest,
    stream: Option<Streaming<v1::WatchBackupsResponse>>,
    /// How long nobody may answer before it is given up.
    timeout: Duration,
}

impl Watching {
    pub(crate) const fn new(
        service: BackupServiceClient<Transport>,
        request: v1::WatchBackupsRequest,
        timeout: Duration,
    ) -> Self {
        Self { service, request, stream: None, timeout }
    }

    /// The next message. Waits for it, as long as somebody answers.
    pub(crate) async fn next(&mut self) -> Result<v1::WatchBackupsResponse, ClientError> {
        let mut pause = Duration::from_millis(100);
        let mut gives_up = None;
        loop {
            let deadline = *gives_up.get_or_insert_with(|| Instant::now() + self.timeout);
            let status = match self.read(deadline).await {
                Ok(message) => {
                    if !message.cursor.is_empty() {
                        self.request.cursor.clone_from(&message.cursor);
                    }
                    return Ok(message);
                }
                Err(status) => status,
            };
            if self.stream.take().is_some() {
                // It answered until now: the time for the next to answer begins.
                gives_up = None;
                continue;
            }
            let wait = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or(pause);
            if !may_pass(&status) || Instant::now() + wait > deadline {
                return Err(ClientError::Status(status));
            }
            sleep(wait).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn read(&mut self, deadline: Instant) -> Result<v1::WatchBackupsResponse, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let begun = timeout_at(deadline, self.service.watch_backups(self.request.clone())).await;
                let stream = begun.map_err(|_| Status::unavailable("no answer in time"))??.into_inner();
                none.insert(stream)
            }
        };
        let message = stream.message().await?;
        message.ok_or_else(|| Status::unavailable("the stream has ended"))
    }
}

/// True when another attempt can bring what this one did not. What a connection says when it breaks has no details.
fn may_pass(status: &Status) -> bool {
    let code = status.code();
    let asks_for_it = matches!(code, Code::Unavailable | Code::ResourceExhausted);
    asks_for_it || code != Code::Unimplemented && status.get_details_error_info().is_none()
}
