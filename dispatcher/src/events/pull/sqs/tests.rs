//! A server that speaks SQS and was written by others: what is not durable is not deleted, and others get it.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use super::{
    client::{QueueCredentials, QueueOptions, client},
    *,
};
use crate::{
    events::{
        parse::Form,
        pull::round,
        sources::{EventSource, Sources},
        testing::{Kit, TOPIC, body, locations, record, source},
    },
    grpc::testing::ScriptedQueue,
    queue::{QueueError, TaskQueue},
};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);
const NO_WAIT: Duration = Duration::ZERO;

/// moto, and the files that it is asked with.
struct Moto {
    process: Child,
    port: u16,
    keys: tempfile::NamedTempFile,
}

impl Moto {
    async fn start() -> Self {
        let program = find("BACKHAUL_TEST_MOTO", "moto_server")
            .expect("moto is not installed: run tests/setup/moto.sh");
        loop {
            let port = fastrand::u16(22_000..30_000);
            if TcpListener::bind(("127.0.0.1", port)).is_err() {
                continue;
            }
            let mut command = Command::new(&program);
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdin(Stdio::null());
            let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut moto = Self { process, port, keys: tempfile::NamedTempFile::new().unwrap() };
            std::fs::write(moto.keys.path(), "id\nsecret\n").unwrap();
            // It ends at once if another one has taken the port meanwhile.
            while moto.process.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return moto;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// A source whose messages SNS wraps.
    fn wrapped(&self) -> Arc<EventSource> {
        let text = format!(
            "[[event_source]]\nname = 'wrapped'\nform = 'sns'\nlocation = 'uploads'\ntenant = 'web'\nsns_topic = '{TOPIC}'\n\
             sqs = {{ url = 'http://127.0.0.1/1/q', region = 'us-east-1', credentials = {{ file = '{}' }} }}\n",
            self.keys.path().display()
        );
        let sources = Sources::parse(&text, Path::new("test"), &locations()).unwrap();
        sources.iter().next().map(Arc::clone).unwrap()
    }

    async fn queue(&self, name: &str) -> Queue {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let client = client(&QueueOptions {
            queue_url: String::new(),
            endpoint,
            region: "us-east-1".into(),
            credentials: QueueCredentials::File(self.keys.path().into()),
            readers: 1,
        });
        let url = client.create_queue().queue_name(name).send().await.unwrap().queue_url.unwrap();
        Queue { client, url }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

struct Queue {
    client: Client,
    url: String,
}

impl Queue {
    async fn send(&self, body: &[u8]) {
        let body = String::from_utf8(body.to_vec()).unwrap();
        self.client.send_message().queue_url(&self.url).message_body(body).send().await.unwrap();
    }

    fn reader(&self) -> Sqs {
        Sqs::new(self.client.clone(), self.url.clone()).waiting(NO_WAIT, LONG)
    }

    /// Messages that can be received, and those that somebody holds.
    async fn depth(&self) -> (String, String) {
        use aws_sdk_sqs::types::QueueAttributeName::{
            ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesNotVisible as Held,
        };
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = request.attribute_names(Visible).attribute_names(Held).send().await.unwrap();
        let told = answer.attributes.unwrap();
        (told[&Visible].clone(), told[&Held].clone())
    }
}

/// A program: named by a variable, or where `make setup` puts what it installs, or on the path.
fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
        return Some(named.into());
    }
    let test = std::env::current_exe().ok()?;
    let tools = test.ancestors().map(|folder| folder.join("tools/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = tools.chain(std::env::split_paths(&path)).collect();
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn upload(key: &str) -> Vec<u8> {
    body(&[record("ObjectCreated:Put", key)])
}

fn depth(visible: &str, held: &str) -> (String, String) {
    (visible.to_owned(), held.to_owned())
}

#[tokio::test]
async fn a_message_is_deleted_when_its_tasks_are_durable_and_not_before() {
    let moto = Moto::start().await;
    everything_is_taken_once(&moto.queue("taken").await).await;
    poison_is_set_aside_once(&moto.queue("poison").await).await;
    what_is_not_taken_is_for_others(&moto.queue("left").await).await;
    what_sns_wrapped_is_unwrapped(&moto.queue("wrapped").await, &moto.wrapped()).await;
    eventbridge_is_read(&moto.queue("bridge").await).await;
    let gone = Queue { url: format!("{}-gone", moto.queue("any").await.url), ..moto.queue("any").await };
    assert!(gone.reader().receive().await.is_err(), "a queue that does not exist is told");
}

#[tokio::test]
async fn requests_go_to_the_queue_and_nowhere_else() {
    let (server, canary) = (listen().await, listen().await);
    let (port, elsewhere) = (server.local_addr().unwrap().port(), canary.local_addr().unwrap());
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "id\nsecret\n").unwrap();
    let reader = |host: &str| {
        let endpoint = format!("http://{host}:{port}");
        let queue_url = format!("{endpoint}/1/q");
        let credentials = QueueCredentials::File(keys.path().into());
        let options =
            QueueOptions { queue_url, endpoint, region: "us-east-1".into(), credentials, readers: 1 };
        Sqs::new(client(&options), options.queue_url).waiting(NO_WAIT, LONG)
    };
    for status in [301, 302, 307, 308] {
        let redirect = async {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut heard = [0; 8192];
            assert_ne!(stream.read(&mut heard).await.unwrap(), 0);
            let answer = format!(
                "HTTP/1.1 {status} Moved\r\nlocation: http://{elsewhere}/1/q\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let mut reader = reader("127.0.0.1");
        tokio::select! {
            (received, ()) = async { tokio::join!(reader.receive(), redirect) } => assert!(received.is_err(), "{status}"),
            _ = canary.accept() => panic!("a redirect of {status} was followed"),
        }
    }
    // To the system's resolver `0` is 0.0.0.0, which leads here, and is no address of a queue.
    let mut forbidden = reader("0");
    tokio::select! {
        received = forbidden.receive() => {
            let told = format!("{:?}", received.unwrap_err());
            assert!(told.contains("ForbiddenAddress"), "{told}");
        }
        _ = server.accept() => panic!("a forbidden address was connected to"),
    }
}

async fn listen() -> tokio::net::TcpListener {
    tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

async fn everything_is_taken_once(queue: &Queue) {
    for n in 0..25 {
        queue.send(&upload(&format!("users/{n}"))).await;
    }
    queue.send(br#"{"Service":"Amazon S3","Event":"s3:TestEvent","Time":"2026-01-01T00:00:00Z"}"#).await;
    let (kit, source, mut reader) = (Kit::new(), source(Form::S3), queue.reader());
    while queue.depth().await != depth("0", "0") {
        round(&mut reader, &source, &kit.intake).await.unwrap();
    }
    assert_eq!((kit.tasks().await.len(), kit.quarantine.kept().len()), (25, 0));
    assert!(reader.held.is_empty());
}

async fn poison_is_set_aside_once(queue: &Queue) {
    let foreign = String::from_utf8(upload("users/a")).unwrap().replace("photos", "payroll");
    // Each comes twice, as SQS may have it.
    for body in [b"no JSON".as_slice(), b"{}", foreign.as_bytes()].repeat(2) {
        queue.send(body).await;
    }
    queue.send(&upload("users/b")).await;
    let (kit, source, mut reader) = (Kit::new(), source(Form::S3), queue.reader());
    while queue.depth().await != depth("0", "0") {
        round(&mut reader, &source, &kit.intake).await.unwrap();
    }
    assert_eq!((kit.tasks().await.len(), kit.quarantine.kept().len()), (1, 3));
}

async fn what_is_not_taken_is_for_others(queue: &Queue) {
    queue.send(&upload("users/a")).await;
    let scripted = Arc::new(ScriptedQueue::default());
    scripted.submits.lock().unwrap().extend((0..1000).map(|_| Err(QueueError::Unavailable("gone".into()))));
    let kit = Kit::over(Arc::clone(&scripted) as Arc<dyn TaskQueue>);
    let (source, mut reader) = (source(Form::S3), queue.reader());
    let tried = async {
        while scripted.submitted.lock().unwrap().len() < 3 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = round(&mut reader, &source, &kit.intake) => panic!("it gave up: {ended:?}"),
        () = tried => {}
    }
    assert_eq!(queue.depth().await, depth("0", "1"), "and neither deleted nor given to others");
    let ids = reader.held.clone();
    reader.keep(&ids).await.unwrap();
    assert!(queue.reader().receive().await.unwrap().is_empty());
    reader.leave().await;
    let mut other = queue.reader();
    let again = other.receive().await.unwrap();
    assert_eq!((again.len(), again[0].body.as_ref()), (1, upload("users/a").as_slice()));
    // Keeping sets the time anew, here to none at all.
    let mut hasty = Sqs { held_for: NO_WAIT, ..queue.reader() };
    hasty.keep(&[again[0].id.clone()]).await.unwrap();
    assert_eq!(queue.depth().await, depth("1", "0"));
    let last = other.receive().await.unwrap();
    other.acknowledge(&[last[0].id.clone()]).await.unwrap();
    assert_eq!(queue.depth().await, depth("0", "0"));
}

async fn what_sns_wrapped_is_unwrapped(queue: &Queue, source: &EventSource) {
    let text = String::from_utf8(upload("users/red+flower")).unwrap();
    let wrap =
        |topic: &str| serde_json::json!({ "Type": "Notification", "TopicArn": topic, "Message": text });
    queue.send(wrap(TOPIC).to_string().as_bytes()).await;
    queue.send(wrap("arn:aws:sns:eu-west-1:444455556666:other").to_string().as_bytes()).await;
    queue.send(&upload("users/raw")).await;
    let (kit, mut reader) = (Kit::new(), queue.reader());
    while queue.depth().await != depth("0", "0") {
        round(&mut reader, source, &kit.intake).await.unwrap();
    }
    let tasks = kit.tasks().await;
    assert_eq!(tasks.iter().map(|t| t.spec.object.key.as_str()).collect::<Vec<_>>(), ["users/red flower"]);
    assert_eq!(kit.quarantine.kept().len(), 2, "another topic, and what is not wrapped");
}

async fn eventbridge_is_read(queue: &Queue) {
    let event = serde_json::json!({
        "source": "aws.s3", "detail-type": "Object Created",
        "detail": { "bucket": { "name": "photos" }, "object": { "key": "users/a+b", "size": 5, "version-id": "v1" } },
    });
    queue.send(event.to_string().as_bytes()).await;
    let kit = Kit::new();
    round(&mut queue.reader(), &source(Form::EventBridge), &kit.intake).await.unwrap();
    assert_eq!(kit.tasks().await[0].spec.object.key, "users/a+b");
    assert_eq!(queue.depth().await, depth("0", "0"));
}
