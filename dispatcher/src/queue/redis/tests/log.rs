//! What the log of changes and the statistics cost, and that every dispatcher reads the same.

use std::collections::BTreeSet;

use redis::AsyncCommands as _;

use super::{Server, done, queue, renewal, request, settings, task};
use crate::queue::{
    QueueClock, QueueSettings, StatsQuery, TaskQueue as _, conformance::START, events::KEPT,
    stats::MOST_TENANTS,
};

const LOG: &str = "{bh:000}:events";

#[tokio::test]
async fn changes_are_logged_only_while_somebody_reads_and_the_log_goes_when_nobody_does() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let (here, there) = (queue(&server, settings(), &clock).await, queue(&server, settings(), &clock).await);
    let mut client = server.client().await;
    here.submit((0..10).map(|n| task("t", n)).collect()).await;
    let logged: bool = client.exists(LOG).await.unwrap();
    assert!(!logged, "nobody reads");

    // Read by one, changed through another, read on by a third that has only the cursor.
    let begin = there.events(None).await.unwrap().next;
    let leased = here.lease(&request("s", 1, 10)).await.unwrap();
    here.renew(&leased.iter().map(renewal).collect::<Vec<_>>()).await;
    here.settle(leased.iter().map(done).collect()).await;
    let events = queue(&server, settings(), &clock).await.events(Some(&begin)).await.unwrap();
    assert_eq!((events.changed.len(), events.missed), (30, false), "ten tasks, three moves");
    let entries: u64 = redis::cmd("XLEN").arg(LOG).query_async(&mut client).await.unwrap();
    assert_eq!(entries, 1 + 3, "one entry for each call, and where the log begins");

    clock.advance(KEPT + settings().sweep_every);
    here.sweep().await.unwrap();
    let logged: bool = client.exists(LOG).await.unwrap();
    assert!(!logged, "nobody has read for long");
    here.submit(vec![task("t", 100)]).await;
    let logged: bool = client.exists(LOG).await.unwrap();
    assert!(!logged);
    assert!(there.events(Some(&events.next)).await.unwrap().missed);
}

#[tokio::test]
async fn a_cursor_whose_entry_is_lost_is_answered_as_missed() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, QueueSettings { shards: 2, ..settings() }, &clock).await;
    queue.events(None).await.unwrap();
    queue.submit((0..20).map(|n| task("t", n)).collect()).await;
    let cursor = queue.events(None).await.unwrap().next;
    // As a failover to a replica that had not heard of the newest entry.
    let mut client = server.client().await;
    let newest: Vec<(String, Vec<String>)> =
        redis::cmd("XREVRANGE").arg(&[LOG, "+", "-", "COUNT", "1"]).query_async(&mut client).await.unwrap();
    let (): () = redis::cmd("XDEL").arg(&[LOG, &newest[0].0]).query_async(&mut client).await.unwrap();
    let events = queue.events(Some(&cursor)).await.unwrap();
    assert!(events.missed && events.changed.is_empty(), "{events:?}");
    assert!(!queue.events(Some(&events.next)).await.unwrap().missed);
}

#[tokio::test]
async fn statistics_of_many_tasks_and_tenants_are_bounded_and_say_so() {
    const TENANTS: u32 = 300;
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, QueueSettings { shards: 2, ..settings() }, &clock).await;
    let tasks = (0..3_000_u32).map(|n| {
        let mut task = task(&format!("t{:03}", n % TENANTS), n);
        task.process_at = (n % 2 == 0).then_some(START.plus(settings().lease));
        task
    });
    assert!(queue.submit(tasks.collect()).await.iter().all(Result::is_ok));
    clock.advance(settings().sweep_every);
    let stats = queue.stats(&StatsQuery::All { tenants: u32::MAX }).await.unwrap();
    assert_eq!((stats.total.pending[1].tasks, stats.total.scheduled.tasks), (1_500, 1_500));
    assert!(stats.total.pending[1].sampled && stats.total.scheduled.sampled, "{:?}", stats.total);
    assert_eq!(stats.total.pending[1].oldest, Some(settings().sweep_every));
    assert_eq!(stats.tenants.len(), MOST_TENANTS as usize);
    assert_eq!(stats.tenants_left_out, u64::from(TENANTS - MOST_TENANTS));
    let names: BTreeSet<_> = stats.tenants.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), stats.tenants.len());
    // Of a tenant, too, the numbers are exact, and so is the age of what waits.
    let (name, share) = &stats.tenants[0];
    let own = queue.stats(&StatsQuery::Tenant(name.clone())).await.unwrap().total;
    assert_eq!(own.pending[1].tasks + own.scheduled.tasks, 10);
    assert_eq!((own.pending[1], own.scheduled.tasks), (share.pending[1], share.scheduled.tasks));
    assert!(!own.pending[1].sampled || own.pending[1].tasks == 0);
}
