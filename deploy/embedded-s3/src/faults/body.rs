//! A response body with a fault in it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use s3s::stream::{ByteStream, DynByteStream, RemainingLength};
use s3s::{Body, StdError};

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// Fails when this many bytes have passed, or at the end.
    Cut { after: u64 },
    /// Sends nothing more when this many bytes have passed.
    Stall { after: u64 },
    /// One byte has its lowest bit flipped.
    Flip { at: u64 },
    /// One byte comes behind the end.
    Extra,
}

/// A body that fails as told.
pub(super) struct FaultyBody {
    inner: Body,
    defect: Defect,
    passed: u64,
    ended: bool,
}

/// What a cut body ends with. The server closes the connection on it.
#[derive(Debug, thiserror::Error)]
#[error("cut off by a fault rule")]
struct CutOff;

impl FaultyBody {
    pub(super) fn wrap(inner: Body, defect: Defect) -> Body {
        let stream: DynByteStream = Box::pin(Self { inner, defect, passed: 0, ended: false });
        Body::from(stream)
    }

    fn at_end(&mut self) -> Option<Result<Bytes, StdError>> {
        let ended = std::mem::replace(&mut self.ended, true);
        match self.defect {
            Defect::Cut { .. } if !ended => Some(Err(CutOff.into())),
            Defect::Extra if !ended => Some(Ok(Bytes::from_static(b"!"))),
            Defect::Cut { .. } | Defect::Extra | Defect::Stall { .. } | Defect::Flip { .. } => None,
        }
    }

    fn change(&mut self, chunk: Bytes) -> Bytes {
        let start = self.passed;
        let changed = match self.defect {
            Defect::Cut { after } | Defect::Stall { after } => {
                let room = usize::try_from(after.saturating_sub(start)).unwrap_or(usize::MAX);
                chunk.slice(..room.min(chunk.len()))
            }
            Defect::Flip { at } => match at.checked_sub(start).and_then(|at| usize::try_from(at).ok()) {
                Some(at) if at < chunk.len() => {
                    let mut flipped = BytesMut::from(&chunk[..]);
                    flipped[at] ^= 1;
                    flipped.freeze()
                }
                Some(_) | None => chunk,
            },
            Defect::Extra => chunk,
        };
        self.passed += changed.len() as u64;
        changed
    }
}

impl Stream for FaultyBody {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.defect {
            Defect::Cut { after } if self.passed >= after => return Poll::Ready(self.at_end()),
            // Nobody will wake this; the connection ends with the client's patience or the server.
            Defect::Stall { after } if self.passed >= after => return Poll::Pending,
            Defect::Cut { .. } | Defect::Stall { .. } | Defect::Flip { .. } | Defect::Extra => {}
        }
        match std::task::ready!(Pin::new(&mut self.inner).poll_next(context)) {
            Some(Ok(chunk)) => {
                let chunk = self.change(chunk);
                Poll::Ready(Some(Ok(chunk)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(self.at_end()),
        }
    }
}

impl ByteStream for FaultyBody {
    fn remaining_length(&self) -> RemainingLength {
        // The head of the response has said it; a cut body must not admit that it is shorter.
        RemainingLength::unknown()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    fn collect(defect: Defect) -> (Vec<u8>, bool, bool) {
        let mut body = FaultyBody::wrap(Body::from(Bytes::from_static(b"abcdef")), defect);
        let (mut bytes, mut failed) = (Vec::new(), false);
        loop {
            match body.next().now_or_never() {
                None => return (bytes, failed, true),
                Some(None) => return (bytes, failed, false),
                Some(Some(Ok(chunk))) => bytes.extend_from_slice(&chunk),
                Some(Some(Err(_))) => failed = true,
            }
        }
    }

    #[test]
    fn each_defect_does_what_it_says() {
        assert_eq!(collect(Defect::Cut { after: 2 }), (b"ab".to_vec(), true, false));
        assert_eq!(collect(Defect::Cut { after: 0 }), (Vec::new(), true, false));
        assert_eq!(collect(Defect::Cut { after: 60 }), (b"abcdef".to_vec(), true, false));
        assert_eq!(collect(Defect::Stall { after: 3 }), (b"abc".to_vec(), false, true));
        assert_eq!(collect(Defect::Flip { at: 1 }), (b"accdef".to_vec(), false, false));
        assert_eq!(collect(Defect::Flip { at: 6 }), (b"abcdef".to_vec(), false, false));
        assert_eq!(collect(Defect::Extra), (b"abcdef!".to_vec(), false, false));
    }
}
