//! Between a verdict and the script that takes it, somebody else was faster.

use std::time::Duration;

use redis::Value;

use super::{Server, done, hopeless, queue, renewal, request, settings, task};
use crate::queue::{
    CancelOutcome, Failure, FailureClass, NewTask, Outcome, QueueClock, QueueSettings, RenewOutcome,
    SettleOutcome, Settlement, TaskQueue as _, TaskState,
    conformance::START,
    redis::{
        codec::state_code,
        keys,
        lease::memo_key,
        millis,
        scripts::{Answer, Call, Script},
    },
};

#[tokio::test]
async fn a_renewal_that_comes_before_the_expiry_wins() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, settings(), &clock).await;
    queue.submit(vec![task("t", 1)]).await.remove(0).unwrap();
    let leased = queue.lease(&request("s", 1, 1)).await.unwrap().remove(0);
    queue.renew(&[renewal(&leased)]).await.remove(0).unwrap();
    clock.advance(settings().lease);
    let verdict = queue.shared.judge_expiry(&queue.get(&leased.id).await.unwrap());
    assert_eq!(
        queue.renew(&[renewal(&leased)]).await.remove(0).unwrap(),
        RenewOutcome::Keep(settings().lease)
    );
    let call = Call::about(Script::Expire, 0, [&leased.id].into_iter()).arg(queue.shared.now()).arg(verdict);
    assert_eq!(one_answer(queue.shared.ask(call.into_command()).await.unwrap()), 0);
    assert_eq!(queue.get(&leased.id).await.unwrap().state, TaskState::Working);
}

#[tokio::test]
async fn a_verdict_made_before_a_cancel_is_made_again() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, settings(), &clock).await;
    queue.submit(vec![task("t", 1)]).await.remove(0).unwrap();
    let leased = queue.lease(&request("s", 1, 1)).await.unwrap().remove(0);
    let failure = Failure {
        class: FailureClass::Retry,
        code: "code".into(),
        message: "message".into(),
        retry_after: std::time::Duration::ZERO,
    };
    let report = Settlement {
        id: leased.id.clone(),
        lease: leased.lease,
        outcome: Outcome::Failed { failure, jitter: 0.5 },
    };
    let judgement = queue.shared.judge(&queue.get(&leased.id).await.unwrap(), &report);
    assert!(matches!(queue.cancel(&leased.id).await.unwrap(), CancelOutcome::Stopping { .. }));
    let call = Call::about(Script::Fail, 0, [&leased.id].into_iter())
        .arg(queue.shared.now())
        .arg(judgement.verdict)
        .arg(judgement.failure)
        .arg(judgement.upload_id);
    assert_eq!(one_answer(queue.shared.ask(call.into_command()).await.unwrap()), -4);
    assert_eq!(queue.get(&leased.id).await.unwrap().state, TaskState::Working);
    // Through the front door the verdict is made on what is there now.
    let settled = queue.settle(vec![report]).await.remove(0).unwrap();
    assert_eq!(settled, SettleOutcome::Stored(TaskState::Cancelled));
}

#[tokio::test]
async fn a_verdict_on_one_lease_does_not_end_the_next() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, settings(), &clock).await;
    queue.submit(vec![task("t", 1)]).await.remove(0).unwrap();
    let leased = queue.lease(&request("s", 1, 1)).await.unwrap().remove(0);
    clock.advance(settings().lease);
    let mut verdict = queue.shared.judge_expiry(&queue.get(&leased.id).await.unwrap());
    // It begins with the token of the lease that it was made on.
    verdict[0] ^= 1;
    let expire = |verdict: &[u8]| {
        let call = Call::about(Script::Expire, 0, [&leased.id].into_iter()).arg(queue.shared.now());
        call.arg(verdict).into_command()
    };
    assert_eq!(one_answer(queue.shared.ask(expire(&verdict)).await.unwrap()), 0);
    assert_eq!(queue.get(&leased.id).await.unwrap().state, TaskState::Working);
    verdict[0] ^= 1;
    assert_eq!(one_answer(queue.shared.ask(expire(&verdict)).await.unwrap()), 2);
}

#[tokio::test]
async fn a_task_that_was_read_as_due_and_is_not_any_more_stays() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, settings(), &clock).await;
    let later = NewTask { process_at: Some(clock.local_now().plus(settings().lease)), ..task("t", 1) };
    let id = queue.submit(vec![later]).await.remove(0).unwrap().id;
    let promote = |scheduled: usize| {
        let call = Call::about(Script::Promote, 0, [&id].into_iter()).arg(queue.shared.now());
        call.arg(scheduled).arg(0).into_command()
    };
    assert_eq!(one_answer(queue.shared.ask(promote(1)).await.unwrap()), 0);
    assert_eq!(queue.get(&id).await.unwrap().state, TaskState::Scheduled);
    clock.advance(settings().lease);
    assert_eq!(one_answer(queue.shared.ask(promote(1)).await.unwrap()), 1);
    assert_eq!(queue.get(&id).await.unwrap().state, TaskState::Pending);
}

#[tokio::test]
async fn a_request_that_was_overtaken_on_its_way_gets_nothing() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, settings(), &clock).await;
    queue.submit(vec![task("t", 1), task("t", 2)]).await;
    assert_eq!(queue.lease(&request("s", 2, 1)).await.unwrap().len(), 1);
    // The call itself, past the memory of the process that asks: it was on its way already.
    let call = Call::new(Script::Lease, 0, [memo_key(0, "s")].into_iter())
        .arg(queue.shared.now())
        .arg(1)
        .arg(1)
        .arg(1)
        .arg(1 << 30)
        .arg(1)
        .arg(1_000)
        .arg(10)
        .arg(1)
        .arg("s")
        .arg("worker")
        .arg([7; 16].as_slice())
        .arg("uploads");
    let mut answer = Answer::read(queue.shared.ask(call.into_command()).await.unwrap()).unwrap();
    assert_eq!(answer.integer().unwrap(), 5, "the repeat of an older request");
    assert!(answer.is_over(), "no lease");
    assert_eq!(queue.depths().await.unwrap().pending, 1);
}

#[tokio::test]
async fn a_task_that_ended_again_meanwhile_is_not_forgotten_for_its_first_end() {
    let server = Server::start(&[]);
    let clock = QueueClock::starting_at(START);
    let queue = queue(&server, settings(), &clock).await;
    let stays = settings().retain_finished.max(settings().dedup_window);
    let mut id = None;
    for run in 1..3 {
        let submitted = queue.submit(vec![task("t", 1)]).await.remove(0).unwrap();
        assert_eq!(submitted.run, run);
        let leased = queue.lease(&request("s", run.into(), 1)).await.unwrap().remove(0);
        queue.settle(vec![done(&leased)]).await.remove(0).unwrap();
        id = Some(submitted.id);
        if run == 1 {
            clock.advance(stays);
        }
    }
    let id = id.unwrap();
    // Found due before the second run.
    let reap = || {
        let call = Call::about(Script::Reap, 0, [&id].into_iter()).arg(queue.shared.now());
        let state = state_code(TaskState::Done);
        call.arg(state).arg(millis(stays)).arg(1_u64 << 40).into_command()
    };
    assert_eq!(one_answer(queue.shared.ask(reap()).await.unwrap()), 0);
    assert_eq!(queue.get(&id).await.unwrap().state, TaskState::Done);
    clock.advance(stays);
    assert_eq!(one_answer(queue.shared.ask(reap()).await.unwrap()), 1);
}

#[tokio::test]
async fn a_dead_task_is_not_forgotten_for_the_bytes_of_others() {
    let server = Server::start(&[]);
    let queue = queue(&server, settings(), &QueueClock::starting_at(START)).await;
    queue.submit(vec![task("t", 1), task("t", 2)]).await;
    let leased = queue.lease(&request("s", 1, 2)).await.unwrap();
    queue.settle(vec![done(&leased[0]), hopeless(&leased[1])]).await;
    // Found due before it died once more; and there are more bytes of finished tasks than may be.
    let call = Call::about(Script::Reap, 0, [&leased[1].id].into_iter()).arg(queue.shared.now());
    let call = call.arg(state_code(TaskState::Dead)).arg(millis(settings().retain_dead)).arg(0);
    assert_eq!(one_answer(queue.shared.ask(call.into_command()).await.unwrap()), 0);
    assert_eq!(queue.get(&leased[1].id).await.unwrap().state, TaskState::Dead);
}

#[tokio::test]
async fn a_repair_drops_an_entry_without_a_record_only_when_it_is_told_to() {
    let server = Server::start(&[]);
    let queue = queue(&server, settings(), &QueueClock::starting_at(START)).await;
    let mut client = server.client().await;
    let (index, entry) = (keys::of_shard(0, "working"), "0".repeat(32));
    let (): () = redis::cmd("ZADD").arg(&index).arg(1).arg(&entry).query_async(&mut client).await.unwrap();
    // While its slot moves, its record may be at the other node already.
    for (mend, left) in [(1, 1), (2, 0)] {
        let call = Call::new(Script::FsckTasks, 0, std::iter::empty()).arg(queue.shared.now()).arg(mend);
        let answer = queue.shared.ask(call.arg(&entry).arg("working").into_command()).await.unwrap();
        assert_eq!(Answer::read_plain(answer).unwrap().integer().unwrap(), 1, "it has no record");
        let entries: u32 = redis::cmd("ZCARD").arg(&index).query_async(&mut client).await.unwrap();
        assert_eq!(entries, left);
    }
}

#[tokio::test]
async fn time_goes_on_after_a_failover_to_a_server_whose_clock_is_behind() {
    let server = Server::start(&[]);
    let often = QueueSettings { sweep_every: Duration::from_millis(1), ..settings() };
    let queue = queue(&server, often, &QueueClock::Server).await;
    queue.submit(vec![task("t", 1)]).await.remove(0).unwrap();
    let mut client = server.client().await;
    let meta: Vec<u8> = redis::cmd("GET").arg(keys::meta(0)).query_async(&mut client).await.unwrap();
    // As if the server before had been an hour ahead.
    let ahead = clock_of(&meta) + 3_600_000;
    let meta = [&ahead.to_be_bytes()[2..], &meta[6..]].concat();
    let (): () = redis::cmd("SET").arg(keys::meta(0)).arg(meta).query_async(&mut client).await.unwrap();
    // It never runs backwards, whoever looks at it first.
    let next = queue.submit(vec![task("t", 2)]).await.remove(0).unwrap().id;
    assert!(queue.get(&next).await.unwrap().created_at.0 >= ahead);
    queue.sweep().await.unwrap();
    let mut before = ahead;
    for _ in 0..3 {
        // Real time is what this is about.
        tokio::time::sleep(Duration::from_millis(20)).await;
        queue.sweep().await.unwrap();
        let meta: Vec<u8> = redis::cmd("GET").arg(keys::meta(0)).query_async(&mut client).await.unwrap();
        let now = clock_of(&meta);
        assert!(now > before, "it stands still at {now}");
        before = now;
    }
}

/// The clock of a shard in its `meta`.
fn clock_of(meta: &[u8]) -> u64 {
    meta[..6].iter().fold(0, |clock, byte| clock << 8 | u64::from(*byte))
}

fn one_answer(answer: Value) -> i64 {
    Answer::read(answer).unwrap().integer().unwrap()
}
