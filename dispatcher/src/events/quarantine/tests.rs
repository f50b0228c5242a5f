//! One suite for both places, the one in Redis on a real server.

use std::time::Duration;

use super::*;
use crate::{
    events::{parse::Form, testing::source},
    queue::{
        QueueClock,
        redis::{
            fsck::{FsckOptions, fsck},
            keys::{QUARANTINE, QUARANTINE_ORDER},
            tests::{patient, server::Server, settings},
        },
    },
};

async fn keeps_once(quarantine: &dyn Quarantine) {
    let (s3, minio) = (source(Form::S3), source(Form::Minio));
    assert!(quarantine.keep(Oddity::new(&s3, "odd", b"body")).await.unwrap());
    assert!(!quarantine.keep(Oddity::new(&s3, "odd again", b"body")).await.unwrap());
    assert!(
        quarantine.keep(Oddity::new(&minio, "odd", b"body")).await.unwrap(),
        "another source's is another"
    );
    for n in 0..MOST_KEPT {
        assert!(quarantine.keep(Oddity::new(&s3, "odd", format!("{n}").as_bytes())).await.unwrap());
    }
}

#[tokio::test]
async fn memory_keeps_once_and_forgets_the_oldest() {
    let quarantine = MemoryQuarantine::default();
    keeps_once(&quarantine).await;
    let kept = quarantine.kept();
    assert_eq!(kept.len(), MOST_KEPT);
    assert!(kept[0].contains("\"body\":\"0\""), "{}", kept[0]);
}

#[tokio::test]
async fn redis_keeps_once_forgets_the_oldest_and_survives_a_crash() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let queue = RedisQueue::connect(patient(server.url(0)), settings(), QueueClock::Server).await.unwrap();
    keeps_once(&queue).await;
    let late = || Oddity::new(&source(Form::S3), "odd", b"late");
    server.kill();
    assert!(queue.keep(late()).await.is_err());
    server.restart();
    let mut client = server.client().await;
    let (bodies, order): (usize, Vec<String>) = (
        redis::cmd("HLEN").arg(QUARANTINE).query_async(&mut client).await.unwrap(),
        redis::cmd("LRANGE").arg(QUARANTINE_ORDER).arg(0).arg(-1).query_async(&mut client).await.unwrap(),
    );
    assert_eq!((bodies, order.len()), (MOST_KEPT, MOST_KEPT));
    let oldest: String =
        redis::cmd("HGET").arg(QUARANTINE).arg(&order[0]).query_async(&mut client).await.unwrap();
    assert!(oldest.contains("\"body\":\"0\""), "{oldest}");
    // The queue finds the way back by itself.
    let is_new = async {
        loop {
            match queue.keep(late()).await {
                Ok(is_new) => return is_new,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(120), is_new).await.unwrap());
    queue.shutdown().await;
    // Nothing that the audit would call a stranger.
    let options = FsckOptions { repair: false, orphan_grace: Duration::ZERO, examples: 5 };
    let report = fsck(&patient(server.url(0)), options).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_body_is_kept_up_to_a_bound_and_its_length_is_told() {
    let long = vec![b'x'; MAX_KEPT_BYTES + 1];
    let oddity = Oddity::new(&source(Form::S3), "odd", &long);
    let text: serde_json::Value = serde_json::from_str(&oddity.text).unwrap();
    assert_eq!(text["body"].as_str().unwrap().len(), MAX_KEPT_BYTES);
    assert_eq!(text["bytes"], MAX_KEPT_BYTES + 1);
}
