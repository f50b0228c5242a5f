//! The calls over walks in memory, as tenants make them.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    grpc::testing::{NOW, locations},
    queue::{
        Failure, FailureClass,
        walk::{FailedObject, WalkState, memory::MemoryWalks},
    },
};

fn prefixes() -> Prefixes {
    let clock = QueueClock::starting_at(NOW);
    Prefixes {
        walks: Arc::new(MemoryWalks::new(2, Duration::from_secs(3600), clock.clone())),
        locations: locations(),
        defaults: SubmitDefaults { max_attempts: 5, processing_timeout: Duration::from_secs(600) },
        clock,
        wake: Arc::default(),
    }
}

fn by<T>(tenant: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::new(tenant).unwrap());
    request
}

fn request(name: &str) -> pb::SubmitPrefixBackupRequest {
    pb::SubmitPrefixBackupRequest {
        request_id: name.into(),
        prefix: Some(pb::PrefixRef {
            location: "uploads".into(),
            bucket: "photos".into(),
            prefix: "users/7/".into(),
        }),
        ..Default::default()
    }
}

async fn submit(
    service: &Prefixes,
    request: pb::SubmitPrefixBackupRequest,
) -> Result<pb::PrefixBackup, Status> {
    Ok(service.submit_prefix_backup(by("web", request)).await?.into_inner())
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test]
async fn a_request_is_one_prefix_backup_however_often_it_comes() {
    let service = prefixes();
    let first = submit(&service, request("a")).await.unwrap();
    assert_eq!(first.state(), pb::PrefixBackupState::Running);
    let options = first.options.clone().unwrap();
    assert_eq!((options.priority(), options.max_attempts), (pb::Priority::Low, 5), "bulk work gives way");
    assert_eq!(first.versions(), pb::ObjectVersions::Current);
    assert_eq!(submit(&service, request("a")).await.unwrap(), first);
    let mut other = request("a");
    other.versions = pb::ObjectVersions::All.into();
    let refused = submit(&service, other).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELDS"));
    assert_ne!(submit(&service, request("b")).await.unwrap().prefix_backup_id, first.prefix_backup_id);
}

#[tokio::test]
async fn every_field_is_checked_and_named_and_nothing_is_stored() {
    let service = prefixes();
    let at = |location: &str, bucket: &str, prefix: &str| {
        Some(pb::PrefixRef { location: location.into(), bucket: bucket.into(), prefix: prefix.into() })
    };
    let filter =
        |filter: pb::ObjectFilter| pb::SubmitPrefixBackupRequest { filter: Some(filter), ..request("a") };
    let options = |options: pb::PrefixBackupOptions| pb::SubmitPrefixBackupRequest {
        options: Some(options),
        ..request("a")
    };
    let labels = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), String::new())).collect();
    let many: Vec<String> = (0..16).map(|n| format!("l{n}")).collect();
    let table = [
        (request(""), "request_id"),
        (request("ü"), "request_id"),
        (request(&"x".repeat(129)), "request_id"),
        (pb::SubmitPrefixBackupRequest { prefix: None, ..request("a") }, "prefix"),
        (pb::SubmitPrefixBackupRequest { prefix: at("Up", "photos", ""), ..request("a") }, "prefix.location"),
        (pb::SubmitPrefixBackupRequest { prefix: at("uploads", "p", ""), ..request("a") }, "prefix.bucket"),
        (
            pb::SubmitPrefixBackupRequest {
                prefix: at("uploads", "photos", &"p".repeat(1025)),
                ..request("a")
            },
            "prefix.prefix",
        ),
        (pb::SubmitPrefixBackupRequest { versions: 9, ..request("a") }, "versions"),
        (filter(pb::ObjectFilter { suffix: "s".repeat(1025), ..Default::default() }), "filter.suffix"),
        (
            filter(pb::ObjectFilter { min_size_bytes: 2, max_size_bytes: Some(1), ..Default::default() }),
            "filter.max_size_bytes",
        ),
        (
            filter(pb::ObjectFilter {
                modified_since: Some(prost_types::Timestamp { seconds: 1, nanos: -1 }),
                ..Default::default()
            }),
            "filter.modified_since",
        ),
        (
            options(pb::PrefixBackupOptions { max_attempts: 101, ..Default::default() }),
            "options.max_attempts",
        ),
        (options(pb::PrefixBackupOptions { priority: 9, ..Default::default() }), "options.priority"),
        (options(pb::PrefixBackupOptions { verify: 9, ..Default::default() }), "options.verify"),
        (
            options(pb::PrefixBackupOptions { labels: labels(&["prefix-backup"]), ..Default::default() }),
            "options.labels",
        ),
        (
            options(pb::PrefixBackupOptions {
                labels: labels(&many.iter().map(String::as_str).collect::<Vec<_>>()),
                ..Default::default()
            }),
            "options.labels",
        ),
    ];
    for (request, field) in table {
        let refused = submit(&service, request).await.unwrap_err();
        let violations =
            refused.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        assert!(violations.iter().any(|violation| violation.field == field), "{field}: {violations:?}");
    }
    assert!(service.walks.look(true).await.unwrap().walks.is_empty());
}

#[tokio::test]
async fn a_prefix_must_be_allowed_as_a_whole() {
    let service = prefixes();
    for (prefix, code) in [
        ("users/", None),
        ("users/7", None),
        ("users", Some(Code::PermissionDenied)),
        ("", Some(Code::PermissionDenied)),
    ] {
        let mut request = request(&format!("r{prefix}"));
        request.prefix.as_mut().unwrap().prefix = prefix.into();
        assert_eq!(submit(&service, request).await.err().map(|status| status.code()), code, "{prefix}");
    }
    let mut elsewhere = request("a");
    elsewhere.prefix.as_mut().unwrap().location = "vault".into();
    assert_eq!(submit(&service, elsewhere).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn another_tenants_is_answered_as_one_that_does_not_exist() {
    let service = prefixes();
    let id = submit(&service, request("a")).await.unwrap().prefix_backup_id;
    let get = |id: &str| pb::GetPrefixBackupRequest { prefix_backup_id: id.into() };
    let absent = service.walks.id("web", "nobody").to_string();
    for refused in [
        service.get_prefix_backup(by("app", get(&id))).await.unwrap_err(),
        service.get_prefix_backup(by("web", get(&absent))).await.unwrap_err(),
    ] {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "PREFIX_BACKUP_NOT_FOUND"));
    }
    let cancel = pb::CancelPrefixBackupRequest { prefix_backup_id: id.clone() };
    assert_eq!(service.cancel_prefix_backup(by("app", cancel)).await.unwrap_err().code(), Code::NotFound);
    let list = service.list_prefix_backups(by("app", pb::ListPrefixBackupsRequest::default())).await.unwrap();
    assert!(list.into_inner().prefix_backups.is_empty());
    let unnamed = Request::new(get(&id));
    assert_eq!(service.get_prefix_backup(unnamed).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn pause_resume_and_cancel_can_be_repeated_until_it_is_finished() {
    use pb::PrefixBackupState::{Cancelled, Paused, Running};
    let service = prefixes();
    let id = submit(&service, request("a")).await.unwrap().prefix_backup_id;
    let prefix_backup_id = || id.clone();
    for _ in 0..2 {
        let request = pb::PausePrefixBackupRequest { prefix_backup_id: prefix_backup_id() };
        assert_eq!(
            service.pause_prefix_backup(by("web", request)).await.unwrap().into_inner().state(),
            Paused
        );
    }
    for _ in 0..2 {
        let request = pb::ResumePrefixBackupRequest { prefix_backup_id: prefix_backup_id() };
        assert_eq!(
            service.resume_prefix_backup(by("web", request)).await.unwrap().into_inner().state(),
            Running
        );
    }
    for _ in 0..2 {
        let request = pb::CancelPrefixBackupRequest { prefix_backup_id: prefix_backup_id() };
        let shown = service.cancel_prefix_backup(by("web", request)).await.unwrap().into_inner();
        assert_eq!((shown.state(), shown.finished_at.is_some()), (Cancelled, true));
    }
    let request = pb::ResumePrefixBackupRequest { prefix_backup_id: prefix_backup_id() };
    let refused = service.resume_prefix_backup(by("web", request)).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "PREFIX_BACKUP_FINISHED")
    );
    let only_unfinished = pb::ListPrefixBackupsRequest { only_unfinished: true };
    let left = service.list_prefix_backups(by("web", only_unfinished)).await.unwrap().into_inner();
    assert!(left.prefix_backups.is_empty());
    // The request that it was stays its: a repeat is no new one.
    assert_eq!(submit(&service, self::request("a")).await.unwrap().state(), Cancelled);
}

#[tokio::test]
async fn failures_are_shown_page_by_page() {
    let service = prefixes();
    let id = submit(&service, request("a")).await.unwrap().prefix_backup_id;
    let stored = service.walks.load(&WalkId::parse(&id).unwrap()).await.unwrap().unwrap();
    assert_eq!(stored.walk.state, WalkState::Running);
    let failed = |n: u32| FailedObject {
        key: format!("users/7/{n}"),
        version: None,
        task: None,
        failure: Failure {
            class: FailureClass::Permanent,
            code: "rejected".into(),
            message: String::new(),
            retry_after: Duration::ZERO,
        },
    };
    let change = Change {
        id: stored.id,
        expected: Some(stored.revision),
        walk: stored.walk,
        opened: vec![],
        closed: vec![],
        failures: (0..250).map(failed).collect(),
    };
    service.walks.save(&change).await.unwrap();
    let (mut keys, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListPrefixBackupFailuresRequest {
            prefix_backup_id: id.clone(),
            page_size: 100,
            page_token: page_token.clone(),
        };
        let page = service.list_prefix_backup_failures(by("web", request)).await.unwrap().into_inner();
        keys.extend(page.failures.into_iter().map(|failure| failure.key));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(keys, (0..250).map(|n| format!("users/7/{n}")).collect::<Vec<_>>());
    for (size, token) in [(1_001, ""), (0, "nonsense"), (0, "-1")] {
        let request = pb::ListPrefixBackupFailuresRequest {
            prefix_backup_id: id.clone(),
            page_size: size,
            page_token: token.into(),
        };
        let refused = service.list_prefix_backup_failures(by("web", request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{size} {token}");
    }
}
