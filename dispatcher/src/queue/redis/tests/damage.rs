//! What somebody or something else put into Redis: it is named, it stops nobody else, and nothing panics.

use proptest::prelude::*;
use redis::AsyncCommands as _;

use super::{Server, done, queue, renewal, request, settings, task};
use crate::queue::{
    NewTask, QueueClock, QueueError, QueueSettings, TaskId, TaskQueue as _, TaskState, UnixMs,
    conformance::START,
    redis::{codec, keys},
};

fn is_corrupt<T: std::fmt::Debug>(answer: Result<T, QueueError>) -> bool {
    matches!(answer, Err(QueueError::Corrupt { .. }))
}

#[tokio::test]
async fn a_damaged_record_is_reported_by_every_call_and_holds_up_no_other_task() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, settings(), &clock).await;
    let ids: Vec<TaskId> = queue
        .submit((0..3).map(|n| task("t", n)).collect())
        .await
        .into_iter()
        .map(|answer| answer.unwrap().id)
        .collect();
    let mut client = server.client().await;
    let good: Vec<u8> = client.get(keys::record(0, &ids[0])).await.unwrap();
    let mut other_version = good.clone();
    other_version[0] = 9;
    let mut other_band = good.clone();
    other_band[codec::BAND_AT] = 7;
    for damaged in [
        b"".as_slice(),
        b"x",
        &good[..good.len() - 1],
        &[good.as_slice(), b"x"].concat(),
        &other_version,
        &other_band,
    ] {
        let (): () = client.set(keys::record(0, &ids[0]), damaged).await.unwrap();
        assert!(is_corrupt(queue.get(&ids[0]).await), "{damaged:?}");
        assert!(is_corrupt(queue.submit(vec![task("t", 0)]).await.remove(0)));
        assert!(is_corrupt(queue.cancel(&ids[0]).await));
    }
    let leased = queue.lease(&request("s", 1, 9)).await.unwrap();
    assert_eq!(leased.iter().map(|task| &task.id).collect::<Vec<_>>(), [&ids[1], &ids[2]]);
    let aside: Vec<String> = client.zrange("{bh:000}:damaged", 0, -1).await.unwrap();
    assert_eq!(aside, [ids[0].hash()], "put aside for somebody to look at");

    let (): () = client.set(keys::record(0, &ids[1]), b"garbage").await.unwrap();
    assert!(is_corrupt(queue.renew(&[renewal(&leased[0])]).await.remove(0)));
    assert!(is_corrupt(queue.settle(vec![done(&leased[0])]).await.remove(0)));
    let (): () = client.del(keys::record(0, &ids[2])).await.unwrap();
    queue.sweep().await.unwrap();
    clock.advance(settings().lease);
    let report = queue.sweep().await.unwrap();
    assert_eq!((report.fixed, report.unaccepted), (2, 0), "{report:?}");
    assert_eq!(queue.depths().await.unwrap().working, 0);
}

#[tokio::test]
async fn a_shard_that_cannot_be_swept_holds_up_no_other_and_is_told_of() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, QueueSettings { shards: 2, ..settings() }, &clock).await;
    let ids: Vec<TaskId> = queue
        .submit(
            (0..16)
                .map(|n| NewTask { process_at: Some(START.plus(settings().lease)), ..task("t", n) })
                .collect(),
        )
        .await
        .into_iter()
        .map(|answer| answer.unwrap().id)
        .collect();
    let mut client = server.client().await;
    let (): () = client.set("{bh:001}:sweep", "not a hash").await.unwrap();
    clock.advance(settings().lease);
    assert!(matches!(queue.sweep().await, Err(QueueError::Rejected(_))));
    for id in ids {
        let due = if id.shard(2) == 0 { TaskState::Pending } else { TaskState::Scheduled };
        assert_eq!(queue.get(&id).await.unwrap().state, due, "{id}");
    }
}

#[tokio::test]
async fn an_index_that_is_wrong_is_put_right_by_the_sweep() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, settings(), &clock).await;
    let id = queue.submit(vec![task("t", 0)]).await.remove(0).unwrap().id;
    let mut client = server.client().await;
    let unknown = "0123456789abcdef0123456789abcdef";
    for index in ["working", "working:scheduled", "delay", "done", "dead", "cancelled"] {
        for entry in [id.hash(), unknown, "no task at all", "{bh:000}:meta"] {
            let (): () = client.zadd(format!("{{bh:000}}:{index}"), entry, 1).await.unwrap();
        }
    }
    queue.sweep().await.unwrap();
    clock.advance(settings().lease);
    let mut fixed = 0;
    for _ in 0..4 {
        fixed += queue.sweep().await.unwrap().fixed;
        clock.advance(settings().sweep_every);
    }
    let depths = queue.depths().await.unwrap();
    assert_eq!((depths.pending, depths.working + depths.scheduled + depths.delayed), (1, 0));
    assert_eq!((depths.done, depths.dead, depths.cancelled, fixed > 0), (0, 0, 0, true));
    assert_eq!(queue.get(&id).await.unwrap().state, TaskState::Pending);
}

#[tokio::test]
async fn a_key_of_another_type_is_an_error_and_not_a_panic() {
    let server = Server::start(&[]);
    let queue = queue(&server, settings(), &QueueClock::Server).await;
    let id = queue.submit(vec![task("t", 0)]).await.remove(0).unwrap().id;
    let mut client = server.client().await;
    let (): () = client.del(keys::record(0, &id)).await.unwrap();
    let (): () = client.lpush(keys::record(0, &id), "x").await.unwrap();
    assert!(is_corrupt(queue.get(&id).await));
    let (): () = client.del("{bh:000}:meta").await.unwrap();
    let (): () = client.set("{bh:000}:meta", "x").await.unwrap();
    let refused = queue.submit(vec![task("t", 1)]).await.remove(0);
    assert!(matches!(refused, Err(QueueError::Rejected(_))), "{refused:?}");
    assert!(matches!(queue.sweep().await, Err(QueueError::Rejected(_))));
    assert!(queue.depths().await.is_err());
}

#[tokio::test]
async fn a_task_that_has_no_room_in_a_record_is_refused_alone() {
    let server = Server::start(&[]);
    let queue = queue(&server, settings(), &QueueClock::Server).await;
    let with = |change: fn(&mut NewTask)| {
        let mut task = task("t", 7);
        change(&mut task);
        task
    };
    let answers = queue
        .submit(vec![
            with(|task| task.spec.tenant = "t".repeat(256)),
            with(|task| task.spec.object.location = "l".repeat(256)),
            with(|task| task.spec.object.location = "two:parts".into()),
            with(|task| task.spec.tenant = "t:\0\r\n🦀{x}".into()),
            with(|task| task.process_at = Some(UnixMs(u64::MAX))),
        ])
        .await;
    assert!(answers[..3].iter().all(|answer| matches!(answer, Err(QueueError::Rejected(_)))), "{answers:?}");
    let odd = queue.get(&answers[3].as_ref().unwrap().id).await.unwrap();
    assert_eq!(odd.spec.tenant, "t:\0\r\n🦀{x}");
    assert_eq!(answers[4].as_ref().unwrap().state, TaskState::Scheduled);
    assert_eq!(queue.lease(&request("s", 1, 9)).await.unwrap().len(), 1);
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400), head in any::<bool>()) {
        let id = TaskId::parse("def-0123456789abcdef0123456789abcdef").unwrap();
        let mut bytes = bytes;
        if head && bytes.len() > 4 {
            bytes[..5].copy_from_slice(&[codec::VERSION, 2, 0, 0, 1]);
        }
        drop(codec::decode(&id, &bytes));
    }

    #[test]
    fn a_good_record_with_one_byte_changed_is_a_record_or_an_error(at in 0_usize..400, byte in any::<u8>()) {
        let id = TaskId::parse("def-0123456789abcdef0123456789abcdef").unwrap();
        let mut record = vec![codec::VERSION, 2];
        record.resize(codec::HEAD_BYTES - codec::BODY_HEAD_BYTES, 0);
        record.extend(codec::encode_new(&task("tenant", 1)).unwrap().body);
        prop_assert!(codec::decode(&id, &record).is_ok());
        let at = at % record.len();
        record[at] = byte;
        drop(codec::decode(&id, &record));
    }
}
