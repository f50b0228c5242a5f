//! The policies under `deploy/policies`: whoever has them and nothing else can do all that Backhaul does, no permission in them is idle, and
//! nothing that would harm a copy is among them.
//!
//! Here the embedded store keeps to them, as S3 would, conditions included. Servers that nobody here wrote are asked in `elsewhere`.

mod cases;
mod elsewhere;
mod iam;
mod rights;

use std::{collections::BTreeMap, sync::atomic::Ordering};

use backhaul_embedded_s3::{Action, Operation, Rule};

use self::{
    cases::{COPIES, Case, World, copied, good},
    iam::{Policy, Question, Says},
    rights::{ACCOUNT, WORKER},
};
use super::{bytes, request};
use crate::{
    store::s3_tests::admin::{Admin, Lock},
    transfer::CopyRequest,
};

const ORIGIN_READ: &str = include_str!("../../../../../deploy/policies/origin-read.json");
const BACKUP_WRITE: &str = include_str!("../../../../../deploy/policies/backup-write.json");
const PROBE: &str = include_str!("../../../../../deploy/policies/probe.json");
const BACKUP_BUCKET: &str = include_str!("../../../../../deploy/policies/backup-bucket.json");
const EVENTS_QUEUE: &str = include_str!("../../../../../deploy/policies/events-queue.json");
const EVENTS_TOPIC: &str = include_str!("../../../../../deploy/policies/events-topic.json");

/// What stands in the place of the words in capitals.
const VALUES: [(&str, &str); 6] = [
    ("ORIGIN_ACCOUNT_ID", ACCOUNT),
    ("BACKUP_ACCOUNT_ID", ACCOUNT),
    ("BACKUP_BUCKET", "backups"),
    ("BACKUP_PREFIX", "copies"),
    ("ADMIN_ROLE", "keeper"),
    ("ORIGIN_BUCKET", "uploads"),
];

/// What needs which permission: without it, these cases end otherwise.
const ORIGIN_NEEDS: [(&str, &[Case]); 10] = [
    ("s3:GetObject", &[Case::Small, Case::Large]),
    ("s3:GetObjectVersion", &[Case::Large, Case::Version]),
    ("s3:GetObjectTagging", &[Case::Unversioned]),
    ("s3:GetObjectVersionTagging", &[Case::Small]),
    ("s3:ListBucket", &[Case::Gone, Case::Listing]),
    ("s3:ListBucketVersions", &[Case::Versions]),
    ("s3:GetObjectRetention", &[Case::Retained]),
    ("s3:GetObjectLegalHold", &[Case::Held]),
    ("s3:GetObjectAcl", &[Case::Unversioned]),
    ("s3:GetObjectVersionAcl", &[Case::Small]),
];
const BACKUP_NEEDS: [(&str, &[Case]); 10] = [
    ("s3:PutObject", &[Case::Small, Case::Large, Case::Inside]),
    ("s3:PutObjectTagging", &[Case::Small]),
    ("s3:GetObject", &[Case::Large]),
    ("s3:GetObjectVersion", &[Case::Readback]),
    ("s3:AbortMultipartUpload", &[Case::Failing]),
    ("s3:ListMultipartUploadParts", &[Case::Resumed]),
    ("s3:ListBucket", &[Case::Large, Case::Listing]),
    ("s3:ListBucketMultipartUploads", &[Case::Resumed]),
    ("s3:PutObjectRetention", &[Case::Locking]),
    ("s3:GetObjectRetention", &[Case::Locking]),
];
const PROBE_NEEDS: [(&str, &[Case]); 4] = [
    ("s3:DeleteObjectVersion", &[Case::Probe]),
    ("s3:ListBucketVersions", &[Case::Probe]),
    ("s3:GetBucketVersioning", &[Case::Probe]),
    ("s3:GetBucketObjectLockConfiguration", &[Case::Probe]),
];

fn read(text: &str) -> Policy {
    Policy::read(text, &VALUES)
}

/// What the worker's role has.
fn worker() -> [Policy; 2] {
    // A second bucket at the origin, as an operator would add it to the lists of resources.
    let origin = ORIGIN_READ.replace("arn:aws:s3:::ORIGIN_BUCKET", "arn:aws:s3:::ORIGIN_BUCKET*");
    [read(&origin), read(BACKUP_WRITE)]
}

#[tokio::test]
async fn a_role_with_the_policies_does_all_that_is_to_be_done() {
    let world = World::new().await;
    world.rights.grant(worker().into());
    let engine = world.engine();
    for case in COPIES {
        assert_eq!(world.ends(case, &engine).await, good(case), "{case:?}: {:?}", world.rights.refused());
    }
    // Tags of its own scratch objects it need not be able to read.
    let refused = world.rights.refused();
    assert!(refused.iter().all(|what| what.ends_with("/.backhaul/probe/tags")), "{refused:?}");
    assert_eq!(
        world.rights.unowned(),
        Vec::<String>::new(),
        "a request that does not say whose bucket it means"
    );
    let mut operator = Vec::from(worker());
    operator.push(read(PROBE));
    world.rights.grant(operator);
    assert_eq!(world.ends(Case::Probe, &engine).await, good(Case::Probe), "{:?}", world.rights.refused());
    assert_eq!(world.rights.unowned(), Vec::<String>::new());
    world.server.shutdown().await;
}

#[tokio::test]
async fn no_permission_is_idle() {
    let world = World::new().await;
    let [origin, backup] = worker();
    let operator = read(PROBE);
    let needs: Vec<(usize, &str, &[Case])> = (0..)
        .zip([&ORIGIN_NEEDS[..], &BACKUP_NEEDS[..], &PROBE_NEEDS[..]])
        .flat_map(|(n, needs)| needs.iter().map(move |(action, cases)| (n, *action, *cases)))
        .collect();
    for (n, policy) in [&origin, &backup, &operator].into_iter().enumerate() {
        let mut told: Vec<&str> =
            needs.iter().filter(|(m, ..)| *m == n).map(|(_, action, _)| *action).collect();
        let mut allowed = policy.allowed_actions();
        told.sort_unstable();
        allowed.sort_unstable();
        assert_eq!(allowed, told, "the table names each permission once");
    }
    for (n, action, cases) in needs {
        let mut policies = [origin.clone(), backup.clone(), operator.clone()];
        policies[n] = policies[n].without(action);
        world.rights.grant(policies.into());
        let engine = world.engine();
        for case in cases {
            let ends = world.ends(*case, &engine).await;
            assert_ne!(ends, good(*case), "{case:?} needs no {action} of policy {n}");
            // What is left for others to find.
            world.take_uploads().await;
        }
    }
    world.server.shutdown().await;
}

#[tokio::test]
async fn what_would_harm_a_copy_is_denied_to_the_worker_and_more_of_it_to_everybody() {
    let world = World::new().await;
    world.rights.grant(worker().into());
    let version =
        world.admin.put(("backups", "copies/k"), bytes(9, 1), Lock::Retention).await.expect("version");
    let harm = Admin::new(&world.server.endpoint(), WORKER, "secret");
    for (what, code) in harm.harm("backups", "copies/k", &version).await {
        assert_eq!(code.as_deref(), Some("AccessDenied"), "{what}");
    }
    // A role that may do everything is still held by the bucket's own policy.
    let all =
        r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}"#;
    world.rights.grant(vec![read(all)]);
    for (what, code) in harm.harm("backups", "copies/k", &version).await {
        assert_eq!(code.as_deref(), Some("AccessDenied"), "{what}");
    }
    // But for the one that keeps the bucket, whom only the lock stops.
    let keeper = Admin::new(&world.server.endpoint(), "keeper", "secret");
    let done = keeper.harm("backups", "copies/k", &version).await;
    let refused: Vec<&str> = done
        .iter()
        .filter(|(_, code)| code.as_deref() == Some("AccessDenied"))
        .map(|(what, _)| *what)
        .collect();
    assert_eq!(refused, ["DeleteObject of a version", "PutObject without a condition"]);
    world.server.shutdown().await;
}

#[tokio::test]
async fn nothing_is_done_without_tls_or_outside_of_what_is_named() {
    let world = World::new().await;
    world.rights.grant(worker().into());
    world.rights.secure.store(false, Ordering::Relaxed);
    assert_eq!(world.ends(Case::Small, &world.engine()).await, "denied");
    world.rights.secure.store(true, Ordering::Relaxed);
    for (bucket, key, why) in [
        ("backups", "other/k", "another prefix"),
        ("backups", "copies", "no prefix"),
        ("uploads", "users/1", "the origin"),
    ] {
        let written = Admin::new(&world.server.endpoint(), WORKER, "secret").create(bucket, key).await;
        assert_eq!(written.as_deref(), Some("AccessDenied"), "{why}");
    }
    let elsewhere = VALUES.map(|(word, value)| (word, if value == ACCOUNT { "999999999999" } else { value }));
    world.rights.grant(vec![Policy::read(ORIGIN_READ, &elsewhere), Policy::read(BACKUP_WRITE, &elsewhere)]);
    assert_eq!(world.ends(Case::Small, &world.engine()).await, "denied", "buckets of another account");
    world.server.shutdown().await;
}

#[tokio::test]
async fn a_store_that_cannot_copy_create_only_is_not_asked_to_overwrite() {
    let world = World::new().await;
    world.rights.grant(worker().into());
    // As S3 answers where the bucket's policy wants a condition that its copies do not know.
    let action = Action::Status { status: 501, code: "NotImplemented".into(), retry_after: None };
    world.server.faults().add(Rule::new(Operation::CopyObject, action));
    let engine = world.engine();
    let key = world.key();
    world.admin.put(("uploads", &key), bytes(100, 1), Lock::None).await;
    let copy = CopyRequest { location: "inside".into(), ..request(&key) };
    assert_eq!(copied(&engine, copy).await, "copied", "the bytes pass through the worker");
    world.server.shutdown().await;
}

#[test]
fn only_the_origin_s_own_services_tell_of_uploads() {
    let values = [("REGION", "eu-west-1"), ("QUEUE", "uploads"), ("TOPIC", "uploads"), ("RULE", "uploads")];
    let values: Vec<_> = VALUES.into_iter().chain(values).collect();
    let (queue, topic) = (Policy::read(EVENTS_QUEUE, &values), Policy::read(EVENTS_TOPIC, &values));
    let arn = |service: &str, name: &str| format!("arn:aws:{service}:eu-west-1:{ACCOUNT}:{name}");
    let says =
        |policy: &Policy, action: &str, (service, source, account): (&str, &str, &str), secure: bool| {
            let resource = arn(if action.starts_with("sqs") { "sqs" } else { "sns" }, "uploads");
            let context = BTreeMap::from([
                ("aws:SourceArn", source.to_owned()),
                ("aws:SourceAccount", account.to_owned()),
                ("aws:SecureTransport", secure.to_string()),
            ]);
            policy.says(&Question { action, resource: &resource, service: Some(service), context })
        };
    let (send, publish) = ("sqs:SendMessage", "sns:Publish");
    let bucket = ("s3.amazonaws.com", "arn:aws:s3:::uploads", ACCOUNT);
    assert_eq!(says(&queue, send, bucket, true), Says::Allowed);
    assert_eq!(says(&topic, publish, bucket, true), Says::Allowed);
    assert_eq!(says(&queue, send, bucket, false), Says::Denied);
    let (of_topic, of_rule) = (arn("sns", "uploads"), arn("events", "rule/uploads"));
    assert_eq!(says(&queue, send, ("sns.amazonaws.com", &of_topic, ACCOUNT), true), Says::Allowed);
    assert_eq!(says(&queue, send, ("events.amazonaws.com", &of_rule, ACCOUNT), true), Says::Allowed);
    for stranger in [
        ("s3.amazonaws.com", "arn:aws:s3:::others", ACCOUNT),
        // The bucket was deleted, and somebody else has made it anew.
        ("s3.amazonaws.com", "arn:aws:s3:::uploads", "999999999999"),
        ("lambda.amazonaws.com", "arn:aws:s3:::uploads", ACCOUNT),
        ("sns.amazonaws.com", "arn:aws:sns:eu-west-1:999999999999:uploads", ACCOUNT),
        ("events.amazonaws.com", "arn:aws:events:eu-west-1:999999999999:rule/uploads", ACCOUNT),
    ] {
        assert_eq!(says(&queue, send, stranger, true), Says::Nothing, "{stranger:?}");
        assert_eq!(says(&topic, publish, stranger, true), Says::Nothing, "{stranger:?}");
    }
    assert_eq!(says(&queue, "sqs:DeleteQueue", bucket, true), Says::Nothing);
}
