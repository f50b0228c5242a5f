//! The composition root: the only place that knows every concrete part, and the order in which they start and stop.
//!
//! Start: locations, queue, listener, streams, readiness, server, address file. Stop, under one deadline: readiness goes off, so
//! that no new caller comes; the streams drain and end, the watches end; then the server stops, when calls in progress have been
//! answered. Nothing is decided here about tasks or calls.

mod address_file;
mod audit;
mod connect;
mod error;
mod events;
mod ops;
mod parts;
mod prefixes;
mod rules;
mod tokens;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use backhaul_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{backup_service_server::BackupServiceServer, event_service_server::EventServiceServer},
};
use backhaul_runtime::{
    build, descriptors,
    locations::Locations,
    ops::{OpsPort, Ready},
    tls::{Reloader, Tls},
};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::Layer as _;
use tracing::{info, warn};

pub use self::error::AppError;
use self::{
    address_file::AddressFile, audit::Auditing, events::Events, parts::Parts, prefixes::Prefixing,
    rules::Ruling, tokens::Tokens,
};
use crate::{
    audit::Audited,
    config::Config,
    dispatch::Dispatch,
    grpc::{
        backup_service::{Backups, MAX_MESSAGE_BYTES, StopCopies},
        event_service::Events as EventService,
        gate::GateLayer,
        health::{self, Readiness},
        layers::GuardLayer,
        scaler::Scaler,
        worker_service::WorkerService,
    },
    metrics::{Exposed, Metered, Metrics, Trust},
    queue::{
        LeaseToken, QueueClock, TaskId, TaskQueue,
        redis::RedisQueue,
        snapshot::{DepthsOnly, Observe, Watched},
        walk::WalkStore,
    },
    schedule::marks::{Marks, MemoryMarks},
    session::StreamSettings,
    transport::{ConnectionLimits, Listener, Server},
    watch::Watches,
};

const STREAMS: &str = "streams";
const READINESS: &str = "readiness";
const SERVER: &str = "server";
const CERTIFICATES: &str = "certificates";
const TOKENS: &str = "token issuers";
const EVENTS: &str = "events";
const WATCHES: &str = "watches";
const OPS: &str = "port for operators";
const PREFIXES: &str = "prefix backups";
const RULES: &str = "rules";
const RUNS: &str = "runs of rules";
const AUDIT: &str = "audit log";

/// Time for the end of the audit log, whatever is left of that for the stop.
const AUDIT_WITHIN: Duration = Duration::from_secs(3);

/// How often the queue is asked whether it can be trusted.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// How long drives of prefix backups are waited for: what they hold ends by itself.
const PREFIXES_WITHIN: Duration = Duration::from_secs(2);

/// How long watches are waited for: a caller that does not read holds up nobody.
const WATCHES_WITHIN: Duration = Duration::from_secs(1);

/// A dispatcher that is bound to its address and can be run.
#[derive(Debug)]
pub struct App<L = TcpListener> {
    config: Config,
    queue: Arc<dyn TaskQueue>,
    /// The queue again, to be looked at.
    observe: Arc<dyn Observe>,
    /// Where backups of prefixes are kept; without, there are none.
    walks: Option<Arc<dyn WalkStore>>,
    /// Where runs of rules are kept.
    marks: Arc<dyn Marks>,
    /// The queue again, if it is ours to shut down.
    redis: Option<Arc<RedisQueue>>,
    locations: Arc<Locations>,
    listener: L,
    addr: SocketAddr,
    ops: Option<OpsPort>,
    tls: Option<(Tls, Reloader)>,
    tokens: Tokens,
    events: Events,
    rules: Ruling,
    auditing: Auditing,
}

/// Runs a dispatcher until `stop`, or until something fails.
///
/// # Errors
/// [`AppError`]; everything that was started has been stopped then.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), AppError> {
    // A stop while Redis is waited for leaves nothing behind that would have to be stopped in order.
    match stop.run_until_cancelled(Box::pin(App::bind(config))).await {
        Some(app) => Box::pin(app?.run(stop)).await,
        None => Ok(()),
    }
}

impl App {
    /// Reads the locations, connects to Redis (waiting for it when it does not answer) and binds the address.
    ///
    /// # Errors
    /// [`AppError::File`], [`AppError::Connect`], [`AppError::Listen`].
    pub async fn bind(config: Config) -> Result<Self, AppError> {
        let locations = Arc::new(Locations::load(&config.locations)?);
        // Before Redis is waited for: what is wrong with a file is told at once.
        drop(config.tls.clone().map(Tls::open).transpose()?);
        drop(Tokens::load(config.token_issuers.clone())?);
        Ruling::open(&config, &locations)?;
        let redis = connect::connect(&config).await?;
        let queue: Arc<dyn TaskQueue> = Arc::<RedisQueue>::clone(&redis);
        let mut app = Self::bind_with(config, queue, locations).await?;
        app.events.quarantine = Arc::<RedisQueue>::clone(&redis);
        app.events.removals = Arc::<RedisQueue>::clone(&redis);
        app.marks = Arc::<RedisQueue>::clone(&redis);
        let walks: Arc<dyn WalkStore> = Arc::<RedisQueue>::clone(&redis);
        Ok(Self { observe: Arc::<RedisQueue>::clone(&redis), redis: Some(redis), ..app }.with_walks(walks))
    }

    /// Binds the address, over a queue and locations that are there already: for tests, and for all of Backhaul in one process.
    ///
    /// # Errors
    /// [`AppError::File`], [`AppError::Listen`].
    pub async fn bind_with(
        config: Config,
        queue: Arc<dyn TaskQueue>,
        locations: Arc<Locations>,
    ) -> Result<Self, AppError> {
        let listen = |source| AppError::Listen { addr: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let ops = ops::bind(config.ops_listen).await?;
        let events = Events::bind(&config, &locations).await?;
        let rules = Ruling::open(&config, &locations)?;
        let auditing = Auditing::open(&config).await?;
        Ok(Self { ops, events, rules, auditing, ..Self::on(listener, config, queue, locations)? })
    }
}

impl<L: Listener> App<L> {
    /// Takes connections from `listener`, over a queue and locations that are there already: for networks that are not the
    /// system's.
    ///
    /// # Errors
    /// [`AppError::Listen`] when the listener has no address; [`AppError::Tls`], [`AppError::File`].
    pub fn on(
        listener: L,
        config: Config,
        queue: Arc<dyn TaskQueue>,
        locations: Arc<Locations>,
    ) -> Result<Self, AppError> {
        let addr =
            listener.local_addr().map_err(|source| AppError::Listen { addr: config.listen, source })?;
        let tls = config.tls.clone().map(Tls::open).transpose()?;
        let tokens = Tokens::load(config.token_issuers.clone())?;
        let observe = Arc::new(DepthsOnly(Arc::clone(&queue)));
        let (events, rules, auditing) = (Events::none(), Ruling::default(), Auditing::default());
        let (walks, redis, ops) = (None, None, None);
        let marks = Arc::<MemoryMarks>::default();
        Ok(Self {
            config,
            queue,
            observe,
            walks,
            marks,
            redis,
            locations,
            listener,
            addr,
            ops,
            events,
            rules,
            tls,
            tokens,
            auditing,
        })
    }

    /// Takes backups of prefixes too, and keeps them there.
    #[must_use]
    pub fn with_walks(self, walks: Arc<dyn WalkStore>) -> Self {
        Self { walks: Some(walks), ..self }
    }

    /// The address that is served; the real port where port 0 was asked for.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address for events, where one was asked for.
    #[must_use]
    pub fn events_addr(&self) -> Option<SocketAddr> {
        self.events.addr()
    }

    /// Serves until `stop`, then stops in order.
    ///
    /// # Errors
    /// [`AppError`]: what failed first. The rest has been stopped in order all the same.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AppError> {
        let Self { config, queue, observe, walks, marks, redis, locations, .. } = self;
        let Self { listener, addr, ops, events, rules, tls, tokens, auditing, .. } = self;
        let audit = auditing.audit.clone();
        let [
            end_streams,
            end_readiness,
            end_watches,
            end_events,
            end_prefixes,
            end_server,
            end_ops,
            end_audit,
        ] = std::array::from_fn(|_| CancellationToken::new());
        let (metrics, ready) = (Arc::new(Metrics::default()), Ready::default());
        let queue: Arc<dyn TaskQueue> = Arc::new(Metered::new(queue, Arc::clone(&metrics)));
        let queue = Audited::around(queue, &audit);

        let streams =
            Dispatch::granted(Arc::clone(&queue), stream_settings(&config), Some(Arc::clone(&locations)));
        let (reporter, health) = tonic_health::server::health_reporter();
        let readiness =
            Readiness::new(Arc::clone(&queue), reporter.clone(), CHECK_EVERY, ready.clone()).await;
        let intake = Arc::new(events.intake(&config, &queue, &locations, rules.live(), &metrics, &audit));
        let watches = Watches::limited(Arc::clone(&queue), config.max_streams_per_identity);
        // One for all unary services: they share its limits. The stream of the workers must not come under them.
        let guard = GuardLayer::new(config.calls, Arc::clone(&metrics));
        let prefixes = walks.map(|walks| {
            let prefixes =
                Prefixing::new(&config, Arc::clone(&walks), &queue, &streams, &locations, rules.live());
            let runs = rules.running(&config, marks, walks, prefixes.wake());
            (prefixes, runs)
        });
        let backups = Backups {
            queue,
            copies: Arc::new(streams.clone()),
            watches: watches.clone(),
            locations: Arc::clone(&locations),
            defaults: config.defaults,
            rules: rules.live(),
            clock: QueueClock::Server,
        };
        let backups = BackupServiceServer::new(backups).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let operators = EventService { intake: Arc::clone(&intake), sources: events.sources() };
        let operators = EventServiceServer::new(operators).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let watched = Arc::new(Watched::new(observe));
        let scaler = Scaler::new(Arc::clone(&watched), end_ops.clone());
        let barriers = redis.as_ref().map(|redis| redis.barriers()).unwrap_or_default();
        let clocks = redis.as_ref().map(|redis| redis.clocks()).unwrap_or_default();
        let connections = Arc::clone(metrics.connections());
        let gate = GateLayer::new(tokens.identify(&config, &metrics), Arc::clone(&metrics))
            .recording(audit.clone())
            .bounding_openings(config.max_streams_per_identity);
        let walked = prefixes.as_ref().map(|(prefixes, _)| prefixes.counters()).unwrap_or_default();
        let runs = prefixes.as_ref().map(|(_, runs)| runs.board()).unwrap_or_default();
        let trust = Trust {
            tls: tls.as_ref().map(|(tls, _)| tls.clone()),
            issuers: tokens.issuers(),
            issuers_refused: tokens.refused(),
        };
        let exposed = Exposed {
            metrics,
            ready,
            dispatch: streams.clone(),
            watched,
            barriers,
            clocks,
            walked,
            trust,
            runs,
            rules_refused: rules.refused(),
            audit: audit.counters(),
        };
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let routes = Routes::new(guard.layer(backups))
            .add_service(guard.layer(operators))
            .add_service(
                WorkerService::new(streams.clone(), locations).recording(audit.clone()).into_server(),
            )
            .add_service(health.clone())
            .add_service(reflection);
        let (routes, walker, scheduler) = match prefixes {
            Some((prefixes, runs)) => {
                let routes = routes.add_service(guard.layer(prefixes.service));
                let routes = routes.add_service(guard.layer(runs.service));
                (routes, Some(prefixes.walker), Some(runs.scheduler))
            }
            None => (routes, None, None),
        };
        let routes = Routes::from(routes.into_axum_router().layer(gate));

        let events = events.ready(&intake)?;
        // The last step that can fail. Whoever connects already waits in the listener's backlog.
        let address_file = match &config.address_file {
            Some(path) => Some(
                AddressFile::write(path, addr)
                    .await
                    .map_err(|source| AppError::AddressFile { path: path.clone(), source })?,
            ),
            None => None,
        };
        let mut parts = Parts::default();
        parts.start(AUDIT, auditing.run(end_audit.clone()));
        parts.start(STREAMS, run_streams(streams, end_streams.clone()));
        parts.start(WATCHES, run_watches(watches, end_watches.clone()));
        parts.start(PREFIXES, prefixes::run(walker, end_prefixes.clone()));
        parts.start(RUNS, rules::run(scheduler, end_prefixes.clone()));
        parts.start(RULES, rules.follow(end_prefixes.clone()));
        parts.start(READINESS, run_readiness(readiness, end_readiness.clone()));
        let tls = match tls {
            Some((tls, reloader)) => {
                parts.start(CERTIFICATES, reload(reloader, config.tls_reload_every, end_server.clone()));
                Some(tls)
            }
            None => {
                warn!("--insecure: everybody who reaches this port is let in, and reads what others say");
                None
            }
        };
        parts.start(TOKENS, tokens.run(config.tls_reload_every, end_server.clone()));
        parts.start(EVENTS, events.run(end_events.clone(), config.drain_within / 2));
        let server = Server::new(listener, routes, connection_limits(&config), tls, connections, audit);
        parts.start(SERVER, serve(server, end_server.clone()));
        parts.start(OPS, ops::serve(ops, exposed, health, scaler, end_ops.clone()));
        info!(%addr, version = build::text(), shards = config.queue.shards, durability = ?config.durability, "serving");

        tokio::select! {
            () = stop.cancelled() => {}
            () = parts.unexpected_end() => {}
        }

        info!("stopping");
        let deadline = Instant::now() + config.drain_within;
        end_readiness.cancel();
        parts.wait_for(READINESS, deadline).await;
        // Origins send again what is not answered any more, and another dispatcher takes it.
        end_events.cancel();
        // Others can go on with them at once.
        end_prefixes.cancel();
        for part in [PREFIXES, RUNS, RULES] {
            parts.wait_for(part, deadline.min(Instant::now() + PREFIXES_WITHIN)).await;
        }
        end_streams.cancel();
        parts.wait_for(STREAMS, deadline).await;
        // Told where to go on, callers do so at another dispatcher.
        end_watches.cancel();
        parts.wait_for(WATCHES, deadline.min(Instant::now() + WATCHES_WITHIN)).await;
        // Whoever watches health would hold its connection, and so the server, to the deadline.
        health::end_watches(reporter).await;
        parts.wait_for(EVENTS, deadline).await;
        end_server.cancel();
        for part in [SERVER, CERTIFICATES, TOKENS] {
            parts.wait_for(part, deadline).await;
        }
        // Up to here an operator can watch the stop.
        end_ops.cancel();
        parts.wait_for(OPS, deadline).await;
        end_audit.cancel();
        // Its last lines are what one looks for after a stop that took too long.
        parts.wait_for(AUDIT, deadline.max(Instant::now() + AUDIT_WITHIN)).await;
        // Last, because all others write through it: what it has taken, it finishes.
        if let Some(redis) = redis
            && tokio::time::timeout_at(deadline, redis.shutdown()).await.is_err()
        {
            warn!("the queue did not end in time");
        }
        if let Some(file) = address_file {
            file.remove().await;
        }
        info!("stopped");
        parts.result()
    }
}

async fn run_streams(streams: Dispatch, end: CancellationToken) -> Result<(), AppError> {
    Ok(streams.run(end).await?)
}

async fn reload(reloader: Reloader, every: Duration, end: CancellationToken) -> Result<(), AppError> {
    reloader.run(every, end).await;
    Ok(())
}

async fn run_readiness(readiness: Readiness, end: CancellationToken) -> Result<(), AppError> {
    readiness.run(end).await;
    Ok(())
}

async fn run_watches(watches: Watches, end: CancellationToken) -> Result<(), AppError> {
    watches.run(end).await;
    Ok(())
}

/// What the streams are told of the settings. They get most of the time for a stop; the rest is for calls in progress.
pub(crate) fn stream_settings(config: &Config) -> StreamSettings {
    let defaults = StreamSettings::default();
    let accept_within = config.queue.accept_within * 2 / 3;
    StreamSettings {
        lease: config.queue.lease,
        accept_within,
        accepts_after: defaults.accepts_after.min(accept_within / 4),
        heartbeat_every: config.queue.lease / 3,
        hello_within: config.hello_within,
        max_streams: config.max_streams,
        max_streams_per_address: config.max_streams_per_address,
        max_streams_per_identity: config.max_streams_per_identity,
        rebalance_after: config.max_stream_age,
        drain_within: config.drain_within * 4 / 5,
        sweep_every: config.queue.sweep_every,
        ..defaults
    }
}

/// Bounds on connections that can be kept with the descriptors that the system gives this process.
fn connection_limits(config: &Config) -> ConnectionLimits {
    /// For Redis, files and what else is no connection of a peer.
    const RESERVED: u64 = 64;
    let mut limits = config.connections;
    if let Some(descriptors) = descriptors::raise_limit() {
        let most = descriptors.saturating_sub(RESERVED).max(descriptors / 2);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if most < limits.max_connections {
            warn!(
                descriptors,
                max_connections = most,
                "fewer connections than configured: no descriptors for more"
            );
            limits.max_connections = most;
        }
    }
    limits
}

impl StopCopies for Dispatch {
    fn stop_copy(&self, session: &str, task: &TaskId, lease: LeaseToken) {
        Self::stop_copy(self, session, task, lease);
    }
}

async fn serve<L: Listener>(server: Server<L>, end: CancellationToken) -> Result<(), AppError> {
    server.run(end).await;
    Ok(())
}

#[cfg(test)]
mod tests;
