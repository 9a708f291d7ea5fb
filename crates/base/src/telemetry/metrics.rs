//! The registry of figures, and its text for `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// Every figure of the process. Clones are the same registry.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// The content type of [`Metrics::text`].
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A registry whose names begin with `orlop_`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("orlop"))),
        }
    }

    /// Adds figures. Names come from [`super::names`].
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        // A registration that panicked has added some figures or none: both can be shown.
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut registry);
    }

    /// All figures in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string cannot fail");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::super::names;
    use super::*;

    #[test]
    fn figures_carry_the_prefix_and_counters_the_suffix() {
        let metrics = Metrics::new();
        let panics: Counter = Counter::default();
        panics.inc();
        metrics.register(|registry| {
            registry.register(names::BLOCKING_JOB_PANICS, "Help", panics.clone());
        });
        let text = metrics.text();
        assert!(
            text.contains("orlop_blocking_job_panics_total 1\n"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }
}
