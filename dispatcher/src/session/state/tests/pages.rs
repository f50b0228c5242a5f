//! Pages on a stream: to whom, how many, and what becomes of them.

use super::*;
use crate::{
    queue::walk::{PageFound, PageOrder, WalkId, conformance::spec},
    session::{Excess, PageAnswer},
};

fn token(number: u8) -> LeaseToken {
    LeaseToken::from_bytes([number; 16])
}

fn order(number: u8) -> Event {
    let order = PageOrder {
        walk: WalkId::derive("web", "a"),
        spec: Arc::new(spec("a")),
        cursor: String::new(),
        max_entries: 10,
        within: Duration::from_secs(9),
    };
    Event::List(token(number), Box::new(order))
}

fn found(number: u8, listed: u64) -> Event {
    let answer: PageAnswer = Ok(PageFound { listed, ..PageFound::default() });
    Event::Listed(token(number), answer)
}

fn asked(rig: &mut Rig) -> usize {
    rig.messages().iter().filter(|message| message.starts_with("LIST")).count()
}

#[test]
fn a_page_goes_to_the_worker_and_its_answer_to_whoever_asked() {
    let mut rig = Rig::attached(1, 1);
    rig.says(order(1));
    assert_eq!((rig.effects(), asked(&mut rig)), (vec![], 1));
    rig.says(found(1, 7));
    assert_eq!(rig.effects(), ["listed 1 Some(Ok(7))"]);
}

#[test]
fn at_most_four_pages_are_unanswered_and_others_are_not_listed_here() {
    let mut rig = Rig::attached(1, 1);
    (1..=5).for_each(|number| rig.says(order(number)));
    assert_eq!((rig.effects(), asked(&mut rig)), (vec!["listed 5 None".to_owned()], 4));
    rig.says(Event::PageGivenUp(token(2)));
    rig.says(order(6));
    assert_eq!((rig.effects(), asked(&mut rig)), (vec![], 1));
    // What was given up is answered to nobody.
    rig.says(found(2, 1));
    assert_eq!(rig.effects(), [""; 0]);
    assert_eq!(rig.session.counters.ignored, 1);
}

#[test]
fn a_worker_that_does_not_list_or_is_on_its_way_is_asked_for_no_page() {
    let mut old = Rig::new();
    let Event::Hello(mut greeting) = hello(Credit::default()) else { panic!("a Hello") };
    greeting.worker.lists = false;
    old.says(Event::Hello(greeting));
    old.drain();
    old.says(order(1));
    assert_eq!((old.effects(), asked(&mut old)), (vec!["listed 1 None".to_owned()], 0));

    let mut leaving = Rig::attached(1, 1);
    leaving.says(order(1));
    leaving.says(Event::WorkerDrains { finish_within: Duration::from_secs(9) });
    leaving.says(order(2));
    assert_eq!(leaving.effects(), ["listed 2 None"]);
    // What it has begun it may still answer.
    leaving.says(found(1, 3));
    assert_eq!(leaving.effects(), ["listed 1 Some(Ok(3))"]);
}

#[test]
fn answers_that_nobody_asked_for_count_like_any_message_that_means_nothing() {
    let mut rig = Rig::attached(1, 1);
    let most = StreamSettings::default().messages_per_second;
    for _ in 0..u64::from(most) * 20 {
        rig.says(found(9, 1));
    }
    assert_eq!(rig.session.close_reason(), Some(Excess::Messages(most).into()));
}
