//! What a store says of itself to Prometheus. Names are in `orlop_base::telemetry::names`.

use std::fmt;
use std::sync::{Arc, Weak};

use orlop_base::telemetry::names;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Inner;

/// Why a blob was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Something else needs its room.
    Room,
    /// It was not used for too long.
    Expired,
    /// Somebody asked for it.
    Asked,
    /// No repository has it any more.
    Unlinked,
    /// Its bytes are not what they were.
    Damaged,
    /// Its file was gone.
    Missing,
    /// The disk was full before the cap was reached.
    DiskFull,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Expired => "expired",
            Self::Asked => "asked",
            Self::Unlinked => "unlinked",
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::DiskFull => "disk_full",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Figures {
    filled: Counter,
    filled_bytes: Counter,
    evictions: Family<ReasonLabel, Counter>,
    evicted_bytes: Family<ReasonLabel, Counter>,
    pub(super) damaged: Counter,
    pub(super) scrubbed_bytes: Counter,
    pub(super) database_failures: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

impl Figures {
    pub(super) fn filled(&self, bytes: u64) {
        self.filled.inc();
        self.filled_bytes.inc_by(bytes);
    }

    pub(super) fn gave_up(&self, reason: Reason, bytes: u64) {
        let reason = reason.as_str();
        self.evictions.get_or_create(&ReasonLabel { reason }).inc();
        self.evicted_bytes
            .get_or_create(&ReasonLabel { reason })
            .inc_by(bytes);
    }

    pub(super) fn register(&self, registry: &mut Registry, inner: &Arc<Inner>) {
        let counters = [
            (
                names::CACHE_FILLS,
                "Blobs and manifests taken in",
                &self.filled,
            ),
            (
                names::CACHE_FILLED_BYTES,
                "Bytes of blobs and manifests taken in",
                &self.filled_bytes,
            ),
            (
                names::CACHE_DAMAGED_BLOBS,
                "Blobs found damaged and set aside",
                &self.damaged,
            ),
            (
                names::CACHE_SCRUBBED_BYTES,
                "Bytes hashed again to see whether they are sound",
                &self.scrubbed_bytes,
            ),
            (
                names::CACHE_DATABASE_FAILURES,
                "Changes of the database that failed",
                &self.database_failures,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            names::CACHE_EVICTIONS,
            "Blobs given up",
            self.evictions.clone(),
        );
        registry.register(
            names::CACHE_EVICTED_BYTES,
            "Bytes of blobs given up",
            self.evicted_bytes.clone(),
        );
        registry.register_collector(Box::new(Held(Arc::downgrade(inner))));
    }
}

/// What is held, counted when somebody asks.
#[derive(Debug)]
struct Held(Weak<Inner>);

impl Collector for Held {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(inner) = self.0.upgrade() else {
            return Ok(());
        };
        let usage = inner.shelf().usage();
        let classes = [
            ("small", usage.small_bytes),
            ("large", usage.large_bytes),
            ("pinned", usage.pinned_bytes),
            ("filling", usage.filling_bytes),
            ("parked", usage.parked_bytes),
            ("aside", usage.aside_bytes),
            ("lingering", usage.lingering_bytes),
        ];
        let help = "Bytes on disk and room taken, by what they are for";
        let mut family =
            encoder.encode_descriptor(names::CACHE_HELD_BYTES, help, None, MetricType::Gauge)?;
        for (class, bytes) in classes {
            let label = ClassLabel { class };
            gauge(bytes).encode(family.encode_family(&label)?)?;
        }
        for (name, help, value) in [
            (
                names::CACHE_BLOBS,
                "Blobs and manifests that can be found",
                usage.blobs,
            ),
            (
                names::CACHE_CAP_BYTES,
                "The most bytes that may be on disk",
                inner.options.cap_bytes,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge(value).encode(metric)?;
        }
        Ok(())
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
