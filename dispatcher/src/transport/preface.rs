//! The first bytes of an HTTP/2 connection: read before anything is built for it, and given back to whoever speaks the protocol.
//!
//! It exists so that a peer that says nothing, or something else, costs a socket and a timer and no more.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What a client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose peer has begun to speak HTTP/2.
#[derive(Debug)]
pub(super) struct Prefaced<I> {
    io: I,
    given: usize,
}

impl<I: AsyncRead + Unpin> Prefaced<I> {
    /// Reads the preface.
    ///
    /// # Errors
    /// The peer has gone, or speaks something else.
    pub(super) async fn read(mut io: I) -> io::Result<Self> {
        let mut seen = [0; PREFACE.len()];
        let mut count = 0;
        while count < PREFACE.len() {
            let more = io.read(&mut seen[count..]).await?;
            if more == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            count += more;
            // Not at the end only: whoever speaks HTTP/1 waits for an answer.
            if seen[..count] != PREFACE[..count] {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not speak HTTP/2"));
            }
        }
        Ok(Self { io, given: 0 })
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefaced<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &PREFACE[self.given..];
        if left.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        self.given += count;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefaced<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn what_was_read_is_read_again_and_then_the_rest() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(PREFACE).await.unwrap();
        client.write_all(b"frames").await.unwrap();
        drop(client);
        let mut prefaced = Prefaced::read(server).await.unwrap();
        let mut start = [0; 5];
        prefaced.read_exact(&mut start).await.unwrap();
        let mut rest = Vec::new();
        prefaced.read_to_end(&mut rest).await.unwrap();
        assert_eq!([&start[..], &rest].concat(), [PREFACE, b"frames"].concat());
    }

    #[tokio::test]
    async fn another_protocol_is_refused_at_its_first_wrong_byte() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"PRI * HTTP/1").await.unwrap();
        let error = Prefaced::read(server).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_peer_that_goes_before_it_has_spoken_is_an_end_of_file() {
        let (client, server) = tokio::io::duplex(64);
        drop(client);
        assert_eq!(Prefaced::read(server).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
