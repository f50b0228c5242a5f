//! The endpoint as an origin sees it: exact answers over a real port.

use std::sync::Mutex;

use async_trait::async_trait;
use backhaul_runtime::http_port::HttpPort;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    events::{
        sns::fetch::Fetch,
        testing::{Kit, TOKEN, body, record, sources},
    },
    grpc::testing::ScriptedQueue,
    queue::{QueueError, TaskQueue},
};

const MESSAGES: &str = include_str!("../sns/testdata/messages.json");

#[derive(Debug, Default)]
struct Recorded(Mutex<Vec<String>>);

#[async_trait]
impl Fetch for Recorded {
    async fn get(&self, address: &str) -> std::io::Result<Bytes> {
        self.0.lock().unwrap().push(address.to_owned());
        Ok(Bytes::from_static(include_bytes!("../sns/testdata/certificate.pem")))
    }
}

/// An endpoint on a port, served until it is dropped.
struct Served {
    addr: std::net::SocketAddr,
    kit: Kit,
    _serving: JoinSet<()>,
}

impl Served {
    async fn over(kit: Kit) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, TOKEN).unwrap();
        let sns = Sns::new(Arc::<Recorded>::default() as Arc<dyn Fetch>);
        let endpoint = Endpoint::new(Arc::clone(&kit.intake), sources(&file), Some(sns));
        let port = HttpPort::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = port.addr();
        let mut serving = JoinSet::new();
        serving.spawn(port.serve(endpoint.routes(), CancellationToken::new()));
        Self { addr, kit, _serving: serving }
    }

    async fn send(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let head = format!("{head}\r\nhost: events\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // It may be refused, and the connection closed, before all of it was sent.
        drop(stream.write_all(body).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
        (status, answer)
    }

    async fn post(&self, source: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let head = format!("POST /events/{source} HTTP/1.1\r\ncontent-length: {}{headers}", body.len());
        self.send(&head, body).await
    }

    async fn post_with_token(&self, source: &str, body: &[u8]) -> (u16, String) {
        self.post(source, &format!("\r\nauthorization: Bearer {TOKEN}"), body).await
    }
}

fn one() -> Vec<u8> {
    body(&[record("ObjectCreated:Put", "users/a")])
}

#[tokio::test]
async fn an_event_with_the_token_is_a_task_when_it_is_answered() {
    let served = Served::over(Kit::new()).await;
    let basic = STANDARD.encode(format!("minio:{TOKEN}"));
    let (status, answer) = served.post("minio", &format!("\r\nauthorization: Basic {basic}"), &one()).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("\"uploads\":1"), "{answer}");
    assert_eq!(served.post_with_token("s3", &one()).await.0, 200);
    assert_eq!(served.kit.tasks().await.len(), 1);
}

#[tokio::test]
async fn every_refusal_has_its_status_and_stores_nothing() {
    let served = Served::over(Kit::new()).await;
    let token = format!("authorization: Bearer {TOKEN}");
    let foreign = String::from_utf8(one()).unwrap().replace("\"photos\"", "\"payroll\"");
    for (expected, (status, answer)) in [
        (401, served.post("s3", "", &one()).await),
        (401, served.post("s3", "\r\nauthorization: Bearer wrong", &one()).await),
        (401, served.post("s3", &format!("\r\nauthorization: Digest {TOKEN}"), &one()).await),
        (401, served.post("s3", "\r\nauthorization: Basic !!!", &one()).await),
        (404, served.post_with_token("nobody", &one()).await),
        (404, served.post_with_token("s3/more", &one()).await),
        (404, served.send(&format!("POST / HTTP/1.1\r\ncontent-length: 0\r\n{token}"), b"").await),
        (405, served.send(&format!("GET /events/s3 HTTP/1.1\r\n{token}"), b"").await),
        (405, served.send(&format!("PUT /events/s3 HTTP/1.1\r\ncontent-length: 0\r\n{token}"), b"").await),
        (400, served.post_with_token("s3", b"").await),
        (
            400,
            served
                .send(&format!("POST /events/s3 HTTP/1.1\r\ncontent-length: 100\r\n{token}"), b"{\"Rec")
                .await,
        ),
        (403, served.post_with_token("s3", foreign.as_bytes()).await),
        (
            413,
            served
                .send(
                    &format!("POST /events/s3 HTTP/1.1\r\ncontent-length: {}\r\n{token}", MAX_BODY_BYTES + 1),
                    b"",
                )
                .await,
        ),
    ] {
        assert_eq!(status, expected, "{answer}");
        assert!(expected != 401 || answer.to_lowercase().contains("www-authenticate: bearer"), "{answer}");
        assert!(expected != 405 || answer.to_lowercase().contains("allow: post"), "{answer}");
    }
    assert!(served.kit.tasks().await.is_empty() && served.kit.quarantine.kept().is_empty());
}

#[tokio::test]
async fn a_body_without_a_length_is_read_to_the_bound_and_no_further() {
    let served = Served::over(Kit::new()).await;
    let head =
        format!("POST /events/s3 HTTP/1.1\r\ntransfer-encoding: chunked\r\nauthorization: Bearer {TOKEN}");
    let small = one();
    let chunked = [format!("{:x}\r\n", small.len()).as_bytes(), &small, b"\r\n0\r\n\r\n"].concat();
    assert_eq!(served.send(&head, &chunked).await.0, 200);
    let mut large = format!("{:x}\r\n", MAX_BODY_BYTES + 1).into_bytes();
    large.extend(std::iter::repeat_n(b' ', MAX_BODY_BYTES + 1));
    large.extend(b"\r\n0\r\n\r\n");
    // The rest of the body is in the way of the answer, which may be lost with the connection.
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    stream.write_all(format!("{head}\r\nhost: events\r\n\r\n").as_bytes()).await.unwrap();
    drop(stream.write_all(&large).await);
    drop(stream);
    assert_eq!(served.post_with_token("s3", &one()).await.0, 200, "and the endpoint goes on");
    assert_eq!(served.kit.tasks().await.len(), 1);
}

#[tokio::test]
async fn what_is_not_understood_is_taken_and_kept() {
    let served = Served::over(Kit::new()).await;
    for _ in 0..2 {
        let (status, answer) = served.post_with_token("s3", b"{\"Records\":null}").await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer.contains("\"unknown\":1"), "{answer}");
    }
    assert_eq!(served.kit.quarantine.kept().len(), 1);
}

#[tokio::test]
async fn what_is_not_durable_is_to_be_sent_again() {
    let queue = Arc::new(ScriptedQueue::default());
    queue.submits.lock().unwrap().push_back(Err(QueueError::Unavailable("gone".into())));
    let served = Served::over(Kit::over(Arc::clone(&queue) as Arc<dyn TaskQueue>)).await;
    let (status, answer) = served.post_with_token("s3", &one()).await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer.to_lowercase().contains("retry-after: 5") && !answer.contains("gone"), "{answer}");
    assert_eq!(served.post_with_token("s3", &one()).await.0, 200);
}

#[tokio::test]
async fn sns_is_trusted_by_its_signature_and_asked_nothing_else() {
    let served = Served::over(Kit::new()).await;
    let messages: serde_json::Value = serde_json::from_str(MESSAGES).unwrap();
    for (name, expected) in [
        ("subscribe", 200),
        ("test", 200),
        ("notification", 200),
        ("subscribe_elsewhere", 403),
        ("unsubscribe", 200),
    ] {
        let (status, answer) = served.post("aws", "", messages[name].to_string().as_bytes()).await;
        assert_eq!(status, expected, "{name}: {answer}");
    }
    let forged = messages["notification"].to_string().replace("red+flower", "blue+flower");
    assert_eq!(served.post("aws", "", forged.as_bytes()).await.0, 403);
    assert_eq!(served.post_with_token("aws", &one()).await.0, 400, "a token is no signature");
    let tasks = served.kit.tasks().await;
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].spec.object.key, "users/red flower.jpg");
    assert!(served.kit.quarantine.kept().is_empty(), "nobody unknown can fill it");
}
