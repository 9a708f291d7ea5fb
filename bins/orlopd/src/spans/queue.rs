//! Between the threads that end spans and the task that sends them: a bounded queue.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use orlop_base::task::CancellationToken;
use orlop_base::telemetry::names;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

/// Spans that wait; more are dropped. A span takes about a kilobyte.
const WAITING_MAX: usize = 2048;
/// Spans in one message to the collector.
const BATCH_MAX: usize = 512;
/// How long the first of a batch waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long the daemon's end may take for what still waits.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// What became of spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// How many spans were sent, failed to be sent, or were dropped because too many waited.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpanFigures(Family<Outcome, Counter>);

impl SpanFigures {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            names::SPANS,
            "Spans that were sent, that the collector did not take, and that were dropped because too many waited",
            self.0.clone(),
        );
    }

    fn add(&self, outcome: &'static str, count: usize) {
        let counter = self.0.get_or_create(&Outcome { outcome });
        counter.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// Takes spans as they end, without waiting.
#[derive(Debug)]
pub(super) struct Inlet {
    spans: mpsc::Sender<SpanData>,
    figures: SpanFigures,
}

/// Sends spans.
pub(super) struct Outlet {
    spans: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    figures: SpanFigures,
    /// Whether the collector took the last ones; told when it changes.
    is_well: bool,
}

pub(super) fn open(exporter: SpanExporter, figures: SpanFigures) -> (Inlet, Outlet) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let inlet = Inlet {
        spans: sender,
        figures: figures.clone(),
    };
    let outlet = Outlet {
        spans: receiver,
        exporter,
        figures,
        is_well: true,
    };
    (inlet, outlet)
}

impl SpanProcessor for Inlet {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.figures.add("dropped", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn set_resource(&mut self, _resource: &Resource) {}
}

impl Outlet {
    /// Sends what comes, a batch at a time, until it is cancelled; then what still waits.
    pub(super) async fn run(mut self, cancelled: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let count = tokio::select! {
                biased;
                () = cancelled.cancelled() => break,
                count = self.spans.recv_many(&mut batch, BATCH_MAX) => count,
            };
            if count == 0 {
                return;
            }
            tokio::select! {
                () = cancelled.cancelled() => break,
                () = tokio::time::sleep(BATCH_DELAY) => {}
            }
            self.fill(&mut batch);
            let sent = self.send(std::mem::take(&mut batch));
            tokio::select! {
                biased;
                () = cancelled.cancelled() => break,
                () = sent => {}
            }
        }
        let rest = async {
            loop {
                self.fill(&mut batch);
                if batch.is_empty() {
                    return;
                }
                self.send(std::mem::take(&mut batch)).await;
            }
        };
        if tokio::time::timeout(FLUSH_LIMIT, rest).await.is_err() {
            tracing::info!("the last spans could not be sent in time");
        }
    }

    fn fill(&mut self, batch: &mut Vec<SpanData>) {
        while batch.len() < BATCH_MAX
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len();
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.figures.add("sent", count);
                if !self.is_well {
                    tracing::info!("spans are sent again");
                }
                self.is_well = true;
            }
            Err(error) => {
                self.figures.add("failed", count);
                if self.is_well {
                    tracing::warn!(%error, "spans cannot be sent: they are dropped until they can");
                }
                self.is_well = false;
            }
        }
    }
}
