//! Tests of the calls over a queue that answers as it is told: exact statuses, nothing stored by what is refused.

mod operating;

use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    grpc::testing::{ScriptedQueue, StoppedCopies, client, made_by, record, submit, told, unavailable},
    queue::{ListCursor, ListPage, TaskState},
};

fn queue() -> Arc<ScriptedQueue> {
    Arc::new(ScriptedQueue::default())
}

fn holding(records: impl IntoIterator<Item = TaskRecord>) -> Arc<ScriptedQueue> {
    let queue = queue();
    queue.records.lock().unwrap().extend(records);
    queue
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    details.bad_request().unwrap().field_violations.iter().map(|v| v.field.clone()).collect()
}

fn errors(response: pb::SubmitBackupsResponse) -> Vec<Option<pb::SubmitError>> {
    let error = |r: pb::SubmitBackupResult| match r.result.unwrap() {
        submit_backup_result::Result::Accepted(_) => None,
        submit_backup_result::Result::Error(error) => Some(error),
    };
    response.results.into_iter().map(error).collect()
}

fn page(tasks: Vec<TaskRecord>, next: Option<&str>) -> Result<ListPage, QueueError> {
    Ok(ListPage { tasks, next: next.map(|n| ListCursor(n.to_owned())), incomplete: false })
}

#[tokio::test]
async fn a_good_request_is_stored_and_answered_with_its_task() {
    let queue = queue();
    let mut request = tonic::Request::new(submit("users/1"));
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let answer = client(&queue).submit_backup(request).await.unwrap().into_inner();
    assert_eq!(answer.task_id, record("users/1").id.to_string());
    assert_eq!(
        (answer.run, answer.state(), answer.outcome()),
        (1, pb::TaskState::Pending, pb::SubmitOutcome::Created)
    );
    let stored = queue.submitted.lock().unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].spec.traceparent, traceparent);
}

#[tokio::test]
async fn what_is_refused_has_its_exact_status_and_stores_nothing() {
    let queue = queue();
    let mut client = client(&queue);
    let change = |f: fn(&mut pb::ObjectRef)| {
        let mut request = submit("users/1");
        f(request.object.as_mut().unwrap());
        request
    };
    for (request, code, reason) in [
        (pb::SubmitBackupRequest::default(), Code::InvalidArgument, "INVALID_FIELDS"),
        (change(|o| o.key = "k".repeat(1025)), Code::InvalidArgument, "INVALID_FIELDS"),
        (change(|o| o.location = "nowhere".into()), Code::NotFound, "LOCATION_NOT_FOUND"),
        (change(|o| o.location = "vault".into()), Code::NotFound, "LOCATION_NOT_FOUND"),
        (change(|o| o.bucket = "secrets".into()), Code::PermissionDenied, "BUCKET_NOT_ALLOWED"),
        (change(|o| o.key = "admin/1".into()), Code::PermissionDenied, "KEY_NOT_ALLOWED"),
    ] {
        let status = client.submit_backup(request).await.unwrap_err();
        assert_eq!(told(&status), (code, reason.into()));
    }
    assert!(queue.submitted.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_foreign_location_is_answered_exactly_as_one_that_does_not_exist() {
    let queue = queue();
    let mut client = client(&queue);
    let foreign = client.submit_backup(made_by("app", submit("users/1"))).await.unwrap_err();
    let mut unknown = submit("users/1");
    unknown.object.as_mut().unwrap().location = "nothing".into();
    let unknown = client.submit_backup(unknown).await.unwrap_err();
    assert_eq!((foreign.code(), foreign.message()), (unknown.code(), unknown.message()));
    let info = |s: &Status| format!("{:?}", s.get_error_details().error_info());
    assert_eq!(info(&foreign), info(&unknown));
}

#[tokio::test]
async fn what_the_queue_says_reaches_the_caller_with_the_time_to_wait() {
    let queue = queue();
    queue.submits.lock().unwrap().extend([
        Err(QueueError::Full),
        Err(QueueError::TenantFull),
        Err(unavailable()),
        Err(QueueError::NotDurable { reached: 0, wanted: 1 }),
    ]);
    let mut client = client(&queue);
    for (code, reason) in [
        (Code::ResourceExhausted, "QUEUE_FULL"),
        (Code::ResourceExhausted, "TENANT_QUEUE_FULL"),
        (Code::Unavailable, "QUEUE_UNAVAILABLE"),
        (Code::Unavailable, "NOT_DURABLE"),
    ] {
        let status = client.submit_backup(submit("users/1")).await.unwrap_err();
        assert_eq!(told(&status), (code, reason.into()));
        assert!(status.get_error_details().retry_info().is_some());
        assert!(!status.message().contains("secret"));
    }
}

#[tokio::test]
async fn each_request_of_a_batch_gets_its_own_answer_at_its_own_place() {
    let queue = queue();
    queue.submits.lock().unwrap().extend([Err(QueueError::Full), Err(unavailable())]);
    let mut invalid = submit("users/1");
    invalid.options = Some(pb::SubmitOptions { priority: 77, max_attempts: 101, ..Default::default() });
    let requests = vec![
        invalid,
        submit("users/full"),
        submit("admin/1"),
        submit("users/unavailable"),
        submit("users/stored"),
        pb::SubmitBackupRequest::default(),
    ];
    let answer = client(&queue).submit_backups(pb::SubmitBackupsRequest { requests }).await.unwrap();
    let errors = errors(answer.into_inner());
    let codes: Vec<_> = errors.iter().map(|e| e.as_ref().map(|e| Code::from(e.code))).collect();
    assert_eq!(
        codes,
        [
            Some(Code::InvalidArgument),
            Some(Code::ResourceExhausted),
            Some(Code::PermissionDenied),
            Some(Code::Unavailable),
            None,
            Some(Code::InvalidArgument),
        ]
    );
    let violations = |at: usize| errors[at].as_ref().unwrap().violations.iter().map(|v| v.field.as_str());
    assert_eq!(violations(0).collect::<Vec<_>>(), ["options.priority", "options.max_attempts"]);
    assert_eq!(violations(5).collect::<Vec<_>>(), ["object"]);
    assert!(errors[1].as_ref().unwrap().retry_after_ms > 0);
    assert_eq!(errors[2].as_ref().unwrap().retry_after_ms, 0);
    let keys: Vec<_> = queue.submitted.lock().unwrap().iter().map(|t| t.spec.object.key.clone()).collect();
    assert_eq!(keys, ["users/full", "users/unavailable", "users/stored"]);
}

#[tokio::test]
async fn a_batch_without_requests_or_with_too_many_fails_as_a_whole_and_stores_nothing() {
    let queue = queue();
    let mut client = client(&queue);
    for count in [0, 1001] {
        let requests = vec![submit("users/1"); count];
        let status = client.submit_backups(pb::SubmitBackupsRequest { requests }).await.unwrap_err();
        assert_eq!(told(&status), (Code::InvalidArgument, "INVALID_FIELDS".into()));
        assert_eq!(fields(&status), ["requests"]);
    }
    assert!(queue.submitted.lock().unwrap().is_empty());
    let requests = vec![submit("users/1"); 1000];
    let answer = client.submit_backups(pb::SubmitBackupsRequest { requests }).await.unwrap();
    assert_eq!(answer.into_inner().results.len(), 1000);
}

#[tokio::test]
async fn a_queue_that_gives_too_few_answers_never_becomes_an_ok() {
    let queue = Arc::new(ScriptedQueue { mute: true, ..Default::default() });
    let mut client = client(&queue);
    let status = client.submit_backup(submit("users/1")).await.unwrap_err();
    assert_eq!(told(&status), (Code::Internal, "INTERNAL".into()));
    let requests = vec![submit("users/1"), submit("users/2")];
    let answer = client.submit_backups(pb::SubmitBackupsRequest { requests }).await.unwrap();
    assert!(errors(answer.into_inner()).iter().all(|e| e.as_ref().is_some_and(|e| e.code == 13)));
}

#[tokio::test]
async fn a_foreign_task_is_answered_exactly_as_one_that_does_not_exist() {
    let mine = record("users/1");
    let id = mine.id.to_string();
    let (holding, empty) = (holding([mine]), queue());
    let get = |task_id: String| made_by("app", pb::GetBackupRequest { task_id });
    let cancel = |task_id: String| made_by("app", pb::CancelBackupRequest { task_id });
    let foreign = client(&holding).get_backup(get(id.clone())).await.unwrap_err();
    let unknown = client(&empty).get_backup(get(id.clone())).await.unwrap_err();
    assert_eq!(format!("{foreign:?}"), format!("{unknown:?}"));
    assert_eq!(told(&foreign), (Code::NotFound, "TASK_NOT_FOUND".into()));

    holding.cancels.lock().unwrap().push_back(Ok(CancelOutcome::Cancelled));
    let foreign = client(&holding).cancel_backup(cancel(id.clone())).await.unwrap_err();
    let unknown = client(&empty).cancel_backup(cancel(id)).await.unwrap_err();
    assert_eq!(format!("{foreign:?}"), format!("{unknown:?}"));
    assert_eq!(holding.cancels.lock().unwrap().len(), 1, "the queue was not asked to cancel");
}

#[tokio::test]
async fn an_id_that_cannot_be_one_is_an_invalid_field() {
    let mut client = client(&queue());
    for task_id in ["", "x", "00f-0123456789ABCDEF0123456789abcdef", "../../etc/passwd"] {
        let task_id = task_id.to_owned();
        let get = client.get_backup(pb::GetBackupRequest { task_id: task_id.clone() }).await.unwrap_err();
        let cancel = client.cancel_backup(pb::CancelBackupRequest { task_id }).await.unwrap_err();
        for status in [get, cancel] {
            assert_eq!(told(&status), (Code::InvalidArgument, "INVALID_FIELDS".into()));
            assert_eq!(fields(&status), ["task_id"]);
        }
    }
}

#[tokio::test]
async fn a_damaged_receipt_fails_get_and_leaves_a_gap_in_a_list() {
    let damaged =
        TaskRecord { state: TaskState::Done, receipt: b"\xff"[..].to_owned().into(), ..record("users/1") };
    let queue = holding([damaged.clone()]);
    queue.pages.lock().unwrap().push_back(page(vec![damaged.clone(), record("users/2")], None));
    let mut client = client(&queue);
    let get = pb::GetBackupRequest { task_id: damaged.id.to_string() };
    let status = client.get_backup(get).await.unwrap_err();
    assert_eq!(told(&status), (Code::Internal, "INTERNAL".into()));
    let listed = client.list_backups(pb::ListBackupsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.backups.len(), 2);
}

#[tokio::test]
async fn a_page_says_when_a_part_of_the_queue_could_not_be_asked() {
    let queue = queue();
    let away = page(vec![], Some("b")).map(|page| ListPage { incomplete: true, ..page });
    queue.pages.lock().unwrap().extend([away, page(vec![record("users/1")], None)]);
    let answer = client(&queue).list_backups(pb::ListBackupsRequest::default()).await.unwrap().into_inner();
    assert_eq!((answer.backups.len(), answer.incomplete), (1, true));
}

#[tokio::test]
async fn a_page_is_gathered_from_several_reads_and_its_token_leads_to_the_next() {
    let queue = queue();
    queue.pages.lock().unwrap().extend([
        page(vec![record("users/1")], Some("a")),
        page(vec![], Some("b")),
        page(vec![record("users/2"), record("users/3")], Some("c")),
        page(vec![record("users/4")], None),
    ]);
    let mut client = client(&queue);
    let ask = |page_token: String| pb::ListBackupsRequest { page_size: 3, page_token, ..Default::default() };
    let first = client.list_backups(ask(String::new())).await.unwrap().into_inner();
    assert_eq!(first.backups.len(), 3);
    let second = client.list_backups(ask(first.next_page_token)).await.unwrap().into_inner();
    assert_eq!(second.backups.len(), 1);
    assert_eq!(second.next_page_token, "");
    let queries = queue.queries.lock().unwrap();
    let asked: Vec<_> = queries.iter().map(|q| (q.limit, q.cursor.as_ref().map(|c| c.0.as_str()))).collect();
    assert_eq!(asked, [(3, None), (2, Some("a")), (2, Some("b")), (3, Some("c"))]);
    assert!(queries.iter().all(|q| q.tenant == "web"));
}

#[tokio::test]
async fn a_filter_that_hits_nothing_gives_empty_pages_and_not_one_endless_call() {
    let queue = queue();
    queue.pages.lock().unwrap().extend((0..1000).map(|at| page(vec![], Some(&at.to_string()))));
    let answer = client(&queue).list_backups(pb::ListBackupsRequest::default()).await.unwrap().into_inner();
    assert!(answer.backups.is_empty());
    assert_ne!(answer.next_page_token, "");
    assert_eq!(queue.queries.lock().unwrap().len(), 16);
}

#[tokio::test]
async fn a_page_of_large_tasks_stays_below_what_clients_take() {
    let large = |at: usize| {
        let mut task = record(&format!("users/{at}/{}", "k".repeat(1000)));
        task.spec.labels = (0..16).map(|l| (format!("{l:063}"), "v".repeat(255))).collect();
        task
    };
    let queue = queue();
    queue
        .pages
        .lock()
        .unwrap()
        .extend((0..10).map(|at| page((0..100).map(large).collect(), Some(&at.to_string()))));
    let ask = pb::ListBackupsRequest { page_size: 1000, ..Default::default() };
    let answer = client(&queue).list_backups(ask).await.unwrap().into_inner();
    assert!(!answer.backups.is_empty() && answer.backups.len() < 1000);
    assert_ne!(answer.next_page_token, "");
    assert!(prost::Message::encoded_len(&answer) < 4 * 1024 * 1024);
}

#[tokio::test]
async fn a_token_of_another_filter_or_tenant_or_that_the_queue_does_not_know_is_invalid() {
    let queue = queue();
    queue.pages.lock().unwrap().extend([
        page(vec![record("users/1")], Some("a")),
        Err(QueueError::Rejected("no such cursor".into())),
    ]);
    let mut client = client(&queue);
    let ask = |page_token: &str, key_prefix: &str| pb::ListBackupsRequest {
        page_size: 1,
        page_token: page_token.into(),
        key_prefix: key_prefix.into(),
        ..Default::default()
    };
    let token = client.list_backups(ask("", "")).await.unwrap().into_inner().next_page_token;
    let asked = queue.queries.lock().unwrap().len();
    for request in [
        tonic::Request::new(ask(&token, "users/")),
        made_by("app", ask(&token, "")),
        tonic::Request::new(ask(&token[1..], "")),
        tonic::Request::new(ask("zz", "")),
    ] {
        let status = client.list_backups(request).await.unwrap_err();
        assert_eq!(told(&status), (Code::InvalidArgument, "INVALID_FIELDS".into()));
        assert_eq!(fields(&status), ["page_token"]);
    }
    assert_eq!(queue.queries.lock().unwrap().len(), asked, "the queue was not asked");
    let status = client.list_backups(ask(&token, "")).await.unwrap_err();
    assert_eq!(fields(&status), ["page_token"]);
}

#[tokio::test]
async fn a_list_whose_queue_is_away_is_unavailable() {
    let queue = queue();
    queue.pages.lock().unwrap().push_back(Err(unavailable()));
    let status = client(&queue).list_backups(pb::ListBackupsRequest::default()).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "QUEUE_UNAVAILABLE".into()));
}

#[tokio::test]
async fn cancelling_a_running_copy_tells_its_session_to_stop_and_shows_it_working() {
    let working = TaskRecord { state: TaskState::Working, ..record("users/1") };
    let (id, lease) = (working.id.clone(), LeaseToken::from_bytes([7; 16]));
    let queue = holding([working]);
    let stopping = CancelOutcome::Stopping { lease, session: "s-1".into() };
    queue.cancels.lock().unwrap().push_back(Ok(stopping));
    let copies = Arc::new(StoppedCopies::default());
    let service = crate::grpc::testing::backups(queue, Arc::<StoppedCopies>::clone(&copies));
    let mut request = tonic::Request::new(pb::CancelBackupRequest { task_id: id.to_string() });
    request.extensions_mut().insert(Caller::new("web").unwrap());
    let answer = service.cancel_backup(request).await.unwrap().into_inner();
    assert_eq!(answer.backup.unwrap().state(), pb::TaskState::Working);
    assert_eq!(*copies.0.lock().unwrap(), [("s-1".to_owned(), id, lease)]);
}

#[tokio::test]
async fn cancelling_twice_is_harmless_and_cancelling_what_is_finished_is_refused_with_its_state() {
    let cancelled = TaskRecord { state: TaskState::Cancelled, ..record("users/1") };
    let id = cancelled.id.to_string();
    let queue = holding([cancelled]);
    queue.cancels.lock().unwrap().extend([
        Ok(CancelOutcome::Cancelled),
        Ok(CancelOutcome::Cancelled),
        Ok(CancelOutcome::Finished(TaskState::Done)),
        Ok(CancelOutcome::Finished(TaskState::Dead)),
        Err(unavailable()),
    ]);
    let mut client = client(&queue);
    let ask = || pb::CancelBackupRequest { task_id: id.clone() };
    for _ in 0..2 {
        let backup = client.cancel_backup(ask()).await.unwrap().into_inner().backup.unwrap();
        assert_eq!(backup.state(), pb::TaskState::Cancelled);
    }
    for state in ["TASK_STATE_DONE", "TASK_STATE_DEAD"] {
        let status = client.cancel_backup(ask()).await.unwrap_err();
        assert_eq!(told(&status), (Code::FailedPrecondition, "TASK_FINISHED".into()));
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["state"], state);
        assert_eq!(details.resource_info().unwrap().resource_name, id);
    }
    let status = client.cancel_backup(ask()).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "QUEUE_UNAVAILABLE".into()));
}

#[tokio::test]
async fn without_the_layers_that_identify_callers_everybody_is_refused() {
    let service = crate::grpc::testing::backups(queue(), Arc::new(StoppedCopies::default()));
    let status = service.submit_backup(Request::new(submit("users/1"))).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unauthenticated, "UNAUTHENTICATED".into()));
}
