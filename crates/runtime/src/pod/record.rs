//! What the database keeps of a pod for this crate, with its version history.
//!
//! A pod is a row of `sandboxes`; its record is the extension [`EXTENSION`] of that row.
//!
//! Version 1: JSON of [`PodRecord`].

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use orlop_meta::{Sandbox, TypedBytes};
use orlop_types::{Labels, Namespace, SandboxId};
use serde::{Deserialize, Serialize};

use super::config::PodConfig;
use super::error::PodError;
use super::machine::PodState;
use super::{Pod, PodInit, PodPlaces};
use crate::record::RecordFault;

/// Who has a sandbox in hand.
pub(crate) const SANDBOXER: &str = "orlop";

/// The extension of a sandbox's row that holds the record.
pub(crate) const EXTENSION: &str = "orlop.dev/pod";

/// The type of that extension's value.
const TYPE_V1: &str = "orlop.dev/pod/1";

/// The label by which clients of containerd tell sandboxes.
const KIND_LABEL: &str = "io.cri-containerd.kind";

/// Which pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PodKey {
    pub(crate) namespace: Namespace,
    pub(crate) pod: SandboxId,
}

/// Everything a restarted daemon needs to go on with a pod, or to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    /// The machine's state.
    pub(crate) state: PodState,
    /// What was asked for.
    pub(crate) config: PodConfig,
    /// When.
    pub(crate) created_at: SystemTime,
    /// Where everything is, or will be.
    pub(crate) places: PodPlaces,
    /// What the containers' cgroups are below.
    pub(crate) cgroup_parent: PathBuf,
    /// The addresses CNI gave it, the first one first.
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
    /// What the plugins answered.
    #[serde(default)]
    pub(crate) network: Option<serde_json::Value>,
    /// The first process, once started.
    #[serde(default)]
    pub(crate) init: Option<PodInit>,
}

impl PodRecord {
    /// The row of a pod that is about to be made.
    pub(crate) fn row(&self, key: &PodKey, runtime: String) -> Result<Sandbox, PodError> {
        let runtime = orlop_meta::Runtime {
            name: runtime,
            options: None,
        };
        let mut row = Sandbox::new(key.pod.clone(), runtime);
        row.labels = self.labels()?;
        row.sandboxer = SANDBOXER.to_owned();
        self.write_to(&mut row);
        Ok(row)
    }

    /// Puts the record into a row.
    pub(crate) fn write_to(&self, row: &mut Sandbox) {
        let value = serde_json::to_vec(self).expect("a pod's record has only text keys");
        let record = TypedBytes {
            type_url: TYPE_V1.to_owned(),
            value,
        };
        row.extensions.insert(EXTENSION.to_owned(), record);
    }

    /// Reads a row; `None` for another client's sandbox.
    pub(crate) fn read(row: &Sandbox) -> Option<Result<Self, PodError>> {
        let stored = row.extensions.get(EXTENSION)?;
        let record = if stored.type_url == TYPE_V1 {
            serde_json::from_slice(&stored.value).map_err(RecordFault::from)
        } else {
            let version = stored.type_url.rsplit('/').next().unwrap_or_default();
            Err(RecordFault::Version(version.parse().unwrap_or(0)))
        };
        Some(record.map_err(|source| PodError::ForeignRecord {
            pod: row.id.to_string(),
            source,
        }))
    }

    /// What anybody may see.
    pub(crate) fn pod(self, id: SandboxId) -> Pod {
        Pod {
            id,
            config: self.config,
            phase: self.state.phase,
            reason: self.state.reason,
            created_at: self.created_at,
            addresses: self.addresses,
            places: self.places,
            cgroup_parent: self.cgroup_parent,
            init: self.init,
            network: self.network,
            transitions: self.state.transitions,
        }
    }

    /// The pod's name among all pods, as the kubelet makes it.
    pub(crate) fn name(config: &PodConfig) -> String {
        let PodConfig {
            name,
            kubernetes_namespace,
            uid,
            attempt,
            ..
        } = config;
        format!("{name}_{kubernetes_namespace}_{uid}_{attempt}")
    }

    fn labels(&self) -> Result<Labels, PodError> {
        let mut labels = Labels::new();
        let own = [(KIND_LABEL.to_owned(), "sandbox".to_owned())];
        for (key, value) in self.config.labels.clone().into_iter().chain(own) {
            labels
                .insert(key, value)
                .map_err(|fault| PodError::Config {
                    field: "labels",
                    fault: fault.to_string(),
                })?;
        }
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::machine::PodState;

    fn record() -> PodRecord {
        let (state, _) = PodState::create(true, SystemTime::UNIX_EPOCH);
        PodRecord {
            state,
            config: PodConfig::default(),
            created_at: SystemTime::UNIX_EPOCH,
            places: PodPlaces::default(),
            cgroup_parent: "/orlop/k8s.io/pod1".into(),
            addresses: vec!["10.1.0.2".parse().unwrap()],
            network: None,
            init: None,
        }
    }

    fn key() -> PodKey {
        PodKey {
            namespace: Namespace::new("k8s.io").unwrap(),
            pod: SandboxId::new("abc").unwrap(),
        }
    }

    #[test]
    fn a_record_survives_its_row() {
        let row = record()
            .row(&key(), "io.containerd.orlop.v1".to_owned())
            .unwrap();
        assert_eq!(row.labels.value(KIND_LABEL), Some("sandbox"));
        assert_eq!(PodRecord::read(&row).unwrap().unwrap(), record());
    }

    #[test]
    fn another_version_is_refused_and_another_client_is_passed_over() {
        let mut row = record().row(&key(), String::new()).unwrap();
        let stored = row.extensions.get_mut(EXTENSION).unwrap();
        stored.type_url = "orlop.dev/pod/9".to_owned();
        let error = PodRecord::read(&row).unwrap().unwrap_err();
        assert_eq!(error.code(), "ORL-E6511");
        assert!(orlop_types::chain(&error).contains("version 9"), "{error}");
        row.extensions.clear();
        assert!(PodRecord::read(&row).is_none());
    }

    #[test]
    fn a_record_of_the_first_version_is_read() {
        // As version 1 first wrote it: later fields have defaults.
        let text = r#"{"state":{"phase":{"phase":"ready"},"networked":false,"transitions":[]},
            "config":{"name":"a"},"created_at":{"secs_since_epoch":1,"nanos_since_epoch":0},"places":{},
            "cgroup_parent":"/p"}"#;
        let record: PodRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.config.name, "a");
    }
}
