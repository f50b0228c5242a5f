//! What the outbox keeps, sends and forgets.

use tokio::time::Instant as Clock;

use super::*;

const SETTINGS: OutboxSettings =
    OutboxSettings { batch: 100, flush_every: Duration::from_millis(5), retry_after: Duration::from_secs(1) };

fn key(n: usize) -> LeaseKey {
    LeaseKey::from_wire(&format!("t{n}"), &[1; 16]).expect("it is well formed")
}

fn finished(n: usize, message_bytes: usize) -> Finished {
    let failure = v1::Failure { message: "x".repeat(message_bytes), ..Default::default() };
    Finished { lease: key(n), outcome: Box::new(v1::task_result::Outcome::Failure(failure)) }
}

fn start() -> (Outbox, Instant) {
    (Outbox::new(SETTINGS), Clock::now().into_std())
}

fn ids(batch: Option<v1::Results>) -> Vec<String> {
    batch.map_or_else(Vec::new, |b| b.results.into_iter().map(|r| r.task_id).collect())
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn the_first_result_goes_at_once_and_the_next_ones_together() {
    let (mut outbox, t0) = start();
    outbox.push(t0, finished(0, 0));
    assert_eq!(ids(outbox.next_batch(t0)), ["t0"]);
    outbox.push(t0 + ms(1), finished(1, 0));
    outbox.push(t0 + ms(4), finished(2, 0));
    assert_eq!(outbox.next_batch(t0 + ms(4)), None);
    assert_eq!(outbox.poll_flush(), Some(t0 + ms(5)));
    assert_eq!(ids(outbox.next_batch(t0 + ms(5))), ["t1", "t2"]);
    assert_eq!((outbox.poll_flush(), outbox.len()), (None, 3));
}

#[test]
fn a_full_batch_waits_for_nothing() {
    let (mut outbox, t0) = start();
    outbox.push(t0, finished(0, 0));
    assert!(outbox.next_batch(t0).is_some());
    (1..=250).for_each(|n| outbox.push(t0, finished(n, 0)));
    assert_eq!(ids(outbox.next_batch(t0)).len(), 100);
    assert_eq!(ids(outbox.next_batch(t0)).len(), 100);
    assert_eq!(outbox.next_batch(t0), None);
    assert_eq!(ids(outbox.next_batch(t0 + ms(5))).len(), 50);
}

#[test]
fn a_smaller_batch_is_full_sooner() {
    let (_, t0) = start();
    let mut outbox = Outbox::new(OutboxSettings { batch: 16, ..SETTINGS });
    outbox.push(t0, finished(0, 0));
    assert!(outbox.next_batch(t0).is_some());
    (1..16).for_each(|n| outbox.push(t0, finished(n, 0)));
    assert_eq!(outbox.next_batch(t0), None);
    outbox.push(t0, finished(16, 0));
    assert_eq!(ids(outbox.next_batch(t0)).len(), 16);
}

#[test]
fn no_message_grows_beyond_its_bound_in_bytes() {
    let (mut outbox, t0) = start();
    (0..200).for_each(|n| outbox.push(t0, finished(n, 10_000)));
    let mut sent = 0;
    while let Some(batch) = outbox.next_batch(t0) {
        assert!(batch.encoded_len() < Outbox::BATCH_BYTES + 20_000);
        sent += batch.results.len();
    }
    assert_eq!(sent, 200);
    let hello = outbox.hello();
    assert!((100..110).contains(&hello.len()), "{}", hello.len());
    outbox.flush(t0);
    let rest: usize = std::iter::from_fn(|| outbox.next_batch(t0)).map(|b| b.results.len()).sum();
    assert_eq!(hello.len() + rest, 200, "what does not fit into Hello follows");
}

#[test]
fn a_result_is_kept_until_it_is_settled() {
    let (mut outbox, t0) = start();
    outbox.push(t0, finished(0, 0));
    assert!(outbox.next_batch(t0).is_some());
    assert_eq!(outbox.hello().len(), 1);
    assert_eq!(outbox.hello().len(), 1, "on every new stream");
    assert!(outbox.settle(&key(0)));
    assert!(!outbox.settle(&key(0)));
    assert_eq!((outbox.len(), outbox.hello().len()), (0, 0));
}

#[test]
fn a_result_that_could_not_be_stored_is_sent_again_a_second_later() {
    let (mut outbox, t0) = start();
    outbox.push(t0, finished(0, 0));
    assert!(outbox.next_batch(t0).is_some());
    assert!(outbox.try_again(t0 + ms(10), &key(0)));
    assert!(outbox.try_again(t0 + ms(500), &key(0)), "a repeated verdict changes nothing");
    assert_eq!(outbox.poll_retry(), Some(t0 + ms(1010)));
    outbox.handle_timeout(t0 + ms(1009));
    assert_eq!(outbox.next_batch(t0 + ms(1009)), None);
    outbox.handle_timeout(t0 + ms(1010));
    assert_eq!(ids(outbox.next_batch(t0 + ms(1010))), ["t0"]);
    assert_eq!(outbox.poll_retry(), None);
    assert!(!outbox.try_again(t0, &key(1)));
}

#[test]
fn a_result_settled_before_its_second_chance_is_not_sent() {
    let (mut outbox, t0) = start();
    outbox.push(t0, finished(0, 0));
    assert!(outbox.next_batch(t0).is_some());
    assert!(outbox.try_again(t0, &key(0)));
    assert!(outbox.settle(&key(0)));
    outbox.handle_timeout(t0 + ms(2000));
    assert_eq!(outbox.next_batch(t0 + ms(3000)), None);
}

#[test]
fn a_resend_does_not_double_what_is_about_to_be_sent() {
    let (mut outbox, t0) = start();
    outbox.push(t0, finished(0, 0));
    outbox.resend(t0, &key(0));
    assert_eq!(ids(outbox.next_batch(t0)), ["t0"]);
    outbox.resend(t0, &key(0));
    outbox.resend(t0, &key(0));
    outbox.resend(t0, &key(9));
    assert_eq!(ids(outbox.next_batch(t0 + ms(5))), ["t0"]);
    assert_eq!(outbox.next_batch(t0 + ms(10)), None);
}

#[test]
fn a_second_chance_from_an_older_stream_does_not_double_a_result() {
    let (mut outbox, t0) = start();
    outbox.push(t0, finished(0, 0));
    assert!(outbox.next_batch(t0).is_some());
    assert!(outbox.try_again(t0, &key(0)));
    assert_eq!(outbox.hello().len(), 1);
    outbox.flush(t0);
    assert_eq!(outbox.poll_retry(), None);
    outbox.handle_timeout(t0 + ms(2000));
    assert_eq!(outbox.next_batch(t0 + ms(2000)), None);
}
