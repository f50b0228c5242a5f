//! How names become addresses and addresses become connections: TCP, or whatever else carries bytes.
//!
//! It exists so that a simulated network can stand in for the real one. Must not know what is said on a connection, nor which
//! address is the best.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use backhaul_runtime::tls::{SpiffeId, Tls};
use futures_util::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tracing::debug;

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Reaches dispatchers.
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// The addresses that a host has now. Empty or an error when there is none.
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

    /// Connects to an address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;
}

/// Names of the system's resolver, and TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnector;

impl Connector for TcpConnector {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let io = TcpStream::connect(address).await?;
            if let Err(error) = set_options(&io) {
                // The peer has gone already; whoever reads will see that.
                debug!(%address, %error, "the options of a connection could not be set");
            }
            Ok(Box::new(io) as Box<dyn Io>)
        })
    }
}

/// Connections on which both sides have proved who they are.
#[derive(Debug, Clone)]
pub struct TlsConnector {
    network: Arc<dyn Connector>,
    tls: Tls,
    dispatcher: SpiffeId,
}

impl TlsConnector {
    /// Reaches programs named `dispatcher` over `network`.
    #[must_use]
    pub fn new(network: Arc<dyn Connector>, tls: Tls, dispatcher: SpiffeId) -> Self {
        Self { network, tls, dispatcher }
    }
}

impl Connector for TlsConnector {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        self.network.resolve(host, port)
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let (connecting, tls, dispatcher) =
            (self.network.connect(address), self.tls.clone(), self.dispatcher.clone());
        Box::pin(async move {
            let secured = tls.connect(connecting.await?, &dispatcher).await?;
            Ok(Box::new(secured) as Box<dyn Io>)
        })
    }
}

/// Small messages leave at once, and a dispatcher that is gone is noticed by the kernel too: also where nothing is read, and where
/// what was sent is not acknowledged.
fn set_options(io: &TcpStream) -> io::Result<()> {
    const SILENT: Duration = Duration::from_secs(15);
    const PROBE_EVERY: Duration = Duration::from_secs(5);
    const PROBES: u32 = 3;
    const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
    io.set_nodelay(true)?;
    let socket = SockRef::from(io);
    let keepalive = TcpKeepalive::new().with_time(SILENT).with_interval(PROBE_EVERY).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}
