//! Counts the calls of one connection, so that one without any can be ended.
//!
//! A call lasts until the body of its answer has been sent or dropped: the stream of a worker is one for hours.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{sync::watch, time::timeout};
use tonic::{Status, body::Body};

/// The calls of a connection.
#[derive(Debug, Clone)]
pub(super) struct Calls(Arc<watch::Sender<usize>>);

/// A call in progress, as long as this lives.
#[derive(Debug)]
pub(super) struct Call(Calls);

/// The body of an answer, with the call that it belongs to.
#[derive(Debug)]
pub(super) struct CallBody {
    body: Body,
    _call: Call,
}

impl Calls {
    pub(super) fn none() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Notes that a call begins.
    pub(super) fn begin(&self) -> Call {
        // Only whether there are any is of interest to anybody.
        self.0.send_if_modified(|count| {
            *count += 1;
            *count == 1
        });
        Call(self.clone())
    }

    /// Waits until there has been no call for so long.
    pub(super) async fn idle_for(&self, within: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // The sender lives in `self`: there is no other error.
            if count.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            if timeout(within, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }
}

impl CallBody {
    pub(super) const fn new(body: Body, call: Call) -> Self {
        Self { body, _call: call }
    }
}

impl HttpBody for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_without_calls_is_counted_from_the_end_of_the_last_one() {
        let (calls, within) = (Calls::none(), Duration::from_secs(60));
        let start = Instant::now();
        let first = calls.begin();
        let second = calls.begin();
        let idle = calls.idle_for(within);
        tokio::pin!(idle);
        assert!(timeout(within * 10, &mut idle).await.is_err());
        drop(first);
        assert!(timeout(within * 10, &mut idle).await.is_err());
        drop(second);
        // A call between starts the time anew.
        assert!(timeout(within / 2, &mut idle).await.is_err());
        drop(calls.begin());
        assert!(timeout(within * 2 / 3, &mut idle).await.is_err());
        assert!(idle.as_mut().now_or_never().is_none());
        idle.await;
        assert_eq!(start.elapsed(), within * 20 + within / 2 + within);
    }
}
