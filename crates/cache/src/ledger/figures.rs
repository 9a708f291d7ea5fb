//! What the ledger says to Prometheus: totals, and the most pulled few.

use std::sync::{Mutex, PoisonError};

use orlop_base::telemetry::names;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Record;

#[derive(Debug, Default)]
pub(super) struct Figures {
    requests: Family<RequestLabels, Counter>,
    sent_bytes: Family<SourceLabel, Counter>,
    dropped: Counter,
    top: Family<DigestLabel, Gauge>,
    /// Digests shown in `top`.
    shown: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    source: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DigestLabel {
    digest: String,
}

impl Figures {
    pub(super) fn seen(&self, record: &Record) {
        let (source, outcome) = (record.source.as_str(), record.outcome.as_str());
        self.requests
            .get_or_create(&RequestLabels { source, outcome })
            .inc();
        self.sent_bytes
            .get_or_create(&SourceLabel { source })
            .inc_by(record.bytes);
    }

    pub(super) fn dropped(&self, count: u64) {
        self.dropped.inc_by(count);
    }

    pub(super) fn dropped_so_far(&self) -> u64 {
        self.dropped.get()
    }

    /// Shows these digests with their pulls, and no others.
    pub(super) fn show_top(&self, top: Vec<(String, u64)>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in shown.drain(..) {
            self.top.remove(&DigestLabel { digest });
        }
        for (digest, pulls) in top {
            let label = DigestLabel {
                digest: digest.clone(),
            };
            let pulls = i64::try_from(pulls).unwrap_or(i64::MAX);
            self.top.get_or_create(&label).set(pulls);
            shown.push(digest);
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            names::CACHE_REQUESTS,
            "Requests for blobs and manifests",
            self.requests.clone(),
        );
        registry.register(
            names::CACHE_SENT_BYTES,
            "Bytes sent to clients",
            self.sent_bytes.clone(),
        );
        registry.register(
            names::CACHE_LEDGER_DROPPED,
            "Requests that the ledger could not take or write",
            self.dropped.clone(),
        );
        registry.register(
            names::CACHE_TOP_BLOB_PULLS,
            "Pulls of the most pulled blobs in seven days",
            self.top.clone(),
        );
    }
}
