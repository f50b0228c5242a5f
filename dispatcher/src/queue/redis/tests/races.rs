//! Between a verdict and the script that takes it, somebody else was faster.

use redis::Value;

use super::{Server, queue, renewal, request, settings, task};
use crate::queue::{
    CancelOutcome, Failure, FailureClass, NewTask, Outcome, QueueClock, RenewOutcome, SettleOutcome,
    Settlement, TaskQueue as _, TaskState,
    conformance::START,
    redis::{
        lease::memo_key,
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
    queue.renew(vec![renewal(&leased)]).await.remove(0).unwrap();
    clock.advance(settings().lease);
    let verdict = queue.shared.judge_expiry(&queue.get(&leased.id).await.unwrap());
    assert_eq!(
        queue.renew(vec![renewal(&leased)]).await.remove(0).unwrap(),
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

fn one_answer(answer: Value) -> i64 {
    Answer::read(answer).unwrap().integer().unwrap()
}
