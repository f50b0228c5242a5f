//! What every [`WalkStore`] must do, asked of whichever store a test makes.

use std::{sync::Arc, time::Duration};

use super::{
    Change, Claim, FailedObject, MOST_ACTIVE, MOST_FAILURES, PageFound, PageResult, Saved, Stored, Versions,
    Walk, WalkFilter, WalkId, WalkSpec, WalkState, WalkStore,
};
use crate::queue::{
    Failure, FailureClass, LeaseToken, ObjectRef, Priority, QueueClock, TaskId, UnixMs, VerifyLevel,
    conformance::START,
};

/// How long the stores under test keep finished walks.
pub const RETAIN: Duration = Duration::from_secs(3600);

/// Shards of a store, as the cases see them.
const SHARDS: u16 = 2;

/// A walk that uses every field, with bytes that no text format likes.
#[must_use]
pub fn spec(request_id: &str) -> WalkSpec {
    WalkSpec {
        tenant: "web".into(),
        request_id: request_id.into(),
        location: "uploads".into(),
        bucket: "photos".into(),
        prefix: "users/\u{1}\u{7f} \"\\+ü😀/".into(),
        filter: WalkFilter {
            suffix: ".jpg\n".into(),
            min_size_bytes: 1,
            max_size_bytes: Some(u64::MAX >> 12),
            modified_since: Some(UnixMs(1_700_000_000_123)),
        },
        versions: Versions::All,
        priority: Priority::Low,
        max_attempts: 3,
        labels: [("team".to_owned(), "ä \u{2}".to_owned())].into(),
        verify: Some(VerifyLevel::Head),
        processing_timeout: Duration::from_millis(90_001),
    }
}

/// Asks everything of stores that `make` makes, each on a clock of its own. Panics at the first thing that is not as the contract says.
pub async fn all(make: impl AsyncFn(QueueClock) -> Arc<dyn WalkStore>) {
    what_is_kept_comes_back(&Subject::new(&make).await).await;
    only_a_change_of_what_is_there_is_made(&Subject::new(&make).await).await;
    a_repeated_change_is_made_once(&Subject::new(&make).await).await;
    open_tasks_are_counted_and_paged_in_their_order(&Subject::new(&make).await).await;
    failures_are_kept_in_order_up_to_a_bound(&Subject::new(&make).await).await;
    finished_walks_are_shown_apart_and_forgotten(&Subject::new(&make).await).await;
    there_is_room_for_so_many_unfinished_walks(&Subject::new(&make).await).await;
}

struct Subject {
    store: Arc<dyn WalkStore>,
    clock: QueueClock,
}

impl Subject {
    async fn new(make: &impl AsyncFn(QueueClock) -> Arc<dyn WalkStore>) -> Self {
        let clock = QueueClock::starting_at(START);
        Self { store: make(clock.clone()).await, clock }
    }

    async fn make(&self, name: &str) -> Stored {
        let spec = spec(name);
        let id = self.store.id(&spec.tenant, name);
        let change = creation(&id, Walk::new(spec, self.clock.local_now()));
        assert_eq!(self.save(&change).await, Saved::Yes { revision: 1, open: 0 });
        self.load(&id).await
    }

    async fn save(&self, change: &Change) -> Saved {
        self.store.save(change).await.expect("the store answers")
    }

    async fn load(&self, id: &WalkId) -> Stored {
        self.store.load(id).await.expect("the store answers").expect("the walk is there")
    }
}

fn creation(id: &WalkId, walk: Walk) -> Change {
    Change {
        id: id.clone(),
        expected: None,
        walk,
        opened: Vec::new(),
        closed: Vec::new(),
        failures: Vec::new(),
    }
}

fn change(from: &Stored) -> Change {
    Change { expected: Some(from.revision), ..creation(&from.id, from.walk.clone()) }
}

fn task(n: u64) -> TaskId {
    let object =
        ObjectRef { location: "uploads".into(), bucket: "photos".into(), key: n.to_string(), version: None };
    TaskId::derive("web", &object)
}

/// A failure, told apart by its number.
#[must_use]
pub fn failed(n: u64) -> FailedObject {
    let failure = Failure {
        class: FailureClass::Permanent,
        code: "denied".into(),
        message: format!("\u{1} {n}"),
        retry_after: Duration::from_millis(n),
    };
    FailedObject {
        key: format!("\u{7f}\u{0} {n}+😀"),
        version: n.is_multiple_of(2).then(|| format!("v\u{1}{n}")),
        task: n.is_multiple_of(3).then(|| task(n)),
        failure,
    }
}

async fn what_is_kept_comes_back(s: &Subject) {
    assert_eq!(s.store.load(&s.store.id("web", "nobody")).await.expect("it answers"), None);
    let made = s.make("a").await;
    assert_eq!((made.walk.clone(), made.open), (Walk::new(spec("a"), START), 0));
    let mut walk = made.walk.clone();
    let page = PageFound {
        listed: 9,
        skipped: 1,
        backed_up: 2,
        next: Some("{\"k\":\"\u{0}ü\"}".into()),
        objects: vec![],
    };
    walk.page_listed(START, &page, PageResult { submitted: 5, rejected: 1 });
    walk.counts.done = 1;
    walk.counts.died = 2;
    walk.counts.cancelled = 3;
    walk.claim = Some(Claim { token: LeaseToken::from_bytes([0xfe; 16]), until: START.plus(RETAIN) });
    walk.not_before = UnixMs(17);
    walk.faults = 4;
    walk.holds = true;
    walk.last_failure = Some(failed(1).failure);
    walk.listed_at = Some(UnixMs(18));
    let saved = s.save(&Change { walk: walk.clone(), ..change(&made) }).await;
    assert_eq!(saved, Saved::Yes { revision: 2, open: 0 });
    let found = s.load(&made.id).await;
    assert_eq!((found.walk, found.revision), (walk, 2));
    // The same name of another tenant is another walk.
    assert_ne!(s.store.id("app", "a"), made.id);
    assert_eq!(WalkId::parse(made.id.as_str()), Ok(made.id));
}

async fn only_a_change_of_what_is_there_is_made(s: &Subject) {
    let made = s.make("a").await;
    let mut first = change(&made);
    assert!(first.walk.pause());
    let mut second = change(&made);
    second.opened = vec![task(1)];
    second.failures = vec![failed(1)];
    assert!(matches!(s.save(&first).await, Saved::Yes { revision: 2, .. }));
    assert_eq!(s.save(&second).await, Saved::Stale);
    let kept = s.load(&made.id).await;
    assert_eq!((kept.walk.state, kept.open), (WalkState::Paused, 0));
    assert!(s.store.failures(&made.id, 0, 9).await.expect("it answers").is_empty());
    // What is there cannot be made again, what is not there cannot be changed.
    let other = Walk::new(spec("other"), START);
    assert_eq!(s.save(&creation(&made.id, other.clone())).await, Saved::Stale);
    let absent = Change { expected: Some(1), ..creation(&s.store.id("web", "other"), other) };
    assert_eq!(s.save(&absent).await, Saved::Stale);
}

async fn a_repeated_change_is_made_once(s: &Subject) {
    let made = s.make("a").await;
    let mut again = change(&made);
    again.walk.counts.submitted = 2;
    again.opened = vec![task(1), task(2)];
    again.failures = vec![failed(1)];
    for _ in 0..2 {
        assert_eq!(s.save(&again).await, Saved::Yes { revision: 2, open: 2 });
    }
    assert_eq!(s.store.failures(&made.id, 0, 9).await.expect("it answers"), [failed(1)]);
    let creation = creation(&s.store.id("web", "b"), Walk::new(spec("b"), START));
    for _ in 0..2 {
        assert_eq!(s.save(&creation).await, Saved::Yes { revision: 1, open: 0 });
    }
}

async fn open_tasks_are_counted_and_paged_in_their_order(s: &Subject) {
    let made = s.make("a").await;
    let tasks: Vec<TaskId> = (0..1_200).map(task).collect();
    let first = Change { opened: tasks[..700].to_vec(), ..change(&made) };
    assert_eq!(s.save(&first).await, Saved::Yes { revision: 2, open: 700 });
    // Some that are open already, and some that end in the same change.
    let opened = tasks[500..].to_vec();
    let closed = tasks[..100].to_vec();
    let second = Change { opened, closed, ..change(&s.load(&made.id).await) };
    assert_eq!(s.save(&second).await, Saved::Yes { revision: 3, open: 1_100 });
    assert_eq!(s.load(&made.id).await.open, 1_100);
    let mut found = Vec::new();
    for from in [0, 400, 800, 1_200] {
        found.extend(s.store.open_tasks(&made.id, from, 400).await.expect("it answers"));
    }
    assert_eq!(found, tasks[100..], "in the order in which they were opened");
    // One that is opened again keeps its place.
    let again = Change { opened: vec![tasks[100].clone()], ..change(&s.load(&made.id).await) };
    assert_eq!(s.save(&again).await, Saved::Yes { revision: 4, open: 1_100 });
    assert_eq!(s.store.open_tasks(&made.id, 0, 1).await.expect("it answers"), tasks[100..101]);
    let closed = Change { closed: tasks, ..change(&s.load(&made.id).await) };
    assert_eq!(s.save(&closed).await, Saved::Yes { revision: 5, open: 0 });
}

async fn failures_are_kept_in_order_up_to_a_bound(s: &Subject) {
    let made = s.make("a").await;
    let mut from = 0;
    while from < MOST_FAILURES + 500 {
        let failures = (from..from + 1_500).map(failed).collect();
        let more = Change { failures, ..change(&s.load(&made.id).await) };
        assert!(matches!(s.save(&more).await, Saved::Yes { .. }));
        from += 1_500;
    }
    let page = s.store.failures(&made.id, 1_498, 4).await.expect("it answers");
    assert_eq!(page, (1_498..1_502).map(failed).collect::<Vec<_>>());
    let last = s.store.failures(&made.id, MOST_FAILURES - 1, 10).await.expect("it answers");
    assert_eq!(last, [failed(MOST_FAILURES - 1)]);
}

async fn finished_walks_are_shown_apart_and_forgotten(s: &Subject) {
    let (done, going) = (s.make("done").await, s.make("going").await);
    let mut end = Change { opened: vec![task(1), task(2)], failures: vec![failed(3)], ..change(&done) };
    assert!(matches!(s.save(&end).await, Saved::Yes { open: 2, .. }));
    end = change(&s.load(&done.id).await);
    assert!(end.walk.cancel(s.clock.local_now()));
    assert_eq!(s.save(&end).await, Saved::Yes { revision: 3, open: 0 });
    let shown = async |finished| {
        let look = s.store.look(finished).await.expect("it answers");
        assert!(!look.incomplete && look.now == s.clock.local_now());
        let mut ids: Vec<WalkId> = look.walks.into_iter().map(|walk| walk.id).collect();
        ids.sort();
        ids
    };
    let mut both = vec![done.id.clone(), going.id.clone()];
    both.sort();
    assert_eq!((shown(false).await, shown(true).await), (vec![going.id.clone()], both.clone()));
    assert!(s.store.open_tasks(&done.id, 0, 9).await.expect("it answers").is_empty());
    assert_eq!(s.store.failures(&done.id, 0, 9).await.expect("it answers").len(), 1);
    s.clock.advance(RETAIN - Duration::from_millis(1));
    assert_eq!(shown(true).await, both);
    s.clock.advance(Duration::from_millis(1));
    assert_eq!(shown(true).await, std::slice::from_ref(&going.id));
    // What is forgotten may be made anew.
    let anew = creation(&done.id, Walk::new(spec("done"), s.clock.local_now()));
    assert_eq!(s.save(&anew).await, Saved::Yes { revision: 1, open: 0 });
    assert_eq!(shown(false).await, both);
    assert_eq!(s.store.failures(&done.id, 0, 9).await.expect("it answers"), []);
}

async fn there_is_room_for_so_many_unfinished_walks(s: &Subject) {
    // All on one shard: of those that come, only the ones that belong there.
    let names = (0..).map(|n| n.to_string());
    let mut ids = names.filter_map(|name| {
        let id = s.store.id("web", &name);
        (id.as_task().shard(SHARDS) == 0).then_some((id, name))
    });
    let first = ids.next().expect("some are");
    for (id, name) in std::iter::once(first.clone())
        .chain(ids.by_ref().take(usize::try_from(MOST_ACTIVE).expect("it fits") - 1))
    {
        let saved = s.save(&creation(&id, Walk::new(spec(&name), START))).await;
        assert_eq!(saved, Saved::Yes { revision: 1, open: 0 });
    }
    let (id, name) = ids.next().expect("some are");
    let one_more = creation(&id, Walk::new(spec(&name), START));
    assert_eq!(s.save(&one_more).await, Saved::Full);
    // One that is there can be changed, and one that ends makes room.
    let mut end = change(&s.load(&first.0).await);
    assert!(end.walk.cancel(START));
    assert!(matches!(s.save(&end).await, Saved::Yes { revision: 2, .. }));
    assert!(matches!(s.save(&one_more).await, Saved::Yes { revision: 1, .. }));
    assert_eq!(s.store.look(false).await.expect("it answers").walks.len() as u64, MOST_ACTIVE);
}
