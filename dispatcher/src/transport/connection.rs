//! One connection: its handshake within a time, HTTP/2, and its end when it is idle, silent, or no longer wanted.

use std::{
    convert::Infallible,
    future::{Future, pending},
    io,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use backhaul_runtime::tls::{PeerIdentity, ServerStream as TlsStream, Tls};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};
use tower::Service as _;
use tracing::{debug, info};

use super::{
    ConnectionLimits, Peer,
    calls::{CallBody, Calls},
    preface::Prefaced,
    server::Refusals,
};
use crate::{
    audit::Audit,
    census::Place,
    metrics::{Connections, OpenConnection},
};

/// What all connections share.
#[derive(Debug)]
pub(super) struct Host {
    routes: Routes,
    limits: ConnectionLimits,
    handshakes: Semaphore,
    http2: http2::Builder<TokioExecutor>,
    tls: Option<Tls>,
    refusals: Mutex<Refusals>,
    gauge: Arc<Connections>,
    audit: Audit,
}

/// Why a connection is ended from here.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// Nothing is wrong with it: calls in progress may take their time.
    InOrder,
    /// Its peer must prove itself anew, and has this long for that.
    Unproven(Duration),
    /// Its peer does not take what it asked for.
    Untaken,
}

impl Host {
    pub(super) fn new(
        routes: Routes,
        limits: ConnectionLimits,
        tls: Option<Tls>,
        gauge: Arc<Connections>,
        audit: Audit,
    ) -> Self {
        let handshakes = Semaphore::new(limits.max_handshakes.min(Semaphore::MAX_PERMITS));
        let (routes, http2, refusals) = (routes.prepare(), http2(&limits), Mutex::default());
        Self { routes, limits, handshakes, http2, tls, refusals, gauge, audit }
    }

    /// Counts one connection, until what is given is dropped.
    pub(super) fn opened(&self) -> OpenConnection {
        self.gauge.opened()
    }

    /// Serves one connection until it ends; from `end` on, only what is in progress.
    pub(super) async fn serve<I>(
        self: Arc<Self>,
        io: I,
        mut peer: Peer,
        _place: (Place<IpAddr>, OpenConnection),
        end: CancellationToken,
    ) where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match &self.tls {
            None => {
                if let Some(io) = self.in_time(&peer, &end, self.greet(io)).await {
                    self.speak(io, peer, end).await;
                }
            }
            Some(tls) => {
                if let Some((io, identity)) = self.in_time(&peer, &end, self.prove(tls, io)).await {
                    peer.identity = identity;
                    self.speak(io, peer, end).await;
                }
            }
        }
    }

    /// Waits for a handshake as long as there is time for it.
    async fn in_time<T>(
        &self,
        peer: &Peer,
        end: &CancellationToken,
        handshake: impl Future<Output = io::Result<T>>,
    ) -> Option<T> {
        match end.run_until_cancelled(timeout(self.limits.handshake_within, handshake)).await? {
            Ok(Ok(done)) => return Some(done),
            // Whoever looks whether the port is open says nothing at all.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                debug!(peer = %peer.address, "gone before its handshake");
            }
            Ok(Err(error)) => self.refuse(peer, &error),
            Err(_elapsed) => self.refuse(peer, &"no handshake in time"),
        }
        None
    }

    fn refuse(&self, peer: &Peer, why: &dyn std::fmt::Display) {
        self.gauge.handshake_refused();
        // In plaintext nobody proves anything, so nobody fails to.
        if self.tls.is_some() {
            self.audit.handshake_refused(peer.address, &why.to_string());
        }
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.note(why, peer.address, Instant::now());
    }

    /// Finds out who the peer is, and that it speaks the protocol.
    async fn prove<I>(&self, tls: &Tls, io: I) -> io::Result<(Prefaced<TlsStream<I>>, Option<PeerIdentity>)>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let _turn = self.handshakes.acquire().await.map_err(io::Error::other)?;
        let (io, identity) = tls.accept(io).await?;
        Ok((Prefaced::read(io).await?, identity))
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
        let (identity, reauthenticate) = (peer.identity.clone(), peer.reauthenticate.clone());
        let service = service_fn(|request| answer(self.routes.clone(), peer.clone(), calls.clone(), request));
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(io), service));
        let ending = tokio::select! {
            ended = &mut connection => Err(ended),
            () = end.cancelled() => Ok(Ending::InOrder),
            () = calls.idle_for(self.limits.idle_within) => Ok(Ending::InOrder),
            within = self.unproven(identity.as_ref()) => Ok(Ending::Unproven(within)),
            () = calls.untaken_for(self.limits.taken_within) => Ok(Ending::Untaken),
        };
        let ended = match ending {
            Err(ended) => ended,
            Ok(ending) => {
                let limit = match ending {
                    Ending::InOrder => None,
                    // A word in parting would have to be taken, too.
                    Ending::Untaken => {
                        info!(peer = %address, "the peer leaves its answers, and its connection is closed");
                        return;
                    }
                    Ending::Unproven(within) => {
                        info!(peer = %address, ?within, "the peer has to connect anew to prove who it is");
                        reauthenticate.cancel();
                        Some(within)
                    }
                };
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
                    // The peer knows that it must go, and nothing is lost by closing.
                    () = calls.idle_for(self.limits.goodbye_within) => Ok(()),
                    () = sleep_for(limit) => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            debug!(peer = %address, error = &error as &dyn std::error::Error, "connection lost");
        }
    }
}

impl Host {
    /// Waits until the peer has to prove itself anew; how long it has for that.
    async fn unproven(&self, identity: Option<&PeerIdentity>) -> Duration {
        let (Some(tls), Some(identity)) = (&self.tls, identity) else { return pending().await };
        #[expect(clippy::disallowed_methods, reason = "the edge: certificates end by the calendar")]
        let now = SystemTime::now();
        let left = identity.not_after.duration_since(now).unwrap_or_default();
        // A certificate that lives for minutes is not asked about for most of them.
        let within = self.limits.reauthenticate_within.min(left / 3);
        tokio::select! {
            () = sleep(left - within) => within,
            () = tls.trust_changed(identity.trust) => self.limits.reauthenticate_within.min(left),
        }
    }
}

async fn sleep_for(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
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
