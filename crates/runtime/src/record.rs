//! What the database keeps of a task for this crate, with its version history.
//!
//! Version 1: JSON of [`TaskRecord`].

use std::path::PathBuf;

use orlop_api::Any;
use orlop_types::Mount;
use serde::{Deserialize, Serialize};

use crate::machine::{Exit, Phase, Task, Transition};
use crate::mapping::Mapping;
use crate::shim::Bootstrap;

/// The version written.
pub(crate) const VERSION: u32 = 1;

/// Everything a restarted daemon needs to go on with a task, or to undo it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    /// The machine's state.
    pub(crate) task: Task,
    /// What it was created with.
    pub(crate) plan: Plan,
    /// The addresses CNI gave it, with prefix lengths, own first.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
    /// Where its shim listens, once it does.
    pub(crate) bootstrap: Option<Bootstrap>,
}

/// What a task is created with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The shim's executable.
    pub(crate) shim_binary: PathBuf,
    /// The runtime's options.
    pub(crate) options: Option<StoredAny>,
    /// The mounts that make the root file system.
    pub(crate) rootfs: Vec<Mount>,
    /// The user namespace through which its files are seen: then they are mounted before the shim is asked.
    #[serde(default)]
    pub(crate) mapping: Option<Mapping>,
    /// The process's standard streams.
    pub(crate) streams: Streams,
    /// Where its network namespace is to be pinned, if it gets one.
    #[serde(default)]
    pub(crate) network_namespace: Option<PathBuf>,
    /// Whether the container's record is to tell how the task ended once the task is gone.
    #[serde(default)]
    pub(crate) keep_end: bool,
    /// Whether task and container are to be removed when the process ends.
    #[serde(default)]
    pub(crate) auto_remove: bool,
    /// Whether the task is to be deleted when its process ends, so that what has ended costs no process.
    #[serde(default)]
    pub(crate) delete_ended: bool,
    /// The pod whose containers share its shim; empty for a shim of its own.
    #[serde(default)]
    pub(crate) group: String,
    /// A checkpoint to start from; empty for none.
    pub(crate) checkpoint: String,
}

/// Where a process's standard streams lead: paths of FIFOs, or URIs that the shim understands; empty for nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error; unused with a terminal.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// How a container's last task went; kept with the container once the task is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTask {
    /// How its process ended; absent if it never started.
    pub exit: Option<Exit>,
    /// How its start went.
    pub transitions: Vec<Transition>,
}

/// A typed message in a form that JSON can hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredAny {
    type_url: String,
    value: Vec<u8>,
}

impl From<Any> for StoredAny {
    fn from(any: Any) -> Self {
        Self {
            type_url: any.type_url,
            value: any.value,
        }
    }
}

impl From<StoredAny> for Any {
    fn from(stored: StoredAny) -> Self {
        Self {
            type_url: stored.type_url,
            value: stored.value,
        }
    }
}

/// Why a stored record is not one of this version's.
#[derive(Debug, thiserror::Error)]
pub enum RecordFault {
    /// It is not the JSON it should be.
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
    /// Another version wrote it.
    #[error("it has version {0}, and only version {VERSION} is known")]
    Version(u32),
}

impl TaskRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a task record has only text keys")
    }

    pub(crate) fn decode(version: u32, stored: &[u8]) -> Result<Self, RecordFault> {
        if version == VERSION {
            Ok(serde_json::from_slice(stored)?)
        } else {
            Err(RecordFault::Version(version))
        }
    }

    /// The state the database keeps in a column of its own.
    pub(crate) const fn state(&self) -> orlop_meta::TaskState {
        match self.task.phase {
            Phase::Creating(_) => orlop_meta::TaskState::Creating,
            Phase::Created | Phase::Starting => orlop_meta::TaskState::Created,
            Phase::Running => orlop_meta::TaskState::Running,
            Phase::Paused => orlop_meta::TaskState::Paused,
            Phase::Stopped => orlop_meta::TaskState::Stopped,
            Phase::Deleting => orlop_meta::TaskState::Deleting,
        }
    }
}
