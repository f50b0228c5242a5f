//! The worker's port for operators: metrics, and health over HTTP and gRPC.

use std::{io, net::SocketAddr, sync::Arc};

use backhaul_runtime::ops::{OpsPort, Ready, routes};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::info;

use super::AppError;
use crate::metrics::Exposed;

/// Services that are alive as long as the process answers.
const ALIVE: [&str; 2] = ["", "liveness"];
/// The service that is served while a dispatcher has welcomed this worker and it takes tasks.
const READINESS: &str = "readiness";

/// Binds the port, if there is to be one.
///
/// # Errors
/// [`AppError::OpsListen`].
pub(super) async fn bind(addr: Option<SocketAddr>) -> Result<Option<OpsPort>, AppError> {
    let Some(addr) = addr else { return Ok(None) };
    let listen = |source: io::Error| AppError::OpsListen { addr, source };
    Ok(Some(OpsPort::bind(addr).await.map_err(listen)?))
}

/// Serves the port until `end`; does nothing where there is none.
pub(super) async fn serve(port: Option<OpsPort>, exposed: Exposed, end: &CancellationToken) {
    let Some(port) = port else { return };
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in ALIVE {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
    info!(addr = %port.addr(), "metrics and health are served");
    let ready = exposed.link.ready.clone();
    let pages = routes(vec![Arc::new(exposed)], ready.clone());
    let served = port.serve(Routes::new(health).into_axum_router().merge(pages), end.clone());
    tokio::join!(served, end.run_until_cancelled(follow(&ready, &reporter)));
}

/// Tells who asks over gRPC whether tasks are wanted, as it changes.
async fn follow(ready: &Ready, reporter: &HealthReporter) {
    let mut known = ready.is_ready();
    loop {
        let status = if known { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(READINESS, status).await;
        known = ready.other_than(known).await;
    }
}
