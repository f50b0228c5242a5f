//! The parts that back up prefixes: the service that takes them, and the walker that drives them.

use std::sync::Arc;

use backhaul_proto::v1::prefix_service_server::PrefixServiceServer;
use backhaul_runtime::locations::Locations;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::{
    config::Config,
    dispatch::Dispatch,
    grpc::{backup_service::MAX_MESSAGE_BYTES, prefix_service::Prefixes},
    prefix::{WalkCounters, Walker},
    queue::{QueueClock, TaskQueue, walk::WalkStore},
    rules::LiveRules,
};

/// What backs up prefixes.
pub(super) struct Prefixing {
    pub(super) service: PrefixServiceServer<Prefixes>,
    pub(super) walker: Walker,
}

impl Prefixing {
    pub(super) fn new(
        config: &Config,
        walks: Arc<dyn WalkStore>,
        queue: &Arc<dyn TaskQueue>,
        streams: &Dispatch,
        locations: &Arc<Locations>,
        rules: LiveRules,
    ) -> Self {
        let wake = Arc::new(Notify::new());
        let service = Prefixes {
            walks: Arc::clone(&walks),
            locations: Arc::clone(locations),
            defaults: config.defaults,
            clock: QueueClock::Server,
            wake: Arc::clone(&wake),
        };
        let walker = Walker {
            walks,
            queue: Arc::clone(queue),
            listers: Arc::new(streams.clone()),
            rules,
            settings: config.prefix,
            counters: Arc::default(),
            wake,
        };
        let service = PrefixServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { service, walker }
    }

    /// Told when a walk was made.
    pub(super) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.walker.wake)
    }

    pub(super) fn counters(&self) -> Arc<WalkCounters> {
        Arc::clone(&self.walker.counters)
    }
}

/// Drives prefix backups until `end`; only waits where there are none.
pub(super) async fn run(walker: Option<Walker>, end: CancellationToken) -> Result<(), AppError> {
    match walker {
        Some(walker) => walker.run(end).await,
        None => end.cancelled().await,
    }
    Ok(())
}
