//! Accepts connections and speaks HTTP/2 on each until it is asked to end.
//!
//! Not tonic's own server: that one loops at once when the system is out of descriptors, bounds neither connections nor the time
//! until a peer says something, and waits for open streams without end.

use std::{net::SocketAddr, pin::pin, time::Duration};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes, transport::server::TcpConnectInfo};
use tower::Service as _;
use tracing::{debug, error, warn};

use super::Listener;

/// Serves the same services to everybody who connects.
#[derive(Debug)]
pub(crate) struct Server<L> {
    listener: L,
    routes: Routes,
    http2: http2::Builder<TokioExecutor>,
}

impl<L: Listener> Server<L> {
    /// A server that accepts nothing yet.
    pub(crate) fn new(listener: L, routes: Routes) -> Self {
        Self { listener, routes: routes.prepare(), http2: http2() }
    }

    /// Accepts and serves connections until `end`, then until the calls in progress have been answered. Dropping it ends them.
    pub(crate) async fn run(mut self, end: CancellationToken) {
        let mut connections = JoinSet::new();
        let local = self.listener.local_addr().ok();
        loop {
            tokio::select! {
                () = end.cancelled() => break,
                Some(ended) = connections.join_next() => note(ended),
                accepted = self.listener.accept() => match accepted {
                    Ok((io, peer)) => {
                        let info = TcpConnectInfo { local_addr: local, remote_addr: Some(peer) };
                        connections.spawn(serve(self.http2.clone(), io, peer, info, self.routes.clone(), end.clone()));
                    }
                    Err(error) => {
                        warn!(%error, "no connection could be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(self.listener);
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    }
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(error = &error as &dyn std::error::Error, "a connection failed");
    }
}

/// Speaks HTTP/2 on one connection until it ends; from `end` on, only what is in progress.
async fn serve<I>(
    http2: http2::Builder<TokioExecutor>,
    io: I,
    peer: SocketAddr,
    info: TcpConnectInfo,
    routes: Routes,
    end: CancellationToken,
) where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(info.clone());
        let mut routes = routes.clone();
        routes.call(request.map(Body::new))
    });
    let mut connection = pin!(http2.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = end.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%peer, error = &error as &dyn std::error::Error, "connection ended");
    }
}

/// Bounds on every connection. Limits on calls are not here, see [`crate::grpc::layers`].
fn http2() -> http2::Builder<TokioExecutor> {
    /// More calls of one peer than this wait in the peer.
    const STREAMS_PER_CONNECTION: u32 = 128;
    /// What a peer may send before it is read, per stream and per connection. h2 counts small frames against half of it, and
    /// heartbeats and answers of workers are small frames.
    const WINDOW_BYTES: u32 = 1024 * 1024;
    const HEADER_BYTES: u32 = 16 * 1024;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES)
        // A peer that vanished without a word is noticed within 30 s.
        .keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}
