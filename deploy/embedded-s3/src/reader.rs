//! The bytes of an object as a stream, for responses and for checksums over stored content.
//!
//! Holds its blobs, so an object that is overwritten or deleted meanwhile is still read to its end, unmixed.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use s3s::StdError;
use s3s::stream::{ByteStream, RemainingLength};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::blobs::{CHUNK_BYTES, Hold};
use crate::model::Extent;

/// See the [module](self).
pub(crate) struct ContentStream {
    inner: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>,
    remaining: u64,
}

struct State {
    hold: Hold,
    extents: VecDeque<Extent>,
    file: Option<tokio::fs::File>,
}

impl ContentStream {
    pub(crate) fn new(hold: Hold) -> Self {
        let remaining = hold.content().len();
        let extents = hold.content().0.iter().cloned().collect();
        let state = State { hold, extents, file: None };
        Self { inner: Box::pin(stream::try_unfold(state, next_chunk)), remaining }
    }

    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) async fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.inner.next().await.transpose()
    }
}

impl Stream for ContentStream {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let chunk = std::task::ready!(self.inner.as_mut().poll_next(context));
        if let Some(Ok(bytes)) = &chunk {
            self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
        }
        Poll::Ready(chunk.map(|chunk| chunk.map_err(StdError::from)))
    }
}

impl ByteStream for ContentStream {
    fn remaining_length(&self) -> RemainingLength {
        usize::try_from(self.remaining)
            .map_or_else(|_| RemainingLength::unknown(), RemainingLength::new_exact)
    }
}

async fn next_chunk(mut state: State) -> io::Result<Option<(Bytes, State)>> {
    let Some(extent) = state.extents.front_mut() else { return Ok(None) };
    let len = usize::try_from(extent.len).unwrap_or(usize::MAX).min(CHUNK_BYTES);
    let chunk = match state.hold.path(extent.blob) {
        None => {
            let bytes = state.hold.bytes(extent.blob).ok_or(io::ErrorKind::NotFound)?;
            let offset = usize::try_from(extent.offset).map_err(io::Error::other)?;
            bytes.slice(offset..offset + len)
        }
        Some(path) => {
            let file = match &mut state.file {
                Some(file) => file,
                None => {
                    let mut file = tokio::fs::File::open(path).await?;
                    file.seek(io::SeekFrom::Start(extent.offset)).await?;
                    state.file.insert(file)
                }
            };
            let mut buffer = BytesMut::zeroed(len);
            file.read_exact(&mut buffer).await?;
            buffer.freeze()
        }
    };
    extent.offset += len as u64;
    extent.len -= len as u64;
    if extent.len == 0 {
        state.extents.pop_front();
        state.file = None;
    }
    Ok(Some((chunk, state)))
}
