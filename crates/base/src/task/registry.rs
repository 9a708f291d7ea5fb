//! Which tasks are alive, for shutdown's report and for the metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::telemetry::names;

/// A task that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its kind's name.
    pub kind: &'static str,
    /// Its owners from the root down, such as `orlopd/pulls`.
    pub owner: String,
    /// How long it has been alive.
    pub age: Duration,
}

/// Every task of one tree.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks {
    inner: Arc<Mutex<Inner>>,
    alive: Family<KindLabel, Gauge>,
    panics: Family<KindLabel, Counter>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    panics: u64,
    /// By number, so the oldest comes first.
    alive: BTreeMap<u64, Record>,
}

#[derive(Debug)]
struct Record {
    kind: &'static str,
    owner: String,
    started: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Takes the task off the list when dropped, however the task ended.
#[derive(Debug)]
pub(super) struct AliveGuard {
    tasks: Tasks,
    number: u64,
    kind: &'static str,
}

impl Tasks {
    /// Notes a task that starts at `now`, in time since boot.
    pub(super) fn started(&self, kind: &'static str, owner: &str, now: Duration) -> AliveGuard {
        let record = Record {
            kind,
            owner: owner.to_owned(),
            started: now,
        };
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.alive.insert(number, record);
        drop(inner);
        self.alive.get_or_create(&KindLabel { kind }).inc();
        AliveGuard {
            tasks: self.clone(),
            number,
            kind,
        }
    }

    /// Notes that a task of this kind panicked.
    pub(super) fn panicked(&self, kind: &'static str) {
        self.panics.get_or_create(&KindLabel { kind }).inc();
        self.lock().panics += 1;
    }

    /// How many tasks have panicked.
    pub(super) fn panics(&self) -> u64 {
        self.lock().panics
    }

    /// The tasks of `owner` and of the owners below it, oldest first.
    pub(super) fn below(&self, owner: &str, now: Duration) -> Vec<TaskInfo> {
        let is_below = |record: &&Record| {
            record
                .owner
                .strip_prefix(owner)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.lock()
            .alive
            .values()
            .filter(is_below)
            .map(|record| TaskInfo {
                kind: record.kind,
                owner: record.owner.clone(),
                age: now.saturating_sub(record.started),
            })
            .collect()
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(names::TASKS_ALIVE, "Tasks alive", self.alive.clone());
        registry.register(
            names::TASK_PANICS,
            "Tasks that panicked",
            self.panics.clone(),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each holder makes one change that is whole by itself, so a panic in between leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.tasks.lock().alive.remove(&self.number);
        let label = KindLabel { kind: self.kind };
        self.tasks.alive.get_or_create(&label).dec();
    }
}
