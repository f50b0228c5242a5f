//! The log of changes.

use super::harness::{Factory, Harness, done, exact, failed, s};
use crate::queue::{EventCursor, Events, FailureClass, QueueError, TaskId, events::KEPT};

async fn read(h: &Harness, cursor: Option<&EventCursor>) -> Events {
    h.queue.events(cursor).await.unwrap_or_else(|error| panic!("events: {error}"))
}

/// Everything that has changed since `cursor`, and where to go on. Nothing may be missed.
async fn changed(h: &Harness, cursor: &EventCursor) -> (Vec<(String, TaskId)>, EventCursor) {
    let (mut all, mut cursor) = (Vec::new(), cursor.clone());
    loop {
        let events = read(h, Some(&cursor)).await;
        assert!(!events.missed);
        all.extend(events.changed.into_iter().map(|(tenant, id)| (tenant.to_string(), id)));
        cursor = events.next;
        if !events.more {
            return (all, cursor);
        }
    }
}

pub(super) async fn every_move_of_a_task_is_told_in_order(factory: Factory) {
    let h = factory.start().await;
    h.submit(exact("t", "before")).await;
    h.cancel(&h.submit(exact("t", "before")).await.id).await;
    let begin = read(&h, None).await;
    assert!(begin.changed.is_empty() && !begin.missed && !begin.more, "{begin:?}");
    let mut cursor = begin.next;
    let mut tells = async |what: &str, id: &TaskId| {
        let (told, next) = changed(&h, &cursor).await;
        assert!(!told.is_empty(), "{what} was not told");
        assert!(told.iter().all(|one| *one == ("t".to_owned(), id.clone())), "{what}: {told:?}");
        cursor = next;
    };
    let id = h.submit(exact("t", "a")).await.id;
    tells("submit", &id).await;
    let leased = h.lease_next().await;
    tells("lease", &id).await;
    h.renew(&leased, 0).await;
    tells("acceptance", &id).await;
    h.renew(&leased, 10).await;
    tells("progress", &id).await;
    h.settle(&leased, failed(FailureClass::Retry)).await;
    tells("failure", &id).await;
    h.await_due(&id).await;
    tells("promotion", &id).await;
    let leased = h.work().await;
    h.lose(&leased).await;
    tells("expiry", &id).await;
    h.await_due(&id).await;
    let leased = h.work().await;
    tells("lease", &id).await;
    h.cancel(&id).await;
    tells("cancel", &id).await;
    h.settle(&leased, done()).await;
    tells("success", &id).await;
    let (nothing, _) = changed(&h, &cursor).await;
    assert!(nothing.is_empty(), "{nothing:?}");
}

pub(super) async fn a_reader_goes_on_where_another_has_stopped(factory: Factory) {
    let h = factory.start_with(|settings| settings.shards = 3).await;
    let begin = read(&h, None).await.next;
    for n in 0..5 {
        h.submit(exact("t", &format!("a{n}"))).await;
    }
    let (first, middle) = changed(&h, &begin).await;
    for n in 0..5 {
        h.submit(exact("u", &format!("b{n}"))).await;
    }
    let (rest, _) = changed(&h, &middle).await;
    let (whole, _) = changed(&h, &begin).await;
    assert_eq!((first.len(), rest.len(), whole.len()), (5, 5, 10));
    assert!(first.iter().all(|(tenant, _)| tenant == "t") && rest.iter().all(|(tenant, _)| tenant == "u"));
    assert!(whole.iter().all(|one| first.contains(one) || rest.contains(one)));
}

pub(super) async fn what_nobody_read_in_time_is_told_as_missed(factory: Factory) {
    let h = factory.start().await;
    let begin = read(&h, None).await.next;
    h.submit(exact("t", "a")).await;
    h.clock.advance(KEPT / 3);
    let (told, cursor) = changed(&h, &begin).await;
    assert_eq!(told.len(), 1, "kept while it is read");
    h.clock.advance(KEPT + s(1));
    h.submit(exact("t", "b")).await;
    h.sweep().await;
    let events = read(&h, Some(&cursor)).await;
    assert!(events.missed && events.changed.is_empty(), "{events:?}");
    h.submit(exact("t", "c")).await;
    assert_eq!(changed(&h, &events.next).await.0.len(), 1, "it goes on from there");
    assert!(read(&h, Some(&begin)).await.missed);
}

pub(super) async fn more_changes_than_are_kept_are_told_as_missed(factory: Factory) {
    let h = factory.start().await;
    let begin = read(&h, None).await.next;
    let id = h.submit(exact("t", "a")).await.id;
    let leased = h.work().await;
    assert_eq!(leased.id, id);
    for bytes in 1..6_000 {
        h.renew(&leased, bytes).await;
    }
    let events = read(&h, Some(&begin)).await;
    assert!(events.missed, "a log without a bound");
    h.submit(exact("t", "b")).await;
    assert_eq!(changed(&h, &events.next).await.0.len(), 1);
}

pub(super) async fn a_cursor_of_nobody_is_refused_by_the_log(factory: Factory) {
    let h = factory.start().await;
    for text in ["", "nonsense", "-1", "1,2,3,4,5,6", "{bh:000}:meta"] {
        let answer = h.queue.events(Some(&EventCursor(text.into()))).await;
        assert!(matches!(answer, Err(QueueError::Rejected(_))), "{text:?}: {answer:?}");
    }
}

pub(super) async fn many_changes_are_read_in_bounded_pieces(factory: Factory) {
    let h = factory.start_with(|settings| settings.shards = 2).await;
    let begin = read(&h, None).await.next;
    for hundred in 0..50 {
        let tasks = (0..100).map(|n| exact("t", &(hundred * 100 + n).to_string())).collect();
        assert!(h.queue.submit(tasks).await.iter().all(Result::is_ok));
    }
    let first = read(&h, Some(&begin)).await;
    assert!(first.more && first.changed.len() < 5_000, "{}", first.changed.len());
    let (told, _) = changed(&h, &begin).await;
    assert_eq!(told.len(), 5_000);
}
