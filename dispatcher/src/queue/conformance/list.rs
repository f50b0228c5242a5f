//! Cases on listing: filters, order, pages.

use std::collections::{BTreeMap, BTreeSet};

use super::harness::{Factory, Harness, done, exact, failed, latest, s};
use crate::queue::{FailureClass, ListCursor, ListQuery, QueueError, TaskReason, TaskRecord, TaskState};

pub(super) async fn a_listing_shows_only_the_tenants_own_tasks(make: Factory) {
    let h = make.start().await;
    h.submit(exact("t", "a")).await;
    h.submit(exact("u", "b")).await;
    assert_eq!(keys(&all(&h, &of("t")).await), ["a"]);
    assert_eq!(keys(&all(&h, &of("nobody")).await), [""; 0]);
}

pub(super) async fn a_listing_shows_whole_records(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.settle(&leased, done()).await;
    assert_eq!(all(&h, &of("t")).await, [h.get(&leased.id).await]);
}

pub(super) async fn filters_are_all_kept_to(make: Factory) {
    let h = make.start().await;
    for (key, location, env) in [
        ("logs/1", "uploads", "prod"),
        ("logs/2", "archive", "prod"),
        ("logs/3", "uploads", "test"),
        ("media/4", "uploads", "prod"),
    ] {
        let mut task = latest("t", key);
        task.spec.object.location = location.into();
        task.spec.labels.insert("env".into(), env.into());
        task.spec.labels.insert("kind".into(), "x".into());
        h.submit(task).await;
    }
    let label = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let uploads = Some("uploads".to_owned());
    let cases = [
        (ListQuery { location: uploads.clone(), ..of("t") }, vec!["logs/1", "logs/3", "media/4"]),
        (ListQuery { key_prefix: "logs/".into(), ..of("t") }, vec!["logs/1", "logs/2", "logs/3"]),
        (ListQuery { labels: label("env", "prod"), ..of("t") }, vec!["logs/1", "logs/2", "media/4"]),
        (ListQuery { labels: label("env", ""), ..of("t") }, vec![]),
        (ListQuery { labels: label("none", ""), ..of("t") }, vec![]),
        (ListQuery { key_prefix: "logs".into(), labels: label("env", "test"), ..of("t") }, vec!["logs/3"]),
        (
            ListQuery {
                key_prefix: "logs".into(),
                labels: label("env", "prod"),
                location: uploads,
                ..of("t")
            },
            vec!["logs/1"],
        ),
    ];
    for (query, expected) in cases {
        let mut found = keys(&all(&h, &query).await);
        found.sort_unstable();
        assert_eq!(found, expected, "{query:?}");
    }
}

pub(super) async fn states_can_be_chosen(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "done")).await;
    h.settle(&leased, done()).await;
    let leased = h.work_on(exact("t", "dead")).await;
    h.settle(&leased, failed(FailureClass::Permanent)).await;
    h.work_on(exact("t", "working")).await;
    h.submit(exact("t", "pending")).await;
    for (states, expected) in [
        (vec![TaskState::Dead], vec!["dead"]),
        (vec![TaskState::Pending, TaskState::Done, TaskState::Done], vec!["done", "pending"]),
        (vec![TaskState::Delayed], vec![]),
        (vec![], vec!["dead", "done", "pending", "working"]),
    ] {
        let mut found = keys(&all(&h, &ListQuery { states, ..of("t") }).await);
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}

pub(super) async fn pages_show_every_task_once_and_the_newest_first(make: Factory) {
    let h = make.start().await;
    for n in 0..25 {
        h.submit(exact("t", &format!("{n:02}"))).await;
        if n % 3 == 0 {
            let leased = h.work().await;
            h.settle(&leased, failed(FailureClass::Permanent)).await;
        }
        // Some share a millisecond.
        h.clock.advance(std::time::Duration::from_millis(n % 2));
    }
    for limit in [1, 7, 25, 1000] {
        let found = all(&h, &ListQuery { limit, ..of("t") }).await;
        let distinct: BTreeSet<_> = found.iter().map(|record| record.id.clone()).collect();
        assert_eq!((found.len(), distinct.len()), (25, 25));
        for state in [TaskState::Pending, TaskState::Dead] {
            let created: Vec<_> =
                found.iter().filter(|record| record.state == state).map(|record| record.created_at).collect();
            assert!(created.is_sorted_by(|a, b| a >= b), "{created:?}");
        }
    }
}

pub(super) async fn tasks_that_come_and_go_disturb_no_others_on_later_pages(make: Factory) {
    let h = make.start().await;
    for n in 0..20 {
        h.submit(exact("t", &format!("stays{n}"))).await;
        h.clock.advance(s(1));
    }
    let pending = ListQuery { states: vec![TaskState::Pending], limit: 3, ..of("t") };
    let mut found = Vec::new();
    let mut query = pending.clone();
    for n in 0..1000 {
        let page = h.queue.list(&query).await.unwrap_or_else(|error| panic!("list: {error}"));
        found.extend(keys(&page.tasks).into_iter().filter(|key| key.starts_with("stays")));
        h.submit(exact("t", &format!("comes{n}"))).await;
        h.clock.advance(s(1));
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 20);
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 20);
}

pub(super) async fn a_cursor_of_nobody_is_refused(make: Factory) {
    let h = make.start().await;
    h.submit(exact("t", "a")).await;
    for text in ["", "x", "🦀", "9:9:9", "-1", "0:0:000-0123"] {
        let query = ListQuery { cursor: Some(ListCursor(text.into())), ..of("t") };
        let answer = h.queue.list(&query).await;
        assert!(matches!(answer, Err(QueueError::Rejected(_))), "{text:?}: {answer:?}");
    }
}

pub(super) async fn dead_tasks_are_found_by_bucket_reason_and_the_time_of_their_end(make: Factory) {
    let h = make.start_with(|settings| settings.max_crashes = 1).await;
    let begin = h.now();
    for (key, bucket, class) in [
        ("a", "photos", Some(FailureClass::Permanent)),
        ("b", "videos", None),
        ("c", "photos", Some(FailureClass::Permanent)),
    ] {
        let mut task = exact("t", key);
        task.spec.object.bucket = bucket.into();
        let leased = h.work_on(task).await;
        match class {
            Some(class) => drop(h.settle(&leased, failed(class)).await),
            None => h.lose(&leased).await,
        }
        h.clock.advance(s(10));
    }
    h.submit(exact("t", "waits")).await;
    let dead = ListQuery { states: vec![TaskState::Dead], ..of("t") };
    let died = |key: &str| {
        let key = key.to_owned();
        let dead = dead.clone();
        let h = &h;
        async move {
            let found = all(h, &ListQuery { key_prefix: key, ..dead }).await;
            found[0].finished_at
        }
    };
    let (of_b, of_c) = (died("b").await, died("c").await);
    let crashed = vec![TaskReason::CrashedTooOften];
    for (query, expected) in [
        (dead.clone(), vec!["a", "b", "c"]),
        (ListQuery { bucket: Some("photos".into()), ..dead.clone() }, vec!["a", "c"]),
        (ListQuery { bucket: Some("photo".into()), ..dead.clone() }, vec![]),
        (ListQuery { reasons: crashed.clone(), ..dead.clone() }, vec!["b"]),
        (ListQuery { reasons: crashed, ..of("t") }, vec!["b"]),
        (ListQuery { finished_from: of_b, ..dead.clone() }, vec!["b", "c"]),
        (ListQuery { finished_until: of_b, ..dead.clone() }, vec!["a"]),
        (ListQuery { finished_from: of_b, finished_until: of_c, ..of("t") }, vec!["b"]),
        (ListQuery { finished_until: Some(begin), ..of("t") }, vec![]),
    ] {
        let mut found = keys(&all(&h, &query).await);
        found.sort_unstable();
        assert_eq!(found, expected, "{query:?}");
    }
}

fn of(tenant: &str) -> ListQuery {
    ListQuery { tenant: tenant.into(), limit: 100, ..ListQuery::default() }
}

fn keys(records: &[TaskRecord]) -> Vec<String> {
    records.iter().map(|record| record.spec.object.key.clone()).collect()
}

/// All pages of a listing.
async fn all(h: &Harness, query: &ListQuery) -> Vec<TaskRecord> {
    let mut query = query.clone();
    let mut found = Vec::new();
    for _ in 0..1000 {
        let page = h.queue.list(&query).await.unwrap_or_else(|error| panic!("list: {error}"));
        assert!(page.tasks.len() <= query.limit as usize, "a page holds no more than asked for");
        found.extend(page.tasks);
        let Some(next) = page.next else { return found };
        assert!(next.0.len() <= 256 && next.0.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{next:?}");
        query.cursor = Some(next);
    }
    panic!("the pages never end");
}
