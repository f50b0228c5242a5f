//! Traces: one for each backup, from the caller's `traceparent` to the requests to the stores, exported over OTLP.
//!
//! Spans are those of `tracing`; which of them are exported is a list here, so that a stream that lives for hours is none. What joins the
//! programs is a W3C `traceparent` in the task's record, and two functions: [`adopt`] makes a span the child of one, [`traceparent`] tells
//! the one of a span. Without an exporter both do nothing. Must not know what a span is about.

use std::{str::FromStr, time::Duration};

use clap::Args;
use opentelemetry::{
    Context, KeyValue,
    trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use crate::build;

/// Header of a call that names the trace it belongs to.
pub const HEADER: &str = "traceparent";

/// Names of the spans that are exported. They are about one call, one task or one request.
const EXPORTED: [&str; 4] = ["call", "assign", "attempt", "request"];

/// How long the collector may take to take spans.
const EXPORT_WITHIN: Duration = Duration::from_secs(5);

/// Where traces go.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Collector that traces are sent to over OTLP (gRPC), as http://host:port. No traces without it.
    #[arg(long, env = "BACKHAUL_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<CollectorUrl>,
    /// Share of the backups to trace whose caller has no trace of its own, 0 to 1. A caller's trace is followed if it is sampled.
    #[arg(long, env = "BACKHAUL_TRACE_SHARE", default_value = "0.01", value_name = "SHARE", value_parser = parse_share)]
    pub trace_share: f64,
}

/// Address of a collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorUrl(String);

/// A text that is not the address of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected http://host:port; collectors are reached without TLS, inside the cluster or beside the program"
)]
pub struct InvalidCollector;

/// Sends spans to the collector. [`Exporter::flush`] it before the program ends.
#[derive(Debug)]
pub(crate) struct Exporter(SdkTracerProvider);

impl TraceArgs {
    /// No traces.
    #[must_use]
    pub const fn none() -> Self {
        Self { otlp_endpoint: None, trace_share: 0.0 }
    }
}

impl FromStr for CollectorUrl {
    type Err = InvalidCollector;

    fn from_str(text: &str) -> Result<Self, InvalidCollector> {
        let uri: http::Uri = text.parse().map_err(|_| InvalidCollector)?;
        let is_plain = uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty());
        if is_plain { Ok(Self(text.to_owned())) } else { Err(InvalidCollector) }
    }
}

impl Exporter {
    /// An exporter for the program `name`, if the settings ask for one. Connects when there is something to send; must be called
    /// inside the runtime that does the sending.
    ///
    /// # Errors
    /// What the exporter says of its address.
    pub(crate) fn new(args: &TraceArgs, name: &'static str) -> Result<Option<Self>, String> {
        let Some(CollectorUrl(url)) = &args.otlp_endpoint else { return Ok(None) };
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(url)
            .with_timeout(EXPORT_WITHIN)
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder()
            .with_service_name(name)
            .with_attribute(KeyValue::new("service.version", build::VERSION))
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(args.trace_share)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        Ok(Some(Self(provider)))
    }

    /// The layer that takes spans.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("backhaul"))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && EXPORTED.contains(&metadata.name())))
    }

    /// Sends what is left, for at most a few seconds. Blocks.
    pub(crate) fn flush(&self) {
        // A collector that is gone at the end is nobody's concern any more.
        drop(self.0.shutdown_with_timeout(EXPORT_WITHIN));
    }
}

/// Makes a new span, which nobody has entered yet, the child of `traceparent`. A text that is none is passed over.
pub fn adopt(span: &Span, traceparent: &str) {
    if span.is_disabled() {
        return;
    }
    if let Some(parent) = parse(traceparent) {
        // Without an exporter there is nothing to set it on.
        drop(span.set_parent(Context::new().with_remote_span_context(parent)));
    }
}

/// The `traceparent` of a span that is exported; `None` for one that is not.
#[must_use]
pub fn traceparent(span: &Span) -> Option<String> {
    let context = span.context();
    let context = context.span().span_context().clone();
    let is_exported = context.is_valid() && context.is_sampled() && !context.is_remote();
    is_exported.then(|| format!("00-{}-{}-01", context.trace_id(), context.span_id()))
}

/// Version 00 of the W3C format: hex digits of fixed lengths, ids that are not all zero.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut fields = traceparent.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_well_formed = version == "00"
        && (trace.len(), span.len(), flags.len()) == (32, 16, 2)
        && fields.next().is_none()
        && traceparent.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !is_well_formed {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & TraceFlags::SAMPLED.to_u8());
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        flags,
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

fn parse_share(text: &str) -> Result<f64, &'static str> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or("expected a number from 0 to 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_strictly() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse(good).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(!parse(&good.replace("-01", "-00")).unwrap().is_sampled());
        assert!(parse(&good.replace("-01", "-03")).unwrap().is_sampled());
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &good.replace("00-4", "01-4"),
            &format!("{good}-x"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn collectors_are_plain_and_shares_are_shares() {
        assert!("http://collector:4317".parse::<CollectorUrl>().is_ok());
        for bad in ["https://collector:4317", "collector:4317", "http://", "grpc://x"] {
            assert_eq!(bad.parse::<CollectorUrl>(), Err(InvalidCollector), "{bad}");
        }
        assert_eq!(parse_share("0.5"), Ok(0.5));
        for bad in ["-0.1", "1.1", "NaN", "", "half"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_an_exporter_a_span_belongs_to_no_trace() {
        let span = tracing::info_span!("call");
        adopt(&span, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(traceparent(&span), None);
    }
}
