//! One connection: its handshake within a time, HTTP/2, and its end when it is idle, silent, or no longer wanted.

use std::{convert::Infallible, io, net::IpAddr, pin::pin, sync::Arc};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};
use tower::Service as _;
use tracing::debug;

use super::{
    ConnectionLimits, Peer,
    calls::{CallBody, Calls},
    preface::Prefaced,
};
use crate::{census::Place, metrics::OpenConnection};

/// What all connections share.
#[derive(Debug)]
pub(super) struct Host {
    routes: Routes,
    limits: ConnectionLimits,
    handshakes: Semaphore,
    http2: http2::Builder<TokioExecutor>,
}

impl Host {
    pub(super) fn new(routes: Routes, limits: ConnectionLimits) -> Self {
        let handshakes = Semaphore::new(limits.max_handshakes.min(Semaphore::MAX_PERMITS));
        Self { routes: routes.prepare(), limits, handshakes, http2: http2(&limits) }
    }

    /// Serves one connection until it ends; from `end` on, only what is in progress.
    pub(super) async fn serve<I>(
        self: Arc<Self>,
        io: I,
        peer: Peer,
        _place: (Place<IpAddr>, OpenConnection),
        end: CancellationToken,
    ) where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let greeted = end.run_until_cancelled(timeout(self.limits.handshake_within, self.greet(io)));
        match greeted.await {
            Some(Ok(Ok(io))) => self.speak(io, peer, end).await,
            Some(Ok(Err(error))) => debug!(peer = %peer.address, %error, "no handshake"),
            Some(Err(_elapsed)) => debug!(peer = %peer.address, "no handshake in time"),
            None => {}
        }
    }

    /// Finds out that the peer speaks the protocol. Those that may not begin yet wait in order.
    async fn greet<I: AsyncRead + AsyncWrite + Unpin>(&self, io: I) -> io::Result<Prefaced<I>> {
        let _turn = self.handshakes.acquire().await.map_err(io::Error::other)?;
        Prefaced::read(io).await
    }

    async fn speak<I>(&self, io: I, peer: Peer, end: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (calls, address) = (Calls::none(), peer.address);
        let service = service_fn(|request| answer(self.routes.clone(), peer.clone(), calls.clone(), request));
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(io), service));
        let ended = tokio::select! {
            ended = &mut connection => Some(ended),
            () = end.cancelled() => None,
            () = calls.idle_for(self.limits.idle_within) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
                    // The peer knows that it must go, and nothing is lost by closing.
                    () = calls.idle_for(self.limits.goodbye_within) => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            debug!(peer = %address, error = &error as &dyn std::error::Error, "connection lost");
        }
    }
}

/// Answers one call.
async fn answer(
    mut routes: Routes,
    peer: Peer,
    calls: Calls,
    mut request: Request<Incoming>,
) -> Result<Response<CallBody>, Infallible> {
    let call = calls.begin();
    request.extensions_mut().insert(peer);
    let response = routes.call(request.map(Body::new)).await?;
    Ok(response.map(|body| CallBody::new(body, call)))
}

/// Bounds on what is said on a connection. Limits on calls are not here, see [`crate::grpc::layers`].
fn http2(limits: &ConnectionLimits) -> http2::Builder<TokioExecutor> {
    /// More calls of one peer than this wait in the peer.
    const STREAMS_PER_CONNECTION: u32 = 128;
    /// What a peer may send before it is read, per stream and per connection. h2 counts small frames against half of it, and
    /// heartbeats and answers of workers are small frames.
    const WINDOW_BYTES: u32 = 1024 * 1024;
    const HEADER_BYTES: u32 = 16 * 1024;
    // The tasks of calls are hyper's: each ends with its call or its connection.
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(limits.ping_after)
        .keep_alive_timeout(limits.pong_within);
    builder
}
