//! How containers ended, counted by cause for `/metrics`.
//!
//! Ends are taken from the outbox, where each is told once, so that one that a dead daemon's successor learns counts too.
//! Crash: counts begin anew, as a scraper expects. Cancellation: dropped with the daemon.

use orlop_base::task::{TaskKind, TaskTree};
use orlop_base::telemetry::names;
use orlop_meta::{Db, Event};
use orlop_runtime::Follower;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

const COUNTER: TaskKind = TaskKind::dropped("container ends");

/// What ended containers. Clones are the same counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends(Family<Label, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    cause: String,
}

impl Ends {
    /// Counts what is told from now on.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) async fn start(db: Db, tasks: &TaskTree) -> Result<Self, orlop_runtime::Error> {
        let ends = Self::default();
        let mut follower = Follower::from_now(db).await?;
        let counted = ends.clone();
        drop(tasks.spawn(COUNTER, |_cancelled| async move {
            loop {
                match follower.next().await {
                    Ok(page) => {
                        let events = page.events.iter();
                        events.for_each(|envelope| counted.count(&envelope.event));
                    }
                    Err(error) => {
                        let error = orlop_types::chain(&error);
                        tracing::warn!(error, "ends of containers are no longer counted");
                        return;
                    }
                }
            }
        }));
        Ok(ends)
    }

    /// Shows them among `registry`'s.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            names::CONTAINER_ENDS,
            "Containers that ended, by what ended them",
            self.0.clone(),
        );
    }

    fn count(&self, event: &Event) {
        if let Event::TaskExit {
            container,
            process,
            cause,
            ..
        } = event
            && process == container.as_str()
        {
            let cause = cause.clone().unwrap_or_else(|| "unknown".to_owned());
            self.0.get_or_create(&Label { cause }).inc();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use orlop_base::telemetry::Metrics;

    use super::*;

    #[test]
    fn ends_of_first_processes_count_by_their_cause() {
        let ends = Ends::default();
        let metrics = Metrics::new();
        metrics.register(|registry| ends.register(registry));
        for (process, cause) in [
            ("web", Some("workload_oom")),
            ("web", Some("workload_oom")),
            ("web", None),
            ("exec-1", Some("exited")),
        ] {
            ends.count(&Event::TaskExit {
                container: "web".parse().unwrap(),
                process: process.to_owned(),
                pid: 1,
                exit_status: 137,
                exited_at: 0,
                cause: cause.map(str::to_owned),
            });
        }
        let text = metrics.text();
        for line in [
            "orlop_container_ends_total{cause=\"workload_oom\"} 2",
            "orlop_container_ends_total{cause=\"unknown\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("exited"), "{text}");
    }
}
