//! The dispatcher's port for operators: which pages and services it has.
//!
//! Plaintext, so nothing here may tell of a task, a tenant or a key, or change anything.

use std::{io, net::SocketAddr};

use backhaul_runtime::{
    build,
    ops::{OpsPort, routes},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{pb::health_server::Health, pb::health_server::HealthServer};
use tracing::info;

use super::AppError;
use crate::{grpc::scaler::Scaler, metrics::Exposed};

/// Binds the port, if there is to be one.
///
/// # Errors
/// [`AppError::Listen`].
pub(super) async fn bind(addr: Option<SocketAddr>) -> Result<Option<OpsPort>, AppError> {
    let Some(addr) = addr else { return Ok(None) };
    let listen = |source: io::Error| AppError::Listen { addr, source };
    Ok(Some(OpsPort::bind(addr).await.map_err(listen)?))
}

/// Serves the port until `end`; only waits where there is none.
///
/// # Errors
/// None; the signature is that of every part.
pub(super) async fn serve<H: Health>(
    port: Option<OpsPort>,
    exposed: Exposed,
    health: HealthServer<H>,
    scaler: Scaler,
    end: CancellationToken,
) -> Result<(), AppError> {
    let Some(port) = port else {
        end.cancelled().await;
        return Ok(());
    };
    info!(addr = %port.addr(), version = build::text(), "metrics and health are served");
    let ready = exposed.ready.clone();
    let pages = routes(vec![std::sync::Arc::new(exposed)], ready);
    let services = Routes::new(health).add_service(scaler.into_server());
    port.serve(services.into_axum_router().merge(pages), end).await;
    Ok(())
}
