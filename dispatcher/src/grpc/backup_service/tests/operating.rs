//! Retrying, statistics and watching: what a caller may see, and how everything that can come of a call is told.

use std::time::Duration;

use super::*;
use crate::{
    dispatch::testing::Probe,
    grpc::testing::NOW,
    queue::{Amount, Backlog, QueueStats, Requeue, RequeueOutcome, StatsQuery},
};

fn dead(key: &str, run: u32) -> TaskRecord {
    TaskRecord { state: TaskState::Dead, run, finished_at: Some(NOW), ..record(key) }
}

fn outcomes(answer: &pb::RetryBackupsResponse) -> Vec<pb::RetryOutcome> {
    answer.tasks.iter().map(pb::RetriedBackup::outcome).collect()
}

#[tokio::test]
async fn what_is_found_dead_is_asked_for_by_its_run_and_told_one_by_one() {
    let queue = queue();
    let found = (1..=6).map(|n| dead(&format!("users/{n}"), n)).collect();
    queue.pages.lock().unwrap().push_back(page(found, None));
    queue.requeues.lock().unwrap().extend([
        Ok(RequeueOutcome::Requeued { run: 2 }),
        Ok(RequeueOutcome::OtherRun { run: 9, state: TaskState::Working }),
        Ok(RequeueOutcome::NotDead(TaskState::Done)),
        Err(QueueError::Full),
        Err(QueueError::NotFound(dead("users/5", 5).id)),
        Err(unavailable()),
    ]);
    let request = pb::RetryBackupsRequest { bucket: "photos".into(), ..Default::default() };
    let answer = client(&queue).retry_backups(request).await.unwrap().into_inner();
    use pb::RetryOutcome::{Failed, NotDead, NotFound, Retried, RunsAlready};
    assert_eq!(outcomes(&answer), [Retried, RunsAlready, NotDead, Failed, NotFound, Failed]);
    let shown: Vec<_> = answer.tasks.iter().map(|task| (task.run, task.state())).collect();
    assert_eq!(shown[0], (2, pb::TaskState::Pending));
    assert_eq!(shown[1], (9, pb::TaskState::Working));
    assert_eq!(shown[2], (3, pb::TaskState::Done));
    assert_eq!(shown[3], (4, pb::TaskState::Dead));
    let full = answer.tasks[3].error.as_ref().unwrap();
    assert_eq!(Code::from(full.code), Code::ResourceExhausted);
    assert!(full.retry_after_ms > 0);
    let runs: Vec<u32> = queue.requeued.lock().unwrap().iter().map(|task: &Requeue| task.run).collect();
    assert_eq!(runs, [1, 2, 3, 4, 5, 6]);
    let query = &queue.queries.lock().unwrap()[0];
    assert_eq!((query.tenant.as_str(), query.states.as_slice()), ("web", [TaskState::Dead].as_slice()));
    assert_eq!(query.bucket.as_deref(), Some("photos"));
}

#[tokio::test]
async fn a_dry_run_shows_and_changes_nothing() {
    let queue = queue();
    queue.pages.lock().unwrap().push_back(page(vec![dead("users/1", 1)], Some("a")));
    let request = pb::RetryBackupsRequest { dry_run: true, page_size: 1, ..Default::default() };
    let answer = client(&queue).retry_backups(request).await.unwrap().into_inner();
    assert_eq!(outcomes(&answer), [pb::RetryOutcome::WouldRetry]);
    assert_eq!(answer.tasks[0].object.as_ref().unwrap().key, "users/1");
    assert_ne!(answer.next_page_token, "");
    assert!(queue.requeued.lock().unwrap().is_empty());
}

#[tokio::test]
async fn named_tasks_are_retried_only_when_they_are_dead_match_and_are_the_callers() {
    let (ours, working) = (dead("users/1", 3), record("users/2"));
    let mut foreign = dead("users/3", 1);
    foreign.spec.tenant = "app".into();
    let mut other = dead("users/4", 1);
    other.spec.object.bucket = "videos".into();
    let ids = [&ours, &working, &foreign, &other].map(|record| record.id.to_string()).to_vec();
    let queue = holding([ours.clone(), working, foreign, other]);
    let request = pb::RetryBackupsRequest { task_ids: ids, bucket: "photos".into(), ..Default::default() };
    let answer = client(&queue).retry_backups(request).await.unwrap().into_inner();
    use pb::RetryOutcome::{NotDead, NotFound, NotMatched, Retried};
    assert_eq!(outcomes(&answer), [Retried, NotDead, NotFound, NotMatched]);
    assert_eq!(answer.tasks[2].object, None, "nothing of another tenant's is shown");
    assert_eq!(*queue.requeued.lock().unwrap(), [Requeue { id: ours.id, run: 3 }]);
}

#[tokio::test]
async fn a_named_task_that_cannot_be_asked_for_holds_up_no_other() {
    let (here, away) = (dead("users/1", 3), dead("users/2", 1));
    let ids = [&away, &here].map(|record| record.id.to_string()).to_vec();
    let queue = holding([here.clone(), away.clone()]);
    queue.away.lock().unwrap().push(away.id);
    let request = pb::RetryBackupsRequest { task_ids: ids.clone(), ..Default::default() };
    let answer = client(&queue).retry_backups(request).await.unwrap().into_inner();
    assert_eq!(outcomes(&answer), [pb::RetryOutcome::Failed, pb::RetryOutcome::Retried]);
    let told: Vec<_> = answer.tasks.iter().map(|task| &task.task_id).collect();
    assert_eq!(told, ids.iter().collect::<Vec<_>>());
    let error = answer.tasks[0].error.as_ref().unwrap();
    assert_eq!(Code::from(error.code), Code::Unavailable);
    assert!(error.retry_after_ms > 0);
    assert_eq!(*queue.requeued.lock().unwrap(), [Requeue { id: here.id, run: 3 }]);
}

#[tokio::test]
async fn a_retry_and_statistics_say_when_a_part_of_the_queue_could_not_be_asked() {
    let queue = queue();
    let away = page(vec![], Some("b")).map(|page| ListPage { incomplete: true, ..page });
    queue.pages.lock().unwrap().extend([away, page(vec![dead("users/1", 1)], None)]);
    *queue.stats.lock().unwrap() = QueueStats { incomplete: true, ..QueueStats::default() };
    let mut client = client(&queue);
    let answer = client.retry_backups(pb::RetryBackupsRequest::default()).await.unwrap().into_inner();
    assert_eq!((outcomes(&answer), answer.incomplete), (vec![pb::RetryOutcome::Retried], true));
    let stats = client.get_queue_stats(pb::GetQueueStatsRequest::default()).await.unwrap().into_inner();
    assert!(stats.incomplete);
}

#[tokio::test]
async fn a_token_of_a_retry_is_good_for_the_same_filter_only() {
    let queue = queue();
    queue.pages.lock().unwrap().push_back(page(vec![dead("users/1", 1)], Some("a")));
    let ask = |page_token: String, bucket: &str| pb::RetryBackupsRequest {
        page_size: 1,
        page_token,
        bucket: bucket.into(),
        ..Default::default()
    };
    let mut client = client(&queue);
    let token =
        client.retry_backups(ask(String::new(), "photos")).await.unwrap().into_inner().next_page_token;
    client.retry_backups(ask(token.clone(), "photos")).await.unwrap();
    assert_eq!(queue.queries.lock().unwrap()[1].cursor.as_ref().unwrap().0, "a");
    let status = client.retry_backups(ask(token, "videos")).await.unwrap_err();
    assert_eq!(fields(&status), ["page_token"]);
}

#[tokio::test]
async fn only_operators_see_what_all_tenants_have() {
    let queue = queue();
    let waiting = Amount { tasks: 7, oldest: Some(Duration::from_millis(1_500)), sampled: true };
    let total = Backlog { delayed: waiting, ..Backlog::default() };
    *queue.stats.lock().unwrap() =
        QueueStats { total: total.clone(), tenants: vec![("app".into(), total)], ..QueueStats::default() };
    let mut client = client(&queue);
    let own = client.get_queue_stats(pb::GetQueueStatsRequest::default()).await.unwrap().into_inner();
    let delayed = own.total.unwrap().delayed.unwrap();
    assert_eq!((delayed.tasks, delayed.oldest_sampled), (7, true));
    assert_eq!(delayed.oldest_age, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));

    let all = || pb::GetQueueStatsRequest { all_tenants: true, max_tenants: 0 };
    let status = client.get_queue_stats(all()).await.unwrap_err();
    assert_eq!(told(&status), (Code::PermissionDenied, "OPERATORS_ONLY".into()));
    let too_many = pb::GetQueueStatsRequest { max_tenants: 101, ..all() };
    let status = client.get_queue_stats(too_many).await.unwrap_err();
    assert_eq!(fields(&status), ["max_tenants"]);
    assert_eq!(*queue.stats_asked.lock().unwrap(), [StatsQuery::Tenant("web".into())]);

    let service = crate::grpc::testing::backups(
        Arc::<ScriptedQueue>::clone(&queue),
        Arc::new(StoppedCopies::default()),
    );
    let mut request = tonic::Request::new(all());
    request.extensions_mut().insert(Caller::new("ops").unwrap().operator());
    let answer = service.get_queue_stats(request).await.unwrap().into_inner();
    assert_eq!(answer.tenants[0].tenant, "app");
    assert_eq!(queue.stats_asked.lock().unwrap()[1], StatsQuery::All { tenants: 20 });
}

/// The messages of a watch by `web` over the reference queue, which has tasks of tenant `t`.
async fn watch(
    queue: Arc<Probe>,
    tenant: &str,
    message: pb::WatchBackupsRequest,
) -> Result<<Backups as BackupService>::WatchBackupsStream, Status> {
    let service = crate::grpc::testing::backups(queue, Arc::new(StoppedCopies::default()));
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(Caller::new(tenant).unwrap());
    Ok(service.watch_backups(request).await?.into_inner())
}

async fn next(
    stream: &mut <Backups as BackupService>::WatchBackupsStream,
) -> Result<pb::WatchBackupsResponse, Status> {
    futures_util::StreamExt::next(stream).await.expect("the stream has not ended")
}

#[tokio::test]
async fn a_watch_shows_tasks_of_the_callers_tenant_and_tells_unknown_and_foreign_ones_alike() {
    let queue = Arc::new(Probe::new());
    let id = queue.put(&["a"]).await[0].to_string();
    let unknown = format!("000-{}", "0".repeat(32));
    let request =
        pb::WatchBackupsRequest { task_ids: vec![id.clone(), unknown.clone()], ..Default::default() };
    let mut own = watch(Arc::clone(&queue), "t", request.clone()).await.unwrap();
    let first = next(&mut own).await.unwrap();
    assert_eq!(
        (first.backups[0].task_id.as_str(), first.gone.as_slice()),
        (id.as_str(), [unknown.clone()].as_slice())
    );
    assert!(!first.cursor.is_empty() && !first.missed);
    let mut foreign = watch(queue, "web", request).await.unwrap();
    let first = next(&mut foreign).await.unwrap();
    assert_eq!((first.backups.len(), first.gone), (0, vec![id, unknown]));
}

#[tokio::test]
async fn a_cursor_that_is_none_ends_the_watch_as_an_invalid_field() {
    let request = pb::WatchBackupsRequest { cursor: "made up".into(), ..Default::default() };
    let mut stream = watch(Arc::new(Probe::new()), "t", request).await.unwrap();
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(told(&status), (Code::InvalidArgument, "INVALID_FIELDS".into()));
    assert_eq!(fields(&status), ["cursor"]);
    assert!(futures_util::StreamExt::next(&mut stream).await.is_none());
}

#[tokio::test]
async fn a_watch_over_a_queue_that_is_away_ends_as_unavailable_with_the_time_to_wait() {
    let mut client = client(&queue());
    let mut stream = client.watch_backups(pb::WatchBackupsRequest::default()).await.unwrap().into_inner();
    let status = stream.message().await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "QUEUE_UNAVAILABLE".into()));
    assert!(status.get_error_details().retry_info().is_some());
}

#[tokio::test]
async fn a_watch_says_when_a_part_of_the_queue_cannot_be_asked() {
    let queue = Arc::new(Probe::new());
    queue.set_partly_away(true);
    let request = pb::WatchBackupsRequest { only_changes: true, ..Default::default() };
    let mut stream = watch(Arc::clone(&queue), "t", request).await.unwrap();
    let first = next(&mut stream).await.unwrap();
    assert!(first.incomplete && !first.cursor.is_empty());
    let mut all = watch(queue, "t", pb::WatchBackupsRequest::default()).await.unwrap();
    let status = next(&mut all).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "QUEUE_UNAVAILABLE".into()));
}
