//! The command line: every command, flag and default. `--help` is the reference, so the help texts are the documentation.
//!
//! Parses and checks form only; what a value means is its command's matter.

pub(crate) mod audit;
pub(crate) mod prefix;
pub(crate) mod schedule;
pub(crate) mod task;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use backhaul_proto::v1;
use backhaul_runtime::{
    build,
    telemetry::LogArgs,
    tls::{SpiffeId, TlsFlags},
    units::parse_duration,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tonic::transport::Uri;

use self::{audit::AuditCommand, prefix::PrefixCommand, schedule::ScheduleCommand, task::TaskArgs};
use crate::object::ObjectArg;

const EXIT_CODES: &str = "Exit codes: 0 when all is as asked for, 1 when something is not (a request refused, a task not done), \
                          2 when the command could not be carried out.";

/// Back up objects from S3-compatible stores, and see what became of them.
#[derive(Debug, Parser)]
#[command(name = "backhaul", version = build::text(), max_term_width = 110, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask for backups of objects.
    Submit(SubmitArgs),
    /// Show one task with its receipt.
    Status(StatusArgs),
    /// List tasks.
    List(ListArgs),
    /// Cancel tasks that are not finished.
    Cancel(CancelArgs),
    /// Run dead tasks again.
    Retry(RetryArgs),
    /// Show how much is in the queues, and since when.
    Stats(StatsArgs),
    /// Follow tasks until they are finished.
    Watch(WatchArgs),
    /// See what origins told that became no task: removals, and bodies that nobody understood; for operators.
    #[command(subcommand)]
    Events(EventsCommand),
    /// Back up all objects below a prefix.
    #[command(subcommand)]
    Prefix(PrefixCommand),
    /// See and manage the runs of rules, which list prefixes again and again; for operators.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Look at audit logs of dispatchers.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Find out what a store can do: writes, tries and removes a few objects under `.backhaul/probe/` of a backup bucket, and says what
    /// each answer means for backups there.
    Probe(ProbeArgs),
    /// Run everything in one process: a child redis-server, two embedded S3 stores, dispatcher and worker. For development: the
    /// embedded stores are not made for data that matters.
    Standalone(StandaloneArgs),
    /// Show the main job on real files: upload, back up, retry a failure, prove every copy byte for byte. Leaves nothing behind.
    Demo(DemoArgs),
}

/// How to reach the dispatcher and how to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClientArgs {
    /// Address of the dispatcher, as https://host:port, or as http://host:port with `--insecure`.
    #[arg(long, env = "BACKHAUL_DISPATCHER", value_parser = parse_url, default_value = "https://127.0.0.1:7400", value_name = "URL")]
    pub(crate) dispatcher: Uri,
    /// SPIFFE id of the dispatcher; `spiffe://<first trust domain>/backhaul/dispatcher` unless given.
    #[arg(long, env = "BACKHAUL_DISPATCHER_ID", value_name = "ID")]
    pub(crate) dispatcher_id: Option<SpiffeId>,
    /// How programs prove who they are.
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
    /// File with a bearer token to show with each call, instead of a certificate of one's own. Read for each call: it may be replaced.
    #[arg(long, env = "BACKHAUL_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Time for one call, retries included.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
    /// Print JSON: one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `submit`.
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Objects, each as LOCATION:BUCKET/KEY. The key is taken as it is: nothing is decoded.
    #[arg(required_unless_present = "stdin", value_name = "OBJECT")]
    pub(crate) objects: Vec<ObjectArg>,
    /// Read objects from standard input as well, one a line.
    #[arg(long)]
    pub(crate) stdin: bool,
    /// Version id of the object; only with a single object. Without it: the latest when the copy starts.
    #[arg(long, value_name = "ID")]
    pub(crate) object_version: Option<String>,
    /// Do not start before: an instant such as 2027-01-31T09:00:00Z, or from now: +10m.
    #[arg(long, value_name = "WHEN")]
    pub(crate) at: Option<String>,
    #[command(flatten)]
    pub(crate) task: TaskArgs,
    /// Follow the tasks until they are finished, as `watch` does.
    #[arg(long)]
    pub(crate) watch: bool,
}

/// Flags of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Id of the task.
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
}

/// Flags of `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Only tasks in this state; may be given several times.
    #[arg(long = "state", value_enum)]
    pub(crate) states: Vec<StateArg>,
    /// Only this location.
    #[arg(long, value_name = "NAME")]
    pub(crate) location: Option<String>,
    /// Only keys that start with this.
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
    /// Only tasks with this label; may be given several times.
    #[arg(long = "label", value_parser = parse_label, value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
    /// Stop after this many tasks; 0 lists them all.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u64,
}

/// Flags of `cancel`.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Ids of the tasks.
    #[arg(required = true, value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
}

/// Flags of `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Ids of the tasks.
    #[arg(required_unless_present = "labels", conflicts_with = "labels", value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    /// Instead of tasks by id: all that carry this label, whatever becomes of them, until interrupted; may be given several times.
    #[arg(long = "label", value_parser = parse_label, value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
}

/// Flags of `retry`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Ids of tasks; the filters below apply to them too.
    #[arg(group = "which", value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    /// All dead tasks of the tenant.
    #[arg(long, group = "which")]
    pub(crate) all: bool,
    /// Only this location.
    #[arg(long, group = "which", value_name = "NAME")]
    pub(crate) location: Option<String>,
    /// Only this bucket.
    #[arg(long, group = "which", value_name = "NAME")]
    pub(crate) bucket: Option<String>,
    /// Only keys that start with this.
    #[arg(long, group = "which", value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
    /// Only tasks with this label; may be given several times.
    #[arg(long = "label", group = "which", value_parser = parse_label, value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
    /// Only tasks that died for this reason; may be given several times.
    #[arg(long = "reason", group = "which", value_enum)]
    pub(crate) reasons: Vec<DeadReasonArg>,
    /// Only tasks that died at this instant or later: 2027-01-31T09:00:00Z, or from now: -2h.
    #[arg(long, group = "which", allow_hyphen_values = true, value_name = "WHEN")]
    pub(crate) died_from: Option<String>,
    /// Only tasks that died before this instant.
    #[arg(long, group = "which", allow_hyphen_values = true, value_name = "WHEN")]
    pub(crate) died_before: Option<String>,
    /// Stop after this many tasks; 0 goes on to the end.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) limit: u64,
    /// Only show which tasks would be run again.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Flags of `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Of all tenants together, with those that have most; for operators.
    #[arg(long)]
    pub(crate) all_tenants: bool,
    /// Tenants to name with `--all-tenants`.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100), value_name = "N")]
    pub(crate) tenants: u32,
}

/// What to do about events.
#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// List objects that were removed at their origins, the latest first. Their backups are still there.
    Removals(RemovalsArgs),
    /// List bodies that were not understood, the latest first.
    Quarantined(QuarantinedArgs),
    /// Print the body of one as it came, at most its first 256 KiB.
    Show(EventArgs),
    /// Take bodies again, as if their origins had sent them again; what is understood now is forgotten.
    Retry(EventsArgs),
    /// Forget bodies.
    Discard(EventsArgs),
}

/// Flags of `events removals`.
#[derive(Debug, Args)]
pub(crate) struct RemovalsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Stop after this many; 0 lists them all.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u64,
}

/// Flags of `events quarantined`.
#[derive(Debug, Args)]
pub(crate) struct QuarantinedArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Flags of `events show`.
#[derive(Debug, Args)]
pub(crate) struct EventArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Its id.
    #[arg(value_name = "EVENT")]
    pub(crate) event: String,
}

/// Flags of `events retry` and `events discard`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Their ids.
    #[arg(required = true, value_name = "EVENT")]
    pub(crate) events: Vec<String>,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Name of the location.
    #[arg(value_name = "LOCATION")]
    pub(crate) location: String,
    /// The file of locations, the same as the worker's.
    #[arg(long, env = "BACKHAUL_LOCATIONS", value_name = "FILE")]
    pub(crate) locations: PathBuf,
    /// Bucket to try; the buckets that backups go to when not given.
    #[arg(long, value_name = "NAME")]
    pub(crate) bucket: Option<String>,
    /// Prefix to write below; only with `--bucket`.
    #[arg(long, requires = "bucket", default_value = "", value_name = "PREFIX")]
    pub(crate) prefix: String,
    /// Print JSON: one object a bucket.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `standalone`.
#[derive(Debug, Args)]
pub(crate) struct StandaloneArgs {
    /// Folder for queues, objects, credentials and the locations file. Made if it does not exist; used again at the next start.
    #[arg(long, env = "BACKHAUL_DATA", default_value = "backhaul-data", value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address for callers and workers.
    #[arg(long, env = "BACKHAUL_LISTEN", default_value = "127.0.0.1:7400", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Address of the origin, location `uploads`, bucket `uploads`.
    #[arg(long, default_value = "127.0.0.1:7401", value_name = "ADDR")]
    pub(crate) origin_listen: SocketAddr,
    /// Address of the backup store, location `vault`, bucket `backups`.
    #[arg(long, default_value = "127.0.0.1:7402", value_name = "ADDR")]
    pub(crate) vault_listen: SocketAddr,
    /// Address for operators of the dispatcher: metrics, health, KEDA's scaler. Nothing is served there unless it is given.
    #[arg(long, value_name = "ADDR")]
    pub(crate) ops_listen: Option<SocketAddr>,
    /// Address for operators of the worker: metrics, health.
    #[arg(long, value_name = "ADDR")]
    pub(crate) worker_ops_listen: Option<SocketAddr>,
    /// The redis-server program to run.
    #[arg(long, env = "BACKHAUL_REDIS_SERVER", default_value = "redis-server", value_name = "PROGRAM")]
    pub(crate) redis_server: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Size of the largest file, in MiB.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=10_240), value_name = "MIB")]
    pub(crate) large: u64,
    /// The redis-server program to run.
    #[arg(long, env = "BACKHAUL_REDIS_SERVER", default_value = "redis-server", value_name = "PROGRAM")]
    pub(crate) redis_server: PathBuf,
    /// What to log, to standard error.
    #[arg(long, env = "BACKHAUL_LOG", default_value = "warn", value_name = "FILTER")]
    pub(crate) log: String,
}

/// Why tasks are dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeadReasonArg {
    /// Retrying could not help.
    PermanentFailure,
    /// Every allowed attempt failed.
    AttemptsUsedUp,
    /// Too many workers vanished while they held it.
    CrashedTooOften,
}

/// States.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateArg {
    /// Waits for its processing time.
    Scheduled,
    /// May start now.
    Pending,
    /// Is being copied.
    Working,
    /// Waits for its next attempt.
    Delayed,
    /// Backed up.
    Done,
    /// Given up.
    Dead,
    /// Ended on purpose.
    Cancelled,
}

/// Anything but plain HTTP is refused: nobody who asks for an encrypted connection must get another.
fn parse_url(text: &str) -> Result<Uri, &'static str> {
    const EXPECTED: &str = "expected https://host:port";
    let url: Uri = text.parse().map_err(|_| EXPECTED)?;
    let is_whole = matches!(url.scheme_str(), Some("http" | "https")) && url.port_u16().is_some();
    let ends_there = url.path_and_query().is_none_or(|rest| rest == "/");
    if is_whole && ends_there { Ok(url) } else { Err(EXPECTED) }
}

fn parse_label(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE"),
    }
}

impl From<DeadReasonArg> for v1::TaskReason {
    fn from(arg: DeadReasonArg) -> Self {
        match arg {
            DeadReasonArg::PermanentFailure => Self::PermanentFailure,
            DeadReasonArg::AttemptsUsedUp => Self::AttemptsUsedUp,
            DeadReasonArg::CrashedTooOften => Self::CrashedTooOften,
        }
    }
}

impl From<StateArg> for v1::TaskState {
    fn from(arg: StateArg) -> Self {
        match arg {
            StateArg::Scheduled => Self::Scheduled,
            StateArg::Pending => Self::Pending,
            StateArg::Working => Self::Working,
            StateArg::Delayed => Self::Delayed,
            StateArg::Done => Self::Done,
            StateArg::Dead => Self::Dead,
            StateArg::Cancelled => Self::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent_and_every_flag_has_help() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            for arg in sub.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {} has no help", sub.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        assert!(parse_url("http://host:7400").is_ok());
        assert!(parse_url("https://[::1]:7400/").is_ok());
        for other in ["ftp://host:7400", "https://host", "https://host:7400/v1", "host:7400", "http://", ""] {
            assert!(parse_url(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_label_needs_a_name() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_label("a="), Ok(("a".into(), String::new())));
        assert!(parse_label("=b").is_err());
        assert!(parse_label("a").is_err());
    }
}
