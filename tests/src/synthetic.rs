//! An origin whose bucket has as many keys as a test likes, without anybody having to write them: it answers listings by counting, and
//! nothing else. It stands for no real store; what a listing is in truth, others show.
//!
//! It writes down where each page began, so that a test can say what was listed twice. It checks no credentials.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A running origin. Ends when it is dropped.
#[derive(Debug)]
pub struct SyntheticOrigin {
    address: String,
    begins: Arc<Mutex<Vec<String>>>,
    /// Held only so that it ends with this.
    _serving: JoinSet<()>,
}

impl SyntheticOrigin {
    /// Listens, with keys `k/000000` to `k/<keys - 1>` in every bucket. Whoever reads an object finds it `gone`, or waits for ever.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(keys: usize, gone: bool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let begins = Arc::<Mutex<Vec<String>>>::default();
        let mut serving = JoinSet::new();
        let noted = Arc::clone(&begins);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let noted = Arc::clone(&noted);
                connections.spawn(async move {
                    // A client that goes away is none of its business.
                    drop(serve(stream, keys, gone, &noted).await);
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, begins, _serving: serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Behind which keys pages of a thousand began, in the order in which they were asked for; empty for the first.
    #[must_use]
    pub fn begins(&self) -> Vec<String> {
        self.begins.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(
    stream: TcpStream,
    keys: usize,
    gone: bool,
    begins: &Mutex<Vec<String>>,
) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while stream.read_line(&mut header).await? > 2 {
            header.clear();
        }
        let target = request.split(' ').nth(1).context("a request has a target")?;
        let query = target.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let parameter = |name: &str| {
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v)
        };
        let (status, body) = if parameter("list-type") == Some("2") {
            let after = parameter("start-after").unwrap_or_default().replace("%2F", "/");
            let most: usize = parameter("max-keys").unwrap_or("1000").parse()?;
            begins.lock().unwrap_or_else(PoisonError::into_inner).push(after.clone());
            ("200 OK", listing(keys, &after, most))
        } else if request.starts_with("GET ") && !gone {
            std::future::pending().await
        } else {
            let body = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>none</Message></Error>";
            ("404 Not Found", body.to_owned())
        };
        let body = if request.starts_with("HEAD ") { String::new() } else { body };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.flush().await?;
    }
}

fn listing(keys: usize, after: &str, most: usize) -> String {
    let first = after.strip_prefix("k/").and_then(|number| number.parse::<usize>().ok()).map_or(0, |n| n + 1);
    let end = keys.min(first + most);
    let mut body = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>");
    body.push_str(&format!("<IsTruncated>{}</IsTruncated><EncodingType>url</EncodingType>", end < keys));
    for number in first..end {
        body.push_str(&format!(
            "<Contents><Key>k/{number:06}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
             <ETag>&quot;{number:032x}&quot;</ETag><Size>{}</Size></Contents>",
            number % 100
        ));
    }
    body.push_str("</ListBucketResult>");
    body
}
