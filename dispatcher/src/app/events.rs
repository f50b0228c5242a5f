//! The dispatcher's event sources: the port that origins post to, and the brokers that are read. Which parts they have, and how they end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use backhaul_runtime::{
    http_port::HttpPort,
    locations::Locations,
    tls::{ServerCertificate, ServerReloader},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::AppError;
use crate::{
    audit::Audit,
    config::Config,
    events::{
        http::Endpoint,
        intake::Intake,
        pull::{
            self, PullSource,
            redis_stream::{self, RedisStream},
            sqs::{self, Sqs},
        },
        quarantine::{MemoryQuarantine, Quarantine},
        removals::{MemoryRemovals, Removals},
        sns::{Sns, fetch::Https},
        sources::{Delivery, EventSource, Sources},
    },
    metrics::Metrics,
    queue::TaskQueue,
    rules::LiveRules,
};

/// Sources that are known, and a port that is bound where one was asked for.
#[derive(Debug)]
pub(super) struct Events {
    port: Option<HttpPort>,
    /// Keeps the port's certificate current.
    reloader: Option<(ServerReloader, Duration)>,
    sources: Arc<Sources>,
    pub(super) quarantine: Arc<dyn Quarantine>,
    pub(super) removals: Arc<dyn Removals>,
}

/// All that runs.
#[derive(Debug)]
pub(super) struct Running {
    door: Option<(HttpPort, Router)>,
    reloader: Option<(ServerReloader, Duration)>,
    pulled: Vec<(Box<dyn PullSource>, Arc<EventSource>)>,
    intake: Arc<Intake>,
}

impl Events {
    /// No sources and no port.
    pub(super) fn none() -> Self {
        Self::over(None, None, Sources::default())
    }

    /// Reads the sources and binds the port.
    pub(super) async fn bind(config: &Config, locations: &Locations) -> Result<Self, AppError> {
        let sources = match &config.event_sources {
            Some(path) => Sources::load(path, locations)?,
            None => Sources::default(),
        };
        let Some(addr) = config.events_listen else { return Ok(Self::over(None, None, sources)) };
        let secured = config.events_certificate.clone();
        let secured =
            secured.map(|(certificate, key)| ServerCertificate::open(certificate, key)).transpose()?;
        let (certificate, reloader) = secured.unzip();
        if certificate.is_none() && sources.iter().any(|s| matches!(s.delivery, Delivery::Token(_))) {
            if !config.events_insecure {
                return Err(AppError::PlainTokens);
            }
            warn!(
                "whoever is on the way to the port for events can read the tokens of event sources: there is no --events-tls-cert"
            );
        }
        let port = HttpPort::bind(addr).await.map_err(|source| AppError::Listen { addr, source })?;
        let reloader = reloader.map(|reloader| (reloader, config.tls_reload_every));
        Ok(Self::over(Some(port.secured(certificate)), reloader, sources))
    }

    fn over(port: Option<HttpPort>, reloader: Option<(ServerReloader, Duration)>, sources: Sources) -> Self {
        let (quarantine, removals) = (Arc::<MemoryQuarantine>::default(), Arc::<MemoryRemovals>::default());
        Self { port, reloader, sources: Arc::new(sources), quarantine, removals }
    }

    /// Who tells of uploads.
    pub(super) fn sources(&self) -> Arc<Sources> {
        Arc::clone(&self.sources)
    }

    pub(super) fn addr(&self) -> Option<SocketAddr> {
        self.port.as_ref().map(HttpPort::addr)
    }

    /// What takes the events.
    pub(super) fn intake(
        &self,
        config: &Config,
        queue: &Arc<dyn TaskQueue>,
        locations: &Arc<Locations>,
        rules: LiveRules,
        metrics: &Arc<Metrics>,
        audit: &Audit,
    ) -> Intake {
        Intake {
            queue: Arc::clone(queue),
            locations: Arc::clone(locations),
            defaults: config.defaults,
            rules,
            quarantine: Arc::clone(&self.quarantine),
            removals: Arc::clone(&self.removals),
            metrics: Arc::clone(metrics),
            audit: audit.clone(),
        }
    }

    /// Puts everything together.
    ///
    /// # Errors
    /// [`AppError::Events`].
    pub(super) fn ready(self, intake: &Arc<Intake>) -> Result<Running, AppError> {
        let mut pulled: Vec<(Box<dyn PullSource>, Arc<EventSource>)> = Vec::new();
        for source in self.sources.iter() {
            match &source.delivery {
                Delivery::Token(_) | Delivery::Topic(_) => {}
                Delivery::RedisStream(options) => {
                    let stream = RedisStream::new(options.clone(), redis_stream::ABANDONED_AFTER);
                    pulled.push((Box::new(stream), Arc::clone(source)));
                }
                Delivery::Sqs { queue, .. } => {
                    let client = sqs::client::client(queue);
                    for _ in 0..queue.readers {
                        let reader = Sqs::new(client.clone(), queue.queue_url.clone());
                        pulled.push((Box::new(reader), Arc::clone(source)));
                    }
                }
            }
        }
        let door = match self.port {
            Some(port) => {
                // Only then must the system have certificates to trust.
                let has_topic = self.sources.iter().any(|s| matches!(s.delivery, Delivery::Topic(_)));
                let https = has_topic.then(Https::new).transpose();
                let https = https.map_err(|error| AppError::Events(error.into()))?;
                let sns = https.map(|https| Sns::new(Arc::new(https)));
                let endpoint = Endpoint::new(Arc::clone(intake), self.sources, sns);
                Some((port, endpoint.routes()))
            }
            None => None,
        };
        Ok(Running { door, reloader: self.reloader, pulled, intake: Arc::clone(intake) })
    }
}

impl Running {
    /// Takes events until `end`; answers under way may take `end_within` then.
    ///
    /// # Errors
    /// None; the signature is that of every part.
    pub(super) async fn run(self, end: CancellationToken, end_within: Duration) -> Result<(), AppError> {
        let mut readers = JoinSet::new();
        for (broker, source) in self.pulled {
            info!(source = %source.name, "events are read");
            readers.spawn(pull::run(broker, source, Arc::clone(&self.intake), end.clone()));
        }
        if let Some((reloader, every)) = self.reloader {
            readers.spawn(reloader.run(every, end.clone()));
        }
        match self.door {
            Some((port, routes)) => {
                info!(addr = %port.addr(), "events are taken");
                port.serve_to_the_end(routes, end, end_within).await;
            }
            None => end.cancelled().await,
        }
        while let Some(ended) = readers.join_next().await {
            ended.map_err(AppError::Panicked)?;
        }
        Ok(())
    }
}
