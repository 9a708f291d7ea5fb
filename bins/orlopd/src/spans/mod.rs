//! Spans over OTLP: who makes them does not wait, and what the collector does not take is dropped and counted.
//!
//! Crash: what waits is lost. Cancellation: at the daemon's end what waits is sent, for two seconds at most. Ordering:
//! spans are sent in the order they end, so parents come after their children, as OTLP expects.

mod queue;

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanExporter as _};
use orlop_base::config::Otlp;
use orlop_base::task::{TaskKind, TaskTree};
use orlop_base::telemetry::SpanLayer;
use orlop_base::telemetry::spans::{self, Remote};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;

use queue::Outlet;
pub(crate) use queue::SpanFigures;

const EXPORTER: TaskKind = TaskKind::cooperative("span exporter");
/// A collector that takes longer than this has not taken them.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
/// A span has a dozen attributes.
const ATTRIBUTES_MAX: u32 = 32;
const PER_MILLION: f64 = 1_000_000.0;

/// What sends spans, before it is started.
pub(crate) struct Export {
    outlet: Outlet,
    figures: SpanFigures,
}

/// What the log's subscriber is to be given, and what is to be started, where an endpoint is configured. To be called
/// within the runtime, which the connection belongs to.
pub(crate) fn prepare(config: &Otlp) -> anyhow::Result<Option<(SpanLayer, Export)>> {
    if config.endpoint.is_empty() {
        return Ok(None);
    }
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(config.endpoint.as_str())
        .with_timeout(EXPORT_LIMIT)
        .build()
        .context("telemetry.otlp.endpoint cannot be used")?;
    let resource = resource();
    exporter.set_resource(&resource);
    let figures = SpanFigures::default();
    let (inlet, outlet) = queue::open(exporter, figures.clone());
    let ratio = f64::from(config.samples_per_million) / PER_MILLION;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler)
        .with_max_attributes_per_span(ATTRIBUTES_MAX)
        .with_max_events_per_span(0)
        .with_max_links_per_span(0)
        .with_span_processor(inlet)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("orlop"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(filter_fn(|metadata| {
            metadata.is_span() && metadata.target() == spans::SPANS
        }));
    spans::install(adopt);
    Ok(Some((layer.boxed(), Export { outlet, figures })))
}

impl Export {
    /// Sends what there is, until the daemon ends. Returns the figures of it.
    pub(crate) fn start(self, tasks: &TaskTree) -> SpanFigures {
        let outlet = self.outlet;
        drop(tasks.spawn(EXPORTER, |token| outlet.run(token)));
        self.figures
    }
}

fn resource() -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Resource::builder_empty()
        .with_service_name("orlopd")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", host.trim().to_owned()),
        ])
        .build()
}

/// Makes a span the child of its caller's.
fn adopt(span: &Span, remote: Remote<'_>) {
    let propagator = TraceContextPropagator::new();
    let context = propagator.extract_with_context(&Context::new(), &Headers(remote));
    if context.span().span_context().is_valid() {
        // Refused only for a span that has begun to have children: this one is new.
        drop(span.set_parent(context));
    }
}

/// Headers as the propagator asks for them.
struct Headers<'a>(Remote<'a>);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.0.parent),
            "tracestate" => Some(self.0.state),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}
