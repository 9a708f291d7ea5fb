//! The operations on pods: what every façade calls.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use orlop_base::blocking;
use orlop_base::task::TaskKind;
use orlop_base::telemetry::spans;
use orlop_sys::process::Stranger;
use orlop_types::{Namespace, SandboxId};
use tokio::io::unix::AsyncFd;
use tokio::sync::OwnedRwLockReadGuard;
use tracing::Instrument;

use super::config::{PodConfig, PodResources};
use super::driver::{Driver, read};
use super::error::PodError;
use super::machine::{PodEvent, PodPhase, PodState, PodStep};
use super::record::{PodKey, PodRecord};
use super::sysctl::{Unprivileged, parameters};
use super::table::Cell;
use super::{Pod, PodInit, cgroup, check, init, namespaces, network};
use crate::Error;
use crate::container::cgroup_parent;
use crate::runtime::Runtime;

/// Works on one pod; at shutdown the step under way is finished.
const WORK: TaskKind = TaskKind::cooperative("pod");

/// Waits for the first process of a pod to end; holds nothing.
const FOLLOWER: TaskKind = TaskKind::dropped("pod's first process");

/// Bytes of an id.
const ID_BYTES: usize = 32;

/// A pod that cannot be stopped or removed while this is held: whoever makes or starts a container in it holds it until
/// the container is on record. Any number may hold one pod.
#[derive(Debug)]
pub struct HeldPod {
    pod: Pod,
    _held: OwnedRwLockReadGuard<()>,
}

impl Deref for HeldPod {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl Runtime {
    /// Makes a pod: its files, its namespaces, its network. On failure nothing is left. A caller that goes away does not
    /// stop it.
    ///
    /// # Errors
    /// The configuration cannot be, the name is taken (the error says by which pod, and what is being done with it), the
    /// handler is unknown, or a step failed.
    pub async fn run_pod(
        &self,
        namespace: &Namespace,
        config: PodConfig,
    ) -> Result<SandboxId, Error> {
        self.core.runtime(&config.handler)?;
        let key = PodKey {
            namespace: namespace.clone(),
            pod: new_id(),
        };
        let record = self.plan(&key, config)?;
        let name = PodRecord::name(&record.config);
        let cell = self.core.pods.reserve(&key, name, record.state.phase)?;
        let (core, owned) = (Arc::clone(&self.core), key.clone());
        let (runtime, span) = (self.clone(), spans::carried());
        let making = async move {
            let _alone = Arc::clone(&cell.lock).write_owned().await;
            let (state, effects) = PodState::create(record.state.networked, core.now());
            let record = PodRecord { state, ..record };
            let mut driver = Driver::new(core, owned.clone(), cell, record);
            let made = driver.execute(effects).await;
            if made.is_ok() {
                runtime.follow(&owned, driver.record());
            }
            made
        };
        let making = making.instrument(span);
        let making = self.core.tasks.spawn(WORK, move |_token| making);
        match making.join().await {
            Ok(made) => made?,
            Err(_ended) => return Err(ending(&key).into()),
        }
        Ok(key.pod)
    }

    /// Ends a pod's containers, detaches its network and unpins its namespaces. Goes on after a failure. One that is
    /// stopped already stays so.
    ///
    /// # Errors
    /// No such pod; or what could not be taken down: then the same call tries again.
    pub async fn stop_pod(&self, namespace: &Namespace, pod: &SandboxId) -> Result<(), Error> {
        self.work_on(namespace, pod, PodEvent::StopRequested).await
    }

    /// Stops a pod if it is not stopped, and removes its containers, its files and its record.
    ///
    /// # Errors
    /// No such pod; or what could not be taken down: then the same call tries again.
    pub async fn remove_pod(&self, namespace: &Namespace, pod: &SandboxId) -> Result<(), Error> {
        self.work_on(namespace, pod, PodEvent::RemoveRequested)
            .await
    }

    /// One pod.
    ///
    /// # Errors
    /// No such pod.
    pub async fn pod(&self, namespace: &Namespace, pod: &SandboxId) -> Result<Pod, Error> {
        let key = PodKey {
            namespace: namespace.clone(),
            pod: pod.clone(),
        };
        let record = read(&self.core, &key).await?;
        Ok(record.pod(key.pod))
    }

    /// All pods, by id. One whose record cannot be understood is passed over; recovery has told of it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn pods(&self, namespace: &Namespace) -> Result<Vec<Pod>, Error> {
        let (db, namespace) = (self.core.db.clone(), namespace.clone());
        let listed = blocking::run("list pods", move || {
            db.namespace(&namespace).sandboxes().list(&[])
        });
        let rows = listed.await.map_err(Error::Daemon)?;
        let rows = rows.map_err(|source| PodError::Record {
            pod: "*".to_owned(),
            attempt: "read",
            source,
        })?;
        let pods = rows.iter().filter_map(|row| {
            let record = PodRecord::read(row)?.ok()?;
            Some(record.pod(row.id.clone()))
        });
        Ok(pods.collect())
    }

    /// A pod that is ready and stays so while the answer is held. Waits for whoever changes it.
    ///
    /// # Errors
    /// No such pod, or it is not ready.
    pub async fn hold_pod(&self, namespace: &Namespace, pod: &SandboxId) -> Result<HeldPod, Error> {
        let key = PodKey {
            namespace: namespace.clone(),
            pod: pod.clone(),
        };
        let cell = self.core.pods.find(&key)?;
        let held = Arc::clone(&cell.lock).read_owned().await;
        let record = read(&self.core, &key).await?;
        record.state.admit().map_err(|source| PodError::Refused {
            pod: pod.to_string(),
            source,
        })?;
        Ok(HeldPod {
            pod: record.pod(key.pod),
            _held: held,
        })
    }

    /// Keeps what the kubelet says of a pod's resources with its record. The limits themselves are set by whoever made the
    /// pod's cgroup.
    ///
    /// # Errors
    /// No such pod, or it is not ready.
    pub async fn update_pod_resources(
        &self,
        namespace: &Namespace,
        pod: &SandboxId,
        (overhead, resources): (Option<PodResources>, Option<PodResources>),
    ) -> Result<(), Error> {
        let key = PodKey {
            namespace: namespace.clone(),
            pod: pod.clone(),
        };
        let cell = self.core.pods.find(&key)?;
        let _alone = Arc::clone(&cell.lock).write_owned().await;
        let mut driver = Driver::load(Arc::clone(&self.core), key, cell).await?;
        let admitted = driver.record().state.admit();
        admitted.map_err(|source| PodError::Refused {
            pod: pod.to_string(),
            source,
        })?;
        driver
            .change(|record| {
                record.config.overhead = overhead.or_else(|| record.config.overhead.take());
                record.config.resources = resources.or_else(|| record.config.resources.take());
            })
            .await?;
        Ok(())
    }

    /// Whether pods can be attached to the node's network: it is configured, its plugins are there, and those that can
    /// tell say that they are ready.
    ///
    /// # Errors
    /// What is missing.
    pub async fn network_status(&self) -> Result<(), Error> {
        let core = Arc::clone(&self.core);
        let lane = &self.core.pods.lane;
        let status = lane.run_long("ask the network", move || {
            network::status(&core.settings.network)
        });
        let status = status.await.map_err(Error::Daemon)?;
        Ok(status.map_err(|source| PodError::NetworkStatus(Box::new(source)))?)
    }

    /// Has an event taken by a pod, after whatever is done with it now.
    pub(super) async fn work_on(
        &self,
        namespace: &Namespace,
        pod: &SandboxId,
        event: PodEvent,
    ) -> Result<(), Error> {
        let key = PodKey {
            namespace: namespace.clone(),
            pod: pod.clone(),
        };
        let cell = self.core.pods.find(&key)?;
        let (core, owned) = (Arc::clone(&self.core), key.clone());
        let work = work(core, owned, cell, event).instrument(spans::carried());
        let working = self.core.tasks.spawn(WORK, move |_token| work);
        match working.join().await {
            Ok(done) => Ok(done?),
            Err(_ended) => Err(ending(&key).into()),
        }
    }

    /// Stops the pod when its first process ends.
    pub(super) fn follow(&self, key: &PodKey, record: &PodRecord) {
        let (Some(init), Some(pinned)) = (record.init, record.places.processes.clone()) else {
            return;
        };
        let (runtime, key) = (self.clone(), key.clone());
        self.core.tasks.spawn(FOLLOWER, move |_token| async move {
            match init::follow(init, &pinned).and_then(readable_at_the_end) {
                Ok(Some(process)) => drop(process.readable().await),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(pod = %key.pod, error = orlop_types::chain(&error), "the first process of a pod cannot be followed");
                    return;
                }
            }
            runtime.lose(&key, init).await;
        });
    }

    async fn lose(&self, key: &PodKey, init: PodInit) {
        // A pod that is being stopped ends the process itself.
        let reason = init::ended(init);
        let lost = self.work_on(&key.namespace, &key.pod, PodEvent::Lost { reason });
        match lost.await {
            Ok(()) | Err(Error::Pod(PodError::Unknown { .. })) => {}
            Err(error) => {
                let error = orlop_types::chain(&error);
                tracing::warn!(pod = %key.pod, error, "a pod whose first process ended cannot be taken down");
            }
        }
    }

    /// The record of a pod that is about to be made. Refuses what could not be made before anything is done.
    fn plan(&self, key: &PodKey, config: PodConfig) -> Result<PodRecord, PodError> {
        check::check(&config)?;
        let settings = &self.core.pods.settings;
        let unprivileged = Unprivileged {
            ports: settings.unprivileged_ports,
            icmp: settings.unprivileged_icmp,
        };
        parameters(&config, unprivileged)?;
        let networked = !config.namespaces.host_network;
        let parent = if config.cgroup_parent.is_empty() {
            let parent = cgroup_parent(&self.core, &key.namespace);
            cgroup::own_parent(&parent, key.pod.as_str())
        } else {
            cgroup::parent(&config.cgroup_parent)
        };
        let created_at: SystemTime = self.core.now();
        let record = PodRecord {
            state: PodState {
                phase: PodPhase::Creating(PodStep::Files),
                networked,
                reason: None,
                transitions: Vec::new(),
            },
            places: namespaces::places(settings, key, &config),
            cgroup_parent: parent,
            config,
            created_at,
            addresses: Vec::new(),
            network: None,
            init: None,
        };
        network::capabilities(&record)?;
        Ok(record)
    }
}

#[allow(
    deprecated,
    reason = "its successor is unsafe, and sound only for descriptors that are owned, as this one is"
)]
fn readable_at_the_end(process: Option<Stranger>) -> std::io::Result<Option<AsyncFd<OwnedFd>>> {
    let descriptor = process.map(OwnedFd::from);
    descriptor.map(AsyncFd::new).transpose()
}

async fn work(
    core: Arc<crate::core::Core>,
    key: PodKey,
    cell: Arc<Cell>,
    event: PodEvent,
) -> Result<(), PodError> {
    let _alone = Arc::clone(&cell.lock).write_owned().await;
    let mut driver = Driver::load(core, key, cell).await?;
    driver.take(event).await
}

fn ending(key: &PodKey) -> PodError {
    PodError::Ending {
        pod: key.pod.to_string(),
    }
}

/// 64 hexadecimal digits, as every tool around containers expects them.
fn new_id() -> SandboxId {
    let mut bytes = [0; ID_BYTES];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .expect("the kernel always has random bytes");
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    SandboxId::new(text).expect("hexadecimal digits are a sound id")
}
