//! A collector of traces, which takes spans over OTLP/gRPC as the programs send them and keeps them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// A span, as far as tests look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Name of the program.
    pub service: String,
    /// Name.
    pub name: String,
    /// Trace, in hex.
    pub trace: String,
    /// Its own id, in hex.
    pub id: String,
    /// Id of its parent, in hex; empty when it has none.
    pub parent: String,
    /// Texts among its attributes.
    pub attributes: HashMap<String, String>,
}

/// A collector that serves until it is dropped.
#[derive(Debug)]
pub struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    received: Arc<Mutex<String>>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Service {
    spans: Arc<Mutex<Vec<Span>>>,
    received: Arc<Mutex<String>>,
}

impl Collector {
    /// Serves on a free port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let received = Arc::<Mutex<String>>::default();
        let service = Service { spans: Arc::clone(&spans), received: Arc::clone(&received) };
        let service = TraceServiceServer::new(service);
        let server = tonic::transport::Server::builder().add_service(service);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // It ends with the test.
            drop(server.serve_with_incoming(TcpIncoming::from(listener)).await);
        });
        Ok(Self { url, spans, received, _serving: serving })
    }

    /// What `--otlp-endpoint` is to say.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All spans of a trace so far.
    #[must_use]
    pub fn spans_of(&self, trace: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| span.trace == trace).cloned().collect()
    }

    /// All that was sent, as text.
    #[must_use]
    pub fn received(&self) -> String {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many spans there are of any trace.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// True when nothing was traced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let text = format!("{:?}\n", request.get_ref());
        self.received.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let named = resource.resource.map(|r| texts(r.attributes)).unwrap_or_default();
            let service = named.get("service.name").cloned().unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Span {
                    service: service.clone(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    attributes: texts(span.attributes),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>) -> HashMap<String, String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;

    let text = |value| if let Some(Value::StringValue(text)) = value { Some(text) } else { None };
    attributes.into_iter().filter_map(|kv| Some((kv.key, text(kv.value?.value)?))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
