//! A redis-server that writes before it answers, and two dispatchers on it. All of them end with the value that owns them.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, backup_service_client::BackupServiceClient};
use backhaul_tests::{
    ports::Port,
    process::Process,
    programs::program,
    redis::{RedisOptions, RedisServer},
};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::PATIENCE;

/// The location that tasks name.
pub(crate) const LOCATION: &str = "uploads";
const BUCKET: &str = "photos";

/// Everything but the workers.
#[derive(Debug)]
pub(crate) struct Servers {
    dispatchers: Vec<Dispatcher>,
    redis: RedisServer,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Dispatcher {
    port: Port,
    process: Option<Process>,
}

impl Servers {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("locations.toml"), locations())?;
        let redis = RedisServer::start(RedisOptions::durable()?).await?;
        let mut servers = Self { dispatchers: Vec::new(), redis, folder };
        for number in 0..2 {
            servers.dispatchers.push(Dispatcher { port: Port::lease()?, process: None });
            servers.launch(number).await?;
        }
        Ok(servers)
    }

    /// Starts a dispatcher that does not run.
    pub(crate) async fn launch(&mut self, number: usize) -> anyhow::Result<()> {
        let mut command = program("backhaul-dispatcher")?;
        let address = format!("127.0.0.1:{}", self.dispatchers[number].port.number());
        // Streams of this benchmark come from one address.
        command.args(["--listen", &address, "--log", "warn", "--max-streams-per-address", "1000"]);
        command.args(["--redis-url", &self.redis.url(), "--insecure"]);
        command.arg("--locations").arg(self.folder.path().join("locations.toml"));
        let log = self.folder.path().join(format!("dispatcher-{number}.log"));
        let mut process = Process::start("dispatcher", &mut command, &log)?;
        let served = async {
            while self.channel(number).await.is_err() {
                process.ensure_running()?;
                sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, served).await.context("the dispatcher does not serve")??;
        self.dispatchers[number].process = Some(process);
        Ok(())
    }

    /// Asks a dispatcher to end and waits until it has.
    pub(crate) async fn stop(&mut self, number: usize) -> anyhow::Result<()> {
        let mut process = self.dispatchers[number].process.take().context("it runs")?;
        ensure!(process.stop().await?.success(), "dispatcher {number} did not end in order");
        Ok(())
    }

    /// Kills a dispatcher.
    pub(crate) fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        self.dispatchers[number].process.take().context("it runs")?.kill()?;
        Ok(())
    }

    /// A dispatcher that runs.
    pub(crate) fn process(&self, number: usize) -> anyhow::Result<&Process> {
        self.dispatchers[number].process.as_ref().context("it runs")
    }

    /// Where a dispatcher listens.
    pub(crate) fn url(&self, number: usize) -> String {
        format!("http://127.0.0.1:{}", self.dispatchers[number].port.number())
    }

    /// Where all of them do.
    pub(crate) fn urls(&self) -> Vec<String> {
        (0..self.dispatchers.len()).map(|number| self.url(number)).collect()
    }

    /// A new connection to a dispatcher.
    pub(crate) async fn channel(&self, number: usize) -> anyhow::Result<Channel> {
        Ok(Endpoint::from_shared(self.url(number))?.connect().await?)
    }

    /// Submits `count` tasks that nobody has seen before, when their objects have this name.
    pub(crate) async fn submit(&self, dispatcher: usize, name: &str, count: usize) -> anyhow::Result<()> {
        let mut client = BackupServiceClient::new(self.channel(dispatcher).await?);
        for first in (0..count).step_by(1_000) {
            let requests = (first..count.min(first + 1_000)).map(|number| request(name, number)).collect();
            client.submit_backups(pb::SubmitBackupsRequest { requests }).await?;
        }
        Ok(())
    }
}

/// A request for the backup of one small object.
pub(crate) fn request(name: &str, number: usize) -> pb::SubmitBackupRequest {
    pb::SubmitBackupRequest {
        object: Some(pb::ObjectRef {
            location: LOCATION.into(),
            bucket: BUCKET.into(),
            key: format!("{name}/{number}"),
            version: "v".into(),
        }),
        options: Some(pb::SubmitOptions { size_hint_bytes: 1, ..Default::default() }),
    }
}

fn locations() -> String {
    format!(
        "[location.{LOCATION}]\nendpoint = \"http://127.0.0.1:9\"\nregion = \"r\"\ncredentials = \"anonymous\"\n\
         [[location.{LOCATION}.read]]\nbucket = \"{BUCKET}\"\ntenants = [\"*\"]\n\
         [location.{LOCATION}.backup]\nlocation = \"vault\"\nbucket = \"backups\"\n\
         [location.vault]\nendpoint = \"http://127.0.0.1:9\"\nregion = \"r\"\ncredentials = \"anonymous\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dispatchers_start_with_what_they_are_told_here() {
        let servers = Servers::start().await.unwrap();
        for number in 0..2 {
            servers.submit(number, "smoke", 2).await.unwrap();
        }
    }
}
