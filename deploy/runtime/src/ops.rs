//! The port for operators: `/metrics`, `/livez`, `/readyz`, and whatever gRPC services a program adds (health, a scaler).
//!
//! Plaintext HTTP/1 and HTTP/2, because the kubelet's probes and most scrapers can nothing else; so nothing may be served here that
//! tells of a user's data or changes anything. Liveness says only that the process answers: a restart mends neither Redis nor a store.

use std::sync::Arc;

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::{Mutex, watch};

pub use crate::http_port::HttpPort as OpsPort;
use crate::metrics::{Page, Source, process};

/// Whether the program wants work now. Clones are one.
#[derive(Debug, Clone)]
pub struct Ready(Arc<watch::Sender<bool>>);

impl Ready {
    /// Says whether it does.
    pub fn set(&self, ready: bool) {
        self.0.send_if_modified(|was| std::mem::replace(was, ready) != ready);
    }

    /// Whether it does.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until that differs from `known`; what it is then.
    pub async fn other_than(&self, known: bool) -> bool {
        // The sender is held by this very value.
        self.0.subscribe().wait_for(|ready| *ready != known).await.map_or(!known, |ready| *ready)
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

/// The pages that every program has. `sources` are asked in turn, by one reader at a time.
pub fn routes(sources: Vec<Arc<dyn Source>>, ready: Ready) -> Router {
    let sources = Arc::new(Mutex::new(sources));
    let metrics = move || {
        let sources = Arc::clone(&sources);
        async move { metrics(&sources.lock().await).await }
    };
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async move || readiness(&ready)))
        .route("/metrics", get(metrics))
}

async fn metrics(sources: &[Arc<dyn Source>]) -> Response {
    let mut page = Page::default();
    process::write(&mut page);
    for source in sources {
        source.write(&mut page).await;
    }
    ([(CONTENT_TYPE, Page::CONTENT_TYPE)], page.into_text()).into_response()
}

fn readiness(ready: &Ready) -> Response {
    if ready.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

#[cfg(test)]
mod tests;
