//! A network of pipes, for tests in virtual time: nothing in it waits for the system.

use std::{io, net::SocketAddr};

use tokio::{io::DuplexStream, sync::mpsc};

use super::Listener;

const PIPE_BYTES: usize = 1 << 16;

/// Connects.
#[derive(Debug)]
pub(crate) struct PipeDoor(mpsc::Sender<DuplexStream>);

/// Yields the connections that are made.
#[derive(Debug)]
pub(crate) struct Pipes(mpsc::Receiver<DuplexStream>);

impl Pipes {
    pub(crate) fn new() -> (PipeDoor, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (PipeDoor(sender), Self(receiver))
    }
}

impl PipeDoor {
    /// A new connection; it stays open until one side is dropped.
    pub(crate) async fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        self.0.send(theirs).await.unwrap();
        ours
    }
}

impl Listener for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        match self.0.recv().await {
            Some(pipe) => Ok((pipe, self.local_addr()?)),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], 1)))
    }
}
