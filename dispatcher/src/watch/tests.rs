//! Watches over the reference queue: what is told at the begin, after changes, after a gap, and at the end.

use std::time::Duration;

use tokio::task::JoinSet;

use super::*;
use crate::{
    dispatch::testing::{Probe, new_task},
    queue::{TaskState, events::KEPT},
};

/// Far longer than anything here takes; time is paused.
const PATIENCE: Duration = Duration::from_secs(3600);

struct Scene {
    queue: Arc<Probe>,
    watches: Watches,
    stop: CancellationToken,
    running: JoinSet<()>,
}

impl Scene {
    fn new() -> Self {
        let queue = Arc::new(Probe::new());
        let watches = Watches::new(Arc::<Probe>::clone(&queue));
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        running.spawn(watches.clone().run(stop.clone()));
        Self { queue, watches, stop, running }
    }

    fn watch(&self, filter: WatchFilter, cursor: Option<EventCursor>) -> Watch {
        self.watches.watch("web".into(), filter, cursor).unwrap()
    }
}

fn of_tenant() -> WatchFilter {
    WatchFilter { tenant: "t".into(), ids: Vec::new(), labels: BTreeMap::new(), only_changes: false }
}

async fn next(watch: &mut Watch) -> Update {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("an update in time").expect("no end")
}

/// The next update that tells of tasks.
async fn told(watch: &mut Watch) -> Update {
    loop {
        let update = next(watch).await;
        if !update.records.is_empty() || !update.gone.is_empty() || update.missed {
            return update;
        }
    }
}

fn states(update: &Update) -> Vec<(&TaskId, TaskState)> {
    update.records.iter().map(|record| (&record.id, record.state)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_watch_shows_what_there_is_and_then_what_changes() {
    let scene = Scene::new();
    let ids = scene.queue.put(&["a", "b"]).await;
    let mut watch = scene.watch(of_tenant(), None);
    let first = next(&mut watch).await;
    assert_eq!((first.records.len(), first.missed), (2, false));
    assert!(first.cursor.is_some());
    scene.queue.cancel(&ids[0]).await.unwrap();
    let update = told(&mut watch).await;
    assert_eq!(states(&update), [(&ids[0], TaskState::Cancelled)]);
    let new = scene.queue.put(&["c"]).await;
    assert_eq!(states(&told(&mut watch).await), [(&new[0], TaskState::Pending)]);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_asked_for_is_told_and_unknown_and_foreign_tasks_are_gone_alike() {
    let scene = Scene::new();
    let ids = scene.queue.put(&["a", "b"]).await;
    let unknown = TaskId::from_hash(&"0".repeat(32)).unwrap();
    let filter = WatchFilter { ids: vec![ids[0].clone(), unknown.clone()], ..of_tenant() };
    let mut watch = scene.watch(filter.clone(), None);
    let first = next(&mut watch).await;
    assert_eq!((states(&first), &first.gone), (vec![(&ids[0], TaskState::Pending)], &vec![unknown]));
    scene.queue.cancel(&ids[1]).await.unwrap();
    scene.queue.cancel(&ids[0]).await.unwrap();
    assert_eq!(states(&told(&mut watch).await), [(&ids[0], TaskState::Cancelled)]);

    let mut foreign = scene.watch(WatchFilter { tenant: "other".into(), ..filter }, None);
    let first = next(&mut foreign).await;
    assert_eq!((first.records.len(), first.gone.len()), (0, 2));

    let labels = BTreeMap::from([("team".to_owned(), "web".to_owned())]);
    let mut labelled = scene.watch(WatchFilter { labels: labels.clone(), ..of_tenant() }, None);
    assert!(next(&mut labelled).await.records.is_empty());
    let mut task = new_task("c");
    task.spec.labels = labels;
    scene.queue.put(&["d"]).await;
    let submitted = scene.queue.submit(vec![task]).await.remove(0).unwrap();
    assert_eq!(states(&told(&mut labelled).await), [(&submitted.id, TaskState::Pending)]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_goes_on_at_any_dispatcher_without_a_gap() {
    let scene = Scene::new();
    let ids = scene.queue.put(&["a", "b"]).await;
    let mut watch = scene.watch(of_tenant(), None);
    let cursor = next(&mut watch).await.cursor;
    drop(watch);
    scene.queue.cancel(&ids[0]).await.unwrap();

    // Another process: it shares the queue and nothing else.
    let other = Watches::new(Arc::<Probe>::clone(&scene.queue));
    let mut running = JoinSet::new();
    running.spawn(other.clone().run(scene.stop.clone()));
    let mut watch = other.watch("web".into(), of_tenant(), cursor).unwrap();
    let update = next(&mut watch).await;
    assert_eq!((states(&update), update.missed), (vec![(&ids[0], TaskState::Cancelled)], false));
    scene.queue.cancel(&ids[1]).await.unwrap();
    assert_eq!(states(&told(&mut watch).await), [(&ids[1], TaskState::Cancelled)]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_told_what_it_has_missed_and_sees_everything_anew() {
    let scene = Scene::new();
    let ids = scene.queue.put(&["a"]).await;
    let mut slow = scene.watch(of_tenant(), None);
    let only_changes = WatchFilter { only_changes: true, ..of_tenant() };
    let mut brief = scene.watch(only_changes, None);
    assert_eq!(next(&mut slow).await.records.len(), 1);
    let begin = next(&mut brief).await;
    assert!(begin.records.is_empty() && begin.cursor.is_some());
    // More than the log remembers, while nobody reads.
    for n in 0..50 {
        let keys: Vec<String> = (0..100).map(|key| format!("{n}-{key}")).collect();
        scene.queue.put(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let mut shown = 0;
    let first = next(&mut slow).await;
    assert!(first.missed && first.cursor.is_none());
    let mut update = first;
    loop {
        assert!(update.records.len() <= 100, "bounded pieces");
        shown += update.records.len();
        if update.cursor.is_some() {
            break;
        }
        update = next(&mut slow).await;
        assert!(!update.missed, "told once");
    }
    assert_eq!(shown, 5_001);
    let missed = next(&mut brief).await;
    assert!(missed.missed && missed.records.is_empty() && missed.cursor.is_some());
    scene.queue.cancel(&ids[0]).await.unwrap();
    for watch in [&mut slow, &mut brief] {
        assert_eq!(states(&told(watch).await), [(&ids[0], TaskState::Cancelled)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_is_too_old_is_answered_with_everything() {
    let scene = Scene::new();
    let mut watch = scene.watch(of_tenant(), None);
    let cursor = next(&mut watch).await.cursor;
    drop(watch);
    let ids = scene.queue.put(&["a"]).await;
    scene.queue.advance(KEPT + Duration::from_secs(1));
    let mut watch = scene.watch(of_tenant(), cursor);
    let update = next(&mut watch).await;
    assert_eq!((states(&update), update.missed), (vec![(&ids[0], TaskState::Pending)], true));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_with_nothing_to_hear_is_given_its_place_now_and_then() {
    let scene = Scene::new();
    let mut watch = scene.watch(of_tenant(), None);
    next(&mut watch).await;
    let quiet = next(&mut watch).await;
    assert_eq!(quiet, Update { cursor: quiet.cursor.clone(), ..Update::default() });
    assert!(quiet.cursor.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_without_a_part_that_is_away_and_says_so_once() {
    let scene = Scene::new();
    let ids = scene.queue.put(&["a", "b", "c"]).await;
    let mut watch = scene.watch(of_tenant(), None);
    assert!(!next(&mut watch).await.incomplete);
    scene.queue.set_partly_away(true);
    let told_of = next(&mut watch).await;
    assert_eq!(told_of, Update { cursor: told_of.cursor.clone(), incomplete: true, ..Update::default() });
    assert!(told_of.cursor.is_some());
    scene.queue.cancel(&ids[0]).await.unwrap();
    let update = next(&mut watch).await;
    assert_eq!((states(&update), update.incomplete), (vec![(&ids[0], TaskState::Cancelled)], true));
    // With nothing else to say, it is repeated with the place now and then.
    assert!(next(&mut watch).await.incomplete);
    scene.queue.set_partly_away(false);
    let told_of = next(&mut watch).await;
    assert_eq!(told_of, Update { cursor: told_of.cursor.clone(), ..Update::default() });
    // Together with a change it is no message of its own.
    scene.queue.set_partly_away(true);
    scene.queue.cancel(&ids[1]).await.unwrap();
    let update = next(&mut watch).await;
    assert_eq!((states(&update), update.incomplete), (vec![(&ids[1], TaskState::Cancelled)], true));
    assert!(update.cursor.is_some());
    // One whose tasks are another's hears of the part all the same.
    let mut foreign =
        scene.watch(WatchFilter { tenant: "other".into(), only_changes: true, ..of_tenant() }, update.cursor);
    scene.queue.cancel(&ids[2]).await.unwrap();
    assert!(next(&mut foreign).await.incomplete);
}

#[tokio::test(start_paused = true)]
async fn a_watch_does_not_begin_with_half_of_the_tasks() {
    let scene = Scene::new();
    let ids = scene.queue.put(&["a"]).await;
    scene.queue.set_partly_away(true);
    let mut watch = scene.watch(of_tenant(), None);
    let end = watch.next().await.unwrap_err();
    assert!(matches!(&end, WatchEnd::Queue(error) if error.is_retryable()), "{end:?}");
    // What is named is read by itself, and changes need no begin.
    let mut named = scene.watch(WatchFilter { ids: ids.clone(), ..of_tenant() }, None);
    let update = next(&mut named).await;
    assert_eq!((states(&update), update.incomplete), (vec![(&ids[0], TaskState::Pending)], true));
    let mut changes = scene.watch(WatchFilter { only_changes: true, ..of_tenant() }, None);
    assert!(next(&mut changes).await.incomplete);
    scene.queue.cancel(&ids[0]).await.unwrap();
    assert_eq!(states(&told(&mut changes).await), [(&ids[0], TaskState::Cancelled)]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_every_watch_and_is_waited_for() {
    let mut scene = Scene::new();
    let (mut idle, mut begun) = (scene.watch(of_tenant(), None), scene.watch(of_tenant(), None));
    next(&mut begun).await;
    let mut ends = JoinSet::new();
    ends.spawn(async move {
        loop {
            if let Err(end) = begun.next().await {
                return end;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    scene.stop.cancel();
    assert!(matches!(ends.join_next().await.unwrap().unwrap(), WatchEnd::Stopping));
    assert!(scene.running.try_join_next().is_none(), "one watch is left");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(matches!(idle.next().await, Err(WatchEnd::Stopping)));
    assert_eq!(scene.watches.watch("web".into(), of_tenant(), None).err(), Some(WatchRefusal::Stopping));
    drop(idle);
    tokio::time::timeout(PATIENCE, scene.running.join_next()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn there_is_a_bound_on_watchers_and_a_place_is_free_again_when_one_goes() {
    let scene = Scene::new();
    let mut watches: Vec<Watch> = (0..MOST_WATCHES).map(|_| scene.watch(of_tenant(), None)).collect();
    assert_eq!(scene.watches.watch("web".into(), of_tenant(), None).err(), Some(WatchRefusal::TooMany));
    watches.pop();
    assert!(scene.watches.watch("web".into(), of_tenant(), None).is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_caller_has_only_its_share_of_the_watches() {
    let scene = Scene::new();
    let watches = Watches::limited(Arc::<Probe>::clone(&scene.queue), 1);
    let watch = |caller: &str| watches.watch(caller.into(), of_tenant(), None);
    let first = watch("a").unwrap();
    assert_eq!(watch("a").err(), Some(WatchRefusal::TooManyOfIdentity));
    let _other = watch("b").unwrap();
    drop(first);
    assert!(watch("a").is_ok());
}
