//! What Backhaul does at stores, each as a case that ends in a few words, in a world where the worker has the rights that it is given.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use backhaul_embedded_s3::{Action, Bucket, Credentials, EmbeddedS3, Operation, Options, Rule, Storage};
use backhaul_runtime::locations::Locations;

use super::{
    super::{bytes, request, s3},
    BACKUP_BUCKET, read,
    rights::{ACCOUNT, ADMIN, Rights, WORKER},
};
use crate::{
    probe::{Answer, probe},
    store::{
        ClientSettings, Clients, S3Store,
        s3_tests::admin::{Admin, Lock},
    },
    transfer::{
        Copier, CopyRequest, Engine, EngineSettings, PageFilter, PageRequest, RetryPolicy, Stop, VerifyLevel,
    },
};

/// Something that Backhaul does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Case {
    /// A small object with tags, of a bucket with versions.
    Small,
    /// The same, of a bucket without.
    Unversioned,
    /// In parts.
    Large,
    /// A version that was named.
    Version,
    /// Read back.
    Readback,
    /// In parts, with the parts of an attempt that was killed.
    Resumed,
    /// In parts, and the backup store refuses the whole.
    Failing,
    /// Not there.
    Gone,
    /// With a lock that its copy does not have.
    Retained,
    /// The same.
    Held,
    /// With a lock on the copy.
    Locking,
    /// Inside the store, at once and in parts.
    Inside,
    /// A page of a prefix.
    Listing,
    /// The same, with all versions.
    Versions,
    /// What an operator asks of the store.
    Probe,
}

pub(super) const COPIES: [Case; 14] = [
    Case::Small,
    Case::Unversioned,
    Case::Large,
    Case::Version,
    Case::Readback,
    Case::Resumed,
    Case::Failing,
    Case::Gone,
    Case::Retained,
    Case::Held,
    Case::Locking,
    Case::Inside,
    Case::Listing,
    Case::Versions,
];

/// One store with an origin and a backup bucket, and whoever works there.
pub(super) struct World {
    pub(super) server: EmbeddedS3,
    pub(super) rights: Arc<Rights>,
    pub(super) admin: Admin,
    locations: Locations,
    count: AtomicU32,
    _files: tempfile::TempDir,
}

impl World {
    pub(super) async fn new() -> Self {
        let rights = Arc::new(Rights::new(BTreeMap::from([("backups".into(), read(BACKUP_BUCKET))])));
        let keys = [ADMIN, WORKER, "keeper"];
        let credentials = keys.map(|key| Credentials { access_key: key.into(), secret_key: "secret".into() });
        let bucket = |name: &str, versioned| Bucket { name: name.into(), versioned };
        let options = Options {
            listen: ([127, 0, 0, 1], 0).into(),
            storage: Storage::Memory,
            credentials: credentials.into(),
            buckets: vec![bucket("uploads", true), bucket("backups", true), bucket("uploads-plain", false)],
        };
        let server = EmbeddedS3::start_guarded(options, Arc::<Rights>::clone(&rights)).await.expect("start");
        let admin = Admin::new(&server.endpoint(), ADMIN, "secret");
        admin.enable_lock("uploads").await;
        admin.enable_lock("backups").await;
        let files = tempfile::tempdir().expect("directory");
        let keys = files.path().join("keys");
        std::fs::write(&keys, format!("{WORKER}\nsecret\n")).expect("write");
        let locations = locations(&server.endpoint(), &keys);
        Self { server, rights, admin, locations, count: AtomicU32::new(0), _files: files }
    }

    pub(super) fn engine(&self) -> Engine {
        Engine::new(&self.locations, settings()).expect("setup")
    }

    fn store(&self, location: &str) -> S3Store {
        let clients = Clients::new(ClientSettings::default()).expect("certificates");
        clients.store(self.locations.get(location).expect("there")).expect("credentials")
    }

    /// A key that no case had before.
    pub(super) fn key(&self) -> String {
        format!("users/{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// How a case ends now, in a few words.
    pub(super) async fn ends(&self, case: Case, engine: &Engine) -> String {
        let key = self.key();
        let copy = CopyRequest { location: "photos".into(), ..request(&key) };
        let put = async |bucket: &str, size, lock| self.admin.put((bucket, &key), bytes(size, 1), lock).await;
        match case {
            Case::Small => {
                put("uploads", 100, Lock::None).await;
                copied(engine, copy).await
            }
            Case::Unversioned => {
                put("uploads-plain", 100, Lock::None).await;
                copied(engine, CopyRequest { bucket: "uploads-plain".into(), ..copy }).await
            }
            Case::Large => {
                put("uploads", s3::LARGE, Lock::None).await;
                copied(engine, copy).await
            }
            Case::Version => {
                let version = put("uploads", 100, Lock::None).await;
                copied(engine, CopyRequest { version, ..copy }).await
            }
            Case::Readback => {
                put("uploads", 100, Lock::None).await;
                copied(engine, CopyRequest { verify: Some(VerifyLevel::Readback), ..copy }).await
            }
            Case::Resumed => {
                put("uploads", s3::LARGE, Lock::None).await;
                self.resumed(engine, copy).await
            }
            Case::Failing => {
                put("uploads", s3::LARGE, Lock::None).await;
                self.fails_with("InvalidRequest", 400, 1);
                let ended = copied(engine, copy).await;
                format!("{ended}, {} left", self.take_uploads().await)
            }
            Case::Gone => copied(engine, copy).await,
            Case::Retained => {
                put("uploads", 100, Lock::Retention).await;
                copied(engine, copy).await
            }
            Case::Held => {
                put("uploads", 100, Lock::Hold).await;
                copied(engine, copy).await
            }
            Case::Locking => {
                put("uploads", 100, Lock::None).await;
                copied(engine, CopyRequest { location: "locked".into(), ..copy }).await
            }
            Case::Inside => {
                put("uploads", 100, Lock::None).await;
                let copy = CopyRequest { location: "inside".into(), ..copy };
                let small = copied(engine, copy.clone()).await;
                put("uploads", s3::LARGE, Lock::None).await;
                format!("{small}, {}", copied(engine, copy).await)
            }
            Case::Listing => {
                put("uploads", 1, Lock::None).await;
                listed(engine, "uploads", &key, false).await
            }
            Case::Versions => {
                put("uploads", 1, Lock::None).await;
                put("uploads", 2, Lock::None).await;
                listed(engine, "uploads", &key, true).await
            }
            Case::Probe => self.probed().await,
        }
    }

    /// The next completions of uploads fail.
    fn fails_with(&self, code: &str, status: u16, times: u32) {
        let action = Action::Status { status, code: code.into(), retry_after: None };
        let rule = Rule::new(Operation::CompleteMultipartUpload, action).bucket("backups");
        self.server.faults().add(rule.times(times));
    }

    /// Uploads that a copy has left; there are none afterwards.
    pub(super) async fn take_uploads(&self) -> usize {
        let left = self.admin.open_uploads("backups").await;
        self.admin.abort_uploads("backups").await;
        left
    }

    async fn resumed(&self, engine: &Engine, copy: CopyRequest) -> String {
        self.fails_with("InternalError", 500, settings().retry.attempts);
        let first = copied(engine, copy.clone()).await;
        self.server.faults().reset_requests();
        let second = copied(engine, copy).await;
        let sent = self.server.faults().requests(Operation::UploadPart);
        format!("{first}, {second}, {sent} parts, {} left", self.take_uploads().await)
    }

    async fn probed(&self) -> String {
        let report = probe(&self.store("vault"), "backups", "copies").await.expect("random bytes");
        let unknown = report.findings.iter().filter(|f| f.answer == Answer::Unknown).count();
        format!("usable {}, {unknown} unknown, {} left", report.is_usable(), report.left_behind.len())
    }
}

fn locations(endpoint: &str, keys: &Path) -> Locations {
    let keys = keys.display();
    let store = format!(
        "endpoint = \"{endpoint}\"\npath_style = true\nowner = \"{ACCOUNT}\"\ncredentials = {{ file = \"{keys}\" }}\n"
    );
    let mut text = format!("[location.vault]\n{store}");
    for (name, more, backup) in [
        ("photos", "without = [\"server-side-copy\"]\nacls = true", ""),
        ("locked", "without = [\"server-side-copy\"]", "retain = { mode = \"governance\", days = 1 }"),
        ("inside", "", ""),
    ] {
        text += &format!("[location.{name}]\n{store}{more}\n");
        for bucket in ["uploads", "uploads-plain"] {
            text += &format!("[[location.{name}.read]]\nbucket = \"{bucket}\"\ntenants = [\"*\"]\n");
        }
        text += &format!(
            "[location.{name}.backup]\nlocation = \"vault\"\nbucket = \"backups\"\nprefix = \"copies\"\n{backup}\n"
        );
    }
    Locations::parse(&text, Path::new("test.toml")).unwrap_or_else(|e| panic!("{e}"))
}

pub(super) fn settings() -> EngineSettings {
    EngineSettings {
        retry: RetryPolicy {
            attempts: 2,
            first: Duration::from_millis(1),
            longest: Duration::from_millis(10),
        },
        idle_timeout: Duration::from_secs(60),
        client: ClientSettings::default(),
        ..s3::settings()
    }
}

pub(super) async fn copied(engine: &Engine, copy: CopyRequest) -> String {
    match engine.copy(&copy, Arc::default(), Stop::default()).await {
        Ok(receipt) => {
            let inside = if receipt.server_side { " inside" } else { "" };
            let lost: Vec<String> = receipt.not_kept.iter().map(|what| format!(" without {what}")).collect();
            format!("copied{inside}{}", lost.concat())
        }
        Err(error) => error.kind.code().to_owned(),
    }
}

pub(super) async fn listed(engine: &Engine, bucket: &str, prefix: &str, all_versions: bool) -> String {
    let page = PageRequest {
        location: "photos".into(),
        bucket: bucket.into(),
        prefix: prefix.into(),
        all_versions,
        filter: PageFilter::default(),
        cursor: String::new(),
        max_entries: 10,
    };
    match engine.list_page(&page).await {
        Ok(found) => format!("{} missing", found.missing.len()),
        Err(error) => error.kind.code().to_owned(),
    }
}

/// How it ends with every permission.
pub(super) fn good(case: Case) -> &'static str {
    match case {
        Case::Small | Case::Unversioned | Case::Large | Case::Version | Case::Readback | Case::Locking => {
            "copied"
        }
        Case::Resumed => "io, copied, 0 parts, 0 left",
        Case::Failing => "unsupported, 0 left",
        Case::Gone => "source_gone",
        Case::Retained | Case::Held => "copied without object-lock",
        Case::Inside => "copied inside, copied inside",
        Case::Listing => "1 missing",
        Case::Versions => "2 missing",
        Case::Probe => "usable true, 0 unknown, 0 left",
    }
}
