//! `WorkerService` of tonic: admits a stream, and hands it to a session.
//!
//! Every status a worker can see is made in [`crate::session::close`]. Nothing is decided here.

use std::{
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
};

use backhaul_proto::v1::{
    FromDispatcher, FromWorker,
    worker_service_server::{WorkerService as WorkerRpc, WorkerServiceServer},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, debug, field, info_span, warn};

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
}

impl WorkerService {
    /// A service whose streams `dispatch` owns.
    #[must_use]
    pub const fn new(dispatch: Dispatch) -> Self {
        Self { dispatch }
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
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        // Without an address, which only a network that is none can bring about, all count as one.
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let peer = peer.map(field::display);
        let seat = self.dispatch.admit(address).map_err(|reason| {
            if reason == CloseReason::Stopping {
                // Every worker of a dispatcher that ends comes by once.
                debug!(peer, reason = %reason, "stream refused");
            } else {
                warn!(peer, reason = %reason, "stream refused");
            }
            reason.status().unwrap_or_else(|| Status::unavailable(reason.to_string()))
        })?;
        let span = info_span!("session", session = %seat.id, peer, worker = field::Empty);
        let (driver, outbound) = session::open(request.into_inner(), seat);
        self.dispatch.spawn(driver.run().instrument(span));
        Ok(Response::new(Box::pin(outbound)))
    }
}
