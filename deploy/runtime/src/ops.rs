//! The port for operators: `/metrics`, `/livez`, `/readyz`, and whatever gRPC services a program adds (health, a scaler).
//!
//! Plaintext HTTP/1 and HTTP/2, because the kubelet's probes and most scrapers can nothing else; so nothing may be served here that
//! tells of a user's data or changes anything. Liveness says only that the process answers: a restart mends neither Redis nor a store.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics::{Page, Source, process};

/// Connections at a time; whoever comes later waits in the listener's backlog.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may take to say its first word, and to send the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long answers under way may take when the program ends.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Pause after the system could not accept a connection: it lacks files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether the program wants work now. Clones are one.
#[derive(Debug, Clone)]
pub struct Ready(Arc<watch::Sender<bool>>);

/// A port that is bound and can be served.
#[derive(Debug)]
pub struct OpsPort {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Ready {
    /// Says whether it does.
    pub fn set(&self, ready: bool) {
        self.0.send_if_modified(|was| std::mem::replace(was, ready) != ready);
    }

    /// Whether it does.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until that differs from `known`; what it is then.
    pub async fn other_than(&self, known: bool) -> bool {
        // The sender is held by this very value.
        self.0.subscribe().wait_for(|ready| *ready != known).await.map_or(!known, |ready| *ready)
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl OpsPort {
    /// Binds the address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr })
    }

    /// The address; the real port where port 0 was asked for.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop`, and then for a moment what is under way.
    pub async fn serve(self, routes: Router, stop: CancellationToken) {
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
            let stream = tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    note_end(ended);
                    continue;
                }
                accepted = self.listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        warn!(%error, "no connection can be accepted on the port for operators");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (server, watcher, service) =
                (server.clone(), graceful.watcher(), TowerToHyperService::new(routes.clone()));
            connections.spawn(async move {
                if !speaks(&stream).await {
                    return;
                }
                let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    debug!(error, "a connection of the port for operators failed");
                }
            });
        }
        // What is left after this, such as the stream of somebody who watches, ends with its task.
        if timeout(END_WITHIN, graceful.shutdown()).await.is_err() {
            debug!("connections of the port for operators are cut");
        }
    }
}

/// The pages that every program has. `sources` are asked in turn, by one reader at a time.
pub fn routes(sources: Vec<Arc<dyn Source>>, ready: Ready) -> Router {
    let sources = Arc::new(Mutex::new(sources));
    let metrics = move || {
        let sources = Arc::clone(&sources);
        async move { metrics(&sources.lock().await).await }
    };
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async move || readiness(&ready)))
        .route("/metrics", get(metrics))
}

async fn metrics(sources: &[Arc<dyn Source>]) -> Response {
    let mut page = Page::default();
    process::write(&mut page);
    for source in sources {
        source.write(&mut page).await;
    }
    ([(CONTENT_TYPE, Page::CONTENT_TYPE)], page.into_text()).into_response()
}

fn readiness(ready: &Ready) -> Response {
    if ready.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

/// Whether anything was sent in time; a connection that says nothing must not keep its place.
async fn speaks(stream: &TcpStream) -> bool {
    matches!(timeout(HEAD_WITHIN, stream.readable()).await, Ok(Ok(())))
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        warn!(%error, "a connection of the port for operators panicked");
    }
}

#[cfg(test)]
mod tests;
