//! Connections as peers see them, on real sockets: how many, how long, and what happens when the system has no more to give.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{testing::Pipes, *};
use crate::audit::Audit;

/// Time for what must happen; long, because only failures wait for its end.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a client says first, with empty settings.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0backhaul";
const FRAME_SETTINGS: u8 = 4;
const FRAME_PING: u8 = 6;
const FRAME_GOAWAY: u8 = 7;

/// A server that serves health, in the background of a test.
struct Served {
    address: SocketAddr,
    end: CancellationToken,
    running: JoinSet<()>,
}

impl Served {
    async fn with(limits: ConnectionLimits) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), limits)
    }

    fn on(listener: impl Listener, limits: ConnectionLimits) -> Self {
        let address = listener.local_addr().unwrap();
        let (_reporter, health) = tonic_health::server::health_reporter();
        let end = CancellationToken::new();
        let mut running = JoinSet::new();
        let server = Server::new(listener, Routes::new(health), limits, None, Arc::default(), Audit::off());
        running.spawn(server.run(end.clone()));
        Self { address, end, running }
    }

    async fn client(&self) -> Raw<TcpStream> {
        Raw(TcpStream::connect(self.address).await.unwrap())
    }

    /// Waits for the end of the run.
    async fn ended(&mut self) {
        timeout(PATIENCE, self.running.join_next()).await.unwrap().unwrap().unwrap();
    }
}

/// A client that speaks bytes.
struct Raw<I>(I);

impl<I: AsyncRead + AsyncWrite + Unpin> Raw<I> {
    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Skips frames up to one of that kind; false when the connection ends first.
    async fn sees(&mut self, kind: u8) -> bool {
        timeout(PATIENCE, async {
            loop {
                let mut head = [0; 9];
                if self.0.read_exact(&mut head).await.is_err() {
                    return false;
                }
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut body = vec![0; usize::try_from(length).unwrap()];
                if self.0.read_exact(&mut body).await.is_err() {
                    return false;
                }
                if head[3] == kind {
                    return true;
                }
            }
        })
        .await
        .unwrap()
    }

    /// True when the server speaks HTTP/2 with this client.
    async fn is_served(&mut self) -> bool {
        self.0.write_all(GREETING).await.is_ok() && self.sees(FRAME_SETTINGS).await
    }

    /// Reads until the server has closed the connection.
    async fn closed(&mut self) {
        let mut rest = Vec::new();
        // Closed with unread bytes, it is reset: closed all the same.
        drop(timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.unwrap());
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once_and_others_take_their_place_later() {
    let served = Served::with(ConnectionLimits { max_connections: 2, ..Default::default() }).await;
    let (mut first, mut second) = (served.client().await, served.client().await);
    assert!(first.is_served().await && second.is_served().await);
    let mut third = served.client().await;
    assert!(!third.is_served().await);
    drop(first);
    // Until the server has seen that the first has gone.
    while !served.client().await.is_served().await {}
    second.say(PING).await;
    assert!(second.sees(FRAME_PING).await, "those that were there first are not touched");
}

#[tokio::test]
async fn one_address_cannot_take_the_places_of_others() {
    let limits = ConnectionLimits { max_connections_per_address: 1, ..Default::default() };
    let served = Served::with(limits).await;
    let mut first = served.client().await;
    assert!(first.is_served().await);
    assert!(!served.client().await.is_served().await);
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = Raw(elsewhere.connect(served.address).await.unwrap());
    assert!(other.is_served().await);
}

#[tokio::test]
async fn a_peer_that_does_not_greet_in_time_is_closed() {
    let limits = ConnectionLimits { handshake_within: Duration::from_millis(50), ..Default::default() };
    let served = Served::with(limits).await;
    let (mut silent, mut slow) = (served.client().await, served.client().await);
    slow.say(&GREETING[..10]).await;
    silent.closed().await;
    slow.closed().await;
}

#[tokio::test]
async fn a_peer_that_speaks_another_protocol_is_closed_before_its_time() {
    let limits = ConnectionLimits { handshake_within: PATIENCE * 10, ..Default::default() };
    let served = Served::with(limits).await;
    let mut browser = served.client().await;
    browser.say(b"GET / HTTP/1.1\r\nhost: dispatcher\r\n\r\n").await;
    browser.closed().await;
}

#[tokio::test]
async fn those_that_wait_for_their_handshake_are_served_in_their_time_and_no_later() {
    let limits = ConnectionLimits {
        max_handshakes: 1,
        handshake_within: Duration::from_millis(200),
        ..Default::default()
    };
    let served = Served::with(limits).await;
    let mut silent = served.client().await;
    // Behind the silent one: served as soon as that one's time is over, or closed when its own is over first.
    let mut waiting = served.client().await;
    waiting.say(GREETING).await;
    silent.closed().await;
    while !served.client().await.is_served().await {}
}

#[tokio::test]
async fn an_idle_connection_is_ended_and_one_with_a_call_is_not() {
    let limits = ConnectionLimits { idle_within: Duration::from_millis(50), ..Default::default() };
    let served = Served::with(limits).await;
    let url = format!("http://{}", served.address);
    let channel = tonic::transport::Channel::from_shared(url).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    let mut idle = served.client().await;
    assert!(idle.is_served().await);
    assert!(idle.sees(FRAME_GOAWAY).await, "it is told that it has to go");
    idle.closed().await;
    // The watch has been there for longer, and nothing was said on it.
    assert!(timeout(Duration::from_millis(100), watch.message()).await.is_err());
}

#[tokio::test]
async fn a_peer_that_grants_no_room_for_its_answers_is_closed_and_others_are_not() {
    /// Settings with SETTINGS_INITIAL_WINDOW_SIZE (4) of 0 (RFC 9113, 6.5.2).
    const NO_ROOM: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
    /// A call's headers, in literals (RFC 7541, 6.2.2): POST, http, the path, and the content's type; and an empty message.
    fn check() -> Vec<u8> {
        let path = b"/grpc.health.v1.Health/Check";
        let kind = b"application/grpc";
        let (path_bytes, kind_bytes) = (u8::try_from(path.len()).unwrap(), u8::try_from(kind.len()).unwrap());
        let block = [&[0x83, 0x86, 0x04, path_bytes][..], path, &[0x0f, 0x10, kind_bytes], kind].concat();
        let length = u8::try_from(block.len()).unwrap();
        let headers = [&[0, 0, length, 1, 4, 0, 0, 0, 1][..], &block].concat();
        [headers, vec![0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]].concat()
    }
    let limits = ConnectionLimits { taken_within: Duration::from_millis(50), ..Default::default() };
    let served = Served::with(limits).await;
    let url = format!("http://{}", served.address);
    let channel = tonic::transport::Channel::from_shared(url).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    let mut greedy = served.client().await;
    greedy.say(&[NO_ROOM, &check()].concat()).await;
    greedy.closed().await;
    // A stream on which nothing is said for much longer.
    assert!(timeout(Duration::from_millis(300), watch.message()).await.is_err());
}

#[tokio::test]
async fn the_end_does_not_wait_for_peers_that_only_hold_their_connection() {
    let limits = ConnectionLimits { goodbye_within: Duration::from_millis(50), ..Default::default() };
    let mut served = Served::with(limits).await;
    let mut silent = served.client().await;
    let mut idle = served.client().await;
    assert!(idle.is_served().await);
    served.end.cancel();
    // Neither closes its side, and the second never acknowledges the goodbye.
    served.ended().await;
    silent.closed().await;
    idle.closed().await;
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanished_without_a_word_is_noticed_within_thirty_seconds() {
    let (pipes, listener) = Pipes::new();
    let _served = Served::on(listener, ConnectionLimits::default());
    let mut gone = Raw(pipes.connect().await);
    assert!(gone.is_served().await);
    let start = Instant::now();
    // The pipe stays open, as a connection whose cable was cut does.
    timeout(Duration::from_secs(30), gone.closed()).await.expect("it is noticed");
    assert!(start.elapsed() > Duration::from_secs(20), "it was given time to answer");
}

/// Counts how often it is asked.
#[derive(Debug)]
struct Counted {
    listener: TcpListener,
    asked: Arc<AtomicUsize>,
    yielded: Arc<AtomicUsize>,
}

impl Listener for Counted {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let accepted = Listener::accept(&mut self.listener).await?;
        self.yielded.fetch_add(1, Ordering::SeqCst);
        Ok(accepted)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The limit is the process's, so the test runs itself in one of its own.
#[test]
fn out_of_descriptors_it_serves_on_does_not_spin_and_recovers() {
    const CHILD: &str = "BACKHAUL_TEST_OUT_OF_DESCRIPTORS";
    const NAME: &str = "transport::tests::out_of_descriptors_it_serves_on_does_not_spin_and_recovers";
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(out_of_descriptors());
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

async fn out_of_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: limit.maximum }).unwrap();
    let (asked, yielded) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let listener = Counted {
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        asked: Arc::clone(&asked),
        yielded: Arc::clone(&yielded),
    };
    let served = Served::on(listener, ConnectionLimits::default());
    let mut before = served.client().await;
    assert!(before.is_served().await);
    // Client and server share the limit: the client takes its descriptor while there is one.
    let socket = TcpSocket::new_v4().unwrap();
    let mut taken = Vec::new();
    let exhausted = loop {
        match File::open("/dev/null") {
            Ok(file) => taken.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(exhausted.raw_os_error(), Some(24), "EMFILE: {exhausted}");

    let mut during = Raw(socket.connect(served.address).await.unwrap());
    during.say(GREETING).await;
    let start = Instant::now();
    let asked_before = asked.load(Ordering::SeqCst);
    while asked.load(Ordering::SeqCst) < asked_before + 5 {
        before.say(PING).await;
        assert!(before.sees(FRAME_PING).await, "who is connected is served on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // 20 + 40 + 80 + 160 ms, however slow this machine is: it was not asked in a loop.
    assert!(start.elapsed() >= Duration::from_millis(290), "{:?}", start.elapsed());
    assert_eq!(yielded.load(Ordering::SeqCst), 1);

    drop(taken);
    assert!(during.sees(FRAME_SETTINGS).await, "it was kept, and is served when there are descriptors again");
}
