//! Another number of shards: everything is there afterwards as it was, wherever the change was killed, and nobody works meanwhile.

mod killed;
mod scene;
mod servers;

use std::time::Duration;

use redis::AsyncCommands as _;

use self::scene::{
    asked, change, connect, end, fill, filled, from_everywhere, is_clean, look, new, nobody_listens, works_on,
};
use super::{Server, done, options, task};
use crate::queue::{
    EventCursor, NewTask, Outcome, QueueError, Settlement, TaskId, TaskQueue as _, TaskState,
    redis::{
        ConnectError, RedisOptions, Unfit,
        fsck::{FsckError, FsckOptions, fsck},
        keys,
        reshard::{ReshardError, Step, reshard},
        scripts::{Call, Script},
    },
};

/// Changes the number once nobody listens.
async fn change_alone(server: &Server, options: &RedisOptions, to: u16) -> u64 {
    nobody_listens(std::slice::from_ref(server)).await;
    change(options, to).await.unwrap().moved
}

/// A whole change, for whoever looks what it is allowed to do.
pub(super) async fn is_allowed(options: &RedisOptions, auditor: &mut redis::aio::MultiplexedConnection) {
    filled(options, 3).await;
    super::cluster::until("nobody listens", async || {
        let channels: Vec<String> =
            redis::cmd("PUBSUB").arg("CHANNELS").arg("bh:*").query_async(auditor).await.unwrap();
        channels.is_empty()
    })
    .await;
    assert!(change(options, 2).await.unwrap().moved > 0);
}

#[tokio::test]
async fn more_and_fewer_shards_keep_everything_as_it_was() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let queue = connect(&options, 4).await.unwrap();
    let ids = fill(&queue).await;
    let before = look(&queue, &ids).await;
    for state in TaskState::ALL {
        assert!(before.tasks.values().any(|record| record.state == state), "{state:?} is not tried");
    }
    is_clean(&options).await;
    end(queue).await;
    for (from, to) in [(4, 7), (7, 1), (1, 16), (16, 2)] {
        assert!(change_alone(&server, &options, to).await > 0);
        is_clean(&options).await;
        let refused = connect(&options, from).await;
        assert!(matches!(refused, Err(ConnectError::Unfit(Unfit::OtherShards { .. }))), "{refused:?}");
        let queue = connect(&options, to).await.unwrap();
        assert_eq!(look(&queue, &ids).await, before);
        end(queue).await;
    }
    let keys: Vec<String> = server.client().await.keys("{bh:0*").await.unwrap();
    assert!(keys.iter().all(|key| key.starts_with("{bh:000}") || key.starts_with("{bh:001}")), "{keys:?}");
    nobody_listens(std::slice::from_ref(&server)).await;
    let again = change(&options, 2).await.unwrap();
    assert!(again.moved == 0 && again.report.is_none(), "{again:?}");

    let queue = connect(&options, 2).await.unwrap();
    // A worker that held a task all the while reports it.
    let working = before.tasks.values().find(|record| record.state == TaskState::Working && !record.dirty);
    let working = working.unwrap();
    let outcome = Outcome::Done { receipt: bytes::Bytes::from_static(b"receipt") };
    let report = Settlement { id: working.id.clone(), lease: working.lease.unwrap(), outcome };
    assert!(queue.settle(vec![report]).await.remove(0).is_ok());
    assert_eq!(queue.get(&working.id).await.unwrap().state, TaskState::Done);
    works_on(&queue, &ids).await;
    is_clean(&options).await;
}

#[tokio::test]
async fn tasks_keep_their_order_and_later_ones_stand_behind_them() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let queue = connect(&options, 1).await.unwrap();
    let task = |n: u32| NewTask { process_at: None, ..task("t", n) };
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(queue.submit(vec![task(n)]).await.remove(0).unwrap().id);
    }
    end(queue).await;
    for (to, more) in [(5, 40..50), (2, 50..60), (1, 60..70)] {
        change_alone(&server, &options, to).await;
        let queue = connect(&options, to).await.unwrap();
        for n in more {
            ids.push(queue.submit(vec![task(n)]).await.remove(0).unwrap().id);
        }
        end(queue).await;
    }
    let queue = connect(&options, 1).await.unwrap();
    let mut leased: Vec<TaskId> = Vec::new();
    for round in 1..=70 {
        let one = queue.lease(&from_everywhere("s", round, 1)).await.unwrap().remove(0);
        queue.settle(vec![done(&one)]).await.remove(0).unwrap();
        leased.push(one.id);
    }
    // Those of before came from one shard, so their order is theirs; those of later, of several shards, stand behind all that were there.
    assert_eq!(leased[..40], ids[..40]);
    for (from, to) in [(40, 50), (50, 60), (60, 70)] {
        let mut later = leased[from..to].to_vec();
        later.sort();
        let mut expected = ids[from..to].to_vec();
        expected.sort();
        assert_eq!(later, expected, "{from}..{to}");
    }
}

#[tokio::test]
async fn a_watch_from_before_is_shown_everything_anew() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let queue = connect(&options, 4).await.unwrap();
    fill(&queue).await;
    let cursor: EventCursor = queue.events(None).await.unwrap().next;
    assert!(!queue.events(Some(&cursor)).await.unwrap().missed);
    end(queue).await;
    for to in [8, 4] {
        change_alone(&server, &options, to).await;
        let queue = connect(&options, to).await.unwrap();
        let events = queue.events(Some(&cursor)).await.unwrap();
        assert!(events.missed && events.changed.is_empty(), "{events:?}");
        assert!(!queue.events(Some(&events.next)).await.unwrap().missed);
        end(queue).await;
    }
}

#[tokio::test]
async fn nothing_is_changed_while_a_dispatcher_is_there() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let queue = connect(&options, 3).await.unwrap();
    let ids = fill(&queue).await;
    let before = look(&queue, &ids).await;
    super::cluster::until("the dispatcher listens", async || {
        let counts: Vec<(String, u32)> = server.ask("PUBSUB NUMSUB bh:ready").await.unwrap();
        counts[0].1 == 1
    })
    .await;
    let refused = change(&options, 5).await;
    assert!(matches!(refused, Err(ReshardError::Dispatcher)), "{refused:?}");
    queue.check().await.unwrap();
    assert_eq!(look(&queue, &ids).await, before);
}

/// Runs a change; at each step something else happens, and it goes on after that.
async fn change_and(
    options: &RedisOptions,
    to: u16,
    mut meanwhile: impl FnMut(Step) + Send,
) -> Result<(), ReshardError> {
    reshard(options, &asked(to), &mut meanwhile).await.map(drop)
}

/// Notes a sweep of a shard.
fn sweep_by_hand(server: &Server, swept: u32) {
    let mut client = redis::Client::open(server.url(0)).unwrap().get_connection().unwrap();
    let (): () = redis::cmd("HSET").arg(&["{bh:001}:sweep", "swept"]).arg(swept).query(&mut client).unwrap();
}

#[tokio::test]
async fn a_sweep_of_somebody_who_does_not_listen_is_noticed_too() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let (ids, before) = filled(&options, 3).await;
    nobody_listens(std::slice::from_ref(&server)).await;
    let refused = change_and(&options, 5, |step| {
        if matches!(step, Step::Watching(_)) {
            sweep_by_hand(&server, 7);
        }
    })
    .await;
    assert!(matches!(refused, Err(ReshardError::Swept)), "{refused:?}");
    let queue = connect(&options, 3).await.unwrap();
    assert_eq!(look(&queue, &ids).await, before);
    end(queue).await;
    nobody_listens(std::slice::from_ref(&server)).await;
    // One that comes when things have moved keeps it from ending, and starts nothing.
    let refused = change_and(&options, 5, |step| {
        if matches!(step, Step::Moving { .. }) {
            sweep_by_hand(&server, 9);
        }
    })
    .await;
    assert!(matches!(refused, Err(ReshardError::Swept)), "{refused:?}");
    let started = connect(&options, 5).await;
    assert!(matches!(started, Err(ConnectError::Unfit(Unfit::Resharding { .. }))), "{started:?}");
    change_alone(&server, &options, 5).await;
    let queue = connect(&options, 5).await.unwrap();
    assert_eq!(look(&queue, &ids).await.tasks, before.tasks);
}

#[tokio::test]
async fn two_changes_at_once_do_not_both_go_on() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let (ids, before) = filled(&options, 3).await;
    nobody_listens(std::slice::from_ref(&server)).await;
    let mut other = None;
    let changed = change_and(&options, 5, |step| {
        if matches!(step, Step::Moving { .. }) && other.is_none() {
            let options = options.clone();
            let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let changing = std::thread::spawn(move || runtime().block_on(change(&options, 4)));
            other = Some(changing.join().unwrap());
        }
    })
    .await;
    changed.unwrap();
    assert!(matches!(other, Some(Err(ReshardError::Another))), "{other:?}");
    let queue = connect(&options, 5).await.unwrap();
    assert_eq!(look(&queue, &ids).await, before);
}

#[tokio::test]
async fn data_that_is_not_right_is_not_touched() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let (ids, _) = filled(&options, 3).await;
    nobody_listens(std::slice::from_ref(&server)).await;
    let mut client = server.client().await;
    let damaged = keys::record(ids[5].shard(3), &ids[5]);
    let record: Vec<u8> = client.get(&damaged).await.unwrap();
    let (): () = client.set(&damaged, "garbage").await.unwrap();
    let refused = change(&options, 5).await;
    assert!(matches!(&refused, Err(ReshardError::Unsound(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("damaged-record: 1 found"));
    end(connect(&options, 3).await.unwrap()).await;
    let (): () = client.set(&damaged, record).await.unwrap();
    assert!(change_alone(&server, &options, 5).await > 0);
    is_clean(&options).await;
}

#[tokio::test]
async fn another_record_in_the_new_shard_is_never_written_over() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let (ids, _) = filled(&options, 3).await;
    nobody_listens(std::slice::from_ref(&server)).await;
    let id = ids.iter().find(|id| id.shard(3) != id.shard(5)).unwrap();
    let (old, new) = (keys::record(id.shard(3), id), keys::record(id.shard(5), id));
    let mut client = server.client().await;
    let record: Vec<u8> = client.get(&old).await.unwrap();
    // Begun, so that no audit comes before.
    let (): () = client.hset("bh:config", "resharding", "5 of 5 moving").await.unwrap();
    let (): () = client.set(&new, "other").await.unwrap();
    let refused = change(&options, 5).await;
    assert!(matches!(&refused, Err(ReshardError::Differs { key }) if *key == old), "{refused:?}");
    let both: (Vec<u8>, String) = (client.get(&old).await.unwrap(), client.get(&new).await.unwrap());
    assert_eq!(both, (record, "other".into()));
    let audit = FsckOptions { repair: true, orphan_grace: Duration::ZERO, examples: 1 };
    let refused = fsck(&options, audit).await;
    assert!(matches!(refused, Err(FsckError::NotOurs(why)) if why.contains("reshard")), "not meanwhile");
    let (): () = client.del(&new).await.unwrap();
    assert!(change_alone(&server, &options, 5).await > 0);
    is_clean(&options).await;
}

#[tokio::test]
async fn what_the_other_shard_does_not_have_is_not_let_go() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let queue = connect(&options, 1).await.unwrap();
    let id = queue.submit(vec![task("t", 1)]).await.remove(0).unwrap().id;
    let mut client = server.client().await;
    let record: Vec<u8> = client.get(keys::record(0, &id)).await.unwrap();
    let mut ask = async |raw: &[u8]| -> Vec<i64> {
        let call = Call::about(Script::MoveOut, 0, [&id].into_iter()).arg(0).arg(raw).into_command();
        call.query_async(&mut client).await.unwrap()
    };
    assert_eq!(ask(b"other").await, [0, 1, 0, 0]);
    assert!(queue.get(&id).await.is_ok());
    assert_eq!(ask(&record).await, [0, 0, 0, 1]);
    assert_eq!(ask(&record).await, [0, 0, 0, 2]);
    assert!(matches!(queue.get(&id).await, Err(QueueError::NotFound(_))));
}

#[tokio::test]
async fn more_listings_than_a_shard_can_drive_are_refused() {
    let server = Server::start(&[]);
    let options = options(&server, 0);
    end(connect(&options, 2).await.unwrap()).await;
    nobody_listens(std::slice::from_ref(&server)).await;
    let mut fill = redis::cmd("ZADD");
    fill.arg("{bh:000}:walks:active");
    for n in 0..=crate::queue::walk::MOST_ACTIVE {
        fill.arg(1).arg(format!("{:032x}", n * 2));
    }
    let (): () = fill.query_async(&mut server.client().await).await.unwrap();
    let refused = change(&options, 1).await;
    assert!(matches!(refused, Err(ReshardError::TooManyWalks { shard: 0, .. })), "{refused:?}");
    end(connect(&options, 2).await.unwrap()).await;
}

#[tokio::test]
async fn many_tasks_move_in_batches_and_it_says_how_far_it_is() {
    const TASKS: u32 = 25_000;
    let server = Server::start(&[]);
    let options = options(&server, 0);
    let queue = connect(&options, 2).await.unwrap();
    assert!(queue.submit((0..TASKS).map(new).collect()).await.iter().all(Result::is_ok));
    end(queue).await;
    nobody_listens(std::slice::from_ref(&server)).await;
    let mut steps = Vec::new();
    change_and(&options, 3, |step| steps.push(step)).await.unwrap();
    let moves = steps.iter().filter_map(|step| match step {
        Step::Moving { moved, .. } => Some(*moved),
        Step::Watching(_) | Step::Auditing => None,
    });
    let mut moves: Vec<u64> = moves.collect();
    moves.dedup();
    assert!(moves.len() > 1 && moves.is_sorted(), "{moves:?}");
    let queue = connect(&options, 3).await.unwrap();
    let depths = queue.depths().await.unwrap();
    assert_eq!(depths.pending + depths.scheduled, u64::from(TASKS));
}
