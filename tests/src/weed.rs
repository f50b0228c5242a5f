//! SeaweedFS, an S3 server that nobody here wrote: it tells whether Backhaul speaks S3 or only what its own store understands.

use std::{fs, path::PathBuf, process::Command};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    ports::Port,
    process::Process,
    s3::{Credentials, S3},
    settings,
};

/// A server. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct WeedServer {
    ports: Ports,
    credentials: Credentials,
    process: Process,
    _folder: TempDir,
}

/// How much of the machine a server may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeedLimits {
    /// Where its garbage collector begins to work harder, such as `768MiB`.
    pub memory: &'static str,
    /// Largest volume, in MiB; there are at most a hundred.
    pub volume_mib: u32,
}

/// It would take gigabytes on a machine that has them; tests run beside it.
const SMALL: WeedLimits = WeedLimits { memory: "768MiB", volume_mib: 256 };

/// Where a server posts word of every change to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// URL.
    pub endpoint: String,
    /// Bearer token.
    pub token: String,
    /// Certificates that it trusts, PEM; its machine's when not set.
    pub trusted: Option<PathBuf>,
}

/// All that it listens on. Each of the servers inside also takes the port 10,000 above its own; the last two belong to services
/// that cannot be turned off and would make a second instance on the machine fail.
#[derive(Debug)]
struct Ports {
    master: Port,
    volume: Port,
    filer: Port,
    s3: Port,
    iceberg: Port,
    lance: Port,
}

impl WeedServer {
    /// Starts a server with empty data and waits until an object can be written.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::launch(SMALL, None).await
    }

    /// [`WeedServer::start`] with other limits.
    ///
    /// # Errors
    /// As [`WeedServer::start`].
    pub async fn start_with(limits: WeedLimits) -> anyhow::Result<Self> {
        Self::launch(limits, None).await
    }

    /// [`WeedServer::start`] of one that posts word of every change, once each.
    ///
    /// # Errors
    /// As [`WeedServer::start`].
    pub async fn start_telling(webhook: &Webhook) -> anyhow::Result<Self> {
        Self::launch(SMALL, Some(webhook)).await
    }

    async fn launch(limits: WeedLimits, webhook: Option<&Webhook>) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("backhaul-weed-")?;
        let credentials = Credentials::random();
        let ports = Ports::lease()?;
        let access = folder.path().join("s3.json");
        fs::write(&access, identities(&credentials).to_string())?;

        let mut command = Command::new(settings::weed()?);
        if let Some(webhook) = webhook {
            fs::write(folder.path().join("notification.toml"), notification(webhook))?;
            command.envs(webhook.trusted.iter().map(|file| ("SSL_CERT_FILE", file)));
        }
        // It looks for its settings where it is started.
        command.current_dir(folder.path());
        command.args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]);
        command.args(["-master.telemetry=false", "-volume.max=100"]);
        command.arg(format!("-master.volumeSizeLimitMB={}", limits.volume_mib));
        command.arg(format!("-dir={}", folder.path().display()));
        command.arg(format!("-s3.config={}", access.display()));
        command.args(ports.arguments());
        command.env("GOMEMLIMIT", limits.memory);
        let process = Process::start("seaweedfs", &mut command, &folder.path().join("weed.log"))?;

        let mut server = Self { ports, credentials, process, _folder: folder };
        server.client().until_it_keeps("SeaweedFS", &mut server.process).await?;
        Ok(server)
    }

    /// Where it listens, such as `127.0.0.1:8333`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.s3.number())
    }

    /// Base URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Keys of an identity that may do everything.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A client.
    #[must_use]
    pub fn client(&self) -> S3 {
        S3::connect(&self.endpoint(), &self.credentials)
    }

    /// The process, to be signalled.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Ports {
    fn lease() -> anyhow::Result<Self> {
        Ok(Self {
            master: Port::pair()?,
            volume: Port::pair()?,
            filer: Port::pair()?,
            s3: Port::pair()?,
            iceberg: Port::lease()?,
            lance: Port::lease()?,
        })
    }

    fn arguments(&self) -> [String; 6] {
        [
            format!("-master.port={}", self.master.number()),
            format!("-volume.port={}", self.volume.number()),
            format!("-filer.port={}", self.filer.number()),
            format!("-s3.port={}", self.s3.number()),
            format!("-s3.port.iceberg={}", self.iceberg.number()),
            format!("-s3.port.lance={}", self.lance.number()),
        ]
    }
}

fn notification(Webhook { endpoint, token, trusted: _ }: &Webhook) -> String {
    format!(
        "[notification.webhook]\nenabled = true\nendpoint = {endpoint:?}\nbearer_token = {token:?}\n\
         timeout_seconds = 10\n"
    )
}

fn identities(credentials: &Credentials) -> serde_json::Value {
    json!({ "identities": [{
        "name": "tests",
        "credentials": [{ "accessKey": credentials.access_key, "secretKey": credentials.secret_key }],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }] })
}
