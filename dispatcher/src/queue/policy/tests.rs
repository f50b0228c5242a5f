//! Property tests of the policy.

use proptest::prelude::*;

use super::*;

fn settings() -> QueueSettings {
    let secs = Duration::from_secs;
    QueueSettings {
        shards: 1,
        lease: secs(30),
        accept_within: secs(10),
        max_crashes: 3,
        max_returns: 4,
        retry: RetryPolicy { base: secs(5), max: secs(3600), floor: secs(1) },
        dedup_window: secs(3600),
        retain_finished: secs(3600),
        retain_dead: secs(7200),
        retain_bytes: 1 << 40,
        shard_cap: 100,
        tenant_cap: 100,
        tenant_in_flight_cap: 100,
        outage: secs(10),
        sweep_every: secs(1),
    }
}

fn any_counters() -> impl Strategy<Value = Counters> {
    (0..9_u32, 0..3_u32, 0..=4_u32).prop_map(|(attempts, crashes, returns)| Counters {
        attempts,
        crashes,
        returns,
    })
}

fn any_policy() -> impl Strategy<Value = RetryPolicy> {
    (1..=u64::MAX, any::<u64>(), any::<u64>()).prop_map(|(a, b, c)| {
        let mut ms = [a, b.max(1), c.max(1)];
        ms.sort_unstable();
        let [floor, base, max] = ms.map(Duration::from_millis);
        RetryPolicy { base, max, floor }
    })
}

fn any_class() -> impl Strategy<Value = FailureClass> {
    use FailureClass::{Permanent, Retry, SourceGone, Throttled};
    prop_oneof![Just(Retry), Just(Throttled), Just(Permanent), Just(SourceGone)]
}

proptest! {
    #[test]
    fn every_wait_lies_between_the_floor_and_the_ceiling(
        policy in any_policy(), earlier: u32, jitter: f64
    ) {
        prop_assert_eq!(policy.validate(), Ok(()));
        let wait = policy.backoff(earlier, jitter);
        prop_assert!(policy.floor <= wait && wait <= policy.max, "{wait:?}");
        let ceiling = policy.base.saturating_mul(1_u32.checked_shl(earlier).unwrap_or(u32::MAX));
        prop_assert!(earlier > 31 || wait <= ceiling);
    }

    #[test]
    fn more_jitter_and_more_failures_never_shorten_the_wait(
        policy in any_policy(), earlier in 0..100_u32, a in 0.0..1.0, b in 0.0..1.0
    ) {
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        prop_assert!(policy.backoff(earlier, low) <= policy.backoff(earlier, high));
        prop_assert!(policy.backoff(earlier, low) <= policy.backoff(earlier + 1, low));
    }

    #[test]
    fn a_store_that_asks_to_wait_is_obeyed_up_to_the_longest_wait(
        counters in any_counters(), jitter in 0.0..1.0, asked_s in 0..10_000_u64
    ) {
        let settings = settings();
        let asked = Duration::from_secs(asked_s);
        for class in [FailureClass::Retry, FailureClass::Throttled] {
            let verdict = after_failure(counters, 100, class, asked, jitter, &settings);
            prop_assert_eq!(verdict.state, TaskState::Delayed);
            prop_assert!(verdict.delay >= asked.min(settings.retry.max));
            prop_assert!(verdict.delay <= settings.retry.max);
        }
    }

    #[test]
    fn counters_grow_by_one_at_most_and_never_pass_their_bounds(
        counters in any_counters(), max_attempts in 1..10_u32, class in any_class(),
        accepted: bool, jitter in 0.0..1.0, delay_ms in 0..5_000_u64
    ) {
        let settings = settings();
        let counters = Counters { attempts: counters.attempts.min(max_attempts - 1), ..counters };
        let delay = Duration::from_millis(delay_ms);
        for verdict in [
            after_success(counters, Requests::default()),
            after_failure(counters, max_attempts, class, delay, jitter, &settings),
            after_return(counters, max_attempts, delay, jitter, &settings),
            after_expiry(counters, max_attempts, accepted, jitter, &settings),
        ] {
            let after = verdict.counters;
            let grown = (after.attempts - counters.attempts)
                + (after.crashes - counters.crashes)
                + (after.returns - counters.returns);
            prop_assert_eq!(grown, u32::from(verdict.state != TaskState::Done));
            prop_assert!(after.attempts <= max_attempts && after.crashes <= settings.max_crashes);
            prop_assert!(after.returns <= settings.max_returns);
            prop_assert_eq!(verdict.state == TaskState::Delayed, !verdict.delay.is_zero());
            let used_up = after.attempts >= max_attempts || after.crashes >= settings.max_crashes;
            prop_assert!(!used_up || verdict.state.is_finished());
        }
    }

    #[test]
    fn no_request_made_during_the_copy_is_lost(
        counters in any_counters(), class in any_class(), accepted: bool, cancel: bool
    ) {
        let settings = settings();
        let again = Requests { cancel, again: true };
        for verdict in [
            after_success(counters, again),
            after_failure(counters, 9, class, Duration::ZERO, 0.5, &settings).given(again),
            after_expiry(counters, 9, accepted, 0.5, &settings).given(again),
            after_return(counters, 9, Duration::ZERO, 0.5, &settings).given(again),
        ] {
            prop_assert!(!verdict.state.is_finished());
            prop_assert!(!verdict.runs_again || verdict.counters == Counters::default());
            prop_assert!(verdict.runs_again || !cancel);
        }
    }
}

#[test]
fn throttling_and_hand_backs_cost_an_attempt_only_beyond_their_bound() {
    let settings = settings();
    let mut counters = Counters::default();
    for _ in 0..settings.max_returns {
        counters =
            after_failure(counters, 2, FailureClass::Throttled, Duration::ZERO, 0.0, &settings).counters;
    }
    assert_eq!(counters, Counters { returns: settings.max_returns, ..Counters::default() });
    let first = after_return(counters, 2, Duration::ZERO, 0.0, &settings);
    assert_eq!((first.state, first.reason), (TaskState::Delayed, TaskReason::BackingOff));
    let last = after_expiry(first.counters, 2, false, 0.0, &settings);
    assert_eq!((last.state, last.reason), (TaskState::Dead, TaskReason::AttemptsUsedUp));
    assert_eq!(last.counters.crashes, 0);
}

#[test]
fn a_task_that_kills_its_workers_is_dead_after_the_third() {
    let settings = settings();
    let mut verdict = Verdict::RUNS_AGAIN;
    let mut states = Vec::new();
    for _ in 0..3 {
        verdict = after_expiry(verdict.counters, 100, true, 0.0, &settings);
        states.push((verdict.state, verdict.reason));
    }
    let delayed = (TaskState::Delayed, TaskReason::LeaseExpired);
    assert_eq!(states, [delayed, delayed, (TaskState::Dead, TaskReason::CrashedTooOften)]);
    assert_eq!(verdict.counters, Counters { crashes: 3, ..Counters::default() });
}

#[test]
fn a_cancel_wins_over_every_end_but_success() {
    let settings = settings();
    let cancel = Requests { cancel: true, again: false };
    let none = Counters::default();
    let failed = after_failure(none, 5, FailureClass::Permanent, Duration::ZERO, 0.0, &settings);
    for verdict in [failed, after_expiry(none, 5, true, 0.0, &settings)] {
        let verdict = verdict.given(cancel);
        assert_eq!((verdict.state, verdict.reason), (TaskState::Cancelled, TaskReason::CancelledByCaller));
    }
    assert_eq!(after_success(none, cancel).state, TaskState::Done);
}

#[test]
fn a_hand_back_waits_as_long_as_asked_and_without_a_wait_keeps_its_place() {
    let settings = settings();
    let at_once = after_return(Counters::default(), 5, Duration::ZERO, 0.9, &settings);
    assert_eq!((at_once.state, at_once.reason), (TaskState::Pending, TaskReason::HandedBack));
    let soon = after_return(Counters::default(), 5, Duration::from_micros(1), 0.9, &settings);
    assert_eq!((soon.state, soon.delay), (TaskState::Delayed, Duration::from_millis(1)));
}

#[test]
fn policies_out_of_order_are_refused_by_the_name_of_the_field() {
    let good = settings();
    assert_eq!(good.validate(), Ok(()));
    let retry = |base, max, floor| RetryPolicy {
        base: Duration::from_millis(base),
        max: Duration::from_millis(max),
        floor: Duration::from_millis(floor),
    };
    let cases =
        [(retry(5, 9, 0), "retry.floor"), (retry(5, 9, 6), "retry.base"), (retry(5, 4, 1), "retry.max")];
    for (retry, field) in cases {
        assert_eq!(retry.validate().unwrap_err().field, field);
    }
    assert_eq!(QueueSettings { shards: 0, ..good.clone() }.validate().unwrap_err().field, "shards");
    let uncountable = MAX_COUNTED + 1;
    for (settings, field) in [
        (QueueSettings { max_crashes: uncountable, ..good.clone() }, "max_crashes"),
        (QueueSettings { max_returns: uncountable, ..good.clone() }, "max_returns"),
    ] {
        assert_eq!(settings.validate().unwrap_err().field, field, "it could never be reached");
    }
    assert_eq!(QueueSettings { outage: good.sweep_every, ..good }.validate().unwrap_err().field, "outage");
}

#[test]
fn jitters_that_nobody_brings_are_spread_evenly_and_always_the_same() {
    let draw = |n: u32| {
        let id = TaskId::from_hash(&format!("{n:032x}")).unwrap();
        spread(&id, 1, Counters::default())
    };
    assert_eq!(draw(7), draw(7));
    let mut tenths = [0_u32; 10];
    for n in 0..10_000 {
        let jitter = draw(n);
        assert!((0.0..1.0).contains(&jitter));
        let tenth = (0..10_u32).rfind(|tenth| f64::from(*tenth) <= jitter * 10.0).unwrap();
        tenths[tenth as usize] += 1;
    }
    assert!(tenths.iter().all(|count| (900..1100).contains(count)), "{tenths:?}");
}
