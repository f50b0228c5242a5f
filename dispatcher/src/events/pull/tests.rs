//! A real stream: what is acknowledged is durable, and what is not comes again.

use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use super::{redis_stream::RedisStream, *};
use crate::{
    events::{
        parse::Form,
        sources::StreamOptions,
        testing::{Kit, body, record, source},
    },
    grpc::testing::ScriptedQueue,
    queue::{QueueError, TaskQueue, redis::tests::server::Server},
};

struct Stream {
    server: Server,
    client: MultiplexedConnection,
}

impl Stream {
    async fn start() -> Self {
        let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
        let client = server.client().await;
        Self { server, client }
    }

    async fn add(&mut self, body: &[u8]) {
        let mut add = redis::cmd("XADD");
        add.arg("uploads").arg("*").arg("event").arg(body);
        add.query_async::<String>(&mut self.client).await.unwrap();
    }

    fn broker(&self, abandoned_after: Duration) -> Box<dyn PullSource> {
        let options = StreamOptions {
            url: self.server.url(0),
            stream: "uploads".into(),
            group: "backhaul".into(),
            field: "event".into(),
        };
        Box::new(RedisStream::new(options, abandoned_after))
    }

    /// Entries that were delivered and not acknowledged, and consumers of the group.
    async fn pending(&mut self) -> (usize, usize) {
        let pending: (usize, redis::Value, redis::Value, redis::Value) = redis::cmd("XPENDING")
            .arg("uploads")
            .arg("backhaul")
            .query_async(&mut self.client)
            .await
            .unwrap();
        let consumers: Vec<redis::Value> = redis::cmd("XINFO")
            .arg("CONSUMERS")
            .arg("uploads")
            .arg("backhaul")
            .query_async(&mut self.client)
            .await
            .unwrap();
        (pending.0, consumers.len())
    }
}

fn upload(key: &str) -> Vec<u8> {
    body(&[record("ObjectCreated:Put", key)])
}

const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn entries_become_tasks_and_only_then_are_acknowledged() {
    let mut stream = Stream::start().await;
    for n in 0..40 {
        stream.add(&upload(&format!("users/{n}"))).await;
    }
    let kit = Kit::new();
    let mut broker = stream.broker(NEVER);
    let source = source(Form::S3);
    while kit.tasks().await.len() < 40 {
        round(broker.as_mut(), &source, &kit.intake).await.unwrap();
    }
    assert_eq!(stream.pending().await, (0, 1));
    broker.leave().await;
    assert_eq!(stream.pending().await, (0, 0));
}

#[tokio::test]
async fn what_a_consumer_that_is_gone_has_left_is_claimed() {
    let mut stream = Stream::start().await;
    stream.add(&upload("users/a")).await;
    let mut gone = stream.broker(NEVER);
    assert_eq!(gone.receive().await.unwrap().len(), 1);
    gone.leave().await;
    assert_eq!(stream.pending().await, (1, 1), "it does not leave while an entry would go with it");
    drop(gone);
    let kit = Kit::new();
    let mut broker = stream.broker(Duration::ZERO);
    round(broker.as_mut(), &source(Form::S3), &kit.intake).await.unwrap();
    assert_eq!(kit.tasks().await.len(), 1);
    assert_eq!(stream.pending().await.0, 0);
}

#[tokio::test]
async fn odd_entries_and_foreign_buckets_go_to_quarantine_and_block_nothing() {
    let mut stream = Stream::start().await;
    stream.add(b"\xff").await;
    stream
        .add(&String::from_utf8(upload("users/a")).unwrap().replace("photos", "payroll").into_bytes())
        .await;
    let other = redis::cmd("XADD").arg("uploads").arg("*").arg("other").arg("1").clone();
    other.query_async::<String>(&mut stream.client).await.unwrap();
    stream.add(&upload("users/b")).await;
    let kit = Kit::new();
    round(stream.broker(NEVER).as_mut(), &source(Form::S3), &kit.intake).await.unwrap();
    assert_eq!((kit.tasks().await.len(), kit.quarantine.kept().len()), (1, 3));
    assert_eq!(stream.pending().await.0, 0);
}

#[tokio::test]
async fn events_wait_for_a_queue_that_says_no_and_a_stop_leaves_them_to_others() {
    let mut stream = Stream::start().await;
    stream.add(&upload("users/a")).await;
    let queue = Arc::new(ScriptedQueue::default());
    let kit = Kit::over(Arc::clone(&queue) as Arc<dyn TaskQueue>);
    let no = || Err(QueueError::Unavailable("gone".into()));
    queue.submits.lock().unwrap().extend((0..3).map(|_| no()));
    let mut broker = stream.broker(NEVER);
    round(broker.as_mut(), &source(Form::S3), &kit.intake).await.unwrap();
    assert_eq!(queue.submitted.lock().unwrap().len(), 4);
    assert_eq!(stream.pending().await.0, 0);

    queue.submits.lock().unwrap().extend((0..1000).map(|_| no()));
    stream.add(&upload("users/b")).await;
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(run(stream.broker(NEVER), source(Form::S3), Arc::clone(&kit.intake), stop.clone()));
    while queue.submitted.lock().unwrap().len() < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    running.join_next().await.unwrap().unwrap();
    assert_eq!(stream.pending().await.0, 1);
}

#[tokio::test]
async fn a_server_that_comes_back_empty_is_read_again() {
    let mut stream = Stream::start().await;
    stream.add(&upload("users/a")).await;
    let kit = Kit::new();
    let mut broker = stream.broker(NEVER);
    round(broker.as_mut(), &source(Form::S3), &kit.intake).await.unwrap();
    redis::cmd("DEL").arg("uploads").query_async::<u64>(&mut stream.client).await.unwrap();
    stream.add(&upload("users/b")).await;
    // The group is gone with the stream: once that is told, it is made again.
    assert!(round(broker.as_mut(), &source(Form::S3), &kit.intake).await.is_err());
    round(broker.as_mut(), &source(Form::S3), &kit.intake).await.unwrap();
    assert_eq!(kit.tasks().await.len(), 2);
}
