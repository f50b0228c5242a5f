//! Where connections come from: TCP, or whatever else carries bytes and has addresses.
//!
//! It exists so that a simulated network can stand in for the real one. Must not know what is said on a connection.

use std::{fmt, future::Future, io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tracing::debug;

/// A place where peers connect.
pub trait Listener: fmt::Debug + Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection and the address of its peer. Cancelling it loses none.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;

    /// The address that peers connect to.
    ///
    /// # Errors
    /// As the system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (io, peer) = Self::accept(self).await?;
        if let Err(error) = set_options(&io) {
            // The peer has gone already; whoever reads will see that.
            debug!(%peer, %error, "the options of a connection could not be set");
        }
        Ok((io, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

/// Small messages leave at once, and a peer that is gone is noticed by the kernel too: also where nothing is read, and where
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
