//! Which dispatcher is dialled, and when one is given up, on a network that the test decides.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use backhaul_proto::v1::{self, worker_service_client::WorkerServiceClient};
use tokio::io::DuplexStream;

use super::*;
use crate::link::Io;

/// A network with one name.
#[derive(Debug, Default)]
struct Network {
    addresses: Mutex<Vec<SocketAddr>>,
    refusing: Mutex<Vec<SocketAddr>>,
    resolver_hangs: bool,
    /// The other ends, which stay open and say nothing.
    peers: Mutex<Vec<DuplexStream>>,
}

impl Network {
    fn of(ports: &[u16]) -> Arc<Self> {
        let network = Self::default();
        network.move_to(ports);
        Arc::new(network)
    }

    /// The name has other addresses from now on.
    fn move_to(&self, ports: &[u16]) {
        *lock(&self.addresses) = ports.iter().map(|port| address(*port)).collect();
    }
}

impl Connector for Network {
    fn resolve(&self, _host: String, _port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        if self.resolver_hangs {
            return Box::pin(std::future::pending());
        }
        let found = lock(&self.addresses).clone();
        Box::pin(async move { Ok(found) })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        if lock(&self.refusing).contains(&address) {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        lock(&self.peers).push(theirs);
        Box::pin(async move { Ok(Box::new(ours) as Box<dyn Io>) })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dialer(network: &Arc<Network>) -> Dialer {
    let url = "http://dispatcher.backhaul.svc:7070".parse().expect("it is well formed");
    Dialer::new(vec![url], Arc::<Network>::clone(network), Duration::from_secs(5), 1)
}

/// The port that is dialled, or that did not answer.
async fn dials(dialer: &mut Dialer) -> Result<u16, u16> {
    match dialer.dial(Instant::now()).await {
        Ok(dialled) => Ok(dialled.address.port()),
        Err(DialError::Connect { address, .. }) => Err(address.port()),
        Err(error @ DialError::NoAddress { .. }) => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn names_are_resolved_anew_for_each_connection() {
    let network = Network::of(&[1]);
    let mut dialer = dialer(&network);
    assert_eq!(dials(&mut dialer).await, Ok(1));
    network.move_to(&[2]);
    assert_eq!(dials(&mut dialer).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn connections_spread_over_all_addresses_of_a_name() {
    let network = Network::of(&[1, 2, 3, 4]);
    let mut dialer = dialer(&network);
    let mut counts = [0; 5];
    for _ in 0..400 {
        counts[usize::from(dials(&mut dialer).await.expect("all answer"))] += 1;
    }
    assert!(counts[1..].iter().all(|count| (70..130).contains(count)), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_failed_is_left_alone_for_a_while() {
    let network = Network::of(&[1, 2]);
    lock(&network.refusing).push(address(1));
    let mut dialer = dialer(&network);
    while dials(&mut dialer).await.is_ok() {}
    dialer.avoid(address(1), Instant::now());
    for _ in 0..50 {
        assert_eq!(dials(&mut dialer).await, Ok(2));
    }
    tokio::time::sleep(Dialer::AVOID_FOR).await;
    while dials(&mut dialer).await != Err(1) {}
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_does_not_answer_is_given_up() {
    let network = Arc::new(Network { resolver_hangs: true, ..Network::default() });
    let started = Instant::now();
    let failed = dialer(&network).dial(started).await;
    assert!(matches!(failed, Err(DialError::NoAddress { source: Some(_) })), "{failed:?}");
    assert_eq!(started.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_that_vanished_without_a_word_is_noticed_within_thirty_seconds() {
    let network = Network::of(&[1]);
    let channel = dialer(&network).dial(Instant::now()).await.expect("it connects").channel;
    let started = Instant::now();
    let says_nothing = tokio_stream::pending::<v1::FromWorker>();
    let ended = WorkerServiceClient::new(channel).connect(says_nothing).await;
    assert!(ended.is_err());
    let after = started.elapsed();
    assert!((Duration::from_secs(20)..Duration::from_secs(30)).contains(&after), "{after:?}");
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn a_dispatcher_is_a_plain_url_with_a_port() {
    let url: DispatcherUrl = "http://dispatcher.backhaul.svc:7070".parse().expect("it is well formed");
    assert_eq!((url.host.as_str(), url.port), ("dispatcher.backhaul.svc", 7070));
    let url: DispatcherUrl = "http://[::1]:7070/".parse().expect("it is well formed");
    assert_eq!((url.host.as_str(), url.port), ("::1", 7070));
    for (text, problem) in [
        ("", DispatcherUrlError::Malformed),
        ("dispatcher:7070", DispatcherUrlError::Malformed),
        ("ftp://dispatcher:7070", DispatcherUrlError::Scheme),
        ("http://dispatcher", DispatcherUrlError::Port),
        ("http://dispatcher:7070/v1", DispatcherUrlError::Rest),
        ("http://user:secret@dispatcher:7070", DispatcherUrlError::Rest),
    ] {
        assert_eq!(text.parse::<DispatcherUrl>(), Err(problem), "{text}");
    }
}

#[test]
fn an_avoided_address_is_picked_only_when_there_is_no_other() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let known = [address(1), address(2), address(3)];
    let mut avoided = HashMap::from([(address(2), now)]);
    let picked: std::collections::HashSet<_> =
        (0..100).filter_map(|_| pick(&known, &avoided, &mut rng)).collect();
    assert_eq!(picked, [address(1), address(3)].into());
    avoided.insert(address(1), now + Duration::from_secs(1));
    avoided.insert(address(3), now + Duration::from_secs(2));
    assert_eq!(pick(&known, &avoided, &mut rng), Some(address(2)));
    assert_eq!(pick(&[], &avoided, &mut rng), None);
}
