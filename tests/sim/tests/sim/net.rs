//! The simulated network in the place of TCP, for dispatchers, workers and callers.

use std::{fmt, io, net::SocketAddr};

use backhaul_dispatcher::transport::Listener;
use backhaul_worker::link::{Connector, Io};
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use turmoil::net::{TcpListener, TcpStream};

/// Where every dispatcher serves.
pub(crate) const PORT: u16 = 7400;

/// A dispatcher's listener.
pub(crate) struct SimListener(TcpListener);

/// A worker's way to dispatchers.
#[derive(Debug)]
pub(crate) struct SimConnector;

impl SimListener {
    /// Listens on this host.
    pub(crate) async fn bind() -> io::Result<Self> {
        Ok(Self(TcpListener::bind(("0.0.0.0", PORT)).await?))
    }
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimListener")
    }
}

impl Listener for SimListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connector for SimConnector {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(vec![SocketAddr::new(turmoil::lookup(host), port)]) })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Io>) })
    }
}

/// A channel to a dispatcher for who plays a caller or a worker.
pub(crate) async fn channel(dispatcher: &str) -> Result<Channel, tonic::transport::Error> {
    let host = dispatcher.to_owned();
    let connect = tower::service_fn(move |_| {
        let host = host.clone();
        async move { TcpStream::connect((host.as_str(), PORT)).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://dispatcher").connect_with_connector(connect).await
}
