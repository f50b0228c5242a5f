//! An origin that nobody here wrote tells of its uploads, and they are backed up: no RPC is called.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, TENANT},
    eventually,
    locations::{ORIGIN, ORIGIN_BUCKET},
    ops::OpsPort,
    ports::Port,
    s3::Written,
    weed::Webhook,
};
use tempfile::TempDir;

const TOKEN: &str = "e2e-0123456789abcdef0123456789abcdef";

/// The dispatcher's port for events, and the files that it takes them by.
struct Door {
    port: Port,
    folder: TempDir,
}

impl Door {
    fn new() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("backhaul-events-")?;
        let token = folder.path().join("token");
        fs::write(&token, TOKEN)?;
        let sources = format!(
            "[[event_source]]\nname = \"filer\"\nform = \"seaweedfs\"\nlocation = {ORIGIN:?}\n\
             tenant = {TENANT:?}\nbuckets = [{ORIGIN_BUCKET:?}]\ntoken_file = {token:?}\n"
        );
        fs::write(folder.path().join("sources.toml"), sources)?;
        Ok(Self { port: Port::lease()?, folder })
    }

    fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port.number())
    }

    fn options(&self, token: &str) -> EnvOptions {
        let endpoint = format!("http://{}/events/filer", self.address());
        EnvOptions::default()
            .webhook(Webhook { endpoint, token: token.to_owned() })
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

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_backed_up_because_its_origin_tells_of_it() -> anyhow::Result<()> {
    let (door, ops) = (Door::new()?, OpsPort::lease()?);
    let env = TestEnv::start(door.options(TOKEN).dispatcher_flag("ops-listen", &ops.address())).await?;
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
