//! An origin that nobody here wrote tells of its uploads, and they are backed up: no RPC is called. And whoever posts nonsense, too much,
//! or while Redis is away, is told so, and holds up nobody.

use std::{fmt::Write as _, fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, TENANT},
    eventually,
    locations::{ORIGIN, ORIGIN_BUCKET},
    ops::OpsPort,
    ports::Port,
    programs::program,
    s3::Written,
    weed::Webhook,
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

pub(crate) const TOKEN: &str = "e2e-0123456789abcdef0123456789abcdef";

/// The dispatcher's port for events, and the files that it takes them by.
pub(crate) struct Door {
    port: Port,
    folder: TempDir,
}

impl Door {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("backhaul-events-")?;
        let token = folder.path().join("token");
        fs::write(&token, TOKEN)?;
        // For the address itself, and trusted by itself.
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([Ipv4Addr::LOCALHOST.to_string()])?.self_signed(&key)?;
        fs::write(folder.path().join("events.crt"), certificate.pem())?;
        fs::write(folder.path().join("events.key"), key.serialize_pem())?;
        let sources = format!(
            "[[event_source]]\nname = \"filer\"\nform = \"seaweedfs\"\nlocation = {ORIGIN:?}\n\
             tenant = {TENANT:?}\nbuckets = [{ORIGIN_BUCKET:?}]\ntoken_file = {token:?}\n"
        );
        let sources = sources.clone() + &sources.replace("filer", "posted").replace("seaweedfs", "s3");
        fs::write(folder.path().join("sources.toml"), sources)?;
        Ok(Self { port: Port::lease()?, folder })
    }

    pub(crate) fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port.number())
    }

    /// The status and the whole answer to a body for the source `posted`.
    pub(crate) async fn post(&self, token: &str, body: &[u8]) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address()).await?;
        let head = format!(
            "POST /events/posted HTTP/1.1\r\nhost: events\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        // It may be answered, and closed, before all of it was sent.
        drop(stream.write_all(body).await);
        // Nor need the connection end well for that.
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8(answer)?;
        let status =
            answer.split(' ').nth(1).with_context(|| format!("{answer:?} has no status"))?.parse()?;
        Ok((status, answer.to_lowercase()))
    }

    /// The answer to a body that is sent as origins do: again and again while it is to be sent again.
    pub(crate) async fn deliver(&self, body: &[u8]) -> anyhow::Result<(u16, String)> {
        eventually("it need not be sent again", async || {
            let (status, answer) = self.post(TOKEN, body).await?;
            ensure!(status != 503, "{answer}");
            Ok((status, answer))
        })
        .await
    }

    fn telling(&self, token: &str) -> EnvOptions {
        let endpoint = format!("https://{}/events/filer", self.address());
        let [certificate, key] = ["events.crt", "events.key"].map(|name| self.folder.path().join(name));
        let told = |path: &Path| path.display().to_string();
        self.options()
            .dispatcher_flag("events-tls-cert", &told(&certificate))
            .dispatcher_flag("events-tls-key", &told(&key))
            .webhook(Webhook { endpoint, token: token.to_owned(), trusted: Some(certificate) })
    }

    pub(crate) fn options(&self) -> EnvOptions {
        EnvOptions::default()
            .dispatcher_flag("events-listen", &self.address())
            .dispatcher_flag("event-sources", &self.folder.path().join("sources.toml").display().to_string())
    }
}

/// Waits until the only task of `key` is done, and proves its backup.
async fn backed_up(env: &TestEnv, key: &str, written: &Written) -> anyhow::Result<pb::Backup> {
    let task = eventually("the upload is backed up", async || {
        let done = env.list(&[TaskState::Done]).await?;
        let found = done.into_iter().find(|task| task.object.as_ref().is_some_and(|o| o.key == key));
        found.with_context(|| format!("no done task of {key:?}"))
    })
    .await?;
    env.prove(&task, written).await?;
    Ok(task)
}

/// The origin speaks TLS with a port whose certificate it trusts.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_backed_up_because_its_origin_tells_of_it() -> anyhow::Result<()> {
    let (door, ops) = (Door::new()?, OpsPort::lease()?);
    let env = TestEnv::start(door.telling(TOKEN).dispatcher_flag("ops-listen", &ops.address())).await?;
    for (key, size) in [("users/7/cat.jpg", 30_000), ("red flower + 50%2F €.jpg", 100), ("large", 12_000_000)]
    {
        let written = env.uploads().put_random(ORIGIN_BUCKET, key, size).await?;
        let task = backed_up(&env, key, &written).await?;
        ensure!(task.labels.get("event-source").is_some_and(|name| name == "filer"), "{task:?}");
    }
    ensure!(ops.metric("backhaul_dispatcher_events_total{form=\"seaweedfs\",kind=\"upload\"}").await? >= 3.0);
    let (_, page) = ops.get("/metrics").await?;
    ensure!(!page.contains("form=\"seaweedfs\",kind=\"unknown\""), "all that it posts is understood");
    env.finish().await
}

pub(crate) fn record(key: &str) -> String {
    format!(
        r#"{{"eventName":"ObjectCreated:Put","eventTime":"2020-01-01T00:00:00Z","s3":{{"bucket":{{"name":"{ORIGIN_BUCKET}"}},"object":{{"key":"{key}","size":3,"sequencer":"0A"}}}}}}"#
    )
}

pub(crate) fn body(records: &[String]) -> Vec<u8> {
    format!("{{\"Records\":[{}]}}", records.join(",")).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_answered_with_yes_only_when_redis_has_its_task() -> anyhow::Result<()> {
    let door = Door::new()?;
    let mut env = TestEnv::start(door.options().workers(0)).await?;
    let event = body(&[record("users/a")]);
    ensure!(door.post("wrong-0123456789abcdef0123456789abcdef", &event).await?.0 == 401);
    env.redis().kill()?;
    let (status, answer) = door.post(TOKEN, &event).await?;
    ensure!(status == 503 && answer.contains("retry-after: 5"), "{answer}");
    let (status, answer) = door.post(TOKEN, b"nonsense").await?;
    ensure!(status == 503 && answer.contains("retry-after: 5"), "nor can nonsense be kept: {answer}");
    env.redis().restart().await?;
    // As an origin does: again and again until it is told yes, and once more because the answer was lost.
    eventually("the event is taken", async || {
        let (status, answer) = door.post(TOKEN, &event).await?;
        ensure!(status == 200, "{answer}");
        Ok(())
    })
    .await?;
    env.redis().kill()?;
    env.redis().restart().await?;
    let tasks = eventually("the queue answers", async || env.list(&[]).await).await?;
    ensure!(tasks.len() == 1, "what was answered with yes has survived, once: {tasks:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_and_ten_thousand_records_hold_up_nobody() -> anyhow::Result<()> {
    let door = Door::new()?;
    let ops = OpsPort::lease()?;
    let options = door.options().workers(0).dispatcher_flag("ops-listen", &ops.address());
    let env = TestEnv::start(options).await?;
    let deep = [b"{\"Records\":".as_slice(), &b"[".repeat(1_000_000)].concat();
    let mut wrong_types = String::from("{\"Records\":[{},1,null,\"x\",{\"eventName\":{}}");
    write!(wrong_types, ",{}]}}", record("users/%zz"))?;
    let hostile = [&deep, b"\xff\xfe".as_slice(), b"{\"Records\":[", b"null", wrong_types.as_bytes()];
    for body in hostile {
        for _ in 0..2 {
            let (status, answer) = door.deliver(body).await?;
            ensure!(status == 200 && !answer.contains("\"unknown\":0"), "{answer}");
        }
    }
    eventually("an operator hears of it", async || {
        ensure!(ops.metric("backhaul_events_kept{what=\"quarantined\"}").await? == 5.0);
        Ok(())
    })
    .await?;
    let mut records: Vec<String> = (0..10_000).map(|n| record(&format!("users/{n:05}"))).collect();
    let (status, answer) = door.deliver(&body(&records)).await?;
    ensure!(status == 200 && answer.contains("\"uploads\":10000"), "{answer}");
    // Late, again, and in another order.
    records.reverse();
    ensure!(door.deliver(&body(&records)).await?.0 == 200);
    eventually("each is there once", async || {
        let pending = ops.metric("backhaul_queue_tasks{queue=\"pending\"}").await?;
        ensure!(pending == 10_000.0, "{pending}");
        Ok(())
    })
    .await?;
    ensure!(ops.metric("backhaul_dispatcher_events_total{form=\"s3\",kind=\"upload\"}").await? == 20_000.0);
    env.finish().await
}

/// Runs `backhaul events` with these arguments to its end with this code; gives the JSON lines that it printed.
async fn events(env: &TestEnv, arguments: &[&str], code: i32) -> anyhow::Result<Vec<Value>> {
    let mut command = program("backhaul")?;
    command.arg("events").args(arguments);
    command.args(["--json", "--dispatcher", &format!("http://{}", env.dispatcher_address())]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.code() == Some(code), "{arguments:?}: {output:?}");
    let lines = std::str::from_utf8(&output.stdout)?.lines();
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("{line:?} is not JSON"))).collect()
}

/// A source whose form was mistaken: nothing of what it told is lost, however long a body is.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_understood_is_taken_again_when_its_source_is_mended() -> anyhow::Result<()> {
    let door = Door::new()?;
    let mut env = TestEnv::start(door.options().dispatcher_flag("operator", "true")).await?;
    let written = env.uploads().put_random(ORIGIN_BUCKET, "users/a", 1_000).await?;
    let padding = " ".repeat(300 * 1024);
    let told = format!(
        r#"{{"source":"aws.s3","detail-type":"Object Created","detail":{{"bucket":{{"name":"{ORIGIN_BUCKET}"}},"object":{{"key":"users/a"}}}}}}{padding}"#
    );
    ensure!(door.deliver(told.as_bytes()).await?.0 == 200);
    let odd = events(&env, &["quarantined"], 0).await?;
    ensure!(odd.len() == 1 && odd[0]["source"] == "posted", "{odd:?}");
    let id = odd[0]["id"].as_str().context("it has an id")?;
    let still = events(&env, &["retry", id], 1).await?;
    ensure!(still.len() == 1 && events(&env, &["quarantined"], 0).await?.len() == 1, "{still:?}");

    let file = door.folder.path().join("sources.toml");
    fs::write(&file, fs::read_to_string(&file)?.replace("\"s3\"", "\"eventbridge\""))?;
    env.dispatcher().stop().await?;
    env.restart_dispatcher().await?;
    let taken = events(&env, &["retry", id], 0).await?;
    ensure!(taken.len() == 1 && events(&env, &["quarantined"], 0).await?.is_empty(), "{taken:?}");
    backed_up(&env, "users/a", &written).await?;
    env.finish().await
}
