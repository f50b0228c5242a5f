//! The composition root: the only file that knows every concrete type of the worker.
//!
//! Builds the parts from the settings, connects them, and waits for their orderly end. Decides nothing else.

mod ops;

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use backhaul_runtime::{
    build,
    locations::Locations,
    settings_file::FileError,
    tls::{Reloader, Tls, TlsError},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::{Args, ConfigError, Security, WorkerSettings},
    link::{
        Backoff, BackoffError, Connector, CreditLimit, Departure, Dialer, LinkDriver, LinkGauges,
        LinkSettings, PageLister, TcpConnector, TlsConnector,
    },
    lister::EngineLister,
    metrics::{Exposed, MeteredCopier, MeteredStore, Metrics},
    runner::{Budget, Runner, RunnerSettings},
    transfer::{Copier, Engine, EngineSettings, SetupError},
};

/// Parts of one object that are copied at a time.
const PARTS_IN_FLIGHT: u32 = 4;

/// Why a worker did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The address for operators cannot be served on. Nothing was started.
    #[error("--ops-listen: cannot listen on {addr}")]
    OpsListen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A setting cannot be used. Nothing was started.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The locations file cannot be used. Nothing was started.
    #[error("--locations: {0}")]
    Locations(#[from] FileError),
    /// A location cannot be used as it is configured. Nothing was started.
    #[error("--locations: {0}")]
    Setup(#[from] SetupError),
    /// Certificate, key or bundle cannot be used. Nothing was started.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The name of the host could not be read. Nothing was started.
    #[error("--name: cannot read the host's name")]
    HostName(#[source] io::Error),
    /// The operating system gave no random bytes. Nothing was started.
    #[error("no random bytes")]
    Random(#[from] getrandom::Error),
    /// The delays between connections contradict each other. Nothing was started.
    #[error("backoff")]
    Backoff(#[from] BackoffError),
    /// The time for the drain was over first. The leases end by themselves and their tasks run again; a result that was not
    /// confirmed may have been stored all the same.
    #[error("left with {} unfinished copies and {} unconfirmed results", .0.leases, .0.unconfirmed)]
    Unclean(Departure),
}

/// What keeps certificates current, and how often it looks.
type Upkeep = (Reloader, Duration);

/// Runs a worker with the engine until `stop` is cancelled and its drain is over.
///
/// # Errors
/// [`AppError`].
pub async fn run(args: Args, stop: CancellationToken) -> Result<(), AppError> {
    let locations = Locations::load(&args.locations)?;
    let origins = locations.origins().map(ToOwned::to_owned).collect();
    let host_name = if args.name.is_none() { Some(host_name()?) } else { None };
    let classes = locations.retention_classes().collect();
    let settings = args.settings(origins, classes, host_name.as_deref())?;
    let metrics = Arc::new(Metrics::new(locations.iter().map(|location| location.name.as_str())));
    let engine = Engine::wrapped(&locations, engine_settings(&settings), |location, store| {
        Arc::new(MeteredStore::new(store, location, &metrics))
    })?;
    let engine = Arc::new(engine);
    let (link, credit) = (Arc::new(LinkGauges::default()), credit(&settings));
    let copier = Arc::new(MeteredCopier::new(Arc::<Engine>::clone(&engine), Arc::clone(&metrics)));
    let (connector, upkeep) = connector(settings.security.as_ref())?;
    let port = ops::bind(args.ops_listen).await?;
    info!(name = settings.name, version = build::text(), "starting");
    let exposed = Exposed { metrics, link: Arc::clone(&link), credit, engine: Arc::clone(&engine) };
    let ended = CancellationToken::new();
    // A target that is not reached now is probed before its first copy: nothing waits for this.
    let probed = probe(&engine);
    // Until the last copy has ended: it may leave something to clear up.
    let tended = CancellationToken::new();
    let worked = async {
        let beside = Beside {
            paused: Some(engine.paused()),
            lister: Some(Arc::new(EngineLister(Arc::clone(&engine))) as Arc<dyn PageLister>),
        };
        let worked = run_link(settings, copier, link, connector, beside, stop.clone()).await;
        ended.cancel();
        tended.cancel();
        worked
    };
    let (_, (), worked, (), ()) = tokio::join!(
        stop.run_until_cancelled(probed),
        engine.tend(tended.clone()),
        worked,
        ops::serve(port, exposed, &ended),
        keep_current(upkeep, ended.clone())
    );
    worked
}

/// The way to dispatchers, and what keeps it current with the interval to do that.
fn connector(security: Option<&Security>) -> Result<(Arc<dyn Connector>, Option<Upkeep>), TlsError> {
    let Some(Security { tls, dispatcher, reload_every }) = security else {
        warn!("--insecure: plaintext to whoever answers as a dispatcher");
        return Ok((Arc::new(TcpConnector), None));
    };
    let (tls, reloader) = Tls::open(tls.clone())?;
    let connector = TlsConnector::new(Arc::new(TcpConnector), tls, dispatcher.clone());
    Ok((Arc::new(connector), Some((reloader, *reload_every))))
}

/// Uses new certificates as they come, until `end`.
async fn keep_current(upkeep: Option<Upkeep>, end: CancellationToken) {
    if let Some((reloader, every)) = upkeep {
        reloader.run(every, end).await;
    }
}

/// Finds out what the backup targets can do, and says so.
async fn probe(engine: &Engine) {
    for probe in engine.probe().await {
        let (location, bucket) = (probe.location, probe.bucket);
        if let Err(error) = probe.result {
            warn!(
                location,
                bucket,
                error = &error as &dyn std::error::Error,
                "backup target not reached yet"
            );
        }
    }
}

/// Runs a worker with `copier`, over TCP, until `stop` is cancelled and its drain is over. `gauges` show where its link stands.
///
/// # Errors
/// [`AppError`].
pub async fn run_with(
    settings: WorkerSettings,
    copier: Arc<dyn Copier>,
    gauges: Arc<LinkGauges>,
    stop: CancellationToken,
) -> Result<(), AppError> {
    run_over(settings, copier, gauges, Arc::new(TcpConnector), stop).await
}

/// Runs a worker with `copier` over the network of `connector`, until `stop` is cancelled and its drain is over.
///
/// # Errors
/// [`AppError`].
pub async fn run_over(
    settings: WorkerSettings,
    copier: Arc<dyn Copier>,
    gauges: Arc<LinkGauges>,
    connector: Arc<dyn Connector>,
    stop: CancellationToken,
) -> Result<(), AppError> {
    run_link(settings, copier, gauges, connector, Beside::default(), stop).await
}

/// What a link has besides copies.
#[derive(Default)]
struct Beside {
    paused: Option<watch::Receiver<BTreeSet<String>>>,
    lister: Option<Arc<dyn PageLister>>,
}

async fn run_link(
    settings: WorkerSettings,
    copier: Arc<dyn Copier>,
    gauges: Arc<LinkGauges>,
    connector: Arc<dyn Connector>,
    beside: Beside,
    stop: CancellationToken,
) -> Result<(), AppError> {
    settings.check()?;
    let runner = Runner::new(runner_settings(&settings), copier);
    let dialer = Dialer::new(settings.dispatchers.clone(), connector, Duration::from_secs(5), seed()?);
    let driver =
        LinkDriver::new(link_settings(&settings)?, dialer, runner, settings.drain_within).shown_on(gauges);
    let driver = match beside.paused {
        Some(paused) => driver.with_paused(paused),
        None => driver,
    };
    let driver = match beside.lister {
        Some(lister) => driver.with_lister(lister),
        None => driver,
    };
    let departure = driver.run(stop).await;
    if departure.is_clean() {
        info!("drained");
        Ok(())
    } else {
        Err(AppError::Unclean(departure))
    }
}

impl AppError {
    /// True when somebody must change a setting before a new start can work.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Config(_) | Self::Locations(_) | Self::Setup(_) | Self::Tls(_) | Self::HostName(_) => true,
            Self::OpsListen { .. } | Self::Random(_) | Self::Backoff(_) | Self::Unclean(_) => false,
        }
    }
}

/// What a worker's settings mean for its engine.
#[must_use]
pub fn engine_settings(settings: &WorkerSettings) -> EngineSettings {
    let settings = EngineSettings {
        memory_bytes: settings.memory_bytes,
        part_bytes: settings.part_bytes,
        whole_bytes: settings.part_bytes,
        window: usize::try_from(PARTS_IN_FLIGHT).unwrap_or(usize::MAX),
        ..EngineSettings::default()
    };
    // What a large object may hold in its window a smaller one may hold at once, as long as two of them find room.
    let window = settings.part_bytes.saturating_mul(PARTS_IN_FLIGHT.into());
    let room = settings.copying_bytes() / 2;
    EngineSettings { whole_bytes: window.min(room).max(settings.part_bytes), ..settings }
}

fn runner_settings(settings: &WorkerSettings) -> RunnerSettings {
    RunnerSettings {
        worker: settings.name.clone(),
        budget: Budget {
            tasks: usize::try_from(settings.max_tasks).unwrap_or(usize::MAX),
            // More copies than find room would only hold answers open that they cannot read.
            memory_bytes: engine_settings(settings).copying_bytes(),
            part_bytes: settings.part_bytes,
            parts_in_flight: PARTS_IN_FLIGHT,
        },
        stop_within: Duration::from_secs(3),
    }
}

/// What is copied at a time, and no more: a task that waited here would make no progress, and lose its lease for that in the end.
fn credit(settings: &WorkerSettings) -> CreditLimit {
    CreditLimit { tasks: settings.max_tasks, bytes: engine_settings(settings).copying_bytes() }
}

fn link_settings(settings: &WorkerSettings) -> Result<LinkSettings, AppError> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)?;
    Ok(LinkSettings {
        worker: settings.name.clone(),
        instance,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        locations: settings.origins.clone(),
        retention_classes: settings.retention_classes.clone(),
        credit: credit(settings),
        welcome_within: Duration::from_secs(10),
        answer_within: Duration::from_secs(20),
        flush_every: Duration::from_millis(20),
        retry_after: Duration::from_secs(1),
        backoff: Backoff::try_new(Duration::from_millis(100), Duration::from_secs(10))?,
        stable_after: Duration::from_secs(10),
        seed: seed()?,
    })
}

fn seed() -> Result<u64, getrandom::Error> {
    getrandom::u64()
}

/// The name that the kernel has for this machine; in a pod, the pod's.
fn host_name() -> Result<String, AppError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(AppError::HostName)?;
    Ok(name.trim_end().to_owned())
}

#[cfg(test)]
mod tests;
