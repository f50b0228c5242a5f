//! Finding a dispatcher and connecting to it.
//!
//! Names are resolved anew for each connection and one of all their addresses is picked at random, so that workers spread over
//! dispatchers that come and go; an address that has just failed or asked to be left is avoided while there is another. Knows
//! nothing of what is said on a connection.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint, Uri};

use super::connector::Connector;

/// Where dispatchers are: `https://host:port`, or `http://host:port` in plaintext. The host may be a name with several addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DispatcherUrl {
    uri: Uri,
    host: String,
    port: u16,
}

/// What is wrong with a dispatcher's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DispatcherUrlError {
    /// No URL at all.
    #[error("is not a URL like https://host:port")]
    Malformed,
    /// Another scheme.
    #[error("must start with https:// or http://")]
    Scheme,
    /// Dispatchers have no default port.
    #[error("names no port")]
    Port,
    /// A path, a query or credentials, which would be ignored.
    #[error("must end after the port")]
    Rest,
}

impl DispatcherUrl {
    /// True when it asks for TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }
}

/// Connects to one dispatcher of many.
#[derive(Debug)]
pub struct Dialer {
    urls: Arc<[DispatcherUrl]>,
    connector: Arc<dyn Connector>,
    connect_within: Duration,
    avoided: HashMap<SocketAddr, Instant>,
    rng: fastrand::Rng,
}

/// A connection and where it leads.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) address: SocketAddr,
    pub(crate) channel: Channel,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// No name has an address at this moment.
    #[error("no dispatcher's name could be resolved")]
    NoAddress {
        /// What the resolver said last.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The address did not answer.
    #[error("{address} did not answer")]
    Connect {
        /// Address.
        address: SocketAddr,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
}

impl Dialer {
    /// How long an address is avoided while there are others.
    const AVOID_FOR: Duration = Duration::from_secs(30);

    /// A dialer for any of `urls`. `seed` decides which address is picked.
    #[must_use]
    pub fn new(
        urls: Vec<DispatcherUrl>,
        connector: Arc<dyn Connector>,
        connect_within: Duration,
        seed: u64,
    ) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { urls: urls.into(), connector, connect_within, avoided: HashMap::new(), rng }
    }

    /// Avoids an address for a while.
    pub(crate) fn avoid(&mut self, address: SocketAddr, now: Instant) {
        self.avoided.retain(|_, since| now.duration_since(*since) < Self::AVOID_FOR);
        self.avoided.insert(address, now);
    }

    /// Connects to one address. On failure avoid it before dialling again.
    pub(crate) fn dial(&mut self, now: Instant) -> BoxFuture<'static, Result<Dialled, DialError>> {
        self.avoided.retain(|_, since| now.duration_since(*since) < Self::AVOID_FOR);
        let (urls, avoided, mut rng) = (Arc::clone(&self.urls), self.avoided.clone(), self.rng.fork());
        let (connector, connect_within) = (Arc::clone(&self.connector), self.connect_within);
        Box::pin(async move {
            // A name server that does not answer is no reason to wait longer than for a dispatcher that does not.
            let addresses = timeout(connect_within, resolve(&urls, &*connector))
                .await
                .map_err(|elapsed| DialError::NoAddress { source: Some(elapsed.into()) })??;
            let known: Vec<_> = addresses.keys().copied().collect();
            let address = pick(&known, &avoided, &mut rng).ok_or(DialError::NoAddress { source: None })?;
            let connected = match addresses.get(&address) {
                Some(url) => {
                    let connect = tower::service_fn(move |_: Uri| {
                        let connecting = connector.connect(address);
                        async move { connecting.await.map(TokioIo::new) }
                    });
                    endpoint(url, address, connect_within)?.connect_with_connector(connect).await
                }
                None => return Err(DialError::NoAddress { source: None }),
            };
            let channel = connected.map_err(|source| DialError::Connect { address, source })?;
            Ok(Dialled { address, channel })
        })
    }
}

/// All addresses of all names, each with a URL that led to it. A name that cannot be resolved does not hide the others.
async fn resolve(
    urls: &[DispatcherUrl],
    connector: &dyn Connector,
) -> Result<BTreeMap<SocketAddr, DispatcherUrl>, DialError> {
    let lookups =
        urls.iter().map(|url| async move { (url, connector.resolve(url.host.clone(), url.port).await) });
    let mut addresses = BTreeMap::new();
    let mut refused = None;
    for (url, looked_up) in join_all(lookups).await {
        match looked_up {
            Ok(found) => addresses.extend(found.into_iter().map(|address| (address, url.clone()))),
            Err(source) => refused = Some(source),
        }
    }
    if addresses.is_empty() { Err(DialError::NoAddress { source: refused }) } else { Ok(addresses) }
}

/// One of the addresses that are not avoided, at random; if all are, the one that has been avoided longest.
fn pick(
    known: &[SocketAddr],
    avoided: &HashMap<SocketAddr, Instant>,
    rng: &mut fastrand::Rng,
) -> Option<SocketAddr> {
    let healthy: Vec<_> = known.iter().filter(|a| !avoided.contains_key(a)).collect();
    if healthy.is_empty() {
        return known.iter().min_by_key(|a| avoided.get(a)).copied();
    }
    Some(*healthy[rng.usize(..healthy.len())])
}

fn endpoint(
    url: &DispatcherUrl,
    address: SocketAddr,
    connect_within: Duration,
) -> Result<Endpoint, DialError> {
    const WINDOW_OF_STREAM: u32 = 1 << 20;
    const WINDOW_OF_CONNECTION: u32 = 4 << 20;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| DialError::Connect { address, source })?;
    Ok(endpoint
        // The name, not the address, is what the dispatcher and proxies before it are asked for.
        .origin(url.uri.clone())
        .connect_timeout(connect_within)
        // A dispatcher that vanished without a word is noticed within 30 s.
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_OF_STREAM)
        .initial_connection_window_size(WINDOW_OF_CONNECTION))
}

impl FromStr for DispatcherUrl {
    type Err = DispatcherUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| DispatcherUrlError::Malformed)?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            Some(_) => return Err(DispatcherUrlError::Scheme),
            None => return Err(DispatcherUrlError::Malformed),
        }
        let authority = uri.authority().ok_or(DispatcherUrlError::Malformed)?;
        if uri.path_and_query().is_some_and(|rest| rest != "/") || authority.as_str().contains('@') {
            return Err(DispatcherUrlError::Rest);
        }
        let port = authority.port_u16().ok_or(DispatcherUrlError::Port)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { uri, host, port })
    }
}

impl fmt::Display for DispatcherUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

#[cfg(test)]
mod tests;
