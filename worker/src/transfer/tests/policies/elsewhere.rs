//! The same policies at servers that nobody here wrote, as far as they keep to them.
//!
//! Both know actions and resources, but not `aws:ResourceAccount`, and take a condition that they do not know for one that does not hold: so the
//! conditions of the roles' policies are left out here. Of the bucket's policy SeaweedFS keeps to what it says about TLS and moto to nothing. What
//! neither checks (rights on tags, locks and ACLs that come with an object, 403 in place of 404, conditions) is shown on the embedded store only.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    super::{bytes, request, s3},
    BACKUP_BUCKET, BACKUP_WRITE, ORIGIN_READ,
    cases::{copied, listed, settings},
};
use crate::{
    store::s3_tests::{
        admin::{Admin, Lock},
        servers::Server,
    },
    transfer::{CopyRequest, Engine, VerifyLevel},
};
use backhaul_runtime::locations::Locations;

/// One bucket with versions and one without.
const BUCKETS: [&str; 3] = ["versioned-uploads", "uploads", "backups"];
const VALUES: [(&str, &str); 4] = [
    ("ORIGIN_BUCKET", "*uploads"),
    ("BACKUP_BUCKET", "backups"),
    ("BACKUP_PREFIX", "copies"),
    ("ORIGIN_ACCOUNT_ID", "000000000000"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Small,
    Large,
    Version,
    Readback,
    Listing,
    Versions,
}

/// What either server misses without a permission.
const NEEDS: [(&str, Case); 8] = [
    ("origin s3:GetObject", Case::Small),
    ("origin s3:GetObjectVersion", Case::Version),
    ("origin s3:GetObjectTagging", Case::Small),
    ("origin s3:ListBucket", Case::Listing),
    ("origin s3:ListBucketVersions", Case::Versions),
    ("backup s3:PutObject", Case::Small),
    ("backup s3:GetObject", Case::Large),
    ("backup s3:ListBucket", Case::Listing),
];

/// A server and who works there.
struct Elsewhere<'a> {
    endpoint: &'a str,
    admin: Admin,
    count: AtomicU32,
}

impl Elsewhere<'_> {
    async fn ends(&self, case: Case, engine: &Engine) -> String {
        let key = format!("users/{}", self.count.fetch_add(1, Ordering::Relaxed));
        let bucket = if matches!(case, Case::Version | Case::Versions) { BUCKETS[0] } else { BUCKETS[1] };
        let size = if case == Case::Large { s3::LARGE } else { 100 };
        let version = self.admin.put((bucket, &key), bytes(size, 1), Lock::None).await;
        let copy = CopyRequest { bucket: bucket.into(), ..request(&key) };
        match case {
            Case::Small | Case::Large => copied(engine, copy).await,
            Case::Version => copied(engine, CopyRequest { version, ..copy }).await,
            Case::Readback => {
                copied(engine, CopyRequest { verify: Some(VerifyLevel::Readback), ..copy }).await
            }
            Case::Listing => listed(engine, bucket, &key, false).await,
            Case::Versions => listed(engine, bucket, &key, true).await,
        }
    }

    fn engine(&self, (id, secret): (&str, &str)) -> (Engine, tempfile::TempDir) {
        let files = tempfile::tempdir().expect("directory");
        let keys = files.path().join("keys");
        std::fs::write(&keys, format!("{id}\n{secret}\n")).expect("write");
        let store = format!(
            "endpoint = \"{}\"\npath_style = true\ncredentials = {{ file = \"{}\" }}\n",
            self.endpoint,
            keys.display()
        );
        let text = format!(
            "[location.vault]\n{store}[location.photos]\n{store}without = [\"server-side-copy\"]\n\
             [[location.photos.read]]\nbucket = \"{}\"\ntenants = [\"*\"]\n[[location.photos.read]]\nbucket = \"{}\"\n\
             tenants = [\"*\"]\n[location.photos.backup]\nlocation = \"vault\"\nbucket = \"backups\"\nprefix = \"copies\"\n",
            BUCKETS[0], BUCKETS[1]
        );
        let locations =
            Locations::parse(&text, std::path::Path::new("test.toml")).unwrap_or_else(|e| panic!("{e}"));
        (Engine::new(&locations, settings()).expect("setup"), files)
    }

    /// With all permissions everything is done, and without one that of the table is not.
    async fn checks(&self, whole: (&str, &str), lesser: &[(String, String)]) {
        let (engine, _keys) = self.engine(whole);
        for case in [Case::Small, Case::Large, Case::Version, Case::Readback, Case::Listing, Case::Versions] {
            assert_eq!(self.ends(case, &engine).await, good(case), "{case:?}");
        }
        for ((id, secret), (action, case)) in lesser.iter().zip(&NEEDS) {
            let (engine, _keys) = self.engine((id, secret));
            assert_ne!(self.ends(*case, &engine).await, good(*case), "{case:?} without {action}");
        }
        let harm = Admin::new(self.endpoint, whole.0, whole.1);
        self.admin.put(("backups", "copies/k"), bytes(9, 1), Lock::None).await;
        for (what, code) in harm.harm("backups", "copies/k", "null").await {
            // Both let whoever may write an object overwrite it, and moto change its lock.
            let is_write = what.starts_with("PutObject") && what != "PutObjectLockConfiguration";
            assert!(is_write || code.as_deref() == Some("AccessDenied"), "{what}: {code:?}");
        }
        for (bucket, key) in [("backups", "other/k"), ("uploads", "users/0")] {
            assert_eq!(harm.create(bucket, key).await.as_deref(), Some("AccessDenied"), "{bucket}/{key}");
        }
    }
}

fn good(case: Case) -> &'static str {
    match case {
        Case::Small | Case::Large | Case::Version | Case::Readback => "copied",
        Case::Listing | Case::Versions => "1 missing",
    }
}

/// The documents of a role, without conditions and without one action.
fn documents(without: Option<&str>) -> [String; 2] {
    let (origin, backup) = (ORIGIN_READ, BACKUP_WRITE);
    [("origin", origin), ("backup", backup)].map(|(name, text)| {
        let text = VALUES.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value));
        let mut document: Value = serde_json::from_str(&text).expect("JSON");
        for statement in document["Statement"].as_array_mut().expect("statements") {
            statement.as_object_mut().expect("a statement").remove("Condition");
            let actions = statement["Action"].as_array_mut().expect("actions");
            actions.retain(|action| without != Some(&format!("{name} {}", action.as_str().expect("text"))));
        }
        document.to_string()
    })
}

#[tokio::test]
async fn seaweedfs_keeps_to_the_policies() {
    let roles: Vec<(String, [String; 2])> = std::iter::once(None)
        .chain(NEEDS.iter().map(|(action, _)| Some(*action)))
        .enumerate()
        .map(|(n, without)| (format!("worker{n}"), documents(without)))
        .collect();
    let credentials = |id: &str| json!([{ "accessKey": id, "secretKey": "secret00" }]);
    let admin = json!({ "name": "admin", "credentials": credentials("access0"), "actions": ["Admin", "Read", "List", "Tagging", "Write"] });
    let workers = roles.iter().map(|(id, _)| {
        let names = [format!("{id}-0"), format!("{id}-1")];
        json!({ "name": id, "credentials": credentials(id), "actions": [], "policyNames": names })
    });
    let identities: Vec<Value> = std::iter::once(admin).chain(workers).collect();
    let policies: Vec<Value> = roles
        .iter()
        .flat_map(|(id, documents)| {
            (0..).zip(documents).map(move |(n, text)| json!({ "name": format!("{id}-{n}"), "content": text }))
        })
        .collect();
    let server =
        Server::seaweedfs_for(&json!({ "identities": identities, "policies": policies }).to_string());
    server.create_buckets(&BUCKETS).await;
    let admin = Admin::new(&server.endpoint, &server.id, &server.secret);
    let elsewhere = Elsewhere { endpoint: &server.endpoint, admin: admin.clone(), count: AtomicU32::new(0) };
    let lesser: Vec<_> = roles[1..].iter().map(|(id, _)| (id.clone(), "secret00".to_owned())).collect();
    elsewhere.checks((&roles[0].0, "secret00"), &lesser).await;
    // What the bucket's policy says of TLS holds even for who may do everything.
    let mut policy: Value =
        serde_json::from_str(&BACKUP_BUCKET.replace("BACKUP_BUCKET", "backups")).expect("JSON");
    policy["Statement"].as_array_mut().expect("statements").truncate(1);
    assert_eq!(policy["Statement"][0]["Sid"], "NothingWithoutTls");
    assert_eq!(admin.create("backups", "copies/before").await, None);
    admin.set_policy("backups", &policy.to_string()).await;
    assert_eq!(admin.create("backups", "copies/after").await.as_deref(), Some("AccessDenied"));
}

#[tokio::test]
async fn moto_keeps_to_the_policies() {
    let server = Server::moto();
    server.create_buckets(&BUCKETS).await;
    let all = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "*", "Resource": "*" }] });
    let (id, secret) = user(&server.endpoint, "admin", &[all.to_string()]).await;
    let admin = Admin::new(&server.endpoint, &id, &secret);
    let whole = user(&server.endpoint, "worker", &documents(None)).await;
    let mut lesser = Vec::new();
    for (n, (action, _)) in NEEDS.iter().enumerate() {
        lesser.push(user(&server.endpoint, &format!("worker{n}"), &documents(Some(action))).await);
    }
    // From now on it checks who asks.
    post(&server.endpoint, "/moto-api/reset-auth", "", "0").await;
    let elsewhere = Elsewhere { endpoint: &server.endpoint, admin, count: AtomicU32::new(0) };
    elsewhere.checks((&whole.0, &whole.1), &lesser).await;
}

/// Makes a user of moto with policies; access key id and secret.
async fn user(endpoint: &str, name: &str, documents: &[String]) -> (String, String) {
    let iam = async |action: &str, more: &str| {
        let form = format!("Action={action}&UserName={name}&Version=2010-05-08{more}");
        post(endpoint, "/", "iam", &form).await
    };
    iam("CreateUser", "").await;
    for (n, document) in documents.iter().enumerate() {
        let document = percent_encoding::utf8_percent_encode(document, percent_encoding::NON_ALPHANUMERIC);
        iam("PutUserPolicy", &format!("&PolicyName=p{n}&PolicyDocument={document}")).await;
    }
    let made = iam("CreateAccessKey", "").await;
    let text = |name: &str| {
        let (_, rest) = made.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("{made}"));
        rest.split('<').next().expect("text").to_owned()
    };
    (text("AccessKeyId"), text("SecretAccessKey"))
}

/// It goes by the service that a request says it is signed for, and does not look at the signature yet.
async fn post(endpoint: &str, path: &str, service: &str, body: &str) -> String {
    let host = endpoint.trim_start_matches("http://");
    let kind = if service.is_empty() { "text/plain" } else { "application/x-www-form-urlencoded" };
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n\
         content-type: {kind}\r\nauthorization: AWS4-HMAC-SHA256 \
         Credential=any/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n{body}",
        body.len(),
    );
    let mut stream = TcpStream::connect(host).await.expect("connect");
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert_eq!(answer.split(' ').nth(1), Some("200"), "{body}: {answer}");
    answer
}
