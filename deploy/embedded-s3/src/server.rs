//! The running store: its listener, its connections, and how they end.
//!
//! Every connection is a task of one tracker. Shutting down stops accepting, lets running requests finish for a bounded
//! time and then drops what is left; dropping the handle does the last step at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Gate, Keys};
use crate::faults::{FaultLayer, FaultPlan};
use crate::guard::Guard;
use crate::options::{Options, StartError};
use crate::service::Operations;
use crate::store::Store;

/// More connections wait in the system's queue.
const MAX_CONNECTIONS: usize = 1024;

/// A client must send a request's head within this time, also on a connection that it reuses.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// XML bodies: DeleteObjects with 1000 long keys, CompleteMultipartUpload with 10,000 parts.
const MAX_XML_BYTES: usize = 8 * 1024 * 1024;

/// Upload forms, which are refused.
const MAX_FORM_BYTES: usize = 64 * 1024;

/// How long a shutdown waits for requests that are being answered.
const GRACE: Duration = Duration::from_secs(5);

/// Wait after an error of `accept`, which is about this process (too many open files), not about the client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A store that listens until [`shutdown`](Self::shutdown), or until it is dropped.
#[derive(Debug)]
pub struct EmbeddedS3 {
    addr: SocketAddr,
    faults: FaultPlan,
    tasks: TaskTracker,
    /// Stop accepting, finish what is being answered.
    stopping: CancellationToken,
    /// Drop everything.
    stopped: CancellationToken,
}

impl EmbeddedS3 {
    /// Opens the storage, binds the address and serves on the current runtime.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        Self::start_with(options, None).await
    }

    /// The same, with somebody who is asked about each request.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start_guarded(options: Options, guard: Arc<dyn Guard>) -> Result<Self, StartError> {
        Self::start_with(options, Some(guard)).await
    }

    async fn start_with(options: Options, guard: Option<Arc<dyn Guard>>) -> Result<Self, StartError> {
        let store = Arc::new(Store::open(&options.storage, &options.buckets)?);
        let listener = TcpListener::bind(options.listen).await;
        let listen_error = |source| StartError::Listen { addr: options.listen, source };
        let listener = listener.map_err(listen_error)?;
        let addr = listener.local_addr().map_err(listen_error)?;

        let (stopping, stopped) = (CancellationToken::new(), CancellationToken::new());
        let faults = FaultPlan::new();
        let service = s3_service(store, options.credentials, Gate { guard });
        let layer = FaultLayer::new(faults.clone(), service, stopped.clone());
        let tasks = TaskTracker::new();
        let accept = Acceptor {
            listener,
            layer,
            tasks: tasks.clone(),
            stopping: stopping.clone(),
            stopped: stopped.clone(),
        };
        tasks.spawn(accept.run());
        tracing::info!(%addr, "embedded store listens");
        Ok(Self { addr, faults, tasks, stopping, stopped })
    }

    /// The base URL, such as `http://127.0.0.1:41234`. Clients must use path-style addressing.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The address that the store listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The faults of this store; none until a rule is added.
    #[must_use]
    pub fn faults(&self) -> &FaultPlan {
        &self.faults
    }

    /// Stops accepting, gives requests up to five seconds to finish, and closes every connection. With
    /// [`Storage::Directory`](crate::Storage::Directory) the directory can be opened again when this returns.
    pub async fn shutdown(self) {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "closing connections with unfinished requests");
            self.stopped.cancel();
            self.tasks.wait().await;
        }
        tracing::info!(addr = %self.addr, "embedded store stopped");
    }
}

impl Drop for EmbeddedS3 {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.stopped.cancel();
    }
}

/// The accept loop and what it hands to connections.
struct Acceptor {
    listener: TcpListener,
    layer: FaultLayer,
    tasks: TaskTracker,
    stopping: CancellationToken,
    stopped: CancellationToken,
}

impl Acceptor {
    async fn run(self) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Some((stream, permit)) = self.next(&permits).await {
            let connection =
                serve(stream, permit, self.layer.clone(), self.stopping.clone(), self.stopped.clone());
            self.tasks.spawn(connection);
        }
    }

    /// The next connection, or `None` when the store stops.
    async fn next(&self, permits: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let accept = async {
            let permit = Arc::clone(permits).acquire_owned().await.ok()?;
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => return Some((stream, permit)),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            connection = accept => connection,
            () = self.stopping.cancelled() => None,
        }
    }
}

async fn serve(
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
    layer: FaultLayer,
    stopping: CancellationToken,
    stopped: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "answers may wait for Nagle's algorithm");
    }
    let service = service_fn(move |request| layer.clone().call(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = connection.as_mut() => outcome,
                () = stopped.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}

fn s3_service(store: Arc<Store>, credentials: Vec<crate::options::Credentials>, gate: Gate) -> S3Service {
    let mut config = s3s::config::S3Config::default();
    config.xml_max_body_size = MAX_XML_BYTES;
    // Forms are read before they are refused; none of them is an object here.
    config.post_object_max_file_size = 0;
    config.form_max_fields_size = MAX_FORM_BYTES;
    let mut builder = S3ServiceBuilder::new(Operations(store));
    builder.set_config(Arc::new(s3s::config::StaticConfigProvider::new(Arc::new(config))));
    builder.set_auth(Keys::new(credentials));
    builder.set_access(gate);
    builder.build()
}
