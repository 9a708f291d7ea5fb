//! What there is on this machine, and what is missing: found once, told by `orlop info`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orlop_base::config::Config;
use orlop_runtime::probe::{OciRuntime, find_executable};
use orlop_services::{Component, Facts, OciRuntimeFacts};
use orlop_sys::cgroup::{Cgroup, Version};
use orlop_sys::process;

const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";

/// Finds everything out. Blocks. `now` is when the daemon started.
pub(crate) fn find(
    config: &Config,
    oci_runtimes: &[OciRuntime],
    components: &[Component],
    folders: &[PathBuf],
    now: SystemTime,
) -> Facts {
    Facts {
        started_at: now,
        state_folder: config.engine.state.clone(),
        default_snapshotter: config.snapshotter.default.clone(),
        default_runtime: default_runtime(oci_runtimes),
        oci_runtimes: oci_runtimes.iter().map(facts).collect(),
        cgroup_version: cgroup_version(),
        kernel_release: kernel_release(),
        warnings: warnings(config, oci_runtimes, components, folders),
        measure_memory: || process::memory_bytes(std::process::id()).ok(),
    }
}

/// The first one that works; nothing if none does.
fn default_runtime(oci_runtimes: &[OciRuntime]) -> String {
    let works = oci_runtimes.iter().find(|runtime| runtime.error.is_none());
    works
        .map(|runtime| runtime.name.clone())
        .unwrap_or_default()
}

fn facts(runtime: &OciRuntime) -> OciRuntimeFacts {
    OciRuntimeFacts {
        name: runtime.name.clone(),
        path: runtime.path.clone().unwrap_or_default(),
        version: runtime.version.clone(),
        error: runtime.error.clone(),
    }
}

fn cgroup_version() -> u32 {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    match Cgroup::of_process(own).map(|cgroup| cgroup.version()) {
        Ok(Version::V1) => 1,
        Ok(Version::V2) => 2,
        Err(error) => {
            tracing::warn!(%error, "cannot tell the version of cgroups");
            0
        }
    }
}

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

fn warnings(
    config: &Config,
    oci_runtimes: &[OciRuntime],
    components: &[Component],
    folders: &[PathBuf],
) -> Vec<String> {
    let mut warnings = Vec::new();
    let handlers = config.runtime.handlers.iter();
    let shims = handlers
        .map(|(name, handler)| (name.as_str(), handler.shim.as_str()))
        .filter(|(_, shim)| !shim.is_empty());
    let default = [("", config.runtime.shim.as_str())];
    for (handler, shim) in default.into_iter().chain(shims) {
        if find_executable(shim, folders).is_none() {
            warnings.push(missing_shim(handler, shim));
        }
    }
    if !oci_runtimes.iter().any(|runtime| runtime.error.is_none()) {
        let errors: Vec<&str> = oci_runtimes
            .iter()
            .filter_map(|runtime| runtime.error.as_deref())
            .collect();
        warnings.push(format!(
            "no OCI runtime works, so no container can be started: install runc or crun and restart the daemon ({})",
            errors.join("; ")
        ));
    }
    let snapshotters = components.iter().filter(|it| it.kind == SNAPSHOTTER);
    for snapshotter in snapshotters {
        if let Some(error) = &snapshotter.error {
            let id = &snapshotter.id;
            warnings.push(format!("the {id} snapshotter does not work here: {error}"));
        }
    }
    warnings
}

fn missing_shim(handler: &str, shim: &str) -> String {
    let whose = match handler {
        "" => "no container can be started".to_owned(),
        name => format!("containers of runtime {name:?} cannot be started"),
    };
    let where_from = if Path::new(shim).is_absolute() {
        "it is not there"
    } else {
        "it is neither beside orlopd nor in PATH"
    };
    format!("{whose} without the shim {shim:?}: {where_from}; install it")
}
