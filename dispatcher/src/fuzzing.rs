//! Readers of what strangers send, each with what must hold of any bytes: for fuzzing, and for the tests that replay what it found.
//!
//! A function here takes bytes, gives them to the code that meets such bytes in production, and panics when an answer breaks a promise.
//! That nothing else panics is the first of them.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use backhaul_proto::v1 as pb;
use backhaul_runtime::locations::{Locations, is_tenant_name};
use prost::Message;

pub use crate::queue::redis::fuzzing::{cursor, record, walk};
use crate::{
    events::{
        parse::{Form, MAX_RECORDS, Notice, envelope, parse},
        sources::Sources,
    },
    grpc::{
        access::Role,
        name_path::{CallerPath, ProgramPath},
        page_token,
        roles::Roles,
        validate::{
            list, prefix, retry,
            submit::{
                MAX_ATTEMPTS, MAX_PROCESSING_TIMEOUT, MAX_SIZE_HINT_BYTES, SubmitDefaults, SubmitRules,
            },
            watch,
        },
    },
    queue::{ListCursor, NewTask, TaskId, UnixMs},
    rules::Rules,
    session::decode,
};

const TENANT: &str = "web";
const NOW: UnixMs = UnixMs(1_800_000_000_000);
/// As the contract bounds them.
const MAX_NAME_BYTES: usize = 1024;
const MAX_LABELS: usize = 16;
const AHEAD: Duration = Duration::from_secs(366 * 24 * 3600);

const LOCATIONS: &str = r#"
    [location.uploads]
    endpoint = "http://127.0.0.1:1"
    credentials = "anonymous"
    backup = { location = "vault", bucket = "backups" }
    read = [
        { bucket = "photos", prefixes = ["users/"], tenants = ["web"] },
        { bucket = "public", tenants = ["*"] },
        { bucket = "private", tenants = ["other"] },
    ]
    [location.vault]
    endpoint = "http://127.0.0.1:1"
    credentials = "anonymous"
"#;

static GRANTS: LazyLock<Arc<Locations>> =
    LazyLock::new(|| Arc::new(Locations::parse(LOCATIONS, Path::new("l")).expect("the grants are right")));

/// A call: the first byte says which, the rest is its message.
pub fn call(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    match which % 6 {
        0 => {
            if let Some(request) = message::<pb::SubmitBackupRequest>(body) {
                submitted(request);
            }
        }
        1 => {
            if let Some(batch) = message::<pb::SubmitBackupsRequest>(body) {
                batch.requests.into_iter().for_each(submitted);
            }
        }
        2 => {
            if let Some(Ok(query)) = message(body).map(|request| list::query(TENANT, request)) {
                assert_eq!(query.tenant, TENANT);
                assert!(query.key_prefix.len() <= MAX_NAME_BYTES && query.labels.len() <= MAX_LABELS);
            }
        }
        3 => {
            if let Some(Ok(wanted)) = message(body).map(|request| retry::retry(TENANT, request)) {
                assert_eq!(wanted.dead.tenant, TENANT);
                assert!(wanted.ids.len() <= 1000);
            }
        }
        4 => {
            if let Some(Ok((filter, _))) = message(body).map(|request| watch::filter(TENANT, request)) {
                assert_eq!(filter.tenant, TENANT);
                assert!(filter.ids.len() <= 1000 && filter.labels.len() <= MAX_LABELS);
            }
        }
        _ => {
            if let Some(Ok(spec)) =
                message(body).map(|request| prefix::spec(TENANT, &GRANTS, defaults(), request))
            {
                assert_eq!(spec.tenant, TENANT);
                assert!(spec.prefix.len() <= MAX_NAME_BYTES && spec.request_id.len() <= 128);
                let object = GRANTS.authorize(TENANT, &spec.location, &spec.bucket, &spec.prefix);
                assert!(object.is_ok(), "{spec:?} is not granted");
            }
        }
    }
}

/// A message of a worker.
pub fn worker_message(bytes: &[u8]) {
    let Some(message) = message::<pb::FromWorker>(bytes) else { return };
    let mut jitter = fastrand::Rng::with_seed(1);
    let event = decode(message, &mut jitter);
    assert!(!format!("{event:?}").is_empty());
}

/// A body of events: the first byte says in which form.
pub fn events(bytes: &[u8]) {
    const FORMS: [Form; 6] =
        [Form::S3, Form::Sns, Form::EventBridge, Form::Minio, Form::Ceph, Form::SeaweedFs];
    let Some((which, body)) = bytes.split_first() else { return };
    let form = FORMS[usize::from(*which) % FORMS.len()];
    drop(envelope::message(body, Some("arn:aws:sns:eu-west-1:111122223333:uploads")));
    let read = parse(form, body);
    assert_eq!(read, parse(form, body), "it reads the same twice");
    let Ok(notices) = read else { return };
    assert!(notices.len() <= MAX_RECORDS);
    for notice in notices {
        let (bucket, key, version) = match notice {
            Notice::Upload(upload) => (upload.bucket, upload.key, upload.version),
            Notice::Removal(removal) => (removal.bucket, removal.key, removal.version),
            Notice::Test | Notice::Nothing | Notice::Unknown(_) => continue,
        };
        // A JSON escape of six bytes is three at most.
        assert!(bucket.len() + key.len() + version.as_ref().map_or(0, String::len) <= 3 * body.len());
        assert!(!bucket.is_empty() && !key.is_empty(), "{bucket:?} {key:?}");
        assert!(version.as_deref().is_none_or(|version| !version.is_empty() && version != "null"));
    }
}

/// A page token.
pub fn page_tokens(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let request = pb::ListBackupsRequest { key_prefix: "users/".into(), ..Default::default() };
    let Ok(query) = list::query(TENANT, request) else { panic!("the query is right") };
    if let Some(cursor) = page_token::decode(&query, text) {
        assert!(page_token::encode(&query, &cursor).eq_ignore_ascii_case(text));
    }
    let is_printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if text.len() <= 256 && is_printable {
        let place = ListCursor(text.to_owned());
        let token = page_token::encode(&query, &place);
        assert_eq!(page_token::decode(&query, &token), Some(place));
    }
    if let Ok(id) = TaskId::parse(text) {
        assert_eq!(id.as_str(), text);
    }
}

/// A file of locations, or of event sources, by its first byte.
pub fn settings(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let path = Path::new("file.toml");
    if which % 2 == 0 {
        let Ok(locations) = Locations::parse(text, path) else { return };
        for location in locations.iter() {
            assert!(locations.get(&location.name).is_some());
            for rule in &location.read {
                for tenant in &rule.tenants {
                    assert!(tenant == "*" || is_tenant_name(tenant), "{tenant:?}");
                }
                let granted = locations.authorize("\u{1}nobody", &location.name, &rule.bucket, "a");
                let is_for_all = location.read.iter().any(|r| r.tenants.iter().any(|t| t == "*"));
                assert!(granted.is_err() || is_for_all, "{location:?}");
            }
        }
    // What a source names as its secret would be opened.
    } else if !text.contains("_file")
        && let Ok(sources) = Sources::parse(text, path, &GRANTS)
    {
        for source in sources.iter() {
            let is_granted = |bucket: &str| {
                let rules = &GRANTS.get(&source.location).expect("it was looked up").read;
                rules.iter().any(|rule| {
                    rule.bucket == bucket && rule.tenants.iter().any(|t| t == "*" || *t == source.tenant)
                })
            };
            assert!(["photos", "public"].into_iter().any(is_granted), "{source:?}");
            assert!(source.tenant == TENANT || is_tenant_name(&source.tenant));
        }
    }
}

/// Names of programs: a pattern of workers, one of callers and a path, line by line.
pub fn roles(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (workers, callers, path) = (next(), next(), next());
    let Ok(workers) = workers.parse::<ProgramPath>() else { return };
    let Ok(callers) = callers.parse::<CallerPath>() else { return };
    let is_worker = workers.matches(path);
    let roles = Roles { workers, operators: callers.clone(), readers: callers.clone(), submitters: callers };
    let principal = roles.principal("", path);
    let had = Role::ALL.into_iter().filter(|role| principal.has(*role)).count();
    assert!(had <= 1, "{path:?} has {had} roles");
    assert_eq!(is_worker, principal.has(Role::Worker));
    if let Some(caller) = principal.caller {
        assert!(is_tenant_name(caller.tenant()));
        assert!(path.split('/').any(|segment| segment == caller.tenant()), "{path:?}");
    }
}

/// A message that is one of the contract: encoded again it says the same.
fn message<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(message.encode_to_vec().as_slice());
    assert_eq!(again.as_ref(), Ok(&message));
    Some(message)
}

const fn defaults() -> SubmitDefaults {
    SubmitDefaults { max_attempts: 5, processing_timeout: Duration::from_secs(600) }
}

/// A request is refused, or becomes a task within all bounds that its tenant may have.
fn submitted(request: pb::SubmitBackupRequest) {
    let rules = SubmitRules {
        tenant: TENANT,
        locations: &GRANTS,
        defaults: defaults(),
        now: NOW,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        rules: &Rules::default(),
    };
    let Ok(NewTask { spec, process_at }) = rules.check(request) else { return };
    let object = &spec.object;
    assert_eq!(spec.tenant, TENANT);
    assert!(GRANTS.authorize(TENANT, &object.location, &object.bucket, &object.key).is_ok(), "{object:?}");
    assert!((1..=MAX_NAME_BYTES).contains(&object.key.len()));
    assert!(object.version.as_ref().is_none_or(|v| (1..=MAX_NAME_BYTES).contains(&v.len())));
    assert!((1..=MAX_ATTEMPTS).contains(&spec.max_attempts) && spec.labels.len() <= MAX_LABELS);
    assert!(spec.labels.iter().all(|(name, value)| (1..=63).contains(&name.len()) && value.len() <= 255));
    assert!(spec.size_hint_bytes <= MAX_SIZE_HINT_BYTES);
    assert!((Duration::from_secs(1)..=MAX_PROCESSING_TIMEOUT).contains(&spec.processing_timeout));
    assert!(process_at.is_none_or(|at| at > NOW && at <= NOW.plus(AHEAD)));
    let id = TaskId::derive(TENANT, object);
    assert_eq!(TaskId::parse(id.as_str()), Ok(id));
}
