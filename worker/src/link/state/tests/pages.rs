//! Pages: announced, a few at a time, each answered once, all forgotten with the stream.

use super::*;

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.link = bench.link.listing_pages();
    let hello = bench.greet();
    assert_eq!(hello.kinds, [i32::from(v1::WorkKind::List)]);
    bench.welcome(vec![]);
    bench.effects();
    bench.said();
    bench
}

fn page(number: u8) -> Box<v1::ListPage> {
    let prefix = v1::PrefixRef { location: "media".into(), ..v1::PrefixRef::default() };
    Box::new(v1::ListPage { lease: vec![number; 16].into(), prefix: Some(prefix), ..v1::ListPage::default() })
}

fn answer(number: u8) -> Event {
    Event::Listed(Box::new(v1::ListedPage {
        lease: vec![number; 16].into(),
        listed: 1,
        ..v1::ListedPage::default()
    }))
}

/// Pages that were answered: number, and why not.
fn answered(bench: &mut Bench) -> Vec<(u8, String)> {
    let page = |said| {
        let Message::Listed(page) = said else { return None };
        Some((page.lease[0], page.failure.map(|failure| failure.code).unwrap_or_default()))
    };
    bench.said().into_iter().filter_map(page).collect()
}

#[test]
fn a_worker_that_lists_nothing_says_so_and_refuses_pages() {
    let mut bench = Bench::new();
    assert!(bench.greet().kinds.is_empty());
    bench.welcome(vec![]);
    bench.effects();
    bench.event(Event::ListAsked(page(1)));
    assert!(bench.effects().is_empty());
    assert_eq!(answered(&mut bench), [(1, "unknown_location".into())]);
}

#[test]
fn four_pages_are_listed_at_a_time_and_each_is_answered_once() {
    let mut bench = bench();
    (1..=5).for_each(|number| bench.event(Event::ListAsked(page(number))));
    assert_eq!(bench.effects(), (1..=4).map(|number| Effect::List(page(number))).collect::<Vec<_>>());
    assert_eq!(answered(&mut bench), [(5, "busy".into())]);
    bench.event(answer(2));
    bench.event(answer(2));
    bench.event(answer(9));
    assert_eq!(answered(&mut bench), [(2, String::new())]);
    assert_eq!(bench.link.ignored(), 2);
    bench.event(Event::ListAsked(page(6)));
    assert_eq!(bench.effects(), [Effect::List(page(6))]);
}

#[test]
fn pages_do_not_outlive_their_stream() {
    let mut bench = bench();
    bench.event(Event::ListAsked(page(1)));
    bench.event(Event::ListAsked(page(2)));
    bench.effects();
    bench.event(answer(1));
    bench.event(Event::StreamEnded);
    assert_eq!(bench.effects(), [Effect::DropPages]);
    bench.dials();
    bench.greet();
    bench.welcome(vec![]);
    bench.event(answer(2));
    assert_eq!(answered(&mut bench), []);
}

#[test]
fn a_worker_that_leaves_or_whose_store_is_away_lists_nothing_more() {
    let mut away = bench();
    away.event(Event::Paused(BTreeSet::from(["media".to_owned()])));
    away.event(Event::ListAsked(page(1)));
    assert_eq!(answered(&mut away), [(1, "location_paused".into())]);

    let mut leaving = Bench::attached(&[&key("a", 1)]);
    leaving.link = leaving.link.listing_pages();
    leaving.event(Event::DrainAsked { within: Duration::from_secs(20) });
    leaving.event(Event::ListAsked(page(1)));
    assert_eq!(answered(&mut leaving), [(1, "draining".into())]);
}
