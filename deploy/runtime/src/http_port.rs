//! A port that serves HTTP/1 and HTTP/2, in plaintext or with a certificate of its own, with bounds on connections and times. What is served
//! there is its user's choice.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::tls::ServerCertificate;

/// Connections at a time; whoever comes later waits in the listener's backlog.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may take to say its first word, and to send the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long answers under way may take when the program ends.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Pause after the system could not accept a connection: it lacks files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a request comes from; an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote(pub SocketAddr);

/// A port that is bound and can be served.
#[derive(Debug)]
pub struct HttpPort {
    listener: TcpListener,
    addr: SocketAddr,
    certificate: Option<ServerCertificate>,
}

impl HttpPort {
    /// Binds the address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr, certificate: None })
    }

    /// Speaks TLS only, with that certificate where there is one.
    #[must_use]
    pub fn secured(self, certificate: Option<ServerCertificate>) -> Self {
        Self { certificate, ..self }
    }

    /// The address; the real port where port 0 was asked for.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop`, and then for a moment what is under way.
    pub async fn serve(self, routes: Router, stop: CancellationToken) {
        self.serve_to_the_end(routes, stop, END_WITHIN).await;
    }

    /// Serves until `stop`, and then at most for `end_within` what is under way.
    pub async fn serve_to_the_end(self, routes: Router, stop: CancellationToken, end_within: Duration) {
        let addr = self.addr;
        let graceful = GracefulShutdown::new();
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
        server
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .max_concurrent_streams(32);
        let mut connections = JoinSet::new();
        loop {
            let (stream, remote) = tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    note_end(ended);
                    continue;
                }
                accepted = self.listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, remote)) => (stream, Remote(remote)),
                    Err(error) => {
                        warn!(%addr, %error, "no connection can be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let service = TowerToHyperService::new(routes.clone().layer(Extension(remote)));
            let (server, watcher) = (server.clone(), graceful.watcher());
            let certificate = self.certificate.clone();
            connections.spawn(async move {
                if !speaks(&stream).await {
                    return;
                }
                let io: Box<dyn Io> = match certificate {
                    None => Box::new(stream),
                    Some(certificate) => match timeout(HEAD_WITHIN, certificate.accept(stream)).await {
                        Ok(Ok(stream)) => Box::new(stream),
                        Ok(Err(error)) => return debug!(%addr, %error, "a handshake failed"),
                        Err(_) => return debug!(%addr, "a handshake took too long"),
                    },
                };
                let connection = server.serve_connection(TokioIo::new(io), service).into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    debug!(%addr, error, "a connection failed");
                }
            });
        }
        // What is left after this, such as the stream of somebody who watches, ends with its task.
        if timeout(end_within, graceful.shutdown()).await.is_err() {
            debug!(%addr, "connections are cut");
        }
    }
}

/// A connection, with or without TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Whether anything was sent in time; a connection that says nothing must not keep its place.
async fn speaks(stream: &TcpStream) -> bool {
    matches!(timeout(HEAD_WITHIN, stream.readable()).await, Ok(Ok(())))
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        warn!(%error, "a connection of an HTTP port panicked");
    }
}
