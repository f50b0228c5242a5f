//! Garage, an S3 server that nobody here wrote: any key and byte order, but no conditional writes, tags, versions or locks.

use std::{fs, process::Command};

use tempfile::TempDir;

use crate::{
    ports::Port,
    process::Process,
    s3::{Credentials, S3},
    settings,
};

/// Longest key that its usual database takes.
pub const KEY_MAX_BYTES: usize = 479;

/// A server. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct GarageServer {
    s3: Port,
    /// Held, never read.
    _rpc: Port,
    credentials: Credentials,
    process: Process,
    _folder: TempDir,
}

impl GarageServer {
    /// Starts a server with empty data and waits until an object can be written.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("backhaul-garage-")?;
        let (s3, rpc) = (Port::lease()?, Port::lease()?);
        let digits = || format!("{:032x}", fastrand::u128(..));
        // It takes no others.
        let credentials =
            Credentials { access_key: format!("GK{}", &digits()[..24]), secret_key: digits() + &digits() };
        let settings_file = folder.path().join("garage.toml");
        fs::write(&settings_file, settings_of(&folder, &s3, &rpc, &(digits() + &digits())))?;
        let mut command = Command::new(settings::garage()?);
        command.arg("-c").arg(&settings_file).args(["server", "--single-node", "--default-access-key"]);
        command.env("GARAGE_DEFAULT_ACCESS_KEY", &credentials.access_key);
        command.env("GARAGE_DEFAULT_SECRET_KEY", &credentials.secret_key);
        let process = Process::start("garage", &mut command, &folder.path().join("garage.log"))?;
        let mut server = Self { s3, _rpc: rpc, credentials, process, _folder: folder };
        server.client().until_it_keeps("Garage", &mut server.process).await?;
        Ok(server)
    }

    /// Where it listens, such as `127.0.0.1:3900`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.s3.number())
    }

    /// Keys of an identity that may do everything.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A client.
    #[must_use]
    pub fn client(&self) -> S3 {
        S3::connect(&format!("http://{}", self.address()), &self.credentials)
    }
}

fn settings_of(folder: &TempDir, s3: &Port, rpc: &Port, secret: &str) -> String {
    format!(
        "metadata_dir = {:?}\ndata_dir = {:?}\nreplication_factor = 1\nrpc_secret = {secret:?}\n\
         rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
         [s3_api]\ns3_region = \"us-east-1\"\napi_bind_addr = \"127.0.0.1:{s3}\"\n",
        folder.path().join("meta"),
        folder.path().join("data"),
        rpc = rpc.number(),
        s3 = s3.number(),
    )
}
