//! Answers that end when the proof of who called does: a stream must not last longer than the certificate or token that let it in.
//!
//! Costs an answer that is complete at once nothing but a look at the time. Must not know what is answered.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::status::ApiError;

/// When an answer has to end; never, by default.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    /// At that time.
    pub at: Option<Instant>,
    /// When this is cancelled.
    pub when: Option<CancellationToken>,
}

/// An answer, up to its end.
pub struct Ending<B> {
    body: B,
    ends: Ends,
    /// The wait for the end, from when there was first something to wait for.
    wait: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    is_over: bool,
}

impl Ends {
    fn are_here(&self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
            || self.when.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    fn wait(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        match (self.at, self.when.clone()) {
            (None, None) => None,
            (Some(at), None) => Some(Box::pin(sleep_until(at))),
            (None, Some(when)) => Some(Box::pin(when.cancelled_owned())),
            (Some(at), Some(when)) => Some(Box::pin(async move {
                when.run_until_cancelled_owned(sleep_until(at)).await;
            })),
        }
    }
}

impl<B: Default> Ending<B> {
    /// `body`, up to `ends`.
    pub(super) const fn new(body: B, ends: Ends) -> Self {
        Self { body, ends, wait: None, is_over: false }
    }

    /// Says why, and lets go of what was being sent.
    fn end<E>(&mut self) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        self.is_over = true;
        self.body = B::default();
        let mut trailers = HeaderMap::new();
        match ApiError::Reauthenticate.into_status().add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            // Without trailers a client knows that the stream did not end in order.
            Err(_status) => Poll::Ready(None),
        }
    }
}

impl<B> HttpBody for Ending<B>
where
    B: HttpBody<Data = Bytes> + Default + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        if this.ends.are_here() {
            return this.end();
        }
        if let ready @ Poll::Ready(_) = Pin::new(&mut this.body).poll_frame(cx) {
            return ready;
        }
        if this.wait.is_none() {
            this.wait = this.ends.wait();
        }
        match this.wait.as_mut().map(|wait| wait.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => this.end(),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for Ending<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending")
            .field("ends", &self.ends)
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::{BodyExt as _, StreamBody};
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::{Code, Status, body::Body};

    use super::*;

    type Sender = tokio::sync::mpsc::Sender<Result<Frame<Bytes>, Status>>;

    fn stream(ends: Ends) -> (Sender, Ending<Body>) {
        let (sender, frames) = tokio::sync::mpsc::channel(4);
        (sender, Ending::new(Body::new(StreamBody::new(ReceiverStream::new(frames))), ends))
    }

    async fn status(answer: &mut Ending<Body>) -> Status {
        let trailers = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert!(answer.frame().await.is_none(), "nothing comes after the end");
        Status::from_header_map(&trailers).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_time_and_says_why() {
        let start = Instant::now();
        let ends = Ends { at: Some(start + Duration::from_secs(60)), when: None };
        let (sender, mut answer) = stream(ends);
        sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
        assert!(answer.frame().await.unwrap().unwrap().is_data());
        let status = status(&mut answer).await;
        assert_eq!(start.elapsed(), Duration::from_secs(60));
        assert_eq!(crate::grpc::testing::told(&status), (Code::Unavailable, "REAUTHENTICATE".into()));
        assert!(sender.is_closed(), "whoever sends is let go");
    }

    #[tokio::test]
    async fn a_stream_that_never_waits_ends_too() {
        let (sender, mut answer) = stream(Ends { at: Some(Instant::now()), when: None });
        sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
        assert_eq!(status(&mut answer).await.code(), Code::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn whichever_comes_first_ends_it() {
        let when = CancellationToken::new();
        let ends = Ends { at: Some(Instant::now() + Duration::from_secs(60)), when: Some(when.clone()) };
        let (_sender, mut answer) = stream(ends);
        assert!(tokio::time::timeout(Duration::from_secs(30), answer.frame()).await.is_err());
        when.cancel();
        assert_eq!(status(&mut answer).await.code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn what_ends_by_itself_is_left_alone() {
        let (sender, mut answer) = stream(Ends::default());
        sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
        drop(sender);
        assert!(answer.frame().await.unwrap().unwrap().is_data());
        assert!(answer.frame().await.is_none());
    }
}
