//! One suite for both places, the one in Redis on a real server.

use super::*;
use crate::queue::{
    QueueClock,
    redis::tests::{patient, server::Server, settings},
};

fn note(key: &str, version: Option<&str>) -> Note {
    let text = |text: &str| text.to_owned();
    Note {
        source: text("s3"),
        location: text("uploads"),
        bucket: text("photos"),
        key: text(key),
        version: version.map(text),
    }
}

async fn keys(removals: &dyn Removals, skip: usize, limit: usize) -> Vec<String> {
    removals.list(skip, limit).await.unwrap().into_iter().map(|(note, _)| note.key).collect()
}

async fn notes_each_once_and_the_latest_first(removals: &dyn Removals) {
    removals.note(&[]).await.unwrap();
    assert!(removals.list(0, 10).await.unwrap().is_empty());
    for key in ["a", "b \" € \u{1}", "c"] {
        removals.note(&[note(key, None)]).await.unwrap();
        // Notes of one millisecond have no order among themselves.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    assert_eq!(keys(removals, 0, 10).await, ["c", "b \" € \u{1}", "a"]);
    removals.note(&[note("a", None)]).await.unwrap();
    assert_eq!(keys(removals, 0, 10).await, ["a", "c", "b \" € \u{1}"], "told again, it is the latest");
    assert_eq!(keys(removals, 1, 1).await, ["c"]);
    assert!(keys(removals, 3, 10).await.is_empty());
    removals.note(&[note("a", Some("v1")), note("a", Some("v2"))]).await.unwrap();
    assert_eq!(removals.list(0, 10).await.unwrap().len(), 5, "versions are told apart");
    let many: Vec<Note> = (0..MOST_KEPT + 5).map(|n| note(&format!("{n:06}"), None)).collect();
    removals.note(&many).await.unwrap();
    assert_eq!(removals.list(0, MOST_KEPT + 10).await.unwrap().len(), MOST_KEPT);
}

#[tokio::test]
async fn memory_notes_each_once_and_the_latest_first() {
    notes_each_once_and_the_latest_first(&MemoryRemovals::default()).await;
}

#[tokio::test]
async fn redis_notes_each_once_and_the_latest_first_and_survives_a_crash() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let queue = RedisQueue::connect(patient(server.url(0)), settings(), QueueClock::Server).await.unwrap();
    notes_each_once_and_the_latest_first(&queue).await;
    queue.note(&[note("last", None)]).await.unwrap();
    server.kill();
    assert!(queue.note(&[note("lost", None)]).await.is_err());
    server.restart();
    // The queue finds the way back by itself.
    let latest = async {
        loop {
            match Removals::list(&queue, 0, 1).await {
                Ok(latest) => return latest,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    };
    let latest = tokio::time::timeout(std::time::Duration::from_secs(120), latest).await.unwrap();
    assert_eq!(latest[0].0, note("last", None));
    assert!(latest[0].1.0 > 1_700_000_000_000, "with the server's time");
    queue.shutdown().await;
}
