//! Where Redis is and how to log in to it: the flags that every command of the dispatcher that uses Redis shares.
//!
//! Nothing here may open a file or a connection: files are read when a connection is made.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr, time::Duration};

use backhaul_runtime::units::parse_duration;
use clap::Args;

use super::Problems;
use crate::queue::redis::{Layout, Login, RedisOptions, Timeouts, TlsFiles};

/// Where Redis is.
#[derive(Debug, Clone, Args)]
pub struct RedisArgs {
    /// The Redis (7.0 or newer) or Valkey that keeps the queues: `redis://[user:password@]host[:port][,host...][/db]`, `rediss://`
    /// for TLS, or `unix:///path`. Several hosts are nodes of a cluster, or Sentinels.
    #[arg(
        long = "redis-url",
        env = "BACKHAUL_REDIS_URL",
        default_value = "redis://127.0.0.1:6379/0",
        value_name = "URL",
        hide_env_values = true
    )]
    pub url: RedisUrl,
    /// `--redis-url` names nodes of a Redis Cluster, two or three of them; the others are found.
    #[arg(long = "redis-cluster", env = "BACKHAUL_REDIS_CLUSTER")]
    pub cluster: bool,
    /// `--redis-url` names Sentinels, all of them, which know the primary by this name. User and password in the URL are for the
    /// Sentinels, its database is for the primary.
    #[arg(long = "redis-sentinel-master", env = "BACKHAUL_REDIS_SENTINEL_MASTER", value_name = "NAME")]
    pub sentinel_master: Option<String>,
    /// User of the servers that hold the data.
    #[arg(long = "redis-user", env = "BACKHAUL_REDIS_USER", value_name = "NAME")]
    pub user: Option<String>,
    /// File whose first line is the password of the servers that hold the data. Read for every connection, so it may be replaced.
    #[arg(long = "redis-password-file", env = "BACKHAUL_REDIS_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// With `rediss://`: certificates of the authorities to trust (PEM), instead of the system's.
    #[arg(long = "redis-ca-file", env = "BACKHAUL_REDIS_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// With `rediss://`: our own certificate (PEM), where the servers ask for one.
    #[arg(long = "redis-cert-file", env = "BACKHAUL_REDIS_CERT_FILE", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// The key of `--redis-cert-file` (PEM).
    #[arg(long = "redis-key-file", env = "BACKHAUL_REDIS_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// How long Redis may be silent before it counts as away: calls fail at once then, until it answers again.
    #[arg(long = "redis-timeout", env = "BACKHAUL_REDIS_TIMEOUT", default_value = "1s", value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Address of Redis. May hold a password, so it does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisArgs {
    pub(super) fn check(&self, problems: &mut Problems) {
        const SCHEMES: [&str; 4] = ["redis://", "rediss://", "unix://", "redis+unix://"];
        let url = &self.url.0;
        let starts = |schemes: &[&str]| schemes.iter().any(|scheme| url.starts_with(scheme));
        problems.require(starts(&SCHEMES), "--redis-url", "must start with redis://, rediss:// or unix://");
        problems.require(
            !(self.cluster && self.sentinel_master.is_some()),
            "--redis-cluster",
            "cannot be used together with --redis-sentinel-master",
        );
        let is_secure = starts(&["rediss://"]);
        for (setting, file) in [
            ("--redis-ca-file", &self.ca_file),
            ("--redis-cert-file", &self.cert_file),
            ("--redis-key-file", &self.key_file),
        ] {
            problems.require(file.is_none() || is_secure, setting, "needs a --redis-url of rediss://");
        }
        problems.require(
            self.cert_file.is_some() == self.key_file.is_some(),
            "--redis-cert-file",
            "and --redis-key-file need each other",
        );
        problems.require(
            (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.timeout),
            "--redis-timeout",
            "must be 10ms to 1m",
        );
        // Several servers without a word on what they are, a port that is none: whatever the client would refuse later.
        if starts(&SCHEMES)
            && let Err(problem) = self.options().verify()
        {
            problems.add("--redis-url", problem);
        }
    }

    /// Options for a queue there.
    #[must_use]
    pub fn options(&self) -> RedisOptions {
        let mut options = RedisOptions::new(self.url.expose());
        options.layout = match &self.sentinel_master {
            Some(name) => Layout::Sentinel(name.clone()),
            None if self.cluster => Layout::Cluster,
            None => Layout::Single,
        };
        options.login = Login { user: self.user.clone(), password_file: self.password_file.clone() };
        let client = self.cert_file.clone().zip(self.key_file.clone());
        options.tls = TlsFiles { authorities: self.ca_file.clone(), client };
        options.timeouts = Timeouts { connect: self.timeout * 2, response: self.timeout };
        options
    }
}

impl RedisUrl {
    /// The address, for whoever connects. It may hold a password.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for RedisUrl {
    type Err = Infallible;

    /// Takes any text: clap repeats what it refuses, and that may hold a password. [`RedisArgs::check`] refuses without repeating.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl(..)")
    }
}
