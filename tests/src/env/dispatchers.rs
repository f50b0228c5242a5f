//! The dispatchers of a scenario: one at first, more when it asks for them, all on the same Redis. Each has a number, a port that stays
//! its own through restarts, and flags.
//!
//! A worker knows the dispatchers that there are when it starts: a scenario adds its dispatchers before its workers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use backhaul_proto::v1::backup_service_client::BackupServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::{LOG_FILTER, TENANT, TestEnv, add_flags, options::set};
use crate::{certificates::Holder, eventually::eventually, ports::Port, process::Process, programs::program};

/// A dispatcher.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub(super) process: Process,
    port: Port,
    /// Name without dashes, value.
    flags: Vec<(String, String)>,
}

impl TestEnv {
    /// Starts one more dispatcher, with these flags set otherwise than for all, and waits until it serves; gives its number. It is
    /// named `dispatcher-<number>`.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn add_dispatcher(&mut self, flags: &[(&str, &str)]) -> anyhow::Result<usize> {
        let number = self.dispatchers.len();
        let mut own = self.options.dispatcher_flags.clone();
        for (name, value) in flags {
            set(&mut own, name, value);
        }
        let port = Port::lease()?;
        let process = self.launch_dispatcher(number, port.number(), &own)?;
        self.dispatchers.push(Dispatcher { process, port, flags: own });
        self.until_serving(number).await?;
        Ok(number)
    }

    /// From now on the test's own calls go to this dispatcher; to the first one before.
    pub fn call(&mut self, dispatcher: usize) {
        self.called = dispatcher;
    }

    /// Where the dispatcher listens that the test calls; the same after a restart.
    #[must_use]
    pub fn dispatcher_address(&self) -> String {
        self.address_of(self.called)
    }

    /// Where a dispatcher listens; the same after a restart.
    ///
    /// # Panics
    /// When there is no dispatcher of that number.
    #[must_use]
    pub fn address_of(&self, dispatcher: usize) -> String {
        format!("127.0.0.1:{}", self.dispatchers[dispatcher].port.number())
    }

    /// URLs of all dispatchers, for workers that are no processes of this environment.
    #[must_use]
    pub fn dispatcher_urls(&self) -> Vec<String> {
        let url = |number| format!("{}://{}", self.scheme(), self.address_of(number));
        (0..self.dispatchers.len()).map(url).collect()
    }

    pub(super) const fn scheme(&self) -> &'static str {
        if self.options.certificates.is_some() { "https" } else { "http" }
    }

    /// A client of one dispatcher, whichever the test's other calls go to.
    ///
    /// # Errors
    /// When the URL is not one.
    ///
    /// # Panics
    /// When there is no dispatcher of that number.
    pub fn backups_at(&self, dispatcher: usize) -> anyhow::Result<BackupServiceClient<Channel>> {
        Ok(BackupServiceClient::new(self.channel_at(dispatcher)?))
    }

    /// A channel to one dispatcher, for other services that it serves.
    ///
    /// # Errors
    /// When the URL is not one.
    ///
    /// # Panics
    /// When there is no dispatcher of that number.
    pub fn channel_at(&self, dispatcher: usize) -> anyhow::Result<Channel> {
        let address = self.address_of(dispatcher);
        match &self.options.certificates {
            Some(certificates) => certificates.channel(&address, Holder::Caller),
            None => Ok(Endpoint::from_shared(format!("http://{address}"))?.connect_lazy()),
        }
    }

    /// The first dispatcher's process, to be signalled.
    pub fn dispatcher(&mut self) -> &mut Process {
        self.dispatcher_at(0)
    }

    /// A dispatcher's process, to be signalled.
    ///
    /// # Panics
    /// When there is no dispatcher of that number.
    pub fn dispatcher_at(&mut self, number: usize) -> &mut Process {
        &mut self.dispatchers[number].process
    }

    /// Starts the first dispatcher again, after a kill or a stop, at the same address, and waits until it serves.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn restart_dispatcher(&mut self) -> anyhow::Result<()> {
        self.restart_dispatcher_at(0).await
    }

    /// Starts a dispatcher again, as [`Self::restart_dispatcher`], with the flags that it had.
    ///
    /// # Errors
    /// When it does not serve.
    ///
    /// # Panics
    /// When there is no dispatcher of that number.
    pub async fn restart_dispatcher_at(&mut self, number: usize) -> anyhow::Result<()> {
        ensure!(!self.dispatchers[number].process.is_running()?, "the dispatcher still runs");
        let _absent = fs::remove_file(address_file(self.folder.path(), number));
        let dispatcher = &self.dispatchers[number];
        let process = self.launch_dispatcher(number, dispatcher.port.number(), &dispatcher.flags)?;
        self.dispatchers[number].process = process;
        self.until_serving(number).await
    }

    fn launch_dispatcher(
        &self,
        number: usize,
        port: u16,
        flags: &[(String, String)],
    ) -> anyhow::Result<Process> {
        let (folder, name) = (self.folder.path(), name(number));
        let mut command = program("backhaul-dispatcher")?;
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--tenant", TENANT]);
        for (name, value) in [("redis-url", self.redis.url().as_str()), ("log", LOG_FILTER)] {
            if !flags.iter().any(|(given, _)| given == name) {
                command.arg(format!("--{name}")).arg(value);
            }
        }
        if let Some(certificates) = &self.options.certificates {
            certificates.tell(&mut command, Holder::Dispatcher);
        }
        command.arg("--address-file").arg(address_file(folder, number));
        command.arg("--locations").arg(&self.locations);
        add_flags(&mut command, flags);
        Process::start(&name, &mut command, &folder.join(format!("{name}.log")))
    }

    async fn until_serving(&mut self, number: usize) -> anyhow::Result<()> {
        let file = address_file(self.folder.path(), number);
        eventually("the dispatcher serves", async || {
            if let Err(ended) = self.dispatchers[number].process.ensure_running() {
                return Ok(Err(ended));
            }
            ensure!(!fs::read_to_string(&file)?.trim().is_empty(), "it has not written its address");
            Ok(Ok(()))
        })
        .await?
    }
}

fn name(number: usize) -> String {
    format!("dispatcher-{number}")
}

fn address_file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{}.address", name(number)))
}
