//! How a stream begins, drains and ends, and what becomes of its leases.

use super::*;
use crate::session::{CloseReason, DrainOrder};

fn drain_order(reason: pb::DrainReason, ms: u64) -> Event {
    Event::Drain(DrainOrder { reason, within: Duration::from_millis(ms), taken_over: Arc::new([]) })
}

#[test]
fn resumed_leases_get_their_verdicts_with_welcome_and_nothing_comes_before_it() {
    let mut rig = Rig::new();
    let held = rig.held("a b c");
    let unconfirmed = rig.reports("d");
    rig.says(hello_with(Credit { tasks: 4, bytes: 1_000 * MIB }, held, unconfirmed));
    assert_eq!(rig.drain(), ["attach w", "settle d=done", "renew Hello a b c"]);
    assert_eq!(rig.session.standing().room.tasks, 0, "no tasks before the leases are counted");
    rig.stored(1);
    assert_eq!(rig.drain(), [""; 0], "a Confirm must not overtake Welcome");
    rig.says(Event::Renewed(
        RenewFor::Hello,
        vec![Ok(RenewOutcome::Keep(Duration::from_secs(30))), Ok(RenewOutcome::Lost), unavailable()],
    ));
    assert_eq!(rig.drain(), ["WELCOME a=Keep b=Lost c=Unknown", "CONFIRM d=Stored"]);
    assert_eq!(rig.session.standing().room.tasks, 2, "what the worker keeps counts against its credit");
}

#[test]
fn a_queue_that_cannot_be_asked_does_not_keep_a_worker_out() {
    let mut rig = Rig::new();
    let held = rig.held("a");
    rig.says(hello_with(Credit { tasks: 4, bytes: 1_000 * MIB }, held, Vec::new()));
    rig.drain();
    rig.says(Event::Renewed(RenewFor::Hello, Vec::new()));
    assert_eq!(rig.drain(), ["WELCOME a=Unknown"]);
}

#[test]
fn what_was_accepted_lives_on_without_the_stream_and_what_was_not_goes_back() {
    for event in [Event::PeerClosed, Event::PeerLost] {
        let mut rig = Rig::attached(3, 1_000);
        rig.offers("a b c d");
        rig.drain();
        rig.accepts("a b");
        rig.done("b");
        rig.says(event);
        // d was not sent, c not accepted; b is reported, a is written as accepted so that it can be resumed.
        assert_eq!(rig.effects(), ["settle b=done d=unsent c=back", "renew Accepts a"]);
        assert!(!rig.session.is_over());
        rig.stored(3);
        rig.kept(RenewFor::Accepts, 1);
        rig.messages();
        assert!(rig.session.is_over());
    }
}

#[test]
fn a_worker_that_closes_its_side_still_gets_the_confirms() {
    let mut rig = Rig::attached(3, 1_000);
    rig.offers("a");
    rig.drain();
    rig.done("a");
    rig.effects();
    rig.says(Event::PeerClosed);
    assert!(!rig.session.can_end_stream());
    rig.stored(1);
    assert_eq!(rig.drain(), ["CONFIRM a=Stored"]);
    assert!(rig.session.can_end_stream() && rig.session.is_over());
}

#[test]
fn an_ended_stream_does_not_wait_for_the_queue_for_ever() {
    let mut rig = Rig::attached(3, 1_000);
    rig.offers("a");
    rig.says(Event::PeerLost);
    assert_eq!(rig.effects(), ["settle a=unsent"]);
    rig.wait(settings().queue_timeout);
    assert!(rig.session.is_over());
    assert_eq!(rig.session.poll_timeout(), None);
}

#[test]
fn a_draining_worker_gets_no_tasks_and_keeps_its_leases() {
    let mut rig = Rig::attached(1, 1_000);
    rig.offers("a b");
    rig.drain();
    rig.accepts("a");
    rig.says(Event::WorkerDrains { finish_within: Duration::from_secs(8) });
    assert_eq!(rig.drain(), ["settle b=unsent"]);
    rig.stored(1);
    rig.beats(1, "a");
    assert_eq!(rig.drain(), ["renew Heartbeat(1) a"]);
    rig.kept(RenewFor::Heartbeat(1), 1);
    assert_eq!(rig.drain(), ["LEASES 1 a=Keep"]);
    rig.offers("c");
    rig.done("a");
    assert_eq!(rig.drain(), ["settle c=unsent a=done"]);
    rig.stored(2);
    assert_eq!(rig.drain(), ["CONFIRM a=Stored"]);
    rig.wait_ms(9_000);
    assert_eq!(rig.session.close_reason(), Some(CloseReason::DrainOverstayed));
}

#[test]
fn a_drain_of_the_dispatcher_moves_the_worker_and_ends_the_stream_in_time() {
    let mut rig = Rig::attached(1, 1_000);
    rig.offers("a b");
    rig.drain();
    rig.accepts("a");
    rig.says(drain_order(pb::DrainReason::Shutdown, 5_000));
    assert_eq!(rig.drain(), ["settle b=unsent", "DRAIN Shutdown 5000"]);
    rig.stored(1);
    rig.wait_ms(4_999);
    assert_eq!(rig.session.close_reason(), None);
    rig.drain();
    rig.kept(RenewFor::Accepts, 1);
    rig.wait_ms(1);
    assert_eq!(rig.session.close_reason(), Some(CloseReason::Drained(pb::DrainReason::Shutdown)));
    assert!(rig.session.can_end_stream() && rig.session.is_over());
}

#[test]
fn of_two_drains_the_earlier_end_counts() {
    for (worker_s, closes_as) in
        [(2, CloseReason::DrainOverstayed), (20, CloseReason::Drained(pb::DrainReason::Shutdown))]
    {
        let mut rig = Rig::attached(1, 1_000);
        rig.says(Event::WorkerDrains { finish_within: Duration::from_secs(worker_s) });
        rig.says(drain_order(pb::DrainReason::Shutdown, 5_000));
        rig.drain();
        rig.wait_ms(5_000);
        assert_eq!(rig.session.close_reason(), Some(closes_as));
    }
}

#[test]
fn a_replaced_stream_says_so_and_leaves_alone_what_moved_to_the_new_one() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a b");
    rig.drain();
    let taken_over = Arc::new([lease("a")]);
    let order = DrainOrder { reason: pb::DrainReason::Superseded, within: Duration::ZERO, taken_over };
    rig.says(Event::Drain(order));
    assert_eq!(rig.drain(), ["settle b=back", "DRAIN Superseded 0"]);
    rig.stored(1);
    assert_eq!(rig.session.close_reason(), Some(CloseReason::Superseded));
    assert!(rig.session.can_end_stream() && rig.session.is_over());
}

#[test]
fn an_old_stream_is_moved_within_a_tenth_of_its_age() {
    for (jitter, age_s) in [(0.0, 90), (0.5, 100), (0.999, 110)] {
        let mut rig = Rig::new();
        let settings = StreamSettings { rebalance_after: Some(Duration::from_secs(100)), ..settings() };
        rig.session = Session::new(rig.now, SessionId::random().unwrap(), Arc::new(settings), jitter);
        rig.says(hello(Credit::default()));
        rig.drain();
        let start = rig.now;
        let mut beat = 0;
        let drained = loop {
            rig.wait_ms(1_000);
            beat += 1;
            rig.beats(beat, "");
            rig.effects();
            rig.kept(RenewFor::Heartbeat(beat), 0);
            if rig.messages().iter().any(|message| message.starts_with("DRAIN Rebalance")) {
                break rig.now - start;
            }
        };
        assert_eq!((drained + Duration::from_millis(500)).as_secs(), age_s);
    }
}

#[test]
fn tasks_offered_to_a_stream_that_ended_go_back() {
    let mut rig = Rig::attached(10, 1_000);
    rig.says(Event::Stop);
    rig.offers("a");
    assert_eq!(rig.effects(), ["settle a=unsent"]);
    rig.stored(1);
    assert!(rig.session.is_over());
}

#[test]
fn a_drain_during_the_welcome_is_told_after_it() {
    let mut rig = Rig::new();
    let held = rig.held("a");
    rig.says(hello_with(Credit { tasks: 4, bytes: 1_000 * MIB }, held, Vec::new()));
    rig.effects();
    rig.says(drain_order(pb::DrainReason::Shutdown, 5_000));
    assert_eq!(rig.messages(), [""; 0]);
    rig.kept(RenewFor::Hello, 1);
    assert_eq!(rig.drain(), ["WELCOME a=Keep", "DRAIN Shutdown 5000"]);
    assert_eq!(rig.session.standing().room.tasks, 0);
}
