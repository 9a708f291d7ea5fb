//! What the daemon found on its machine when it started.

use std::path::PathBuf;
use std::time::SystemTime;

use orlop_api::orlop::v1 as api;

use crate::translate::timestamp;

/// What is told of the machine and of the daemon's set-up. Found once: all of it needs a restart to change.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When the daemon started.
    pub started_at: SystemTime,
    /// What a reboot empties.
    pub state_folder: PathBuf,
    /// Where images are unpacked unless a request says otherwise.
    pub default_snapshotter: String,
    /// What runs containers that name no runtime.
    pub default_runtime: String,
    /// OCI runtimes, in the order in which they are preferred.
    pub oci_runtimes: Vec<OciRuntimeFacts>,
    /// 1 or 2: which one accounts for memory.
    pub cgroup_version: u32,
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// What does not work and what to do about it, one sentence each.
    pub warnings: Vec<String>,
    /// Measures the daemon's memory (PSS) in bytes, if the kernel tells. Blocks.
    pub measure_memory: fn() -> Option<u64>,
}

/// An OCI runtime as it was found.
#[derive(Debug, Clone)]
pub struct OciRuntimeFacts {
    /// As the configuration names it.
    pub name: String,
    /// Its executable; empty if there is none.
    pub path: PathBuf,
    /// What it calls its version.
    pub version: String,
    /// Why it does not work.
    pub error: Option<String>,
}

impl Facts {
    /// Fills in what these facts know.
    pub(super) fn tell(&self, answer: &mut api::InfoResponse) {
        answer.started_at = Some(timestamp(self.started_at));
        answer.state_folder = self.state_folder.to_string_lossy().into_owned();
        answer.default_snapshotter = self.default_snapshotter.clone();
        answer.default_runtime = self.default_runtime.clone();
        answer.runtimes = self.oci_runtimes.iter().map(runtime).collect();
        answer.cgroup_version = self.cgroup_version;
        answer.kernel_release = self.kernel_release.clone();
        answer.warnings = self.warnings.clone();
    }
}

fn runtime(facts: &OciRuntimeFacts) -> api::ComponentInfo {
    api::ComponentInfo {
        name: facts.name.clone(),
        version: facts.version.clone(),
        path: facts.path.to_string_lossy().into_owned(),
        error: facts.error.clone().unwrap_or_default(),
    }
}
