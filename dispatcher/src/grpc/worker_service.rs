//! `WorkerService` of tonic: admits a stream, and hands it to a session.
//!
//! Every status a worker can see is made in [`crate::session::close`]. Nothing is decided here.

use std::{
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
};

use backhaul_proto::v1::{
    FromDispatcher, FromWorker, from_worker,
    worker_service_server::{WorkerService as WorkerRpc, WorkerServiceServer},
};
use backhaul_runtime::locations::Locations;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, debug, field, info_span, warn};

use super::{
    access,
    identity::{Principal, WorkerName},
};
use crate::{
    audit::{self, Audit, Stream as AuditStream},
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
    locations: Arc<Locations>,
    audit: Audit,
}

impl WorkerService {
    /// A service whose streams `dispatch` owns. A worker gets tasks of the locations that `locations` grants it, whatever it says.
    #[must_use]
    pub const fn new(dispatch: Dispatch, locations: Arc<Locations>) -> Self {
        Self { dispatch, locations, audit: Audit::off() }
    }

    /// The same, where what workers do is recorded.
    #[must_use]
    pub fn recording(self, audit: Audit) -> Self {
        Self { audit, ..self }
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
        let principal = request.extensions().get::<Principal>().cloned();
        let identity = principal.as_ref().map(|principal| field::display(Arc::clone(&principal.name)));
        let is_worker = principal.as_ref().is_some_and(|principal| access::may(principal, access::CONNECT));
        let reauthenticate = peer.as_ref().map(|peer| peer.reauthenticate.clone()).unwrap_or_default();
        let address_of_peer = peer.as_ref().map(|peer| peer.address);
        let peer = peer.map(|peer| field::display(peer.address));
        let admitted = if is_worker {
            let name = principal.as_ref().map_or_else(|| "".into(), |known| Arc::clone(&known.name));
            self.dispatch.admit(address, name, reauthenticate)
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
        let locations = Arc::clone(&self.locations);
        let record =
            AuditStream::open(&self.audit, &seat.id.to_string(), address_of_peer, principal.as_ref());
        let inbound =
            request.into_inner().map(move |message| checked(message?, principal.as_ref(), &locations));
        let (driver, outbound) = session::open(inbound, seat);
        self.dispatch.spawn(record.during(driver.run()).instrument(span));
        Ok(Response::new(Box::pin(outbound)))
    }
}

/// A message as far as its sender may send it: locations that are not granted to a worker are no locations of it.
fn checked(
    mut message: FromWorker,
    sender: Option<&Principal>,
    locations: &Locations,
) -> Result<FromWorker, Status> {
    let Some(said) = &mut message.message else { return Ok(message) };
    let is_allowed = sender.is_some_and(|sender| access::may(sender, access::sending(said)));
    if !is_allowed {
        audit::message_refused(access::sending(said));
        return Err(Status::permission_denied("the message is not allowed to whom the certificate names"));
    }
    if let from_worker::Message::Hello(hello) = said {
        let mut not_granted = Vec::new();
        if let Some(WorkerName::Path(path)) = sender.and_then(|sender| sender.worker.as_ref()) {
            // Those that the file does not name have no tasks that it could be given.
            let is_granted =
                |name: &String| locations.get(name).is_none_or(|location| location.admits_worker(path));
            (hello.locations, not_granted) =
                std::mem::take(&mut hello.locations).into_iter().partition(is_granted);
        }
        audit::hello(hello, &not_granted);
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use backhaul_proto::v1::{Credit, Hello};

    use super::*;
    use crate::grpc::ending::Ends;

    fn worker(path: &str) -> Principal {
        Principal {
            name: path.into(),
            caller: None,
            worker: Some(WorkerName::Path(path.into())),
            ends: Ends::default(),
        }
    }

    #[test]
    fn a_worker_has_the_locations_that_are_granted_to_it_and_those_that_are_granted_to_all() {
        let location = |name: &str, workers: &str| {
            format!(
                "[location.{name}]\nendpoint = \"http://127.0.0.1:1\"\ncredentials = \"anonymous\"\n{workers}\n\
                 backup = {{ location = \"vault\", bucket = \"backups\" }}\n\
                 [[location.{name}.read]]\nbucket = \"photos\"\ntenants = [\"web\"]\n"
            )
        };
        let text = location("open", "")
            + &location("media", "workers = [\"/backhaul/worker/media\"]")
            + &location("any", "workers = [\"/backhaul/worker/*\", \"/x\"]")
            + "[location.vault]\nendpoint = \"http://127.0.0.1:1\"\ncredentials = \"anonymous\"\n";
        let locations = Locations::parse(&text, Path::new("l.toml")).unwrap();
        let all = ["open", "media", "any", "unknown"].map(str::to_owned);
        let given = |sender: &Principal| {
            let hello = Hello { locations: all.to_vec(), ..Hello::default() };
            let message = FromWorker { message: Some(from_worker::Message::Hello(hello)) };
            match checked(message, Some(sender), &locations).unwrap().message {
                Some(from_worker::Message::Hello(hello)) => hello.locations,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(given(&worker("/backhaul/worker/media")), ["open", "media", "any", "unknown"]);
        assert_eq!(given(&worker("/backhaul/worker/other")), ["open", "any", "unknown"]);
        assert_eq!(
            given(&worker("/backhaul/worker")),
            ["open", "unknown"],
            "a path is not a prefix of another"
        );
        let unproved = Principal { worker: Some(WorkerName::Unproved), ..worker("anybody") };
        assert_eq!(given(&unproved), all);
    }

    #[test]
    fn nobody_but_a_worker_has_a_message_taken() {
        let stranger = Principal { worker: None, ..worker("/x") };
        let message = || FromWorker { message: Some(from_worker::Message::Credit(Credit::default())) };
        let take = |sender| checked(message(), sender, &Locations::default());
        let known = worker("/w");
        assert!(take(Some(&known)).is_ok());
        for refused in [take(Some(&stranger)), take(None)] {
            assert_eq!(refused.unwrap_err().code(), tonic::Code::PermissionDenied);
        }
    }
}
