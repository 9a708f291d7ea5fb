//! The pods that there are, by id and by name: who may work on one, and which names are taken.
//!
//! Crash: rebuilt from the records. Ordering: whoever changes a pod holds it alone, whoever makes or starts a container in
//! it holds it together with others; both wait in the order they came.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orlop_base::blocking::BlockingPool;
use orlop_types::Namespace;
use tokio::sync::RwLock;

use super::error::PodError;
use super::health::Findings;
use super::machine::PodPhase;
use super::record::PodKey;
use super::settings::PodSettings;

/// One pod's place among all.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Whoever works on the pod.
    pub(super) lock: Arc<RwLock<()>>,
    /// Where the pod is, for those who cannot wait for the lock.
    shown: Mutex<PodPhase>,
    /// Whoever changes the images that the pod's containers mount.
    pub(super) volumes: Mutex<()>,
    name: (Namespace, String),
}

impl Cell {
    pub(super) fn show(&self, phase: PodPhase) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    pub(super) fn phase(&self) -> PodPhase {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Known {
    cells: HashMap<PodKey, Arc<Cell>>,
    names: HashMap<(Namespace, String), PodKey>,
}

/// All pods.
#[derive(Debug)]
pub(crate) struct Pods {
    pub(super) settings: PodSettings,
    known: Mutex<Known>,
    /// Network plugins block for long and may hang: they get places of their own, so that they take none from others.
    pub(super) lane: BlockingPool,
    /// Whether their networks work.
    pub(super) findings: Findings,
    /// Attachments are made while others are, but not while the network's plugins free what is not listed.
    pub(crate) attaching: RwLock<()>,
}

impl Pods {
    pub(crate) fn new(settings: PodSettings) -> Self {
        let lane = BlockingPool::new(1, settings.network_jobs_max);
        Self {
            settings,
            known: Mutex::default(),
            lane,
            findings: Findings::default(),
            attaching: RwLock::new(()),
        }
    }

    /// Takes a name for a pod, until [`Self::release`].
    pub(super) fn reserve(
        &self,
        key: &PodKey,
        name: String,
        phase: PodPhase,
    ) -> Result<Arc<Cell>, PodError> {
        let mut known = self.known();
        let name = (key.namespace.clone(), name);
        let there = known
            .names
            .get(&name)
            .and_then(|key| known.cells.get(key).map(|cell| (key, cell)));
        if let Some((there, cell)) = there {
            return Err(PodError::Exists {
                name: name.1,
                pod: there.pod.to_string(),
                phase: cell.phase().to_string(),
            });
        }
        match known.cells.entry(key.clone()) {
            Entry::Occupied(there) => Err(PodError::Exists {
                name: name.1,
                pod: key.pod.to_string(),
                phase: there.get().phase().to_string(),
            }),
            Entry::Vacant(free) => {
                let cell = Arc::new(Cell {
                    lock: Arc::default(),
                    shown: Mutex::new(phase),
                    volumes: Mutex::default(),
                    name: name.clone(),
                });
                free.insert(Arc::clone(&cell));
                known.names.insert(name, key.clone());
                Ok(cell)
            }
        }
    }

    pub(super) fn find(&self, key: &PodKey) -> Result<Arc<Cell>, PodError> {
        let cell = self.known().cells.get(key).cloned();
        cell.ok_or_else(|| PodError::Unknown {
            pod: key.pod.to_string(),
        })
    }

    /// Gives the name back.
    pub(super) fn release(&self, key: &PodKey) {
        self.findings.forget(key);
        let mut known = self.known();
        if let Some(cell) = known.cells.remove(key) {
            known.names.remove(&cell.name);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while it was locked cannot have left it half-changed: nothing in between can panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use orlop_types::SandboxId;

    use super::*;
    use crate::pod::machine::PodStep;

    fn key(pod: &str) -> PodKey {
        PodKey {
            namespace: Namespace::new("k8s.io").unwrap(),
            pod: SandboxId::new(pod).unwrap(),
        }
    }

    #[test]
    fn a_name_is_taken_until_it_is_released_and_the_error_says_the_step() {
        let pods = Pods::new(PodSettings::new(
            "/nonexistent".into(),
            "/nonexistent".into(),
        ));
        let creating = |step| PodPhase::Creating(step);
        let first = pods
            .reserve(&key("a"), "web".to_owned(), creating(PodStep::Files))
            .unwrap();
        first.show(creating(PodStep::Network));
        let error = pods
            .reserve(&key("b"), "web".to_owned(), creating(PodStep::Files))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "pod web exists already as a, which is being created (attaching the network)"
        );
        assert!(pods.find(&key("b")).is_err());
        pods.release(&key("a"));
        pods.release(&key("a"));
        pods.reserve(&key("b"), "web".to_owned(), PodPhase::Ready)
            .unwrap();
    }
}
