//! Knows the calls of one connection, so that one without any can be ended, and one whose peer does not take its answers.
//!
//! A call lasts until the body of its answer has been sent or dropped: the stream of a worker is one for hours.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::{Status, body::Body};

/// The calls of a connection.
#[derive(Debug, Clone)]
pub(super) struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    count: watch::Sender<usize>,
    next: AtomicU64,
    /// Calls with something to send that the peer has not asked for yet, and since when.
    untaken: Mutex<HashMap<u64, Instant>>,
}

/// A call in progress, as long as this lives.
#[derive(Debug)]
pub(super) struct Call {
    calls: Calls,
    id: u64,
}

/// The body of an answer, with the call that it belongs to.
///
/// The connection asks it for a frame only when the peer's windows have room (RFC 9113, 5.2): whoever grants none is never asked for.
#[derive(Debug)]
pub(super) struct CallBody {
    body: Body,
    call: Call,
}

impl Calls {
    pub(super) fn none() -> Self {
        let (next, untaken) = (AtomicU64::new(0), Mutex::default());
        Self(Arc::new(Inner { count: watch::Sender::new(0), next, untaken }))
    }

    /// Notes that a call begins.
    pub(super) fn begin(&self) -> Call {
        // Only whether there are any is of interest to anybody.
        self.0.count.send_if_modified(|count| {
            *count += 1;
            *count == 1
        });
        Call { calls: self.clone(), id: self.0.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// Waits until an answer has been there for so long, at most twice, without the peer having taken any of it.
    pub(super) async fn untaken_for(&self, within: Duration) {
        loop {
            let oldest = self.0.untaken().values().min().copied();
            match oldest {
                Some(since) if since.elapsed() >= within => return,
                Some(since) => sleep_until(since + within).await,
                None => sleep(within).await,
            }
        }
    }

    /// Waits until there has been no call for so long.
    pub(super) async fn idle_for(&self, within: Duration) {
        let mut count = self.0.count.subscribe();
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

impl Inner {
    fn untaken(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.untaken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// There is something for the peer.
    fn offer(&self) {
        self.calls.0.untaken().insert(self.id, Instant::now());
    }

    /// The peer has room for more.
    fn taken(&self) {
        self.calls.0.untaken().remove(&self.id);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.taken();
        self.calls.0.count.send_if_modified(|count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }
}

impl CallBody {
    pub(super) fn new(body: Body, call: Call) -> Self {
        call.offer();
        Self { body, call }
    }
}

impl HttpBody for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.call.taken();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            self.call.offer();
        }
        polled
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

    /// A body of one frame, asked for it or not.
    fn offered(calls: &Calls) -> CallBody {
        CallBody::new(Body::new(http_body_util::Full::new(Bytes::from_static(b"answer"))), calls.begin())
    }

    /// Asks for a frame, as the connection does when the peer has room.
    fn take(body: &mut CallBody) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(body).poll_frame(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_is_noticed() {
        let (calls, within) = (Calls::none(), Duration::from_secs(60));
        let start = Instant::now();
        let mut body = offered(&calls);
        calls.untaken_for(within).await;
        assert_eq!(start.elapsed(), within);
        // The first frame was taken, and what comes next is not.
        assert!(matches!(take(&mut body), Poll::Ready(Some(Ok(_)))));
        assert!(calls.untaken_for(within).now_or_never().is_none());
        calls.untaken_for(within).await;
        assert_eq!(start.elapsed(), within * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_with_nothing_to_say_and_an_answer_that_was_dropped_are_not_waited_for() {
        let (calls, within) = (Calls::none(), Duration::from_secs(60));
        let silent = futures_util::stream::pending::<Result<Frame<Bytes>, Status>>();
        let mut stream = CallBody::new(Body::new(http_body_util::StreamBody::new(silent)), calls.begin());
        assert!(take(&mut stream).is_pending());
        drop(offered(&calls));
        assert!(timeout(within * 10, calls.untaken_for(within)).await.is_err());
    }
}
