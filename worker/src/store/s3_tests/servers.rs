//! S3 servers that nobody here wrote, each started for one test on ports of its own and ended with it.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Builder, Credentials, Region},
    types::{BucketVersioningStatus, VersioningConfiguration},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a server may take to answer: only separates slow from never.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server.
pub(crate) struct Server {
    pub(crate) endpoint: String,
    pub(crate) id: String,
    pub(crate) secret: String,
    process: Child,
    _folder: TempDir,
}

/// A program: named by a variable, or where `make setup` puts what it installs, or on the path.
pub(crate) fn find(variable: &str, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_set_up(variable, name).or_else(|| {
        let mut files = std::env::split_paths(&path).map(|folder| folder.join(name));
        files.find(|file| file.is_file())
    })
}

/// The same, not on the path: where only the version is known that `make setup` installs.
pub(crate) fn find_set_up(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
        return Some(named.into());
    }
    let test = std::env::current_exe().ok()?;
    test.ancestors().map(|folder| folder.join("tools/bin").join(name)).find(|file| file.is_file())
}

impl Server {
    pub(crate) fn seaweedfs(program: &Path) -> Self {
        let admin = r#"{"identities":[{"name":"admin","credentials":[{"accessKey":"access0","secretKey":"secret00"}],
            "actions":["Admin","Read","List","Tagging","Write"]}]}"#;
        Self::seaweedfs_for(program, admin)
    }

    /// With its own file of identities, of which `access0` is one.
    pub(crate) fn seaweedfs_for(program: &Path, identities: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let access = folder.path().join("s3.json");
        fs::write(&access, identities).expect("config");
        let [master, volume, filer, s3, iceberg, lance] = std::array::from_fn(|_| free_port());
        let mut command = Command::new(program);
        command
            .args(["server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=50"])
            .arg(format!("-dir={}", folder.path().display()))
            .arg(format!("-s3.config={}", access.display()))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-s3.port={s3}"))
            .arg(format!("-s3.port.iceberg={iceberg}"))
            .arg(format!("-s3.port.lance={lance}"));
        Self::start(command, s3, ("access0", "secret00"), folder)
    }

    /// It checks no credentials.
    pub(crate) fn moto(program: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        Self::start(command, port, ("any", "any"), tempfile::tempdir().expect("folder"))
    }

    fn start(mut command: Command, port: u16, (id, secret): (&str, &str), folder: TempDir) -> Self {
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            id: id.into(),
            secret: secret.into(),
            process: process.expect("start the server"),
            _folder: folder,
        }
    }

    /// Creates the buckets as soon as the server answers.
    pub(crate) async fn create_buckets(&self, names: &[&str]) {
        let config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new("us-east-1"))
            .force_path_style(true)
            .credentials_provider(Credentials::new(&self.id, &self.secret, None, None, "test"))
            .build();
        let client = Client::from_conf(config);
        let deadline = Instant::now() + PATIENCE;
        for name in names {
            loop {
                match client.create_bucket().bucket(*name).send().await {
                    Ok(_) => break,
                    Err(error) if Instant::now() > deadline => panic!("no bucket: {error:?}"),
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
            if name.starts_with("versioned") {
                let enabled =
                    VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
                let request = client.put_bucket_versioning().bucket(*name).versioning_configuration(enabled);
                request.send().await.expect("versioning");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().expect("kill the server");
        self.process.wait().expect("the server ends");
    }
}

/// A port that is free, and whose number plus 10,000 is: SeaweedFS takes that for gRPC.
fn free_port() -> u16 {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(20_000..29_000))
        .find(|p| free(*p) && free(p + 10_000))
        .expect("a free port")
}
