//! Figures for Prometheus: totals only. Requests and bytes are the ledger's to count.

use orlop_base::telemetry::names;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::ledger::{Record, Source};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: u16,
}

/// What a server counts.
#[derive(Debug)]
pub struct Figures {
    answers: Family<StatusLabels, Counter>,
    seconds: Family<SourceLabels, Histogram, fn() -> Histogram>,
    stale: Counter,
    connections: Gauge,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            answers: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            stale: Counter::default(),
            connections: Gauge::default(),
        }
    }
}

/// Milliseconds for what is in memory, minutes for what comes from far away.
fn histogram() -> Histogram {
    Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0])
}

impl Figures {
    /// Shows them among `registry`'s.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            names::CACHE_ANSWERS,
            "Answers by status, when they began",
            self.answers.clone(),
        );
        registry.register(
            names::CACHE_REQUEST_SECONDS,
            "From a request's head to the end of its answer",
            self.seconds.clone(),
        );
        registry.register(
            names::CACHE_STALE_ANSWERS,
            "Answers with what was kept because the upstream could not say",
            self.stale.clone(),
        );
        registry.register(
            names::CACHE_CONNECTIONS,
            "Connections of clients",
            self.connections.clone(),
        );
    }

    pub(super) fn request(&self, record: &Record) {
        let source = source(record.source);
        let seconds = record.took.as_secs_f64();
        let labels = SourceLabels { source };
        self.seconds.get_or_create(&labels).observe(seconds);
    }

    pub(super) fn answer(&self, status: u16) {
        self.answers.get_or_create(&StatusLabels { status }).inc();
    }

    pub(super) fn stale(&self) {
        self.stale.inc();
    }

    pub(super) const fn connections(&self) -> &Gauge {
        &self.connections
    }
}

const fn source(source: Source) -> &'static str {
    match source {
        Source::Memory => "memory",
        Source::Disk => "disk",
        Source::Depot => "depot",
        Source::Upstream => "upstream",
    }
}
