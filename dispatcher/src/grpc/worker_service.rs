//! `WorkerService` of tonic: admits a stream, and hands it to a session.
//!
//! Every status a worker can see is made in [`crate::session::close`]. Nothing is decided here.

use std::{
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
};

use backhaul_proto::v1::{
    FromDispatcher, FromWorker,
    worker_service_server::{WorkerService as WorkerRpc, WorkerServiceServer},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, debug, field, info_span, warn};

use super::roles::Roles;
use crate::{
    dispatch::Dispatch,
    session::{self, CloseReason},
    transport::Peer,
};

/// Largest message read from a worker: a Hello with ten thousand leases and as many ordinary results.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Serves workers.
#[derive(Debug, Clone)]
pub struct WorkerService {
    dispatch: Dispatch,
    roles: Option<Arc<Roles>>,
}

impl WorkerService {
    /// A service whose streams `dispatch` owns. Without `roles`, everybody is taken for a worker.
    #[must_use]
    pub const fn new(dispatch: Dispatch, roles: Option<Arc<Roles>>) -> Self {
        Self { dispatch, roles }
    }

    /// The tonic service, with its limits set.
    #[must_use]
    pub fn into_server(self) -> WorkerServiceServer<Self> {
        WorkerServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl WorkerRpc for WorkerService {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<FromDispatcher, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<FromWorker>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        // Without an address, which only a network that is none can bring about, all count as one.
        let address = peer.as_ref().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip());
        let identity = peer.as_ref().and_then(|peer| peer.identity.as_ref()).map(|peer| peer.id.clone());
        let is_worker = match (&self.roles, &identity) {
            (None, _) => true,
            (Some(roles), Some(id)) => roles.is_worker(id),
            (Some(_), None) => false,
        };
        let identity = identity.map(field::display);
        let reauthenticate = peer.as_ref().map(|peer| peer.reauthenticate.clone()).unwrap_or_default();
        let peer = peer.map(|peer| field::display(peer.address));
        let admitted = if is_worker {
            self.dispatch.admit(address, reauthenticate)
        } else {
            Err(CloseReason::NotAWorker)
        };
        let seat = admitted.map_err(|reason| {
            if reason == CloseReason::Stopping {
                // Every worker of a dispatcher that ends comes by once.
                debug!(peer, identity, reason = %reason, "stream refused");
            } else {
                warn!(peer, identity, reason = %reason, "stream refused");
            }
            reason.status().unwrap_or_else(|| Status::unavailable(reason.to_string()))
        })?;
        let span = info_span!("session", session = %seat.id, peer, identity, worker = field::Empty);
        let (driver, outbound) = session::open(request.into_inner(), seat);
        self.dispatch.spawn(driver.run().instrument(span));
        Ok(Response::new(Box::pin(outbound)))
    }
}
