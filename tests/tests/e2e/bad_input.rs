//! Every kind of bad request has its exact status, says which field is wrong, and changes nothing.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, ensure};
use backhaul_proto::v1 as pb;
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    locations::{ORIGIN_BUCKET, Read},
};
use prost_types::{Duration, Timestamp};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What a refusal says.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    code: Code,
    reason: String,
    fields: BTreeSet<String>,
}

fn told(status: &Status) -> anyhow::Result<Told> {
    let details = status.get_error_details();
    let info = details.error_info().context("every error carries ErrorInfo")?;
    ensure!(info.domain == "backhaul", "{info:?}");
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    ensure!(violations.iter().all(|violation| !violation.description.is_empty()), "{violations:?}");
    let fields = violations.into_iter().map(|violation| violation.field).collect();
    Ok(Told { code: status.code(), reason: info.reason.clone(), fields })
}

fn invalid(fields: &[&str]) -> Told {
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    Told { code: Code::InvalidArgument, reason: "INVALID_FIELDS".to_owned(), fields }
}

fn refused(code: Code, reason: &str) -> Told {
    Told { code, reason: reason.to_owned(), fields: BTreeSet::new() }
}

fn labels(count: usize) -> HashMap<String, String> {
    (0..count).map(|number| (format!("label-{number}"), String::new())).collect()
}

/// Objects that cannot be named, and what is said about each.
fn bad_objects() -> Vec<(pb::ObjectRef, Told)> {
    let with = |change: fn(&mut pb::ObjectRef)| {
        let mut bad = object("photo");
        change(&mut bad);
        bad
    };
    vec![
        (with(|o| o.key.clear()), invalid(&["object.key"])),
        (with(|o| o.key = "k".repeat(1025)), invalid(&["object.key"])),
        (with(|o| o.location.clear()), invalid(&["object.location"])),
        (with(|o| o.location = "Uploads".to_owned()), invalid(&["object.location"])),
        (with(|o| o.location = "http://evil.example".to_owned()), invalid(&["object.location"])),
        (with(|o| o.location = "l".repeat(64)), invalid(&["object.location"])),
        (with(|o| o.bucket = "ab".to_owned()), invalid(&["object.bucket"])),
        (with(|o| o.bucket = "b".repeat(64)), invalid(&["object.bucket"])),
        (with(|o| o.version = "v".repeat(1025)), invalid(&["object.version"])),
        (pb::ObjectRef::default(), invalid(&["object.location", "object.bucket", "object.key"])),
        (with(|o| o.location = "nowhere".to_owned()), refused(Code::NotFound, "LOCATION_NOT_FOUND")),
        (with(|o| o.location = "vault".to_owned()), refused(Code::NotFound, "LOCATION_NOT_FOUND")),
        (
            with(|o| o.bucket = "somebody-elses".to_owned()),
            refused(Code::PermissionDenied, "BUCKET_NOT_ALLOWED"),
        ),
        (with(|o| o.key = "private/photo".to_owned()), refused(Code::PermissionDenied, "KEY_NOT_ALLOWED")),
    ]
}

/// Options that cannot be taken, and the fields that are said to be wrong.
fn bad_options() -> Vec<(pb::SubmitOptions, Told)> {
    let base = pb::SubmitOptions::default;
    let label = |name: &str, value: &str| HashMap::from([(name.to_owned(), value.to_owned())]);
    let far = Timestamp { seconds: 253_402_300_799, nanos: 0 };
    let timeout = |seconds, nanos| Some(Duration { seconds, nanos });
    vec![
        (pb::SubmitOptions { priority: 9, ..base() }, invalid(&["options.priority"])),
        (pb::SubmitOptions { verify: -1, ..base() }, invalid(&["options.verify"])),
        (pb::SubmitOptions { max_attempts: 101, ..base() }, invalid(&["options.max_attempts"])),
        (
            pb::SubmitOptions { size_hint_bytes: (1 << 50) + 1, ..base() },
            invalid(&["options.size_hint_bytes"]),
        ),
        (pb::SubmitOptions { process_at: Some(far), ..base() }, invalid(&["options.process_at"])),
        (
            pb::SubmitOptions { process_at: Some(Timestamp { seconds: 0, nanos: -1 }), ..base() },
            invalid(&["options.process_at"]),
        ),
        (
            pb::SubmitOptions { processing_timeout: timeout(0, 999_999_999), ..base() },
            invalid(&["options.processing_timeout"]),
        ),
        (
            pb::SubmitOptions { processing_timeout: timeout(86_400, 1), ..base() },
            invalid(&["options.processing_timeout"]),
        ),
        (
            pb::SubmitOptions { processing_timeout: timeout(-5, 0), ..base() },
            invalid(&["options.processing_timeout"]),
        ),
        (pb::SubmitOptions { labels: labels(17), ..base() }, invalid(&["options.labels"])),
        (pb::SubmitOptions { labels: label("Upper", ""), ..base() }, invalid(&["options.labels[Upper]"])),
        (
            pb::SubmitOptions { labels: label("a", &"v".repeat(256)), ..base() },
            invalid(&["options.labels[a]"]),
        ),
        (
            pb::SubmitOptions { priority: 9, max_attempts: 101, ..base() },
            invalid(&["options.priority", "options.max_attempts"]),
        ),
    ]
}

/// Lists that cannot be made.
fn bad_lists() -> Vec<(pb::ListBackupsRequest, Told)> {
    let base = pb::ListBackupsRequest::default;
    vec![
        (pb::ListBackupsRequest { states: vec![0], ..base() }, invalid(&["states"])),
        (pb::ListBackupsRequest { states: vec![99], ..base() }, invalid(&["states"])),
        (pb::ListBackupsRequest { location: "No Such".to_owned(), ..base() }, invalid(&["location"])),
        (pb::ListBackupsRequest { key_prefix: "k".repeat(1025), ..base() }, invalid(&["key_prefix"])),
        (pb::ListBackupsRequest { page_size: 1001, ..base() }, invalid(&["page_size"])),
        (pb::ListBackupsRequest { page_token: "forged".to_owned(), ..base() }, invalid(&["page_token"])),
        (pb::ListBackupsRequest { labels: labels(17), ..base() }, invalid(&["labels"])),
    ]
}

/// Task ids that are nobody's, and whether their form is at fault.
fn bad_ids() -> Vec<(String, Told)> {
    let not_found = || refused(Code::NotFound, "TASK_NOT_FOUND");
    vec![
        (String::new(), invalid(&["task_id"])),
        ("x".repeat(65), invalid(&["task_id"])),
        ("../../etc".to_owned(), invalid(&["task_id"])),
        ("000-00000000000000000000000000000000".to_owned(), not_found()),
    ]
}

async fn start() -> anyhow::Result<TestEnv> {
    let photos = Read { prefixes: vec!["photo".to_owned()], ..Read::all_of(ORIGIN_BUCKET) };
    let others = Read { tenants: vec!["umbrella".to_owned()], ..Read::all_of("somebody-elses") };
    TestEnv::start(EnvOptions { reads: vec![photos, others], workers: 0, ..EnvOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_submit_names_every_field_at_fault_and_stores_nothing() -> anyhow::Result<()> {
    let env = start().await?;
    let mut client = env.backups()?;
    let objects = bad_objects().into_iter().map(|(object, told)| (Some(object), None, told));
    let options =
        bad_options().into_iter().map(|(options, told)| (Some(object("photo")), Some(options), told));
    let nothing = [(None, None, invalid(&["object"]))];
    for (object, options, expected) in objects.chain(options).chain(nothing) {
        let request = pb::SubmitBackupRequest { object, options };
        let context = format!("{request:.200?}");
        let status = client
            .submit_backup(request.clone())
            .await
            .err()
            .with_context(|| format!("accepted: {context}"))?;
        ensure!(told(&status)? == expected, "{context}\nexpected {expected:?}\nwas told {status:?}");

        // In a batch the same request gets the same code, and its neighbour is not harmed by it.
        let batch = pb::SubmitBackupsRequest { requests: vec![request] };
        let answer = client.submit_backups(batch).await?.into_inner().results.remove(0).result;
        let Some(pb::submit_backup_result::Result::Error(error)) = answer else {
            anyhow::bail!("accepted: {context}")
        };
        ensure!(Code::from_i32(error.code) == expected.code, "{context}: {error:?}");
        let fields: BTreeSet<String> =
            error.violations.into_iter().map(|violation| violation.field).collect();
        ensure!(fields == expected.fields, "{context}: {fields:?}");
    }
    ensure!(env.list(&[]).await?.is_empty(), "something was stored");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_neither_empty_nor_over_a_thousand() -> anyhow::Result<()> {
    let env = start().await?;
    let request = pb::SubmitBackupRequest { object: Some(object("photo")), options: None };
    for size in [0, 1001] {
        let batch = pb::SubmitBackupsRequest { requests: vec![request.clone(); size] };
        let status = env.backups()?.submit_backups(batch).await.err().context("it was taken")?;
        ensure!(told(&status)? == invalid(&["requests"]), "{size}: {status:?}");
    }
    ensure!(env.list(&[]).await?.is_empty(), "something was stored");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_its_limit_is_refused_unread() -> anyhow::Result<()> {
    let env = start().await?;
    let huge = pb::ObjectRef { version: "v".repeat(3 << 20), ..object("photo") };
    let request = pb::SubmitBackupRequest { object: Some(huge), options: None };
    let status = env.backups()?.submit_backup(request).await.err().context("it was taken")?;
    ensure!(told(&status)? == refused(Code::InvalidArgument, "MESSAGE_TOO_LARGE"), "{status:?}");
    ensure!(env.list(&[]).await?.is_empty(), "something was stored");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_tasks_are_checked_too() -> anyhow::Result<()> {
    let env = start().await?;
    let mut client = env.backups()?;
    for (request, expected) in bad_lists() {
        let context = format!("{request:.200?}");
        let status =
            client.list_backups(request).await.err().with_context(|| format!("accepted: {context}"))?;
        ensure!(told(&status)? == expected, "{context}\nexpected {expected:?}\nwas told {status:?}");
    }
    for (task_id, expected) in bad_ids() {
        let get = client.get_backup(pb::GetBackupRequest { task_id: task_id.clone() }).await.err();
        let cancel = client.cancel_backup(pb::CancelBackupRequest { task_id: task_id.clone() }).await.err();
        for status in [get, cancel] {
            let status = status.with_context(|| format!("accepted: {task_id:?}"))?;
            ensure!(told(&status)? == expected, "{task_id:?}\nexpected {expected:?}\nwas told {status:?}");
        }
    }
    env.finish().await
}
