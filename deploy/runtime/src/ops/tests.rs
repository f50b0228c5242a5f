//! The port for operators as a scraper and a probe see it: plain HTTP over loopback.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::metrics::Family;

static ASKED: Family = Family::counter("asked_total", "Times somebody asked.", &[]);

#[derive(Debug, Default)]
struct Asked(std::sync::atomic::AtomicU64);

#[async_trait::async_trait]
impl Source for Asked {
    async fn write(&self, page: &mut Page) {
        page.value(&ASKED, self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
    }
}

struct Served {
    addr: SocketAddr,
    ready: Ready,
    stop: CancellationToken,
    running: JoinSet<()>,
}

async fn served() -> Served {
    let port = OpsPort::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (addr, ready, stop) = (port.addr(), Ready::default(), CancellationToken::new());
    let mut running = JoinSet::new();
    running.spawn(port.serve(routes(vec![Arc::new(Asked::default())], ready.clone()), stop.clone()));
    Served { addr, ready, stop, running }
}

async fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(addr: SocketAddr, path: &str) -> String {
    ask(addr, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn liveness_readiness_and_metrics_have_a_page_each() {
    let served = served().await;
    assert!(get(served.addr, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get(served.addr, "/readyz").await.starts_with("HTTP/1.1 503"));
    served.ready.set(true);
    assert!(get(served.addr, "/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get(served.addr, "/metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("backhaul_build_info{") && metrics.contains("\nasked_total 1\n"), "{metrics}");
    assert!(get(served.addr, "/metrics").await.contains("\nasked_total 2\n"));
}

#[tokio::test]
async fn nothing_can_be_changed_here() {
    let served = served().await;
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        for path in ["/metrics", "/livez", "/readyz", "/"] {
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let answer = ask(served.addr, &head).await;
            assert!(answer.starts_with("HTTP/1.1 40"), "{method} {path}: {answer}");
        }
    }
}

#[tokio::test]
async fn an_open_connection_does_not_hold_up_the_end() {
    let mut served = served().await;
    let mut silent = TcpStream::connect(served.addr).await.unwrap();
    get(served.addr, "/livez").await;
    served.stop.cancel();
    served.running.join_next().await.unwrap().unwrap();
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
}
