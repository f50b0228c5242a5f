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
    walk::{Change, Saved, Walk, WalkStore, conformance},
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
        set.arg(&keys::walk(&ids[0])[0]).arg(damage);
        let (): () = set.query_async(&mut server.client().await).await.unwrap();
        assert!(queue.load(&ids[0]).await.is_err(), "{damage}");
        let look = queue.look(false).await.unwrap();
        assert_eq!(look.walks.iter().map(|walk| &walk.id).collect::<Vec<_>>(), [&ids[1]]);
    }
}
