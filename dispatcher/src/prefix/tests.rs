//! Walks driven over a reference queue and walks in memory, with workers that answer as they are told. Time is paused.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::queue::{
    Failure, FailureClass, LeaseRequest, ListQuery, Outcome, QueueClock, QueueSettings, RetryPolicy,
    Settlement, TaskState,
    conformance::test_settings,
    memory::MemoryQueue,
    walk::{Change, FoundObject, PageFound, Saved, Walk, WalkState, conformance::spec, memory::MemoryWalks},
};

const PATIENCE: Duration = Duration::from_secs(3_600);

/// A bucket that a worker lists, and what goes wrong with it.
#[derive(Debug, Default)]
struct Bucket {
    keys: Mutex<BTreeSet<String>>,
    /// Entries of a page.
    page: usize,
    failures: Mutex<VecDeque<Failure>>,
    /// No worker here.
    is_away: AtomicBool,
    /// Cursors of the pages that were asked for.
    asked: Mutex<Vec<String>>,
    /// Pages after which nothing is answered any more.
    hangs_after: Option<usize>,
    listed: AtomicUsize,
}

#[async_trait]
impl Listers for Bucket {
    fn can_list(&self, _: &str) -> bool {
        !self.is_away.load(Ordering::SeqCst)
    }

    async fn list(&self, order: PageOrder) -> Option<PageAnswer> {
        if self.is_away.load(Ordering::SeqCst) {
            return None;
        }
        if self.hangs_after.is_some_and(|pages| self.listed.load(Ordering::SeqCst) >= pages) {
            std::future::pending::<()>().await;
        }
        self.asked.lock().unwrap().push(order.cursor.clone());
        if let Some(failure) = self.failures.lock().unwrap().pop_front() {
            return Some(Err(failure));
        }
        self.listed.fetch_add(1, Ordering::SeqCst);
        let keys = self.keys.lock().unwrap();
        let mut behind = keys.iter().filter(|key| **key > order.cursor);
        let page: Vec<&String> = behind.by_ref().take(self.page).collect();
        let next = page.last().filter(|_| behind.next().is_some()).map(|key| (*key).clone());
        let object = |key: &&String| FoundObject { key: (*key).clone(), version: None, size_bytes: 1 };
        let objects: Vec<FoundObject> = page.iter().map(object).collect();
        Some(Ok(PageFound { listed: objects.len() as u64, objects, next, ..PageFound::default() }))
    }
}

struct Rig {
    walks: Arc<MemoryWalks>,
    queue: Arc<MemoryQueue>,
    bucket: Arc<Bucket>,
    clock: QueueClock,
    settings: WalkerSettings,
}

impl Rig {
    fn new(keys: usize, page: usize) -> Self {
        Self::with(Bucket { page, keys: Mutex::new(names(keys)), ..Bucket::default() })
    }

    fn with(bucket: Bucket) -> Self {
        let clock = QueueClock::starting_at(UnixMs(1_750_000_000_000));
        let settings = QueueSettings { shard_cap: 100_000, tenant_cap: 100_000, ..test_settings() };
        let retry = RetryPolicy {
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            floor: Duration::from_millis(100),
        };
        Self {
            walks: Arc::new(MemoryWalks::new(2, PATIENCE, clock.clone())),
            queue: Arc::new(MemoryQueue::new(settings, clock.clone())),
            bucket: Arc::new(bucket),
            clock,
            settings: WalkerSettings {
                claim: Duration::from_secs(30),
                look_every: Duration::from_secs(2),
                follow_every: Duration::from_secs(1),
                page_within: Duration::from_secs(300),
                page_entries: 1_000,
                at_once: 4,
                limits: WalkLimits { high_mark: 1_000_000, low_mark: 500_000, max_faults: 3, retry },
            },
        }
    }

    async fn submit(&self, name: &str) -> WalkId {
        let id = self.walks.id("web", name);
        let walk = Walk::new(spec(name), self.clock.local_now());
        self.save(Change {
            id: id.clone(),
            expected: None,
            walk,
            opened: vec![],
            closed: vec![],
            failures: vec![],
        })
        .await;
        id
    }

    async fn save(&self, change: Change) {
        assert!(matches!(self.walks.save(&change).await.unwrap(), Saved::Yes { .. }));
    }

    /// Changes the walk as a caller does.
    async fn edit(&self, id: &WalkId, edit: impl Fn(&mut Walk)) {
        loop {
            let stored = self.walk(id).await;
            let mut walk = stored.walk;
            edit(&mut walk);
            let change = Change {
                id: id.clone(),
                expected: Some(stored.revision),
                walk,
                opened: vec![],
                closed: vec![],
                failures: vec![],
            };
            if matches!(self.walks.save(&change).await.unwrap(), Saved::Yes { .. }) {
                return;
            }
        }
    }

    async fn walk(&self, id: &WalkId) -> Stored {
        self.walks.load(id).await.unwrap().expect("it is there")
    }

    /// Runs a walker of its own until it is told to stop.
    fn start(&self) -> (CancellationToken, JoinSet<()>, Arc<WalkCounters>) {
        let counters = Arc::<WalkCounters>::default();
        let walker = Walker {
            walks: Arc::<MemoryWalks>::clone(&self.walks),
            queue: Arc::<MemoryQueue>::clone(&self.queue),
            listers: Arc::<Bucket>::clone(&self.bucket),
            rules: LiveRules::default(),
            settings: self.settings,
            counters: Arc::clone(&counters),
            wake: Arc::default(),
        };
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(walker.run(stop.clone()));
        (stop, running, counters)
    }

    /// Waits until the walk is as `wanted`.
    async fn until(&self, id: &WalkId, wanted: impl Fn(&Stored) -> bool) -> Stored {
        let reached = async {
            loop {
                let stored = self.walk(id).await;
                if wanted(&stored) {
                    return stored;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        match timeout(PATIENCE, reached).await {
            Ok(stored) => stored,
            Err(_) => panic!("it did not come to that: {:?}", self.walk(id).await),
        }
    }

    /// Ends this many pending tasks, each as `outcome` says.
    async fn work(&self, session: &str, tasks: u32, outcome: impl Fn(&str) -> Outcome) -> usize {
        let request = LeaseRequest {
            session: session.into(),
            request: 1,
            worker: "w".into(),
            max_tasks: tasks,
            max_bytes: u64::MAX,
            locations: Arc::new(["uploads".into()]),
        };
        let leased = self.queue.lease(&request).await.unwrap();
        let settlements = leased.iter().map(|task| Settlement {
            id: task.id.clone(),
            lease: task.lease,
            outcome: outcome(&task.spec.object.key),
        });
        let settled = self.queue.settle(settlements.collect()).await;
        settled.iter().filter(|answer| answer.is_ok()).count()
    }

    /// Keys of all tasks, with how many runs each has had.
    async fn tasks(&self) -> BTreeMap<String, u32> {
        let mut query = ListQuery {
            tenant: "web".into(),
            states: vec![],
            reasons: vec![],
            location: None,
            bucket: None,
            key_prefix: String::new(),
            labels: BTreeMap::new(),
            finished_from: None,
            finished_until: None,
            limit: 1_000,
            cursor: None,
        };
        let mut tasks = BTreeMap::new();
        loop {
            let page = self.queue.list(&query).await.unwrap();
            for task in page.tasks {
                assert_eq!(tasks.insert(task.spec.object.key, task.run), None, "once");
            }
            query.cursor = page.next;
            if query.cursor.is_none() {
                return tasks;
            }
        }
    }
}

fn names(count: usize) -> BTreeSet<String> {
    (0..count).map(|n| format!("k{n:06}")).collect()
}

fn failure(class: FailureClass) -> Failure {
    Failure { class, code: "denied".into(), message: "no".into(), retry_after: Duration::ZERO }
}

fn done(_: &str) -> Outcome {
    Outcome::Done { receipt: Bytes::from_static(b"receipt") }
}

async fn stop((stop, mut running, _): (CancellationToken, JoinSet<()>, Arc<WalkCounters>)) {
    stop.cancel();
    let ended = timeout(PATIENCE, running.join_next()).await.expect("it stops");
    ended.expect("it was started").expect("it does not panic");
}

#[tokio::test(start_paused = true)]
async fn every_key_becomes_a_task_and_the_walk_ends_with_them() {
    let rig = Rig::new(2_500, 1_000);
    let walker = rig.start();
    let id = rig.submit("a").await;
    let listed = rig.until(&id, |stored| stored.walk.listed_all).await;
    assert_eq!((listed.walk.state, listed.open), (WalkState::Running, 2_500));
    assert_eq!(rig.tasks().await, names(2_500).into_iter().map(|key| (key, 1)).collect());
    let label = [("prefix-backup".to_owned(), id.as_str().to_owned())].into();
    let query = ListQuery {
        labels: label,
        ..ListQuery {
            tenant: "web".into(),
            states: vec![TaskState::Pending],
            reasons: vec![],
            location: None,
            bucket: None,
            key_prefix: String::new(),
            labels: BTreeMap::new(),
            finished_from: None,
            finished_until: None,
            limit: 10,
            cursor: None,
        }
    };
    assert_eq!(rig.queue.list(&query).await.unwrap().tasks.len(), 10, "tasks carry the walk's label");
    let hopeless = |key: &str| match key {
        "k000007" => Outcome::Failed { failure: failure(FailureClass::Permanent), jitter: 0.5 },
        "k000008" => Outcome::Failed { failure: failure(FailureClass::SourceGone), jitter: 0.5 },
        _ => done(key),
    };
    let mut ended = 0;
    for session in 0..100 {
        ended += rig.work(&format!("s{session}"), 100, hopeless).await;
    }
    assert_eq!(ended, 2_500);
    let end = rig.until(&id, |stored| stored.walk.state == WalkState::Done).await;
    let counts = end.walk.counts;
    assert_eq!((counts.listed, counts.submitted, counts.pages), (2_500, 2_500, 3));
    assert_eq!((counts.done, counts.died, counts.cancelled), (2_498, 1, 1));
    let failures = rig.walks.failures(&id, 0, 10).await.unwrap();
    assert_eq!(failures.len(), 1);
    assert_eq!((failures[0].key.as_str(), failures[0].failure.code.as_str()), ("k000007", "denied"));
    assert!(failures[0].task.is_some());
    assert_eq!((walker.2.pages.get(), walker.2.submitted.get()), (3, 2_500));
    stop(walker).await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_dies_is_followed_by_another_that_goes_on_at_the_cursor() {
    let bucket = Bucket { page: 10, keys: Mutex::new(names(95)), hangs_after: Some(4), ..Bucket::default() };
    let rig = Rig::with(bucket);
    let (_, mut running, _) = rig.start();
    let id = rig.submit("a").await;
    rig.until(&id, |stored| stored.walk.counts.pages == 4).await;
    // As with SIGKILL: nothing is put in order.
    running.shutdown().await;
    let rig = Rig {
        bucket: Arc::new(Bucket { page: 10, keys: Mutex::new(names(95)), ..Bucket::default() }),
        ..rig
    };
    let walker = rig.start();
    sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.walk(&id).await.walk.counts.pages, 4, "the claim of the dead one still holds");
    rig.clock.advance(Duration::from_secs(31));
    let end = rig.until(&id, |stored| stored.walk.listed_all).await;
    assert_eq!((end.walk.counts.listed, end.walk.counts.submitted), (95, 95));
    assert_eq!(rig.bucket.asked.lock().unwrap()[0], "k000039", "not from the start again");
    assert_eq!(rig.tasks().await.len(), 95);
    stop(walker).await;
}

#[tokio::test(start_paused = true)]
async fn a_page_whose_tasks_were_stored_before_its_driver_died_is_submitted_again_and_counted_once() {
    let rig = Rig::new(20, 10);
    let id = rig.submit("a").await;
    // What a driver has stored that died before it moved the cursor.
    let tasks = names(10)
        .into_iter()
        .map(|key| spec("a").task(&id, &FoundObject { key, version: None, size_bytes: 1 }));
    rig.queue.submit(tasks.collect()).await;
    let walker = rig.start();
    let end = rig.until(&id, |stored| stored.walk.listed_all).await;
    assert_eq!((end.walk.counts.submitted, end.open), (20, 20));
    assert_eq!(rig.tasks().await, names(20).into_iter().map(|key| (key, 1)).collect());
    stop(walker).await;
}

#[tokio::test(start_paused = true)]
async fn two_walkers_never_drive_one_walk_and_one_that_stops_hands_on_at_once() {
    let rig = Rig::new(300, 10);
    let (first, second) = (rig.start(), rig.start());
    let ids = [rig.submit("a").await, rig.submit("b").await];
    for id in &ids {
        rig.until(id, |stored| stored.walk.listed_all).await;
    }
    assert_eq!(rig.bucket.asked.lock().unwrap().len(), 60, "each page was listed once");
    stop(first).await;
    let third = rig.submit("c").await;
    rig.until(&third, |stored| stored.walk.listed_all).await;
    stop(second).await;
    for id in ids {
        assert!(rig.walk(&id).await.walk.claim.is_none(), "nobody has to wait for a claim to end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_rests_at_the_high_mark_and_goes_on_below_the_low_one() {
    let mut rig = Rig::new(200, 10);
    rig.settings.limits.high_mark = 50;
    rig.settings.limits.low_mark = 20;
    let walker = rig.start();
    let id = rig.submit("a").await;
    rig.until(&id, |stored| stored.walk.holds).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.walk(&id).await.open, 50);
    assert_eq!(rig.work("one", 29, done).await, 29);
    sleep(Duration::from_secs(60)).await;
    let resting = rig.walk(&id).await;
    assert_eq!((resting.open, resting.walk.holds, resting.walk.counts.pages), (21, true, 5));
    assert_eq!(rig.work("two", 1, done).await, 1);
    let again = rig.until(&id, |stored| stored.walk.counts.pages > 5 && stored.walk.holds).await;
    assert!(again.open >= 50 && again.open < 60, "{again:?}");
    let mut most = 0;
    for session in 0..40 {
        rig.work(&format!("s{session}"), 30, done).await;
        sleep(Duration::from_secs(10)).await;
        most = most.max(rig.walk(&id).await.open);
    }
    let end = rig.until(&id, |stored| stored.walk.state == WalkState::Done).await;
    assert!(most < 60, "never more than a page above the mark: {most}");
    assert_eq!((end.walk.counts.listed, end.walk.counts.done), (200, 200));
    stop(walker).await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_stops_the_listing_and_its_tasks_are_followed_on() {
    let mut rig = Rig::new(1_000, 10);
    rig.settings.limits.high_mark = 30;
    rig.settings.limits.low_mark = 20;
    let walker = rig.start();
    let id = rig.submit("a").await;
    rig.until(&id, |stored| stored.walk.holds).await;
    rig.edit(&id, |walk| assert!(walk.pause())).await;
    assert_eq!(rig.work("one", 100, done).await, 30);
    let paused = rig.until(&id, |stored| stored.open == 0).await;
    assert_eq!(
        (paused.walk.state, paused.walk.counts.pages, paused.walk.counts.done),
        (WalkState::Paused, 3, 30)
    );
    sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.walk(&id).await.walk.counts.pages, 3);
    rig.edit(&id, |walk| assert!(walk.resume())).await;
    rig.until(&id, |stored| stored.walk.counts.pages == 6).await;
    rig.edit(&id, |walk| assert!(walk.cancel(UnixMs(1)))).await;
    let cancelled = rig.walk(&id).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.walk(&id).await, cancelled, "nothing touches it any more");
    assert_eq!(rig.work("two", 100, done).await, 30, "its tasks go on");
    stop(walker).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_fails_the_walk_and_a_hiccup_or_a_throttle_does_not() {
    for (class, times, state) in [
        (FailureClass::Permanent, 1, WalkState::Failed),
        (FailureClass::Retry, 2, WalkState::Done),
        (FailureClass::Retry, 3, WalkState::Failed),
        (FailureClass::Throttled, 20, WalkState::Done),
    ] {
        let rig = Rig::new(10, 10);
        rig.bucket.failures.lock().unwrap().extend(vec![failure(class); times]);
        let walker = rig.start();
        let id = rig.submit("a").await;
        rig.until(&id, |stored| stored.walk.listed_all || stored.walk.state.is_finished()).await;
        rig.work("one", 100, done).await;
        let end = rig.until(&id, |stored| stored.walk.state.is_finished()).await;
        assert_eq!(end.walk.state, state, "{class:?} {times}");
        assert_eq!(end.walk.last_failure.as_ref().map(|f| f.code.as_str()), Some("denied"));
        assert_eq!(walker.2.failed_pages.get(), times as u64);
        stop(walker).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_waited_for_and_no_object_is_passed_over() {
    let clock = QueueClock::starting_at(UnixMs(1_750_000_000_000));
    let settings = QueueSettings { shard_cap: 20, tenant_cap: 20, shards: 2, ..test_settings() };
    let rig = Rig { queue: Arc::new(MemoryQueue::new(settings, clock)), ..Rig::new(120, 60) };
    let walker = rig.start();
    let id = rig.submit("a").await;
    for session in 0..200 {
        sleep(Duration::from_secs(20)).await;
        rig.work(&format!("s{session}"), 10, done).await;
    }
    let end = rig.until(&id, |stored| stored.walk.state == WalkState::Done).await;
    assert_eq!((end.walk.counts.submitted, end.walk.counts.done), (120, 120));
    assert_eq!(rig.tasks().await.len(), 120);
    stop(walker).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_nothing_is_claimed_and_with_one_it_begins() {
    let rig = Rig::new(10, 10);
    rig.bucket.is_away.store(true, Ordering::SeqCst);
    let walker = rig.start();
    let id = rig.submit("a").await;
    sleep(Duration::from_secs(60)).await;
    let waiting = rig.walk(&id).await;
    assert_eq!((waiting.revision, waiting.walk.claim), (1, None), "another dispatcher may have one");
    rig.bucket.is_away.store(false, Ordering::SeqCst);
    rig.until(&id, |stored| stored.walk.listed_all).await;
    stop(walker).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_answer_is_given_up_while_the_claim_is_kept() {
    let rig = Rig::with(Bucket {
        page: 10,
        keys: Mutex::new(names(30)),
        hangs_after: Some(1),
        ..Bucket::default()
    });
    let walker = rig.start();
    let id = rig.submit("a").await;
    let failed = rig.until(&id, |stored| stored.walk.state == WalkState::Failed).await;
    assert_eq!(failed.walk.last_failure.map(|f| f.code).as_deref(), Some("timeout"));
    assert_eq!(failed.walk.counts.pages, 1);
    assert!(failed.revision > 20, "the claim was renewed all the while: {}", failed.revision);
    stop(walker).await;
}
