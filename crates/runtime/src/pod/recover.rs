//! Going on with the pods that an earlier daemon left.

use std::sync::Arc;

use orlop_base::blocking;
use orlop_base::task::{TaskHandle, TaskKind};
use orlop_cni::{Plugins, collect};
use orlop_meta::Sandbox;
use orlop_types::{ErrorKind, Namespace};

use super::error::PodError;
use super::machine::{PodEvent, PodPhase};
use super::record::{PodKey, PodRecord};
use super::volumes::Volumes;
use super::{health, host_dns, namespaces, network};
use crate::core::Core;
use crate::runtime::Runtime;
use crate::{Error, network as task_network};

/// Goes on with a pod; at shutdown the step under way is finished.
const RECOVERY: TaskKind = TaskKind::cooperative("pod recovery");

/// A pod on record, and what has happened to it since.
struct Found {
    key: PodKey,
    record: PodRecord,
    event: Option<PodEvent>,
}

impl Runtime {
    /// Goes on with the pods that an earlier daemon left. What is ready and whole is taken over at once; what was half-made
    /// or being taken down is undone or taken down in the background, and so are pods whose namespaces went with a reboot,
    /// with the addresses they had. Then the network frees what belongs to nobody. To be called once, when tasks have been
    /// recovered and before anybody is served.
    pub(crate) async fn recover_pods(&self) -> Result<(), Error> {
        let core = Arc::clone(&self.core);
        let found = blocking::run("read pods", move || find(&core));
        let found = found.await.map_err(Error::Daemon)??;
        let mut working = Vec::new();
        let mut keys = Vec::new();
        for Found { key, record, event } in found {
            let name = PodRecord::name(&record.config);
            if let Err(error) = self.core.pods.reserve(&key, name, record.state.phase) {
                tracing::error!(pod = %key.pod, error = orlop_types::chain(&error), "two pods have one name; the second one is left alone");
                continue;
            }
            keys.push(key.clone());
            match event {
                Some(event) => working.push(self.go_on(key, event)),
                None => self.follow(&key, &record),
            }
        }
        let core = Arc::clone(&self.core);
        blocking::run("reconcile volumes", move || reconcile_volumes(&core, &keys))
            .await
            .map_err(Error::Daemon)?;
        let core = Arc::clone(&self.core);
        self.core
            .tasks
            .spawn(host_dns::WATCHER, move |token| host_dns::watch(core, token));
        let core = Arc::clone(&self.core);
        self.core
            .tasks
            .spawn(health::PROBER, move |token| health::probe(core, token));
        let runtime = self.clone();
        self.core.tasks.spawn(RECOVERY, move |_token| async move {
            for work in working {
                drop(work.join().await);
            }
            runtime.free_attachments().await;
            runtime.check_networks().await;
        });
        Ok(())
    }

    fn go_on(&self, key: PodKey, event: PodEvent) -> TaskHandle<()> {
        let runtime = self.clone();
        self.core.tasks.spawn(RECOVERY, move |_token| async move {
            let done = runtime.work_on(&key.namespace, &key.pod, event).await;
            if let Err(error) = done {
                let error = orlop_types::chain(&error);
                tracing::warn!(namespace = %key.namespace, pod = %key.pod, error, "a pod of an earlier daemon is not gone in full; the next stop or removal goes on");
            }
        })
    }

    /// Has the network free what belongs to nobody: attachments whose pod or task is not on record.
    async fn free_attachments(&self) {
        let core = Arc::clone(&self.core);
        // From here on nothing is attached, so that the list is whole.
        let _nobody_attaches = self.core.pods.attaching.write().await;
        let collected = self.core.pods.lane.run_long("free attachments", move || {
            let valid = attachments(&core)?;
            Ok::<_, PodError>(collect(&core.settings.network, Plugins, &valid))
        });
        let collected = match collected.await {
            Ok(Ok(collected)) => collected,
            Ok(Err(error)) => {
                let error = orlop_types::chain(&error);
                tracing::warn!(
                    error,
                    "network attachments are not freed: it is not known which are in use"
                );
                return;
            }
            Err(_ending) => return,
        };
        for container in collected.detached {
            tracing::info!(
                container,
                "a network attachment that belonged to nobody was taken down"
            );
        }
        for error in collected.failures {
            let error = orlop_types::chain(&error);
            tracing::warn!(error, "the network cannot free what belongs to nobody");
        }
    }
}

/// Takes away what of mounted images nobody uses. Blocks.
fn reconcile_volumes(core: &Core, pods: &[PodKey]) {
    for key in pods {
        let volumes = Volumes::of(core, &key.namespace, &key.pod);
        let reconciled = volumes.map_or(Ok(()), |volumes| volumes.reconcile());
        // A pod that is being taken down meanwhile has none left.
        let failure = reconciled
            .err()
            .filter(|error| error.kind() != ErrorKind::NotFound);
        if let Some(error) = failure {
            let error = orlop_types::chain(&error);
            tracing::warn!(namespace = %key.namespace, pod = %key.pod, error, "images of an earlier daemon stay mounted until the pod is stopped");
        }
    }
}

/// All pods on record that can be understood. Blocks.
fn find(core: &Core) -> Result<Vec<Found>, PodError> {
    let mut found = Vec::new();
    for (namespace, row) in rows(core)? {
        let record = match PodRecord::read(&row) {
            None => continue,
            Some(Ok(record)) => record,
            Some(Err(error)) => {
                // One record that this version cannot read must not keep the others from being taken over.
                let error = orlop_types::chain(&error);
                tracing::error!(%namespace, error, "a pod cannot be recovered; its containers may still run");
                continue;
            }
        };
        let key = PodKey {
            namespace,
            pod: row.id.clone(),
        };
        let event = match record.state.phase {
            PodPhase::Ready => namespaces::missing(&record).map(|reason| PodEvent::Lost { reason }),
            PodPhase::NotReady => None,
            PodPhase::Creating(_) | PodPhase::Stopping | PodPhase::Removing => {
                Some(PodEvent::Recovered)
            }
        };
        found.push(Found { key, record, event });
    }
    Ok(found)
}

/// What is attached to a network, as far as it is on record.
fn attachments(core: &Core) -> Result<Vec<(String, String)>, PodError> {
    let tasks = core.handles();
    let networked = tasks
        .iter()
        .filter(|(_, handle)| handle.view.borrow().plan.network_namespace.is_some());
    let mut attachments: Vec<_> = networked
        .map(|(key, _)| task_network::attached_as(key))
        .collect();
    for (namespace, row) in rows(core)? {
        // A record that cannot be read may be that of a pod that runs.
        let is_attached = match PodRecord::read(&row) {
            None => false,
            Some(Err(_)) => true,
            Some(Ok(record)) => record.state.networked && record.state.phase != PodPhase::NotReady,
        };
        if is_attached {
            let pod = row.id;
            attachments.push(network::attached_as(&PodKey { namespace, pod }));
        }
    }
    Ok(attachments)
}

pub(super) fn rows(core: &Core) -> Result<Vec<(Namespace, Sandbox)>, PodError> {
    let failed = |source| PodError::Record {
        pod: "*".to_owned(),
        attempt: "read",
        source,
    };
    let mut rows = Vec::new();
    for namespace in core.db.namespaces().list().map_err(failed)? {
        let view = core.db.namespace(&namespace.name);
        let listed = view.sandboxes().list(&[]).map_err(failed)?;
        rows.extend(listed.into_iter().map(|row| (namespace.name.clone(), row)));
    }
    Ok(rows)
}
