//! A TCP relay that a test can hold shut: the network between two programs, with faults at the moment that a scenario needs.
//!
//! Shut, it keeps connections open and lets nothing through, which is how a partition looks from both ends. It runs in the test's
//! own runtime and ends with it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

const BUFFER_BYTES: usize = 16 * 1024;

/// A relay to one address. Dropping it closes its connections.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    rule: watch::Sender<Rule>,
    answered: Arc<AtomicU64>,
    _relay: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    /// Bytes that may have come from the target in all.
    limit: u64,
    /// Whether bytes may go to the target.
    asks: bool,
    /// Connections of an earlier generation are to be closed.
    generation: u64,
    /// Whether new connections are closed at once.
    refuses: bool,
}

impl Gate {
    /// Opens a relay to `target`, such as `127.0.0.1:6379`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn open_to(target: &str) -> anyhow::Result<Self> {
        let target: SocketAddr = target.parse().with_context(|| format!("{target} is not an address"))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (rule, rules) =
            watch::channel(Rule { limit: u64::MAX, asks: true, generation: 0, refuses: false });
        let answered = Arc::new(AtomicU64::new(0));
        let mut relay = JoinSet::new();
        relay.spawn(accept(listener, target, rules, Arc::clone(&answered)));
        Ok(Self { address, rule, answered, _relay: relay })
    }

    /// Where clients connect to instead of the target.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that the target has sent through it so far.
    #[must_use]
    pub fn answered_bytes(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets everything through, also what was held back.
    pub fn open(&self) {
        self.rule.send_modify(|rule| (rule.limit, rule.asks, rule.refuses) = (u64::MAX, true, false));
    }

    /// Lets nothing through in either direction; connections stay.
    pub fn shut(&self) {
        self.rule.send_modify(|rule| (rule.limit, rule.asks) = (0, false));
    }

    /// Lets `bytes` more come from the target, then nothing: whoever reads stands still in the middle.
    pub fn shut_after(&self, bytes: u64) {
        let limit = self.answered_bytes() + bytes;
        self.rule.send_modify(|rule| (rule.limit, rule.asks) = (limit, true));
    }

    /// Closes all connections; new ones are taken.
    pub fn cut(&self) {
        self.rule.send_modify(|rule| rule.generation += 1);
    }

    /// Closes all connections, and new ones at once, until it is opened.
    pub fn refuse(&self) {
        self.rule.send_modify(|rule| (rule.refuses, rule.generation) = (true, rule.generation + 1));
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    rules: watch::Receiver<Rule>,
    answered: Arc<AtomicU64>,
) {
    // Bounded by the clients' connections, which are the test's own.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(relay(client, target, rules.clone(), Arc::clone(&answered)));
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(
    client: TcpStream,
    target: SocketAddr,
    mut rules: watch::Receiver<Rule>,
    answered: Arc<AtomicU64>,
) {
    let Rule { generation, refuses, .. } = *rules.borrow();
    if refuses {
        return;
    }
    // A target that is not there looks to the client like a connection that is closed at once.
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Small messages must not wait for one another; where that cannot be set they are only slower.
    let _slower = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let asks =
        forward(from_client, to_server, rules.clone(), |rule| if rule.asks { usize::MAX } else { 0 }, |_| {});
    let answers = forward(
        from_server,
        to_client,
        rules.clone(),
        |rule| {
            usize::try_from(rule.limit.saturating_sub(answered.load(Ordering::Relaxed))).unwrap_or(usize::MAX)
        },
        |bytes| {
            answered.fetch_add(bytes, Ordering::Relaxed);
        },
    );
    tokio::select! {
        ((), ()) = async { tokio::join!(asks, answers) } => {}
        // The sender is gone when the gate is dropped: then everything ends, too.
        _ = rules.wait_for(|rule| rule.generation > generation) => {}
    }
}

/// Copies until one end closes. `allowed` says how many bytes may pass now, `passed` hears how many did.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut rules: watch::Receiver<Rule>,
    allowed: impl Fn(&Rule) -> usize,
    passed: impl Fn(u64),
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if rules.wait_for(|rule| allowed(rule) > 0).await.is_err() {
            return;
        }
        let most = allowed(&rules.borrow()).min(BUFFER_BYTES);
        let read = match from.read(&mut buffer[..most]).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        // The gate may have been shut while nothing came.
        if rules.wait_for(|rule| allowed(rule) > 0).await.is_err() {
            return;
        }
        passed(read as u64);
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // Nothing more follows; that the other end has closed as well is no matter.
    let _closed = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A server that answers each byte with the same byte.
    async fn echo() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                connections.spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        (address, server)
    }

    async fn read(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        stream.read_exact(&mut buffer).await.unwrap();
        buffer
    }

    #[tokio::test]
    async fn what_a_shut_gate_holds_back_comes_when_it_opens() {
        let (target, _server) = echo().await;
        let gate = Gate::open_to(&target.to_string()).await.unwrap();
        let mut stream = TcpStream::connect(gate.address()).await.unwrap();
        stream.write_all(b"one").await.unwrap();
        assert_eq!(read(&mut stream, 3).await, b"one");
        gate.shut();
        stream.write_all(b"two").await.unwrap();
        // That nothing comes can only be seen by waiting; a gate that leaks fails here, a slow machine does not.
        assert!(timeout(Duration::from_millis(50), read(&mut stream, 1)).await.is_err());
        gate.open();
        assert_eq!(read(&mut stream, 3).await, b"two");
    }

    #[tokio::test]
    async fn it_shuts_in_the_middle_of_an_answer() {
        let (target, _server) = echo().await;
        let gate = Gate::open_to(&target.to_string()).await.unwrap();
        let mut stream = TcpStream::connect(gate.address()).await.unwrap();
        gate.shut_after(5);
        stream.write_all(b"0123456789").await.unwrap();
        assert_eq!(read(&mut stream, 5).await, b"01234");
        assert_eq!(gate.answered_bytes(), 5);
        assert!(timeout(Duration::from_millis(50), read(&mut stream, 1)).await.is_err());
        gate.open();
        assert_eq!(read(&mut stream, 5).await, b"56789");
    }

    #[tokio::test]
    async fn a_cut_closes_what_is_open_and_takes_what_is_new() {
        let (target, _server) = echo().await;
        let gate = Gate::open_to(&target.to_string()).await.unwrap();
        let mut old = TcpStream::connect(gate.address()).await.unwrap();
        old.write_all(b"x").await.unwrap();
        assert_eq!(read(&mut old, 1).await, b"x");
        gate.cut();
        assert!(matches!(old.read(&mut [0; 1]).await, Ok(0) | Err(_)), "the old connection is closed");
        let mut new = TcpStream::connect(gate.address()).await.unwrap();
        new.write_all(b"y").await.unwrap();
        assert_eq!(read(&mut new, 1).await, b"y");
    }

    #[tokio::test]
    async fn a_gate_that_refuses_takes_connections_again_when_it_opens() {
        let (target, _server) = echo().await;
        let gate = Gate::open_to(&target.to_string()).await.unwrap();
        gate.refuse();
        let mut refused = TcpStream::connect(gate.address()).await.unwrap();
        assert!(matches!(refused.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        gate.open();
        let mut taken = TcpStream::connect(gate.address()).await.unwrap();
        taken.write_all(b"z").await.unwrap();
        assert_eq!(read(&mut taken, 1).await, b"z");
    }
}
