//! Readiness: `grpc.health.v1` answers for each service according to whether the queue can be trusted with tasks now.
//!
//! Liveness (the empty service name) never depends on the queue: restarting a dispatcher does not bring Redis back. A check that
//! does not end counts as a failed one.

use std::{sync::Arc, time::Duration};

use backhaul_proto::v1::{
    backup_service_server::SERVICE_NAME as BACKUP_SERVICE,
    worker_service_server::SERVICE_NAME as WORKER_SERVICE,
};
use backhaul_runtime::ops::Ready;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info, warn};

use crate::queue::{QueueError, TaskQueue};

/// The services whose readiness is told; the last is for probes, which ask for the process as a whole.
const SERVICES: [&str; 3] = [BACKUP_SERVICE, WORKER_SERVICE, "readiness"];

/// Services that are alive as long as the process answers: the empty name by convention, and the name beside `readiness`.
const ALIVE: [&str; 2] = ["", "liveness"];

/// Follows the queue's state of health.
#[derive(Debug)]
pub struct Readiness {
    queue: Arc<dyn TaskQueue>,
    reporter: HealthReporter,
    every: Duration,
    ready: Option<bool>,
    /// For those who do not speak gRPC.
    shown: Ready,
}

impl Readiness {
    /// Checks `queue` each time `every` has passed, and gives a check as long to end. Not ready until the first one has.
    /// `shown` follows it.
    pub async fn new(
        queue: Arc<dyn TaskQueue>,
        reporter: HealthReporter,
        every: Duration,
        shown: Ready,
    ) -> Self {
        let readiness = Self { queue, reporter, every, ready: None, shown };
        for service in ALIVE {
            readiness.reporter.set_service_status(service, ServingStatus::Serving).await;
        }
        readiness.tell(ServingStatus::NotServing).await;
        readiness
    }

    /// Follows the queue until `stop`, then tells that nothing is served any more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(self.check_at(&mut ticks)).await.is_some() {}
        self.tell(ServingStatus::NotServing).await;
    }

    async fn check_at(&mut self, ticks: &mut tokio::time::Interval) {
        ticks.tick().await;
        let checked = tokio::time::timeout(self.every, self.queue.check()).await;
        let is_away = matches!(checked, Err(_) | Ok(Err(QueueError::Unavailable(_))));
        let problem = match checked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error_text(&error)),
            Err(_late) => Some("the check of the queue does not end".to_owned()),
        };
        let ready = problem.is_none();
        if self.ready.replace(ready) == Some(ready) {
            return;
        }
        match problem {
            None => info!("ready"),
            // Ends by itself, or is alerted on; what Redis is set to does not.
            Some(problem) if is_away => warn!(problem, "not ready"),
            Some(problem) => error!(problem, "not ready"),
        }
        self.tell(if ready { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
    }

    async fn tell(&self, status: ServingStatus) {
        self.shown.set(status == ServingStatus::Serving);
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// Ends the streams of everybody who watches health, so that they do not hold up a shutdown.
pub async fn end_watches(mut reporter: HealthReporter) {
    for service in SERVICES.into_iter().chain(ALIVE) {
        reporter.clear_service_status(service).await;
    }
}

/// The error with what caused it: for a refused store, the setting to change.
fn error_text(error: &QueueError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
