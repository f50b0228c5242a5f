//! Walks on a real server: the suite, also when every call is sent twice, and that a damaged one hides no other.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::{options, server::Server, settings};
use crate::queue::{
    QueueClock, QueueSettings,
    conformance::START,
    redis::{RedisOptions, RedisQueue, keys},
    walk::{Change, MOST_ACTIVE, Saved, Walk, WalkStore, conformance},
};

async fn suite(change: fn(&mut RedisOptions)) {
    let server = Server::start(&[]);
    let next = AtomicU32::new(0);
    conformance::all(async |clock| {
        let mut options = options(&server, next.fetch_add(1, Ordering::Relaxed));
        change(&mut options);
        let settings = QueueSettings { retain_dead: conformance::RETAIN, ..settings() };
        Arc::new(RedisQueue::connect(options, settings, clock).await.unwrap()) as Arc<dyn WalkStore>
    })
    .await;
}

#[tokio::test]
async fn walks_are_kept_as_the_contract_says() {
    suite(|_| {}).await;
}

#[tokio::test]
async fn walks_are_kept_as_the_contract_says_when_every_call_is_sent_twice() {
    suite(|options| options.repeats = true).await;
}

#[tokio::test]
async fn a_damaged_walk_is_told_and_hides_no_other() {
    let server = Server::start(&[]);
    let queue = super::queue(&server, settings(), &QueueClock::starting_at(START)).await;
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let (spec, id) = (conformance::spec(name), queue.id("web", name));
        let change = Change {
            id: id.clone(),
            expected: None,
            walk: Walk::new(spec, START),
            opened: vec![],
            closed: vec![],
            failures: vec![],
        };
        assert_eq!(queue.save(&change).await.unwrap(), Saved::Yes { revision: 1, open: 0 });
        ids.push(id);
    }
    for damage in ["1", "x {}", "1 {}"] {
        let mut set = redis::cmd("SET");
        set.arg(&keys::walk(0, &ids[0])[0]).arg(damage);
        let (): () = set.query_async(&mut server.client().await).await.unwrap();
        assert!(queue.load(&ids[0]).await.is_err(), "{damage}");
        let look = queue.look(false).await.unwrap();
        assert_eq!(look.walks.iter().map(|walk| &walk.id).collect::<Vec<_>>(), [&ids[1]]);
    }
}

#[tokio::test]
async fn a_finished_walk_goes_by_itself_and_those_that_finished_first_are_left_out() {
    let server = Server::start(&[]);
    let settings = QueueSettings { retain_dead: conformance::RETAIN, ..settings() };
    let clock = QueueClock::starting_at(START);
    let queue = super::queue(&server, settings, &clock).await;
    let mut client = server.client().await;
    let finish = async |name: &str| {
        let id = queue.id("web", name);
        let mut change = Change {
            id: id.clone(),
            expected: None,
            walk: Walk::new(conformance::spec(name), START),
            opened: vec![],
            closed: vec![],
            failures: vec![],
        };
        queue.save(&change).await.unwrap();
        (change.expected, change.failures) = (Some(1), vec![conformance::failed(1)]);
        queue.save(&change).await.unwrap();
        assert!(change.walk.cancel(clock.local_now()));
        (change.expected, change.failures) = (Some(2), vec![]);
        queue.save(&change).await.unwrap();
        clock.advance(std::time::Duration::from_secs(60));
        id
    };
    let (first, last) = (finish("first").await, finish("last").await);
    let [record, _, failed] = keys::walk(0, &last);
    for key in [record, failed] {
        let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut client).await.unwrap();
        assert!(left > 0, "{key} stays for ever");
    }
    // As many as are shown, between the two.
    let mut fill = redis::cmd("ZADD");
    fill.arg("{bh:000}:walks");
    for n in 0..MOST_ACTIVE - 1 {
        let between = START.plus(conformance::RETAIN).plus(std::time::Duration::from_secs(30)).0;
        fill.arg(between).arg(format!("{n:032x}"));
    }
    let (): () = fill.query_async(&mut client).await.unwrap();
    let shown: Vec<_> = queue.look(true).await.unwrap().walks.into_iter().map(|walk| walk.id).collect();
    assert!(shown.contains(&last) && !shown.contains(&first), "{shown:?}");
    // The next change of any walk forgets those whose time has come.
    clock.advance(conformance::RETAIN * 2);
    finish("later").await;
    let left: u64 = redis::cmd("ZCARD").arg("{bh:000}:walks").query_async(&mut client).await.unwrap();
    assert_eq!(left, 1);
}
