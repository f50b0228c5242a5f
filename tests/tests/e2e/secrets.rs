//! No secret is shown: each kind of them is known to the test, a whole scenario is run with its failures, and then everything that the programs
//! let out is searched: logs, metrics, traces, the audit log, their command lines, what is in Redis, and what callers are answered.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::{Action, Operation, Rule};
use backhaul_proto::{
    WORKER_PROTOCOL,
    v1::{self as pb, TaskState, from_dispatcher, from_worker, worker_service_client::WorkerServiceClient},
};
use backhaul_tests::{
    TestEnv,
    certificates::{Certificates, Holder},
    collector::Collector,
    env::{EnvOptions, TENANT, object},
    eventually,
    locations::{ORIGIN, ORIGIN_BUCKET},
    ops::OpsPort,
    ports::Port,
    redis::RedisOptions,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::wrappers::ReceiverStream;

/// A secret: what it is, and every form in which it could be shown.
struct Secret {
    what: &'static str,
    forms: Vec<Vec<u8>>,
    /// Where it is kept on purpose.
    is_in_redis: bool,
}

/// Something that a program has let out.
struct Shown {
    place: String,
    bytes: Vec<u8>,
}

impl Secret {
    fn text(what: &'static str, text: &str) -> Self {
        Self {
            what,
            forms: vec![text.as_bytes().to_vec(), STANDARD.encode(text).into_bytes()],
            is_in_redis: false,
        }
    }

    fn lease(bytes: &[u8]) -> Self {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // As `{:?}` shows bytes.
        let list = format!("{bytes:?}").into_bytes();
        let forms = vec![bytes.to_vec(), hex.into_bytes(), STANDARD.encode(bytes).into_bytes(), list];
        Self { what: "a lease", forms, is_in_redis: true }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|form| holds(bytes, form))
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Holds one task as a worker of the test's own, answers nonsense for it, and gives its lease and what was told.
async fn take_a_lease(certificates: &Certificates, address: &str) -> anyhow::Result<(Vec<u8>, String)> {
    let channel = certificates.channel(address, Holder::Worker)?;
    let (say, words) = tokio::sync::mpsc::channel(8);
    let hello = pb::Hello {
        protocol: WORKER_PROTOCOL,
        instance: vec![9; 16].into(),
        worker: "by-hand".to_owned(),
        credit: Some(pb::Credit { tasks: 1, bytes: 1 << 30 }),
        locations: vec![ORIGIN.to_owned()],
        ..Default::default()
    };
    say.send(pb::FromWorker { message: Some(from_worker::Message::Hello(hello)) }).await?;
    let mut told = WorkerServiceClient::new(channel).connect(ReceiverStream::new(words)).await?.into_inner();
    let assignment = loop {
        let message = told.message().await?.context("the stream ended")?.message;
        if let Some(from_dispatcher::Message::Assign(mut assign)) = message {
            break assign.assignments.remove(0);
        }
    };
    // Its own lease, then a forged one, then a message that ends the stream.
    for lease in [assignment.lease.clone(), vec![7; 16].into()] {
        let failure = pb::Failure { message: "told by hand".into(), ..Default::default() };
        let result = pb::TaskResult {
            task_id: assignment.task_id.clone(),
            lease,
            outcome: Some(pb::task_result::Outcome::Failure(failure)),
        };
        let results = pb::Results { results: vec![result] };
        say.send(pb::FromWorker { message: Some(from_worker::Message::Results(results)) }).await?;
    }
    let broken = from_worker::Message::Hello(pb::Hello::default());
    say.send(pb::FromWorker { message: Some(broken) }).await?;
    let end = loop {
        match told.message().await {
            Ok(Some(_)) => {}
            Ok(None) => break String::new(),
            Err(status) => break format!("{status:?}"),
        }
    };
    Ok((assignment.lease.to_vec(), end))
}

async fn post(port: &Port, token: &str, body: &str) -> anyhow::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port.number())).await?;
    let request = format!(
        "POST /events/origin HTTP/1.1\r\nhost: o\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// All that Redis has: every key with its value, and its append-only file.
async fn of_redis(env: &mut TestEnv) -> anyhow::Result<Vec<u8>> {
    let mut all = env.redis().appended()?;
    let mut connection = env.redis().connect().await?;
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await?;
    ensure!(!keys.is_empty(), "there is something in Redis");
    for key in keys {
        all.extend_from_slice(&key);
        let value: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query_async(&mut connection).await?;
        all.extend(value.unwrap_or_default());
    }
    Ok(all)
}

fn command_line(id: u32) -> anyhow::Result<Shown> {
    let bytes = fs::read(format!("/proc/{id}/cmdline"))?;
    Ok(Shown { place: format!("the command line of {id}"), bytes })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_the_programs_let_out() -> anyhow::Result<()> {
    let folder = TempDir::with_prefix("backhaul-secrets-")?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
    let token = "canary-token-0123456789abcdef0123456789";
    let password = "canary-password-0123456789abcdef";
    let audit_key = "canary-audit-key-0123456789abcdef";
    write("token", token)?;
    write("password", password)?;
    write("audit-key", audit_key)?;
    write("filter", "debug")?;
    let source = format!(
        "[[event_source]]\nname = \"origin\"\nform = \"s3\"\nlocation = {ORIGIN:?}\ntenant = {TENANT:?}\ntoken_file = {:?}\n",
        path("token")
    );
    write("sources.toml", &source)?;
    let (certificates, collector) = (Arc::new(Certificates::new()?), Collector::start().await?);
    let (dispatcher, worker, events) = (OpsPort::lease()?, OpsPort::lease()?, Port::lease()?);
    let users = "user default on nopass ~* &* +@all\nuser backhaul on";
    write("users.acl", &format!("{users} >{password} ~* &* +@all\n"))?;
    let redis = RedisOptions::durable()?.setting("aclfile", &path("users.acl"));
    let options = EnvOptions::default()
        .redis(redis)
        .secured(&certificates)
        .workers(0)
        .dispatcher_flag("redis-user", "backhaul")
        .dispatcher_flag("redis-password-file", &path("password"))
        .dispatcher_flag("audit-log", &path("audit.jsonl"))
        .dispatcher_flag("audit-key-file", &path("audit-key"))
        .dispatcher_flag("event-sources", &path("sources.toml"))
        .dispatcher_flag("events-listen", &format!("127.0.0.1:{}", events.number()))
        // Where a token that is not encrypted would be seen, too.
        .dispatcher_flag("events-insecure", "")
        .dispatcher_flag("ops-listen", &dispatcher.address())
        .dispatcher_flag("otlp-endpoint", collector.url())
        .dispatcher_flag("trace-share", "1")
        .dispatcher_flag("log-filter-file", &path("filter"))
        .worker_flag("ops-listen", &worker.address())
        .worker_flag("otlp-endpoint", collector.url())
        .worker_flag("trace-share", "1")
        .worker_flag("log-filter-file", &path("filter"));
    let mut env = TestEnv::start(options).await?;
    let mut answers = String::new();

    // What goes well, and what does not.
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 100_000).await?;
    let by_hand = env.submit("photo").await?.task_id;
    let (lease, told) = take_a_lease(&certificates, &env.dispatcher_address()).await?;
    answers.push_str(&told);
    env.add_worker().await?;
    env.until(&by_hand, TaskState::Done).await?;
    let denied = Action::Status { status: 403, code: "AccessDenied".into(), retry_after: None };
    env.vault_faults()?.add(Rule::new(Operation::PutObject, denied));
    env.uploads().put_random(ORIGIN_BUCKET, "denied-once", 1000).await?;
    let denied = env.submit("denied-once").await?.task_id;
    env.until(&denied, TaskState::Done).await?;
    let absent = env.submit("absent").await?.task_id;
    let ended = env.until(&absent, TaskState::Cancelled).await?;
    answers.push_str(&format!("{ended:?}"));
    let wrong = format!("{token}-and-more");
    for (token, body) in [(token, "{\"Records\": []}"), (token, "no JSON"), (&wrong, "{}")] {
        answers.push_str(&post(&events, token, body).await?);
    }
    let mut backups = env.backups()?;
    for id in ["x", &by_hand] {
        let cancelled = backups.cancel_backup(pb::CancelBackupRequest { task_id: id.into() }).await;
        answers.push_str(&format!("{:?}", cancelled.err().context("it cannot be cancelled")?));
    }
    let mut refused = object("photo");
    refused.bucket = "not-granted".into();
    let request = pb::SubmitBackupRequest { object: Some(refused), options: None };
    let refused = backups.submit_backup(request).await.err().context("the bucket is not granted")?;
    answers.push_str(&format!("{refused:?}"));
    let stranger = certificates.channel(&env.dispatcher_address(), Holder::Stranger)?;
    let mut stranger = pb::backup_service_client::BackupServiceClient::new(stranger);
    let refused = stranger.get_backup(pb::GetBackupRequest { task_id: by_hand.clone() }).await;
    answers.push_str(&format!("{:?}", refused.err().context("it may not")?));
    eventually("traces of both were sent", async || {
        let received = collector.received();
        ensure!(received.contains("backhaul-dispatcher") && received.contains("backhaul-worker"));
        Ok(())
    })
    .await?;
    eventually("debug is logged", async || {
        ensure!(env.dispatcher().log()?.contains("DEBUG"));
        ensure!(env.worker(0).log()?.contains("DEBUG"));
        Ok(())
    })
    .await?;

    let mut secrets = vec![
        Secret::text("the token of an event source", token),
        Secret::text("the password of Redis", password),
        Secret::text("the key of the audit log", audit_key),
        Secret::lease(&lease),
    ];
    for credentials in env.store_credentials() {
        secrets.push(Secret::text("a secret key of a store", &credentials.secret_key));
    }
    for key in certificates.private_keys()? {
        let lines: Vec<&str> = key.lines().filter(|line| !line.starts_with('-')).collect();
        ensure!(lines.len() >= 2 && lines[0].len() == 64, "a key in PEM");
        // The first line is the same for all keys of a kind.
        secrets.push(Secret::text("a private key", lines[1]));
    }

    let mut shown = vec![
        Shown { place: "answers".into(), bytes: answers.into_bytes() },
        Shown { place: "traces".into(), bytes: collector.received().into_bytes() },
        Shown { place: "Redis".into(), bytes: of_redis(&mut env).await? },
        command_line(env.dispatcher().id())?,
        command_line(env.worker(0).id())?,
    ];
    for (place, port) in [("metrics of the dispatcher", &dispatcher), ("metrics of the worker", &worker)] {
        shown.push(Shown { place: place.into(), bytes: port.get("/metrics").await?.1.into_bytes() });
    }
    for process in [env.dispatcher().log()?, env.worker(0).log()?] {
        shown.push(Shown { place: "a log".into(), bytes: process.into_bytes() });
    }
    let audit = Path::new(&path("audit.jsonl")).to_owned();
    eventually("it is in the audit log", async || {
        ensure!(fs::read_to_string(&audit)?.contains("not-granted"));
        Ok(())
    })
    .await?;
    shown.push(Shown { place: "the audit log".into(), bytes: fs::read(&audit)? });
    for Shown { place, bytes } in &shown {
        ensure!(bytes.len() > 50, "{place} is all but empty: the search would prove nothing");
        for secret in &secrets {
            let may_be_there = secret.is_in_redis && place == "Redis";
            ensure!(may_be_there || !secret.is_in(bytes), "{} is in {place}", secret.what);
        }
    }
    env.finish().await
}
