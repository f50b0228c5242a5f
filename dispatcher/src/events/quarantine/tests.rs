//! One suite for both places, the one in Redis on a real server.

use std::time::Duration;

use super::*;
use crate::{
    events::{parse::Form, testing::source},
    queue::{
        QueueClock,
        redis::{
            fsck::{FsckOptions, fsck},
            keys::{QUARANTINE_ABOUT, QUARANTINE_BODIES},
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
    let listed = quarantine.list().await.unwrap();
    assert_eq!(listed.len(), 2);
    let first = Oddity::new(&s3, "odd", b"body");
    let told = listed.iter().find(|kept| kept.digest == first.digest).unwrap();
    assert_eq!(told.about, first.about, "the first reason stays");
    assert_eq!(quarantine.body(&first.digest).await.unwrap().unwrap(), "body");
    assert!(quarantine.forget(&first.digest).await.unwrap());
    assert!(!quarantine.forget(&first.digest).await.unwrap());
    assert_eq!(quarantine.body(&first.digest).await.unwrap(), None);
    assert_eq!(quarantine.list().await.unwrap().len(), 1);
    // Bytes that are no text are kept as they are.
    assert!(quarantine.keep(Oddity::new(&s3, "odd", b"\xff\0")).await.unwrap());
    let bytes = Oddity::new(&s3, "", b"\xff\0");
    assert_eq!(quarantine.body(&bytes.digest).await.unwrap().unwrap(), bytes.body);
    // Those before are older by at least a millisecond.
    tokio::time::sleep(Duration::from_millis(3)).await;
    for n in 0..MOST_KEPT {
        assert!(quarantine.keep(Oddity::new(&s3, "odd", format!("{n}").as_bytes())).await.unwrap());
    }
    assert_eq!(quarantine.list().await.unwrap().len(), MOST_KEPT);
    assert_eq!(quarantine.body(&bytes.digest).await.unwrap(), None, "the oldest went first");
    // Large ones have room for a few.
    for n in 0..5_u8 {
        // Each is older than the next by at least a millisecond.
        tokio::time::sleep(Duration::from_millis(3)).await;
        assert!(quarantine.keep(Oddity::new(&s3, "odd", &vec![n; MAX_KEPT_BYTES])).await.unwrap());
    }
    let kept = quarantine.list().await.unwrap();
    assert_eq!(kept.len(), MOST_BYTES / MAX_KEPT_BYTES, "the oldest went first");
    let whole = quarantine.body(&kept[0].digest).await.unwrap().unwrap();
    assert_eq!((whole.len(), whole[0]), (MAX_KEPT_BYTES, 4));
}

#[tokio::test]
async fn memory_keeps_once_and_forgets_the_oldest() {
    let quarantine = MemoryQuarantine::default();
    keeps_once(&quarantine).await;
    assert_eq!(quarantine.kept().last().unwrap().body[0], 4, "the latest is the last");
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
    for key in [QUARANTINE_BODIES, QUARANTINE_ABOUT] {
        let kept: usize = redis::cmd("HLEN").arg(key).query_async(&mut client).await.unwrap();
        assert_eq!(kept, MOST_BYTES / MAX_KEPT_BYTES, "{key}");
    }
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
    assert_eq!(oddity.body.len(), MAX_KEPT_BYTES);
    assert_eq!(oddity.about.bytes, MAX_KEPT_BYTES as u64 + 1);
}
