//! The settings of the dispatcher: flags with environment variables as their fallback, checked against each other.
//!
//! The doc comments of [`Flags`] are what `--help` prints, and the only reference. [`Flags::check`] turns flags into a
//! [`Config`], in which nothing contradicts anything else, or names every setting that is wrong. Nothing here may open a
//! file or a connection.

mod audit;
mod connections;
mod events;
mod identities;
mod names;
mod prefix;
mod problems;
mod queue;
mod redis;
mod rules;
mod tokens;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, str::FromStr as _, sync::Arc, time::Duration};

use backhaul_runtime::{
    build,
    telemetry::LogArgs,
    tls::{TlsFlags, TlsSettings},
    units::parse_duration,
};
use clap::{ArgAction, Parser};

use self::problems::Problems;
pub use self::{
    audit::AuditFlags,
    connections::ConnectionFlags,
    events::EventFlags,
    identities::IdentityFlags,
    names::NameFlags,
    prefix::PrefixFlags,
    problems::{ConfigError, Problem},
    redis::{RedisArgs, RedisUrl},
    rules::RuleFlags,
    tokens::TokenFlags,
};
use crate::{
    audit::AuditSettings,
    grpc::{
        backup_service::{MAX_ATTEMPTS, MAX_PROCESSING_TIMEOUT, MIN_PROCESSING_TIMEOUT, SubmitDefaults},
        identity::Caller,
        layers::CallLimits,
        roles::Roles,
    },
    prefix::WalkerSettings,
    queue::{QueueSettings, id::MAX_SHARDS, policy::MAX_COUNTED, redis::Durability},
    transport::ConnectionLimits,
};

/// Backhaul's dispatcher: takes backup requests, keeps them in three Redis queues, streams due tasks to workers.
///
/// Durations have units: 500ms, 30s, 10m, 24h, 7d.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "backhaul-dispatcher",
    version = build::text(),
    max_term_width = 110,
    after_help = "backhaul-dispatcher fsck audits the queue in Redis, backhaul-dispatcher reshard changes its number of shards; both have --help."
)]
pub struct Flags {
    /// Address to serve gRPC on: internal services, workers, health and reflection. Port 0 takes a free one.
    #[arg(long, env = "BACKHAUL_LISTEN", default_value = "127.0.0.1:7400", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// File to write the address to once it is served, and to remove at the end; for port 0.
    #[arg(long, env = "BACKHAUL_ADDRESS_FILE", value_name = "PATH")]
    pub address_file: Option<PathBuf>,
    /// Address for operators, without TLS: metrics, health for probes, KEDA's scaler. Nothing is served there unless it is given.
    #[arg(long, env = "BACKHAUL_OPS_LISTEN", value_name = "ADDR")]
    pub ops_listen: Option<SocketAddr>,
    /// Events.
    #[command(flatten)]
    pub events: EventFlags,
    /// Redis.
    #[command(flatten)]
    pub redis: RedisArgs,
    /// Locations file: the stores, and which tenant may name what in them. The same for dispatcher and workers.
    #[arg(long, env = "BACKHAUL_LOCATIONS", value_name = "FILE")]
    pub locations: PathBuf,
    /// Tenant that every caller acts for with `--insecure`.
    #[arg(long, env = "BACKHAUL_TENANT", default_value = "default", value_name = "NAME")]
    pub tenant: String,
    /// Who is what by name.
    #[command(flatten)]
    pub names: NameFlags,
    /// With `--insecure`, every caller is an operator too: may see how much all tenants have in the queues.
    #[arg(
        long,
        env = "BACKHAUL_OPERATOR",
        default_value_t = false,
        default_missing_value = "true",
        num_args = 0..=1,
        action = ArgAction::Set,
        value_name = "BOOL"
    )]
    pub operator: bool,

    /// Shards of the queues, 1 to 1024. What the data was created with, or was given with `backhaul-dispatcher reshard`; all dispatchers on one
    /// Redis must agree.
    #[arg(long, env = "BACKHAUL_SHARDS", default_value_t = 4, value_name = "COUNT")]
    pub shards: u16,
    /// What OK to a submit means: `none` (Redis has it in memory), `local` (on its disk: survives a crash of Redis or of its
    /// machine), `replicas=N` (and N replicas have it: survives the loss of the machine). A server that cannot give what is asked
    /// for is refused.
    // `local` is the weakest mode in which OK outlives a crash, and it needs no second server: safe without being told, and
    // never more than one server can keep.
    #[arg(long, env = "BACKHAUL_DURABILITY", default_value = "local", value_name = "MODE", value_parser = parse_durability)]
    pub durability: Durability,
    /// How long a submit may wait for that; then it is answered UNAVAILABLE and can be repeated.
    #[arg(long, env = "BACKHAUL_DURABILITY_TIMEOUT", default_value = "3s", value_name = "TIME", value_parser = parse_duration)]
    pub durability_timeout: Duration,
    /// How long a worker that is silent keeps its tasks. Workers send a heartbeat every third of it.
    #[arg(long, env = "BACKHAUL_LEASE", default_value = "30s", value_name = "TIME", value_parser = parse_duration)]
    pub lease: Duration,
    /// How soon a worker must answer an assignment, else the task goes back; at most two thirds of `--lease`.
    #[arg(long, env = "BACKHAUL_ACCEPT_WITHIN", default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub accept_within: Duration,
    /// How often to look for leases that ran out and for tasks that are due.
    #[arg(long, env = "BACKHAUL_SWEEP_EVERY", default_value = "1s", value_name = "TIME", value_parser = parse_duration)]
    pub sweep_every: Duration,

    /// Failed attempts before a task is dead, where a request does not say; 1 to 100.
    #[arg(long, env = "BACKHAUL_MAX_ATTEMPTS", default_value_t = 5, value_name = "COUNT")]
    pub max_attempts: u32,
    /// Workers that may vanish with a task before it is dead.
    #[arg(long, env = "BACKHAUL_MAX_CRASHES", default_value_t = 3, value_name = "COUNT")]
    pub max_crashes: u32,
    /// Times a task may come back at no cost (throttled, handed back, not accepted), without progress in between, before each
    /// further time counts as a failed attempt.
    #[arg(long, env = "BACKHAUL_MAX_RETURNS", default_value_t = 100, value_name = "COUNT")]
    pub max_returns: u32,
    /// Longest wait after a first failure; doubles with each further one. Waits are random between `--retry-floor` and this.
    #[arg(long, env = "BACKHAUL_RETRY_BASE", default_value = "5s", value_name = "TIME", value_parser = parse_duration)]
    pub retry_base: Duration,
    /// Shortest wait after a failure.
    #[arg(long, env = "BACKHAUL_RETRY_FLOOR", default_value = "100ms", value_name = "TIME", value_parser = parse_duration)]
    pub retry_floor: Duration,
    /// Longest wait after any number of failures.
    #[arg(long, env = "BACKHAUL_RETRY_MAX", default_value = "1h", value_name = "TIME", value_parser = parse_duration)]
    pub retry_max: Duration,
    /// Longest time without progress before a copy loses its lease, where a request does not say; 1s to 24h.
    #[arg(long, env = "BACKHAUL_PROCESSING_TIMEOUT", default_value = "10m", value_name = "TIME", value_parser = parse_duration)]
    pub processing_timeout: Duration,

    /// How long after its success another request for the same object version is answered with the finished task.
    #[arg(long, env = "BACKHAUL_DEDUP_WINDOW", default_value = "7d", value_name = "TIME", value_parser = parse_duration)]
    pub dedup_window: Duration,
    /// How long done and cancelled tasks stay visible; done ones at least for `--dedup-window`.
    #[arg(long, env = "BACKHAUL_RETAIN_FINISHED", default_value = "24h", value_name = "TIME", value_parser = parse_duration)]
    pub retain_finished: Duration,
    /// How long dead tasks stay visible.
    #[arg(long, env = "BACKHAUL_RETAIN_DEAD", default_value = "90d", value_name = "TIME", value_parser = parse_duration)]
    pub retain_dead: Duration,
    /// Most MiB of done and cancelled tasks per shard, receipts included: above it the oldest go before `--retain-finished` and
    /// `--dedup-window` are over. Dead tasks go by age alone.
    #[arg(long, env = "BACKHAUL_RETAIN_MIB", default_value_t = 512, value_name = "MIB")]
    pub retain_mib: u64,
    /// Most unfinished tasks per shard; more are refused with RESOURCE_EXHAUSTED. A waiting task takes about 600 bytes of Redis.
    #[arg(long, env = "BACKHAUL_SHARD_CAP", default_value_t = 1_000_000, value_name = "COUNT")]
    pub shard_cap: u64,
    /// Most unfinished and dead tasks per tenant and shard.
    #[arg(long, env = "BACKHAUL_TENANT_CAP", default_value_t = 1_000_000, value_name = "COUNT")]
    pub tenant_cap: u64,
    /// Most tasks of one tenant that workers hold at a time, per shard.
    #[arg(long, env = "BACKHAUL_TENANT_IN_FLIGHT_CAP", default_value_t = 10_000, value_name = "COUNT")]
    pub tenant_in_flight_cap: u64,

    /// Most calls of internal services in progress; more are refused with RESOURCE_EXHAUSTED.
    #[arg(long, env = "BACKHAUL_MAX_CALLS", default_value_t = 1024, value_name = "COUNT")]
    pub max_calls: u32,
    /// Most calls of internal services a second, batches counted as one; more are refused with RESOURCE_EXHAUSTED.
    #[arg(long, env = "BACKHAUL_CALLS_PER_SECOND", default_value_t = 100_000, value_name = "COUNT")]
    pub calls_per_second: u32,
    /// Longest time for a call of an internal service, if it gave itself more or no limit.
    #[arg(long, env = "BACKHAUL_CALL_DEADLINE", default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub call_deadline: Duration,
    /// How long an ordered stop may take: workers move to other dispatchers, calls in progress end.
    #[arg(long, env = "BACKHAUL_DRAIN_WITHIN", default_value = "25s", value_name = "TIME", value_parser = parse_duration)]
    pub drain_within: Duration,

    /// Who did what.
    #[command(flatten)]
    pub audit: AuditFlags,
    /// Backups of prefixes.
    #[command(flatten)]
    pub prefix: PrefixFlags,
    /// Rules.
    #[command(flatten)]
    pub rules: RuleFlags,
    /// Who may be connected.
    #[command(flatten)]
    pub connections: ConnectionFlags,
    /// What each of them may use.
    #[command(flatten)]
    pub identities: IdentityFlags,
    /// How peers prove who they are.
    #[command(flatten)]
    pub tls: TlsFlags,
    /// How callers do that have no certificate.
    #[command(flatten)]
    pub tokens: TokenFlags,
    /// Logs and traces.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Settings that hold together.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to serve on.
    pub listen: SocketAddr,
    /// Address for operators.
    pub ops_listen: Option<SocketAddr>,
    /// Address for events.
    pub events_listen: Option<SocketAddr>,
    /// Event sources file.
    pub event_sources: Option<PathBuf>,
    /// Certificate and key of the port for events.
    pub events_certificate: Option<(PathBuf, PathBuf)>,
    /// Tokens may come in plaintext there.
    pub events_insecure: bool,
    /// Where to write the address that is served.
    pub address_file: Option<PathBuf>,
    /// The servers that keep the queues.
    pub redis: RedisArgs,
    /// What OK to a submit means.
    pub durability: Durability,
    /// How long a submit may wait for that.
    pub durability_timeout: Duration,
    /// Locations file.
    pub locations: PathBuf,
    /// Who every caller is in plaintext.
    pub caller: Caller,
    /// What peers may do by their certificates.
    pub roles: Arc<Roles>,
    /// How peers prove who they are; `None` for plaintext.
    pub tls: Option<TlsSettings>,
    /// Token issuers file.
    pub token_issuers: Option<PathBuf>,
    /// How often to look for new certificates.
    pub tls_reload_every: Duration,
    /// Of the queue.
    pub queue: QueueSettings,
    /// What a submit means where it says nothing.
    pub defaults: SubmitDefaults,
    /// Bounds on unary calls.
    pub calls: CallLimits,
    /// How soon a worker must send Hello.
    pub hello_within: Duration,
    /// Most workers connected at a time.
    pub max_streams: usize,
    /// Most workers connected from one address.
    pub max_streams_per_address: usize,
    /// Most workers connected with one identity, and most watches of one.
    pub max_streams_per_identity: usize,
    /// Age at which a stream is moved; `None` for never.
    pub max_stream_age: Option<Duration>,
    /// Bounds on connections.
    pub connections: ConnectionLimits,
    /// Of the audit log, if there is one.
    pub audit: Option<AuditSettings>,
    /// Of backups of prefixes.
    pub prefix: WalkerSettings,
    /// Rules file.
    pub rules: Option<PathBuf>,
    /// Time for an ordered stop.
    pub drain_within: Duration,
    /// Logs and traces.
    pub log: LogArgs,
}

impl Config {
    /// Reads and checks arguments (the first is the program's name) and their environment variables.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_args<I, T>(args: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        Flags::try_parse_from(args)?.check().map_err(ConfigError::Problems)
    }
}

impl Flags {
    /// Checks the flags against their bounds and each other.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn check(self) -> Result<Config, Vec<Problem>> {
        let mut problems = Problems::default();
        let caller = Caller::new(&self.tenant);
        if let Err(invalid) = &caller {
            problems.add("--tenant", invalid.to_string());
        }
        self.redis.check(&mut problems);
        self.check_queue(&mut problems);
        self.check_times(&mut problems);
        problems.require(self.max_calls > 0, "--max-calls", "must be at least 1");
        problems.require(self.calls_per_second > 0, "--calls-per-second", "must be at least 1");
        self.connections.check(&mut problems);
        self.audit.check(&mut problems);
        self.identities.check(&mut problems);
        self.prefix.check(&mut problems);
        self.tokens.check(self.tls.insecure, &mut problems);
        self.events.check(&mut problems);
        let tls = self.tls.settings();
        if let Err(problem) = &tls {
            problems.add(problem.setting(), problem.what());
        }
        match (caller, tls) {
            (Ok(caller), Ok(tls)) if problems.0.is_empty() => {
                let caller = if self.operator { caller.operator() } else { caller };
                Ok(self.into_config(caller, tls))
            }
            _ => Err(problems.0),
        }
    }

    fn check_queue(&self, problems: &mut Problems) {
        problems.require((1..=MAX_SHARDS).contains(&self.shards), "--shards", "must be 1 to 1024");
        problems.require(
            (1..=MAX_ATTEMPTS).contains(&self.max_attempts),
            "--max-attempts",
            "must be 1 to 100",
        );
        problems.require(
            (1..=MAX_COUNTED).contains(&self.max_crashes),
            "--max-crashes",
            "must be 1 to 65534",
        );
        problems.require(self.max_returns <= MAX_COUNTED, "--max-returns", "must be at most 65534");
        problems.require(self.shard_cap > 0, "--shard-cap", "must be at least 1");
        problems.require(self.tenant_cap > 0, "--tenant-cap", "must be at least 1");
        problems.require(
            self.tenant_cap <= self.shard_cap,
            "--tenant-cap",
            "must be at most --shard-cap, else it bounds nothing",
        );
        problems.require(self.tenant_in_flight_cap > 0, "--tenant-in-flight-cap", "must be at least 1");
        problems.require(
            self.retry_floor >= Duration::from_millis(1),
            "--retry-floor",
            "must be at least 1ms, else a failing task spins",
        );
        problems.require(
            self.retry_floor <= self.retry_base,
            "--retry-floor",
            "must be at most --retry-base",
        );
        problems.require(self.retry_base <= self.retry_max, "--retry-base", "must be at most --retry-max");
        problems.require(
            (MIN_PROCESSING_TIMEOUT..=MAX_PROCESSING_TIMEOUT).contains(&self.processing_timeout),
            "--processing-timeout",
            "must be 1s to 24h",
        );
    }

    fn check_times(&self, problems: &mut Problems) {
        /// Below this, timers of milliseconds make up too much of a third of a lease.
        const MIN_LEASE: Duration = Duration::from_millis(300);
        /// Above this, a worker that died holds its tasks for too long to be called noticed.
        const MAX_LEASE: Duration = Duration::from_secs(3600);
        /// Longer than any retention makes sense, and far from any overflow.
        const MAX_TIME: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
        problems.require((MIN_LEASE..=MAX_LEASE).contains(&self.lease), "--lease", "must be 300ms to 1h");
        problems.require(
            self.accept_within <= self.lease * 2 / 3,
            "--accept-within",
            "must be at most two thirds of --lease: a leased task may wait half as long again until it can be sent",
        );
        problems.require(
            self.sweep_every < self.lease,
            "--sweep-every",
            "must be below --lease, else leases end late",
        );
        for (setting, time) in [
            ("--accept-within", self.accept_within),
            ("--sweep-every", self.sweep_every),
            ("--durability-timeout", self.durability_timeout),
            ("--call-deadline", self.call_deadline),
            ("--drain-within", self.drain_within),
        ] {
            problems.require(is_wait(time), setting, "must be 1ms to 1h");
        }
        for (setting, time) in [
            ("--retry-max", self.retry_max),
            ("--dedup-window", self.dedup_window),
            ("--retain-finished", self.retain_finished),
            ("--retain-dead", self.retain_dead),
        ] {
            problems.require(time <= MAX_TIME, setting, "must be at most 100 years");
        }
    }

    fn into_config(self, caller: Caller, tls: Option<TlsSettings>) -> Config {
        let queue = self.queue_settings();
        let anonymous_peers = self.tokens.token_issuers.is_some();
        Config {
            listen: self.listen,
            ops_listen: self.ops_listen,
            events_certificate: self.events.certificate(),
            events_insecure: self.events.events_insecure || self.tls.insecure,
            events_listen: self.events.events_listen,
            event_sources: self.events.event_sources,
            address_file: self.address_file,
            redis: self.redis,
            durability_timeout: self.durability_timeout,
            durability: self.durability,
            locations: self.locations,
            caller,
            roles: Arc::new(self.names.roles()),
            tls: tls.map(|tls| TlsSettings { anonymous_peers, ..tls }),
            token_issuers: self.tokens.token_issuers,
            tls_reload_every: self.tls.tls_reload_every,
            audit: self.audit.settings(),
            prefix: self.prefix.settings(&queue),
            rules: self.rules.rules,
            queue,
            defaults: SubmitDefaults {
                max_attempts: self.max_attempts,
                processing_timeout: self.processing_timeout,
            },
            calls: CallLimits {
                max_calls: self.max_calls as usize,
                calls_per_second: self.calls_per_second,
                max_calls_of_each: self.identities.max_calls_per_identity as usize,
                calls_per_second_of_each: self.identities.calls_per_second_per_identity,
                deadline: self.call_deadline,
            },
            hello_within: self.connections.hello_within,
            max_streams: self.connections.max_streams as usize,
            max_streams_per_address: self.connections.max_streams_per_address as usize,
            max_streams_per_identity: self
                .identities
                .max_streams_per_identity
                .unwrap_or(self.connections.max_streams) as usize,
            max_stream_age: Some(self.connections.max_stream_age).filter(|age| !age.is_zero()),
            connections: self.connections.limits(),
            drain_within: self.drain_within,
            log: self.log,
        }
    }
}

/// A time that somebody may be kept waiting.
fn is_wait(time: Duration) -> bool {
    (Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&time)
}

pub(crate) fn parse_durability(text: &str) -> Result<Durability, &'static str> {
    match (text, text.strip_prefix("replicas=").map(u32::from_str)) {
        ("none", _) => Ok(Durability::None),
        ("local", _) => Ok(Durability::Local),
        (_, Some(Ok(replicas @ 1..=16))) => Ok(Durability::Replicas(replicas)),
        (_, _) => Err("must be none, local, or replicas=N with N from 1 to 16"),
    }
}

#[cfg(test)]
mod tests;
