//! Collection's figures for `/metrics`. Names are in `orlop_base::telemetry::names`.

use std::collections::BTreeSet;
use std::fmt;

use orlop_base::telemetry::names;
use orlop_meta::gc::{QueueStatus, Removed, Report};
use orlop_runtime::Runtime;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What collections did. Clones are the same figures.
#[derive(Debug, Clone)]
pub(crate) struct CollectionFigures {
    seconds: Family<Phase, Histogram>,
    keys: Family<Keys, Counter>,
    bytes: Counter,
    failures: Counter,
    queue: Family<State, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Keys {
    resource: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// How many pods' networks were found not to work, counted when somebody asks.
pub(crate) struct PodNetworks(pub(crate) Runtime);

impl fmt::Debug for PodNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PodNetworks")
    }
}

impl Collector for PodNetworks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let findings = self.0.network_findings().into_iter();
        let faulty = findings.filter(|(_, _, finding)| finding.fault.is_some());
        let pods: BTreeSet<_> = faulty.map(|(namespace, pod, _)| (namespace, pod)).collect();
        let gauge = ConstGauge::new(i64::try_from(pods.len()).unwrap_or(i64::MAX));
        let help = "Pods whose network was found not to work";
        let metric = encoder.encode_descriptor(
            names::POD_NETWORK_FAULTS,
            help,
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

impl Default for CollectionFigures {
    fn default() -> Self {
        Self {
            // From a tenth of a millisecond to half a minute.
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0001, 3.5, 11))
            }),
            keys: Family::default(),
            bytes: Counter::default(),
            failures: Counter::default(),
            queue: Family::default(),
        }
    }
}

impl CollectionFigures {
    /// Shows them among `registry`'s.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            names::COLLECTION_SECONDS,
            "Seconds of a collection: whole, marking, and its longest pause for writers",
            self.seconds.clone(),
        );
        registry.register(
            names::COLLECTED_KEYS,
            "Records that collection removed, keys whose bytes went, and tries that failed",
            self.keys.clone(),
        );
        registry.register(
            names::COLLECTED_BYTES,
            "Bytes that collection gave back to the disk",
            self.bytes.clone(),
        );
        registry.register(
            names::COLLECTION_FAILURES,
            "Collections that could not be done",
            self.failures.clone(),
        );
        registry.register(
            names::SWEEP_QUEUE_ITEMS,
            "Items in the sweep queue",
            self.queue.clone(),
        );
    }

    /// A pass could not be done.
    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    /// A pass, or where it was none a sweep, ended.
    pub(crate) fn observe(&self, is_pass: bool, report: &Report, queue: &QueueStatus) {
        if is_pass {
            let phases = [
                ("whole", report.took),
                ("mark", report.load_time + report.mark_time),
                ("pause", report.longest_pause),
            ];
            for (phase, time) in phases {
                let seconds = self.seconds.get_or_create(&Phase { phase });
                seconds.observe(time.as_secs_f64());
            }
        }
        self.count("removed", &report.removed);
        self.count("swept", &report.swept);
        for failure in &report.failures {
            self.add(failure.kind, "failed", 1);
        }
        self.bytes.inc_by(report.bytes_freed);
        let failing = queue.failing.min(queue.items);
        for (state, items) in [("waiting", queue.items - failing), ("failing", failing)] {
            let gauge = self.queue.get_or_create(&State { state });
            gauge.set(i64::try_from(items).unwrap_or(i64::MAX));
        }
    }

    fn count(&self, outcome: &'static str, removed: &Removed) {
        let counts = [
            ("content", removed.content),
            ("snapshot", removed.snapshots),
            ("image", removed.images),
            ("lease", removed.leases),
            ("ingest", removed.ingests),
            ("mount", removed.mounts),
        ];
        for (resource, count) in counts {
            if count > 0 {
                self.add(resource, outcome, count);
            }
        }
    }

    fn add(&self, resource: &'static str, outcome: &'static str, count: u64) {
        self.keys
            .get_or_create(&Keys { resource, outcome })
            .inc_by(count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use orlop_base::telemetry::Metrics;

    use super::*;

    #[test]
    fn a_pass_is_counted_by_resource_and_outcome() {
        let figures = CollectionFigures::default();
        let report = Report {
            removed: Removed {
                content: 3,
                ..Removed::default()
            },
            bytes_freed: 7,
            took: Duration::from_millis(2),
            ..Report::default()
        };
        let queue = QueueStatus {
            items: 5,
            failing: 2,
            ..QueueStatus::default()
        };
        figures.observe(true, &report, &queue);
        let metrics = Metrics::new();
        metrics.register(|registry| figures.register(registry));
        let text = metrics.text();
        for line in [
            "orlop_collected_keys_total{resource=\"content\",outcome=\"removed\"} 3",
            "orlop_collected_bytes_total 7",
            "orlop_sweep_queue_items{state=\"waiting\"} 3",
            "orlop_sweep_queue_items{state=\"failing\"} 2",
            "orlop_collection_seconds_count{phase=\"whole\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
