//! Between a verdict and the script that takes it, somebody else was faster.

use redis::Value;

use super::{Server, queue, renewal, request, settings, task};
use crate::queue::{
    CancelOutcome, Failure, FailureClass, Outcome, QueueClock, RenewOutcome, SettleOutcome, Settlement,
    TaskQueue as _, TaskState,
    conformance::START,
    redis::scripts::{Answer, Call, Script},
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

fn one_answer(answer: Value) -> i64 {
    Answer::read(answer).unwrap().integer().unwrap()
}
