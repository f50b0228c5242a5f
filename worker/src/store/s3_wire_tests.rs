//! What the S3 store puts on the wire and makes of answers that no proper server gives, against a server of canned answers.

use std::time::Duration;

use backhaul_runtime::locations::{Credentials, Location};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    Attributes, ClientSettings, Clients, GetResponse, ObjectPath, ObjectStore, Payload, Pin, Proof, Put,
    S3Store, StoreError, StoreErrorKind, Terms, s3_tests::location,
};

const AT: ObjectPath<'_> = ObjectPath { bucket: "bucket", key: "a//../key" };

/// Listens for as many connections as there are answers, and returns what was sent over each.
struct Canned {
    listener: TcpListener,
}

impl Canned {
    async fn new() -> Self {
        Self { listener: TcpListener::bind(("127.0.0.1", 0)).await.expect("listen") }
    }

    fn store(&self, anonymous: bool) -> S3Store {
        let clients = Clients::new(ClientSettings::default()).expect("certificates");
        let credentials = if anonymous {
            Credentials::Anonymous
        } else {
            Credentials::Environment { prefix: "TEST".into() }
        };
        let address = self.listener.local_addr().expect("address");
        let location = location(&format!("http://{address}"), credentials);
        clients.store_with(&location, &|_| Some("test-value".into())).expect("credentials")
    }

    /// Asked past the client library or by it: as an address has no names for buckets, both ask for the same.
    fn store_of(&self, clients: &Clients, past_the_library: bool) -> S3Store {
        let address = self.listener.local_addr().expect("address");
        let location = Location {
            path_style: past_the_library,
            ..location(&format!("http://{address}"), Credentials::Anonymous)
        };
        clients.store_with(&location, &|_| None).expect("no credentials")
    }

    async fn answer(&self, answers: Vec<&[u8]>) -> Vec<String> {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut connection, _) = self.listener.accept().await.expect("accept");
            let mut request = Vec::new();
            let wanted = |request: &[u8]| {
                let text = String::from_utf8_lossy(request);
                let (head, body) = text.split_once("\r\n\r\n")?;
                let length = head
                    .lines()
                    .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                Some(body.len() >= length.unwrap_or(0))
            };
            while wanted(&request) != Some(true) {
                assert!(connection.read_buf(&mut request).await.expect("read") > 0, "cut off");
            }
            requests.push(String::from_utf8_lossy(&request).into_owned());
            connection.write_all(answer).await.expect("write");
            connection.shutdown().await.expect("close");
        }
        requests
    }
}

async fn get(store: &S3Store) -> Result<GetResponse, StoreError> {
    store.get(AT, &Pin::default(), None).await
}

#[tokio::test]
async fn a_get_is_one_plain_request_for_exactly_that_key() {
    let server = Canned::new().await;
    let store = server.store(false);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\netag: \"e\"\r\nx-amz-missing-meta: 1\r\n\r\nhi";
    let (response, requests) = tokio::join!(get(&store), server.answer(vec![answer]));
    let info = response.expect("ok").info;
    assert!(info.etag == "e" && info.hidden_metadata, "{info:?}");
    let request = requests[0].to_ascii_lowercase();
    assert!(request.starts_with("get /bucket/a//../key http/1.1"), "{request}");
    assert!(request.contains("authorization: aws4-hmac-sha256"), "{request}");
    assert!(request.contains("x-amz-checksum-mode"), "the header is signed: {request}");
}

#[tokio::test]
async fn a_put_carries_its_checksum_and_is_neither_chunked_nor_hashed_again() {
    let server = Canned::new().await;
    let store = server.store(false);
    let body = Payload::new(vec![Bytes::from_static(b"1234"), Bytes::from_static(b"56789")]);
    let attributes = Attributes::default();
    let proof = Proof { crc64nvme: Some(0xae8b_1486_0a79_9888), md5: None };
    let put = Put {
        body: &body,
        proof,
        attributes: &attributes,
        tags: &[],
        terms: Terms::default(),
        create_only: true,
    };
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\netag: \"e\"\r\n\r\n";
    let (written, requests) = tokio::join!(store.put(AT, put), server.answer(vec![answer]));
    assert_eq!(written.expect("ok").etag, "e");
    let request = requests[0].to_ascii_lowercase();
    for wanted in [
        "x-amz-checksum-crc64nvme: rosuhgp5mig=",
        "if-none-match: *",
        "content-length: 9",
        "x-amz-content-sha256: unsigned-payload",
    ] {
        assert!(request.contains(wanted), "{wanted} in {request}");
    }
    for unwanted in ["aws-chunked", "x-amz-trailer", "crc32", "transfer-encoding", "expect:"] {
        assert!(!request.contains(unwanted), "{unwanted} in {request}");
    }
    assert!(request.ends_with("\r\n\r\n123456789"));
}

#[tokio::test]
async fn an_anonymous_request_is_not_signed() {
    let server = Canned::new().await;
    let store = server.store(true);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (response, requests) = tokio::join!(get(&store), server.answer(vec![answer]));
    assert!(response.is_ok());
    assert!(!requests[0].to_ascii_lowercase().contains("authorization"), "{}", requests[0]);
}

#[tokio::test]
async fn metadata_that_is_no_ascii_does_not_fail_a_read() {
    let server = Canned::new().await;
    let store = server.store(false);
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-amz-meta-name: zwei Wörter\r\n\r\nhi".as_bytes();
    let (response, _) = tokio::join!(get(&store), server.answer(vec![answer]));
    let info = response.expect("ok").info;
    assert_eq!(info.attributes.metadata["name"], "zwei Wörter");
}

#[tokio::test]
async fn a_body_without_a_length_costs_a_head_and_ends_where_it_ends() {
    let server = Canned::new().await;
    let store = server.store(false);
    let answers: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\netag: \"e\"\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\netag: \"e\"\r\n\r\n",
    ];
    let (response, requests) = tokio::join!(get(&store), server.answer(answers.to_vec()));
    let response = response.expect("ok");
    assert_eq!((response.info.size_bytes, response.length), (3, None));
    let pieces: Vec<_> = response.body.collect().await;
    assert!(matches!(&pieces[..], [Ok(piece)] if piece == "abc"), "{pieces:?}");
    assert!(requests[1].to_ascii_lowercase().contains("if-match: \"e\""), "the same state");
}

#[tokio::test]
async fn answers_that_are_no_s3_have_a_kind_too() {
    let server = Canned::new().await;
    let store = server.store(false);
    let html =
        b"HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\r\n<html>no</html>";
    let table: [(&[u8], StoreErrorKind); 5] = [
        (html, StoreErrorKind::NotFound),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nbad", StoreErrorKind::Server),
        (
            b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n",
            StoreErrorKind::Throttled { retry_after: std::time::Duration::from_secs(3) },
        ),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", StoreErrorKind::Denied),
        (b"", StoreErrorKind::Connection),
    ];
    for (answer, kind) in table {
        let (response, _) = tokio::join!(get(&store), server.answer(vec![answer]));
        let error = response.expect_err("no object");
        assert_eq!(error.kind, kind, "{error} for {}", String::from_utf8_lossy(answer));
        assert!(!format!("{error:?}").contains("test-value"), "credentials in an error");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_waited_for_by_both_ways_alike() {
    let settings =
        ClientSettings { first_byte_timeout: Duration::from_millis(50), ..ClientSettings::default() };
    let clients = Clients::new(settings).expect("certificates");
    for past_the_library in [true, false] {
        let server = Canned::new().await;
        let store = server.store_of(&clients, past_the_library);
        let error = get(&store).await.expect_err("no answer");
        assert_eq!(error.kind, StoreErrorKind::Timeout, "{error:?}");
        assert!(format!("{error:?}").contains("Late(50ms)"), "{error:?}");
    }
}

#[tokio::test]
async fn how_long_it_takes_to_send_is_no_part_of_the_wait_for_an_answer() {
    const PIECE: usize = 256 * 1024;
    const PIECES: usize = 64;
    let settings = ClientSettings { first_byte_timeout: Duration::from_secs(2), ..ClientSettings::default() };
    let clients = Clients::new(settings).expect("certificates");
    for past_the_library in [true, false] {
        let server = Canned::new().await;
        let store = server.store_of(&clients, past_the_library);
        let slow = async {
            let (mut connection, _) = server.listener.accept().await.expect("accept");
            // What nobody reads fills the connection, so most of the body cannot be sent until then.
            tokio::time::sleep(Duration::from_secs(3)).await;
            let (mut buffer, mut read) = (vec![0; PIECE], 0);
            while read < PIECE * PIECES {
                let more = connection.read(&mut buffer).await.expect("read");
                assert!(more > 0, "cut off after {read} bytes");
                read += more;
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\netag: \"e\"\r\n\r\n";
            connection.write_all(answer).await.expect("write");
            connection
        };
        let body = Payload::new(vec![Bytes::from(vec![7; PIECE]); PIECES]);
        let attributes = Attributes::default();
        let put = Put {
            body: &body,
            proof: Proof::default(),
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            create_only: false,
        };
        let (written, _connection) = tokio::join!(store.put(AT, put), slow);
        assert_eq!(written.expect("sent and answered").etag, "e");
    }
}
