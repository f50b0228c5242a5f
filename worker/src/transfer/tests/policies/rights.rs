//! A guard of the embedded store that keeps to policies: which rights S3 wants for which request, by its reference of actions.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use backhaul_embedded_s3::guard::{Asked, Guard, Unseen, Verdict};
use percent_encoding::percent_decode_str;

use super::iam::{Policy, Question, Says};

/// Whose key may do everything.
pub(super) const ADMIN: &str = "admin";
/// The account that everything belongs to.
pub(super) const ACCOUNT: &str = "000000000000";
/// Whose key has the policies.
pub(super) const WORKER: &str = "worker";

/// Policies in force.
#[derive(Debug)]
pub(super) struct Rights {
    worker: Mutex<Vec<Policy>>,
    /// Policies of buckets.
    buckets: BTreeMap<String, Policy>,
    /// Requests count as sent over TLS.
    pub(super) secure: AtomicBool,
    refused: Mutex<Vec<String>>,
    /// Requests that did not say whose bucket they mean.
    unowned: Mutex<Vec<String>>,
}

/// What a request needs.
struct Need {
    action: &'static str,
    resource: String,
}

impl Rights {
    pub(super) fn new(buckets: BTreeMap<String, Policy>) -> Self {
        Self {
            worker: Mutex::default(),
            buckets,
            secure: AtomicBool::new(true),
            refused: Mutex::default(),
            unowned: Mutex::default(),
        }
    }

    /// The worker has these from now on.
    pub(super) fn grant(&self, policies: Vec<Policy>) {
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = policies;
        self.refused();
    }

    /// What was refused since it was last asked.
    pub(super) fn refused(&self) -> Vec<String> {
        std::mem::take(&mut self.refused.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The worker's requests that did not name the owner of their buckets, since it was last asked.
    pub(super) fn unowned(&self) -> Vec<String> {
        std::mem::take(&mut self.unowned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn allows(&self, asked: &Asked<'_>, need: &Need) -> bool {
        let mut context = BTreeMap::from([
            ("aws:ResourceAccount", ACCOUNT.to_owned()),
            ("aws:SecureTransport", self.secure.load(Ordering::Relaxed).to_string()),
            ("aws:PrincipalArn", format!("arn:aws:iam::{ACCOUNT}:role/{}", asked.access_key)),
            ("s3:ObjectCreationOperation", creates(asked.operation).to_string()),
        ]);
        if let Some(value) = asked.headers.get("if-none-match") {
            context.insert("s3:if-none-match", value.to_str().expect("ASCII").to_owned());
        }
        let question = Question { action: need.action, resource: &need.resource, service: None, context };
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = worker.iter().map(|p| p.says(&question)).max();
        let bucket = need.resource.trim_start_matches("arn:aws:s3:::").split('/').next().unwrap_or_default();
        let bucket = self.buckets.get(bucket).map_or(Says::Nothing, |p| p.says(&question));
        identity == Some(Says::Allowed) && bucket != Says::Denied
    }
}

impl Guard for Rights {
    fn judge(&self, asked: &Asked<'_>) -> Verdict {
        if asked.access_key == ADMIN {
            return Verdict::Admitted(Unseen::default());
        }
        let copies = asked.headers.contains_key("x-amz-copy-source");
        let owned = asked.headers.contains_key("x-amz-expected-bucket-owner")
            && (!copies || asked.headers.contains_key("x-amz-source-expected-bucket-owner"));
        if !owned {
            let what = format!("{} {}/{}", asked.operation, asked.bucket, asked.key);
            self.unowned.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        }
        for need in needs(asked) {
            if !self.allows(asked, &need) {
                let what = format!("{} on {}", need.action, need.resource);
                self.refused.lock().unwrap_or_else(PoisonError::into_inner).push(what);
                return Verdict::Refused;
            }
        }
        let may = |action| self.allows(asked, &Need { action, resource: object(asked.bucket, asked.key) });
        let versioned = version(asked).is_some();
        Verdict::Admitted(Unseen {
            missing: !self.allows(asked, &Need { action: "s3:ListBucket", resource: bucket(asked.bucket) }),
            tags: !may(if versioned { "s3:GetObjectVersionTagging" } else { "s3:GetObjectTagging" }),
            retention: !may("s3:GetObjectRetention"),
            hold: !may("s3:GetObjectLegalHold"),
        })
    }
}

fn needs(asked: &Asked<'_>) -> Vec<Need> {
    let here = |action| Need { action, resource: object(asked.bucket, asked.key) };
    let bucket = |action| vec![Need { action, resource: bucket(asked.bucket) }];
    let pick = |plain, versioned| vec![here(if version(asked).is_some() { versioned } else { plain })];
    match asked.operation {
        "GetObject" | "HeadObject" => pick("s3:GetObject", "s3:GetObjectVersion"),
        "GetObjectTagging" => pick("s3:GetObjectTagging", "s3:GetObjectVersionTagging"),
        "GetObjectAcl" => pick("s3:GetObjectAcl", "s3:GetObjectVersionAcl"),
        "DeleteObject" => pick("s3:DeleteObject", "s3:DeleteObjectVersion"),
        "PutObject" | "CreateMultipartUpload" => written(asked),
        "UploadPart" | "CompleteMultipartUpload" => vec![here("s3:PutObject")],
        "UploadPartCopy" => read_source(asked).into_iter().chain([here("s3:PutObject")]).collect(),
        "CopyObject" => read_source(asked).into_iter().chain(written(asked)).collect(),
        "AbortMultipartUpload" => vec![here("s3:AbortMultipartUpload")],
        "ListParts" => vec![here("s3:ListMultipartUploadParts")],
        "ListMultipartUploads" => bucket("s3:ListBucketMultipartUploads"),
        "ListObjectsV2" => bucket("s3:ListBucket"),
        "ListObjectVersions" => bucket("s3:ListBucketVersions"),
        "GetBucketVersioning" => bucket("s3:GetBucketVersioning"),
        "PutBucketVersioning" => bucket("s3:PutBucketVersioning"),
        "GetObjectLockConfiguration" => bucket("s3:GetBucketObjectLockConfiguration"),
        "PutObjectLockConfiguration" => bucket("s3:PutBucketObjectLockConfiguration"),
        "PutBucketPolicy" => bucket("s3:PutBucketPolicy"),
        "DeleteBucketPolicy" => bucket("s3:DeleteBucketPolicy"),
        "PutObjectLegalHold" => vec![here("s3:PutObjectLegalHold")],
        "DeleteBucket" => bucket("s3:DeleteBucket"),
        "PutObjectRetention" => {
            let bypasses = asked.headers.contains_key("x-amz-bypass-governance-retention");
            let bypass = bypasses.then(|| here("s3:BypassGovernanceRetention"));
            [here("s3:PutObjectRetention")].into_iter().chain(bypass).collect()
        }
        other => panic!("nobody here knows which right {other} needs"),
    }
}

/// What a new object needs besides its bytes.
fn written(asked: &Asked<'_>) -> Vec<Need> {
    let with = |header, action| {
        let is_given = asked.headers.contains_key(header);
        is_given.then(|| Need { action, resource: object(asked.bucket, asked.key) })
    };
    let put = Need { action: "s3:PutObject", resource: object(asked.bucket, asked.key) };
    let more = [
        with("x-amz-tagging", "s3:PutObjectTagging"),
        with("x-amz-object-lock-mode", "s3:PutObjectRetention"),
        with("x-amz-object-lock-legal-hold", "s3:PutObjectLegalHold"),
        with("x-amz-acl", "s3:PutObjectAcl"),
    ];
    std::iter::once(put).chain(more.into_iter().flatten()).collect()
}

/// What a copy needs of its source: its bytes, and its tags where it has some, which travel along. Scratch objects that are copied have none.
fn read_source(asked: &Asked<'_>) -> Vec<Need> {
    let source =
        asked.headers.get("x-amz-copy-source").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (path, is_versioned) = match source.split_once("?versionId=") {
        Some((path, _)) => (path, true),
        None => (source, false),
    };
    let path = percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy();
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    let from = |action| Need { action, resource: object(bucket, key) };
    let (read, tags) = if is_versioned {
        ("s3:GetObjectVersion", "s3:GetObjectVersionTagging")
    } else {
        ("s3:GetObject", "s3:GetObjectTagging")
    };
    let mut needs = vec![from(read)];
    if asked.operation == "CopyObject" && !key.contains("/.backhaul/probe/") {
        needs.extend([
            from(tags),
            Need { action: "s3:PutObjectTagging", resource: object(asked.bucket, asked.key) },
        ]);
    }
    needs
}

/// Whether an operation makes an object appear.
fn creates(operation: &str) -> bool {
    ["PutObject", "CopyObject", "CompleteMultipartUpload"].contains(&operation)
}

fn version<'a>(asked: &Asked<'a>) -> Option<&'a str> {
    asked.query.split('&').find_map(|pair| pair.strip_prefix("versionId="))
}

fn object(bucket: &str, key: &str) -> String {
    format!("arn:aws:s3:::{bucket}/{key}")
}

fn bucket(bucket: &str) -> String {
    format!("arn:aws:s3:::{bucket}")
}
