//! BullMQ, as `bullmq/load.js` drives it in a process of its own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{process::Command, time::timeout};

use crate::{report::Figures, servers::RedisServer};

/// Longest time for one run of the script.
const PATIENCE: Duration = Duration::from_secs(900);

/// BullMQ where `tests/setup/bullmq.sh` has put it.
#[derive(Debug)]
pub(crate) struct BullMq {
    modules: PathBuf,
}

impl BullMq {
    /// `None` when it is not installed.
    pub(crate) fn find(target: &Path) -> Option<Self> {
        let modules = target.join("tools/bullmq/node_modules");
        modules.join("bullmq").is_dir().then_some(Self { modules })
    }

    /// Rates of adding and processing, in bulk and one by one.
    pub(crate) async fn rates(&self, redis: &RedisServer, bulk: u64, single: u64) -> anyhow::Result<Figures> {
        redis.clear().await?;
        self.run(&["rates", &redis.port().to_string(), &bulk.to_string(), &single.to_string()]).await
    }

    /// Bytes of Redis for each of `count` waiting jobs with 200 bytes of data.
    pub(crate) async fn bytes_per_job(&self, redis: &RedisServer, count: u64) -> anyhow::Result<f64> {
        redis.clear().await?;
        let before = redis.data_bytes().await?;
        self.run(&["fill", &redis.port().to_string(), &count.to_string()]).await?;
        Ok((redis.data_bytes().await? - before) as f64 / count as f64)
    }

    async fn run(&self, arguments: &[&str]) -> anyhow::Result<Figures> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bullmq/load.js");
        let mut command = Command::new("node");
        command.arg(script).args(arguments).env("NODE_PATH", &self.modules);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.context("BullMQ takes too long")??;
        if !output.status.success() {
            bail!("load.js failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&output.stdout)?;
        Ok(object.into_iter().filter_map(|(key, value)| Some((key, value.as_f64()?))).collect())
    }
}
