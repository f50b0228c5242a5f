//! S3 servers that nobody here wrote, each started for one test on ports of its own and ended with it.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
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
    /// Held, never read.
    _ports: Vec<Port>,
    _folder: TempDir,
}

/// Which of its databases a Garage keeps names in: keys of more than 479 bytes are too long for LMDB, its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GarageDb {
    Lmdb,
    Sqlite,
}

impl Server {
    pub(crate) fn seaweedfs() -> Self {
        let admin = r#"{"identities":[{"name":"admin","credentials":[{"accessKey":"access0","secretKey":"secret00"}],
            "actions":["Admin","Read","List","Tagging","Write"]}]}"#;
        Self::seaweedfs_for(admin)
    }

    /// With its own file of identities, of which `access0` is one.
    pub(crate) fn seaweedfs_for(identities: &str) -> Self {
        let program = find("BACKHAUL_TEST_WEED", "weed", true)
            .expect("SeaweedFS is not installed: run tests/setup/seaweedfs.sh");
        let folder = tempfile::tempdir().expect("folder");
        let access = folder.path().join("s3.json");
        fs::write(&access, identities).expect("config");
        let ports: [Port; 6] = std::array::from_fn(|_| Port::lease());
        let [master, volume, filer, s3, iceberg, lance] = ports.each_ref().map(|port| port.number);
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
        Self::start(command, s3, ("access0", "secret00"), ports.into(), folder)
    }

    /// It checks no credentials.
    pub(crate) fn moto() -> Self {
        // Not one on the path: its lacks differ from version to version.
        let program = find("BACKHAUL_TEST_MOTO", "moto_server", false)
            .expect("moto is not installed: run tests/setup/moto.sh");
        let port = Port::lease();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.number.to_string()]);
        Self::start(command, port.number, ("any", "any"), vec![port], tempfile::tempdir().expect("folder"))
    }

    pub(crate) fn garage(db: GarageDb) -> Self {
        let program = find("BACKHAUL_TEST_GARAGE", "garage", false)
            .expect("Garage is not installed: run tests/setup/garage.sh");
        let folder = tempfile::tempdir().expect("folder");
        let ports: [Port; 2] = std::array::from_fn(|_| Port::lease());
        let [s3, rpc] = ports.each_ref().map(|port| port.number);
        let db = match db {
            GarageDb::Lmdb => "lmdb",
            GarageDb::Sqlite => "sqlite",
        };
        let settings = format!(
            "metadata_dir = {meta:?}\ndata_dir = {data:?}\ndb_engine = {db:?}\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = {secret:?}\n\
             [s3_api]\ns3_region = \"us-east-1\"\napi_bind_addr = \"127.0.0.1:{s3}\"\n",
            meta = folder.path().join("meta"),
            data = folder.path().join("data"),
            secret = "0".repeat(64),
        );
        let file = folder.path().join("garage.toml");
        fs::write(&file, settings).expect("config");
        let (id, secret) = (format!("GK{}", "0".repeat(24)), "1".repeat(64));
        let mut command = Command::new(program);
        command.arg("-c").arg(file).args(["server", "--single-node", "--default-access-key"]);
        command.env("GARAGE_DEFAULT_ACCESS_KEY", &id).env("GARAGE_DEFAULT_SECRET_KEY", &secret);
        Self::start(command, s3, (&id, &secret), ports.into(), folder)
    }

    fn start(
        mut command: Command,
        port: u16,
        (id, secret): (&str, &str),
        ports: Vec<Port>,
        folder: TempDir,
    ) -> Self {
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            id: id.into(),
            secret: secret.into(),
            process: process.expect("start the server"),
            _ports: ports,
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

/// A program: named by a variable, or where the scripts in `tests/setup` put what they install, or, where any version will do, on the path.
fn find(variable: &str, name: &str, any_version: bool) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
        return Some(named.into());
    }
    let test = std::env::current_exe().ok()?;
    let tools = test.ancestors().map(|folder| folder.join("tools/bin"));
    let path = std::env::var_os("PATH").filter(|_| any_version).unwrap_or_default();
    let folders: Vec<PathBuf> = tools.chain(std::env::split_paths(&path)).collect();
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A port that belongs to one test until it is dropped, as those of the end-to-end tests do, by a lock in the same folder. It lies below what the
/// system gives to connections, and the one 10,000 above it, which SeaweedFS takes for gRPC, is free as well.
struct Port {
    number: u16,
    _locks: [File; 2],
}

impl Port {
    fn lease() -> Self {
        let test = std::env::current_exe().expect("a test");
        let user = fs::metadata(test).expect("a file").uid();
        let folder = std::env::temp_dir().join(format!("backhaul-test-ports-{user}"));
        fs::create_dir_all(&folder).expect("folder");
        let take = |number: u16| {
            let mut options = File::options();
            let file = options.create(true).truncate(false).write(true).open(folder.join(number.to_string()));
            let file = file.ok().filter(|file| file.try_lock().is_ok())?;
            TcpListener::bind(("127.0.0.1", number)).is_ok().then_some(file)
        };
        let tries = std::iter::repeat_with(|| fastrand::u16(10_100..21_900)).take(1_000);
        tries
            .filter_map(|number| Some(Self { number, _locks: [take(number)?, take(number + 10_000)?] }))
            .next()
            .expect("a free port")
    }
}
