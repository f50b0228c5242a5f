//! Whole journeys over loopback, with the reference queue and a worker played by hand.

use std::collections::BTreeSet;

use backhaul_proto::v1::{
    from_dispatcher::Message as Told, from_worker::Message as Said, task_result::Outcome as Reported,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic_types::StatusExt as _;

use super::*;
use crate::queue::memory::MemoryQueue;

/// A worker that says only what the test says.
pub(super) struct Worker {
    say: mpsc::Sender<pb::FromWorker>,
    hear: Streaming<pb::FromDispatcher>,
}

impl Worker {
    /// Connects with room for `tasks` tasks, and is welcomed.
    pub(super) async fn connect(served: &Served, tasks: u32) -> Self {
        let (say, said) = mpsc::channel(16);
        let hello = pb::Hello {
            protocol: backhaul_proto::WORKER_PROTOCOL,
            instance: vec![7; 16].into(),
            worker: "worker-1".into(),
            credit: Some(pb::Credit { tasks, bytes: 1 << 30 }),
            locations: vec!["uploads".into()],
            ..Default::default()
        };
        say.send(pb::FromWorker { message: Some(Said::Hello(hello)) }).await.unwrap();
        let mut client = WorkerServiceClient::new(served.channel().await);
        let hear = client.connect(ReceiverStream::new(said)).await.unwrap().into_inner();
        let mut worker = Self { say, hear };
        let Told::Welcome(_) = worker.hear_next().await else { panic!("not welcomed") };
        worker
    }

    async fn say(&self, message: Said) {
        self.say.send(pb::FromWorker { message: Some(message) }).await.unwrap();
    }

    async fn hear_next(&mut self) -> Told {
        self.hear.message().await.unwrap().unwrap().message.unwrap()
    }

    /// Waits for one assignment and accepts it.
    pub(super) async fn accept(&mut self) -> pb::Assignment {
        let assignment = loop {
            if let Told::Assign(mut assign) = self.hear_next().await {
                break assign.assignments.remove(0);
            }
        };
        let accept = pb::Accept {
            task_id: assignment.task_id.clone(),
            lease: assignment.lease.clone(),
            ..Default::default()
        };
        self.say(Said::Accepts(pb::Accepts { accepts: vec![accept] })).await;
        assignment
    }

    /// Reports and gives what the dispatcher says to it.
    pub(super) async fn report(&mut self, task: &pb::Assignment, outcome: Reported) -> pb::ConfirmVerdict {
        let result = pb::TaskResult {
            task_id: task.task_id.clone(),
            lease: task.lease.clone(),
            outcome: Some(outcome),
        };
        self.say(Said::Results(pb::Results { results: vec![result] })).await;
        loop {
            if let Told::Confirms(confirms) = self.hear_next().await {
                return confirms.confirms[0].verdict();
            }
        }
    }
}

/// A dispatcher over the reference queue.
async fn serve_memory(flags: &[&str]) -> Served {
    let config = config(flags);
    let queue = MemoryQueue::new(config.queue.clone(), QueueClock::Server);
    serve_queue(config, Arc::new(queue)).await
}

pub(super) fn receipt() -> pb::Receipt {
    pb::Receipt {
        backup: Some(pb::BackupObject {
            location: "vault".into(),
            bucket: "backups".into(),
            key: "uploads/photos/users/1~v".into(),
            ..Default::default()
        }),
        size_bytes: 42,
        crc64nvme: 7,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_submitted_object_reaches_a_worker_and_its_receipt_comes_back() {
    let served = serve_memory(&[]).await;
    let mut backups = served.backups().await;
    let mut worker = Worker::connect(&served, 1).await;
    let task = backups.submit_backup(submit("users/1")).await.unwrap().into_inner();
    let repeat = backups.submit_backup(submit("users/1")).await.unwrap().into_inner();
    assert_eq!(repeat.task_id, task.task_id);
    assert_ne!(repeat.outcome(), pb::SubmitOutcome::Created);

    let assignment = worker.accept().await;
    assert_eq!(assignment.task_id, task.task_id);
    assert_eq!(assignment.tenant, "web");
    let verdict = worker.report(&assignment, Reported::Receipt(receipt())).await;
    assert!(matches!(verdict, pb::ConfirmVerdict::Stored | pb::ConfirmVerdict::RunsAgain), "{verdict:?}");
    if verdict == pb::ConfirmVerdict::RunsAgain {
        let again = worker.accept().await;
        let verdict = worker.report(&again, Reported::Receipt(receipt())).await;
        assert_eq!(verdict, pb::ConfirmVerdict::Stored);
    }
    let get = pb::GetBackupRequest { task_id: task.task_id };
    let shown = backups.get_backup(get).await.unwrap().into_inner();
    assert_eq!(shown.state(), pb::TaskState::Done);
    assert_eq!(shown.receipt, Some(receipt()));
    assert_eq!(shown.worker, "worker-1");
    assert!(shown.finished_at.is_some() && shown.process_at.is_none());
}

#[tokio::test]
async fn cancelling_a_running_copy_reaches_its_worker_at_once_and_ends_cancelled() {
    let served = serve_memory(&[]).await;
    let mut backups = served.backups().await;
    let mut worker = Worker::connect(&served, 1).await;
    let task_id = backups.submit_backup(submit("users/1")).await.unwrap().into_inner().task_id;
    let assignment = worker.accept().await;

    let cancel = || pb::CancelBackupRequest { task_id: task_id.clone() };
    let shown = backups.cancel_backup(cancel()).await.unwrap().into_inner().backup.unwrap();
    assert_eq!(shown.state(), pb::TaskState::Working);
    // A heartbeat would tell it too, but this worker sends none.
    let told = loop {
        if let Told::Cancel(cancel) = worker.hear_next().await {
            break cancel;
        }
    };
    assert_eq!(told.leases[0].task_id, task_id);
    assert_eq!(told.leases[0].lease, assignment.lease);

    let verdict = worker.report(&assignment, Reported::Cancelled(pb::Stopped::default())).await;
    assert_eq!(verdict, pb::ConfirmVerdict::Stored);
    let shown = backups.cancel_backup(cancel()).await.unwrap().into_inner().backup.unwrap();
    assert_eq!(shown.state(), pb::TaskState::Cancelled);
    assert_eq!(shown.reason(), pb::TaskReason::CancelledByCaller);
}

#[tokio::test]
async fn a_stop_asks_workers_to_go_elsewhere_while_calls_are_still_answered() {
    let served = serve_memory(&["--drain-within", "1h"]).await;
    let mut backups = served.backups().await;
    let mut worker = Worker::connect(&served, 1).await;
    served.stop.cancel();
    let Told::Drain(drain) = worker.hear_next().await else { panic!("no Drain") };
    assert_eq!(drain.reason(), pb::DrainReason::Shutdown);
    backups.submit_backup(submit("users/1")).await.unwrap();
    // The worker leaves; nothing else holds the stop up for the hour it has.
    drop(worker);
    served.ended().await.unwrap();
    assert_eq!(backups.submit_backup(submit("users/2")).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn pages_lead_through_every_task_of_a_filter_once() {
    let served = serve_memory(&[]).await;
    let mut backups = served.backups().await;
    let mut requests: Vec<_> = (0..250).map(|at| submit(&format!("users/{at}"))).collect();
    for request in requests.iter_mut().step_by(2) {
        let labels = [("half".to_owned(), "even".to_owned())].into();
        request.options = Some(pb::SubmitOptions { labels, ..Default::default() });
    }
    let accepted = backups.submit_backups(pb::SubmitBackupsRequest { requests }).await.unwrap();
    assert_eq!(accepted.into_inner().results.len(), 250);

    let mut ask = pb::ListBackupsRequest {
        states: vec![pb::TaskState::Pending.into()],
        labels: [("half".to_owned(), "even".to_owned())].into(),
        page_size: 40,
        ..Default::default()
    };
    let mut keys = BTreeSet::new();
    loop {
        let page = backups.list_backups(ask.clone()).await.unwrap().into_inner();
        assert!(page.backups.len() <= 40);
        for backup in page.backups {
            assert!(keys.insert(backup.object.unwrap().key), "shown twice");
        }
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    assert_eq!(keys, (0..250).step_by(2).map(|at| format!("users/{at}")).collect());
}

#[tokio::test]
async fn a_full_queue_refuses_with_the_time_to_wait_and_keeps_what_it_has() {
    let served = serve_memory(&["--shards", "1", "--shard-cap", "2", "--tenant-cap", "2"]).await;
    let mut backups = served.backups().await;
    let requests = (0..3).map(|at| submit(&format!("users/{at}"))).collect();
    let answer = backups.submit_backups(pb::SubmitBackupsRequest { requests }).await.unwrap().into_inner();
    let Some(pb::submit_backup_result::Result::Error(error)) = &answer.results[2].result else {
        panic!("{answer:?}")
    };
    assert_eq!(Code::from(error.code), Code::ResourceExhausted);
    assert!(error.retry_after_ms > 0);
    let status = backups.submit_backup(submit("users/9")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_error_details().retry_info().is_some());
    // What is there is still found by a repeat.
    backups.submit_backup(submit("users/0")).await.unwrap();
}

#[tokio::test]
async fn an_id_that_nobody_has_is_not_found_and_one_that_nobody_gives_is_invalid() {
    let served = serve_memory(&["--shards", "2"]).await;
    let mut backups = served.backups().await;
    for group in ["def", "000", "001", "3ff", "fff"] {
        let task_id = format!("{group}-0123456789abcdef0123456789abcdef");
        let expected = match group {
            "def" => (Code::NotFound, "TASK_NOT_FOUND".into()),
            _ => (Code::InvalidArgument, "INVALID_FIELDS".into()),
        };
        let get = pb::GetBackupRequest { task_id: task_id.clone() };
        let status = backups.get_backup(get).await.unwrap_err();
        assert_eq!(told(&status), expected, "{group}");
        let status = backups.cancel_backup(pb::CancelBackupRequest { task_id }).await.unwrap_err();
        assert_eq!(told(&status), expected, "{group}");
    }
}

#[tokio::test]
async fn a_task_with_a_processing_time_waits_for_it_and_can_be_cancelled() {
    let served = serve_memory(&[]).await;
    let mut backups = served.backups().await;
    let mut request = submit("users/1");
    let tomorrow = QueueClock::Server.local_now().plus(Duration::from_secs(86_400));
    request.options = Some(pb::SubmitOptions {
        process_at: Some(crate::grpc::present::timestamp(tomorrow)),
        ..Default::default()
    });
    let task = backups.submit_backup(request).await.unwrap().into_inner();
    assert_eq!(task.state(), pb::TaskState::Scheduled);
    let cancel = || pb::CancelBackupRequest { task_id: task.task_id.clone() };
    for _ in 0..2 {
        let shown = backups.cancel_backup(cancel()).await.unwrap().into_inner().backup.unwrap();
        assert_eq!(shown.state(), pb::TaskState::Cancelled);
    }
    let again = backups.submit_backup(submit("users/1")).await.unwrap().into_inner();
    assert_eq!((again.run, again.outcome()), (2, pb::SubmitOutcome::Created));
}
