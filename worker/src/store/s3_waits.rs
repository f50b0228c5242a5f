//! How long is waited for a request, wherever it is: until a connection takes it, and until its answer begins.
//!
//! Both ways to a store send through this, so both know where a request is: only the connection that sends a request looks at its body. The
//! limit of a whole request is not set here, and nothing is sent again.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        http::{HttpConnector, HttpConnectorFuture},
        orchestrator::HttpRequest,
        result::ConnectorError,
    },
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{sync::Notify, time::timeout};

use super::ClientSettings;

/// How many times as long as a connection may take a request may wait for one. A pool can give a request to a connection that closes in
/// this moment, where nobody takes it: without a limit, its answer would be waited for as long as for that of an upload.
const CONNECTS: u32 = 3;

/// A connector whose requests are given up when they stay too long where they are.
#[derive(Debug)]
pub(super) struct Impatient<C> {
    connector: C,
    settings: ClientSettings,
}

/// No answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(super) struct Late(pub(super) Duration);

/// A body that tells when it was looked at first, and when its last byte was taken.
#[derive(Debug)]
struct Watched {
    body: SdkBody,
    way: Arc<OnItsWay>,
}

/// How far a request has come.
#[derive(Debug, Default)]
struct OnItsWay {
    begun: Notify,
    taken: Notify,
}

impl<C> Impatient<C> {
    pub(super) const fn new(connector: C, settings: ClientSettings) -> Self {
        Self { connector, settings }
    }
}

impl<C: HttpConnector> HttpConnector for Impatient<C> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let way = Arc::new(OnItsWay::default());
        let watch = |body| SdkBody::from_body_1_x(Watched { body, way: Arc::clone(&way) });
        let answer = self.connector.call(request.map(watch));
        let settings = self.settings;
        HttpConnectorFuture::new(async move {
            tokio::select! {
                biased;
                answer = answer => answer,
                limit = way.too_long(&settings) => Err(ConnectorError::timeout(Late(limit).into())),
            }
        })
    }
}

impl OnItsWay {
    /// Ends with the limit that has passed without an answer.
    async fn too_long(&self, settings: &ClientSettings) -> Duration {
        let limit = settings.connect_timeout * CONNECTS;
        if timeout(limit, self.begun.notified()).await.is_err() {
            return limit;
        }
        self.taken.notified().await;
        tokio::time::sleep(settings.first_byte_timeout).await;
        settings.first_byte_timeout
    }
}

impl Watched {
    fn look(&self) {
        self.way.begun.notify_one();
        if Body::is_end_stream(&self.body) {
            self.way.taken.notify_one();
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.look();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.look();
        Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::Instant,
    };

    use super::*;
    use crate::store::{Clients, Payload};

    /// How far a request comes of which nothing more is heard.
    #[derive(Debug, Clone, Copy)]
    enum Until {
        Lost,
        Begun,
        Sent,
    }

    impl HttpConnector for Until {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let until = *self;
            HttpConnectorFuture::new(async move {
                let mut body = request.into_body();
                match until {
                    Self::Lost => {}
                    Self::Begun => assert!(!Body::is_end_stream(&body), "there is more"),
                    Self::Sent if Body::is_end_stream(&body) => {}
                    Self::Sent => drop((&mut body).collect().await),
                }
                pending::<()>().await;
                drop(body);
                unreachable!("nothing more is heard of it")
            })
        }
    }

    /// Nothing, nothing too, and two pieces.
    fn bodies() -> [SdkBody; 3] {
        let payload = Payload::new(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")]);
        [SdkBody::empty(), SdkBody::from(""), SdkBody::from_body_1_x(payload.body())]
    }

    async fn waited(until: Until, body: SdkBody) -> Option<Duration> {
        let begin = Instant::now();
        let call = Impatient::new(until, ClientSettings::default()).call(HttpRequest::new(body));
        let error = timeout(Duration::from_secs(3600), call).await.ok()?.expect_err("no answer");
        assert!(error.is_timeout(), "{error}");
        Some(Duration::from_secs(begin.elapsed().as_secs()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_given_up_when_it_has_been_too_long_where_it_is() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for body in bodies() {
            assert_eq!(waited(Until::Lost, body).await, seconds(15), "no connection takes it");
        }
        for body in bodies() {
            assert_eq!(waited(Until::Sent, body).await, seconds(60), "no answer comes");
        }
        let [.., long] = bodies();
        assert_eq!(waited(Until::Begun, long).await, None, "how long it may be sent is not decided here");
    }

    /// Sends it over the connections to stores, and answers whether it was looked at, and taken.
    async fn seen(to: std::net::SocketAddr, body: SdkBody) -> (bool, bool) {
        let way = Arc::new(OnItsWay::default());
        let mut request = HttpRequest::new(SdkBody::from_body_1_x(Watched { body, way: Arc::clone(&way) }));
        request.set_method("PUT").expect("a method");
        request.set_uri(format!("http://{to}/")).expect("an address");
        let clients = Clients::new(ClientSettings::default()).expect("certificates");
        drop(clients.for_stores().call(request).await);
        (way.begun.notified().now_or_never().is_some(), way.taken.notified().now_or_never().is_some())
    }

    #[tokio::test]
    async fn only_a_connection_looks_at_a_body() {
        for body in bodies() {
            let nobody =
                TcpListener::bind(("127.0.0.1", 0)).await.expect("listen").local_addr().expect("address");
            assert_eq!(seen(nobody, body).await, (false, false), "it was on no connection");
        }
        for body in bodies() {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
            let to = listener.local_addr().expect("address");
            let serve = async {
                let (mut stream, _) = listener.accept().await.expect("accept");
                let mut heard = Vec::new();
                let ends = |heard: &[u8]| heard.ends_with(b"\r\n\r\n") || heard.ends_with(b"abcdef");
                while !ends(&heard) {
                    assert!(stream.read_buf(&mut heard).await.expect("read") > 0, "cut off");
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("write");
                stream
            };
            let (seen, _stream) = tokio::join!(seen(to, body), serve);
            assert_eq!(seen, (true, true));
        }
    }
}
