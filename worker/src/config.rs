//! The worker's settings: flags with a fallback to the environment, checked once and against each other.
//!
//! It exists so that a mistake is one line that names the setting, before anything is connected. Reads no file and no environment by
//! itself; must not know what the settings are used for.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use backhaul_runtime::{
    build,
    telemetry::LogArgs,
    tls::{SpiffeError, SpiffeId, TlsFlags, TlsProblem, TlsSettings},
    units::{display_size, parse_duration, parse_size},
};
use clap::Parser;

use crate::link::{CreditLimit, DispatcherUrl};

/// Copies objects from their origins to the backup buckets, for as long as a dispatcher has tasks.
#[derive(Debug, Clone, Parser)]
#[command(name = "backhaul-worker", version = build::text())]
pub struct Args {
    /// Where dispatchers are, as https://host:port, or as http://host:port with `--insecure`. May be given several times, or list several with commas; a host may have several
    /// addresses. One of all addresses is picked at random for each connection.
    #[arg(
        long = "dispatcher",
        env = "BACKHAUL_DISPATCHER",
        value_name = "URL",
        value_delimiter = ',',
        required = true
    )]
    pub dispatchers: Vec<DispatcherUrl>,
    /// The file of locations, the same as the dispatcher's.
    #[arg(long, env = "BACKHAUL_LOCATIONS", value_name = "FILE")]
    pub locations: PathBuf,
    /// Address for operators, without TLS: metrics, health for probes. Nothing is served there unless it is given.
    #[arg(long, env = "BACKHAUL_OPS_LISTEN", value_name = "ADDR")]
    pub ops_listen: Option<SocketAddr>,
    /// Name for logs and receipts: 1 to 128 printable ASCII characters. The host name unless given.
    #[arg(long, env = "BACKHAUL_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Most tasks held at a time: 1 to 5000.
    #[arg(long, env = "BACKHAUL_MAX_TASKS", value_name = "COUNT", default_value_t = 128)]
    pub max_tasks: u32,
    /// Most bytes of objects held in memory; at least two parts.
    #[arg(long, env = "BACKHAUL_MEMORY", value_name = "SIZE", default_value = "512MiB", value_parser = parse_size)]
    pub memory: u64,
    /// Size of one part of a multipart upload, 5MiB to 5GiB; an object of up to four parts is copied in one piece where the memory allows.
    #[arg(long, env = "BACKHAUL_PART_SIZE", value_name = "SIZE", default_value = "16MiB", value_parser = parse_size)]
    pub part_size: u64,
    /// How long the worker may take to finish or hand back its tasks after SIGTERM: 1s to 1h.
    #[arg(
        long,
        env = "BACKHAUL_DRAIN_WITHIN",
        value_name = "DURATION",
        default_value = "25s",
        value_parser = parse_duration
    )]
    pub drain_within: Duration,
    /// SPIFFE id of the dispatchers; `spiffe://<first trust domain>/backhaul/dispatcher` unless given.
    #[arg(long, env = "BACKHAUL_DISPATCHER_ID", value_name = "ID")]
    pub dispatcher_id: Option<SpiffeId>,
    /// How programs prove who they are.
    #[command(flatten)]
    pub tls: TlsFlags,
    /// Logs and traces.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How a worker knows dispatchers, and they know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Files and trust.
    pub tls: TlsSettings,
    /// Who dispatchers must be.
    pub dispatcher: SpiffeId,
    /// How often to look for new files.
    pub reload_every: Duration,
}

/// Settings of one worker, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSettings {
    /// Where dispatchers are; at least one.
    pub dispatchers: Vec<DispatcherUrl>,
    /// Name for logs and receipts: 1 to 128 bytes of printable ASCII.
    pub name: String,
    /// Locations whose objects this worker can copy, at most 1,000.
    pub origins: BTreeSet<String>,
    /// Retention classes of their copies, as `LOCATION/CLASS`.
    pub retention_classes: BTreeSet<String>,
    /// Most tasks held at a time: 1 to [`CreditLimit::MAX_TASKS`].
    pub max_tasks: u32,
    /// Most bytes of objects held in memory: at least two parts.
    pub memory_bytes: u64,
    /// Bytes of one part.
    pub part_bytes: u64,
    /// How long a drain may take.
    pub drain_within: Duration,
    /// How both sides are known; `None` for plaintext.
    pub security: Option<Security>,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No dispatcher.
    #[error("--dispatcher: at least one is needed")]
    NoDispatcher,
    /// The settings of TLS contradict each other, or are missing.
    #[error(transparent)]
    Tls(#[from] TlsProblem),
    /// TLS without a name for the dispatcher.
    #[error("--dispatcher-id: {0}")]
    DispatcherId(#[from] SpiffeError),
    /// A scheme that says something else than the other settings.
    #[error("--dispatcher: {0} must start with {expected}", expected = if *.1 { "https://, because there is no --insecure" } else { "http://, because of --insecure" })]
    Scheme(String, bool),
    /// The name does not fit logs and receipts.
    #[error("--name: `{0}` is not 1 to 128 printable ASCII characters")]
    Name(String),
    /// There is nothing to take the name from.
    #[error("--name: the host has no name that can be used: give one")]
    NoName,
    /// Too few or too many tasks.
    #[error("--max-tasks: {0} is not between 1 and {max}", max = CreditLimit::MAX_TASKS)]
    MaxTasks(u32),
    /// A part that S3 would not take.
    #[error("--part-size: {} is not between 5MiB and 5GiB", display_size(*.0))]
    PartSize(u64),
    /// Less memory than a copy needs.
    #[error("--memory: {} is less than two parts of {} (--part-size)", display_size(*.memory), display_size(*.part))]
    Memory {
        /// Memory given.
        memory: u64,
        /// Size of one part.
        part: u64,
    },
    /// A drain too short to hand anything back, or longer than anyone waits.
    #[error("--drain-within: {0:?} is not between 1s and 1h")]
    DrainWithin(Duration),
    /// No location in the file can be backed up.
    #[error("--locations: the file has no location with a backup target, so there is nothing to copy")]
    NoOrigin,
    /// More locations than a worker may advertise.
    #[error("--locations: {0} locations with a backup target are more than 1000")]
    TooManyOrigins(usize),
}

impl Args {
    /// The settings, for a worker that copies from `origins`. `host_name` is the name of this machine.
    ///
    /// # Errors
    /// [`ConfigError`] that names the setting to change.
    pub fn settings(
        &self,
        origins: BTreeSet<String>,
        retention_classes: BTreeSet<String>,
        host_name: Option<&str>,
    ) -> Result<WorkerSettings, ConfigError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => host_name.filter(|n| is_name(n)).ok_or(ConfigError::NoName)?.to_owned(),
        };
        let security = match self.tls.settings()? {
            Some(tls) => {
                let dispatcher = tls.dispatcher(self.dispatcher_id.as_ref())?;
                Some(Security { tls, dispatcher, reload_every: self.tls.tls_reload_every })
            }
            None => None,
        };
        let settings = WorkerSettings {
            dispatchers: self.dispatchers.clone(),
            name,
            origins,
            retention_classes,
            max_tasks: self.max_tasks,
            memory_bytes: self.memory,
            part_bytes: self.part_size,
            drain_within: self.drain_within,
            security,
        };
        settings.check()?;
        Ok(settings)
    }
}

impl WorkerSettings {
    /// Checks each setting and all against each other.
    ///
    /// # Errors
    /// [`ConfigError`] that names the setting to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        const SMALLEST_PART: u64 = 5 << 20;
        const LARGEST_PART: u64 = 5 << 30;
        const MOST_ORIGINS: usize = 1_000;
        if self.dispatchers.is_empty() {
            return Err(ConfigError::NoDispatcher);
        }
        let is_secure = self.security.is_some();
        if let Some(url) = self.dispatchers.iter().find(|url| url.is_secure() != is_secure) {
            return Err(ConfigError::Scheme(url.to_string(), is_secure));
        }
        if !is_name(&self.name) {
            return Err(ConfigError::Name(self.name.clone()));
        }
        if !(1..=CreditLimit::MAX_TASKS).contains(&self.max_tasks) {
            return Err(ConfigError::MaxTasks(self.max_tasks));
        }
        if !(SMALLEST_PART..=LARGEST_PART).contains(&self.part_bytes) {
            return Err(ConfigError::PartSize(self.part_bytes));
        }
        if self.memory_bytes < 2 * self.part_bytes {
            return Err(ConfigError::Memory { memory: self.memory_bytes, part: self.part_bytes });
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.drain_within) {
            return Err(ConfigError::DrainWithin(self.drain_within));
        }
        match self.origins.len() {
            0 => Err(ConfigError::NoOrigin),
            1..=MOST_ORIGINS => Ok(()),
            more => Err(ConfigError::TooManyOrigins(more)),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn args(more: &[&str]) -> Args {
        let given =
            ["backhaul-worker", "--dispatcher", "http://d:7400", "--locations", "l.toml", "--insecure"];
        Args::try_parse_from(given.iter().chain(more)).expect("the flags are well formed")
    }

    fn settings(more: &[&str]) -> Result<WorkerSettings, ConfigError> {
        args(more).settings(["media".to_owned()].into(), BTreeSet::new(), Some("pod-1"))
    }

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_dispatcher_and_a_file_are_all_that_is_needed() {
        let settings = settings(&[]).expect("the defaults hold together");
        assert_eq!((settings.name.as_str(), settings.max_tasks), ("pod-1", 128));
        assert_eq!((settings.memory_bytes, settings.part_bytes), (512 << 20, 16 << 20));
        assert_eq!(settings.drain_within, Duration::from_secs(25));
    }

    #[test]
    fn several_dispatchers_may_be_named() {
        let both = args(&["--dispatcher", "http://a:1,http://b:2"]).dispatchers;
        assert_eq!(
            both.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["http://d:7400/", "http://a:1/", "http://b:2/"]
        );
    }

    #[test]
    fn each_mistake_names_its_setting() {
        for (flags, setting) in [
            (["--name", ""], "--name"),
            (["--name", "grün"], "--name"),
            (["--max-tasks", "0"], "--max-tasks"),
            (["--max-tasks", "5001"], "--max-tasks"),
            (["--part-size", "4MiB"], "--part-size"),
            (["--part-size", "6GiB"], "--part-size"),
            (["--memory", "31MiB"], "--memory"),
            (["--drain-within", "0s"], "--drain-within"),
            (["--drain-within", "2h"], "--drain-within"),
        ] {
            let problem = settings(&flags).expect_err("the setting cannot be used").to_string();
            assert!(problem.starts_with(setting), "{flags:?}: {problem}");
        }
        let none = args(&[]).settings(BTreeSet::new(), BTreeSet::new(), Some("pod-1"));
        assert_eq!(none, Err(ConfigError::NoOrigin));
        let secure = settings(&["--dispatcher", "https://d:1"]).expect_err("it contradicts --insecure");
        assert!(
            secure.to_string().starts_with("--dispatcher: https://d:1/ must start with http://"),
            "{secure}"
        );
        let many: BTreeSet<_> = (0..1001).map(|n| n.to_string()).collect();
        assert_eq!(
            args(&[]).settings(many, BTreeSet::new(), Some("pod-1")),
            Err(ConfigError::TooManyOrigins(1001))
        );
        assert_eq!(
            args(&[]).settings(["a".into()].into(), BTreeSet::new(), Some("g\n")),
            Err(ConfigError::NoName)
        );
    }

    #[test]
    fn a_flag_that_cannot_be_read_is_named_by_the_parser() {
        for flags in [["--dispatcher", "ftp://d:1"], ["--memory", "512"], ["--drain-within", "25"]] {
            let given = ["backhaul-worker", "--dispatcher", "http://d:7400", "--locations", "l.toml"];
            let problem = Args::try_parse_from(given.iter().chain(&flags)).expect_err("it cannot be read");
            assert!(problem.to_string().contains(flags[0]), "{problem}");
        }
    }
}
