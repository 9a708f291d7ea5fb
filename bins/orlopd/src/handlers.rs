//! The runtimes that pods can name, tried as a pod would use them: shim and OCI runtime.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use orlop_base::config::Config;
use orlop_cri::{Handler, ProbeHandlers};
use orlop_runtime::probe::{
    Features, OciRuntime, features, find_executable, oci_runtime, user_namespaces,
};

/// A probe of every handler of the configuration.
pub(crate) fn probe(config: &Config, folders: Vec<PathBuf>) -> ProbeHandlers {
    let runtime = config.runtime.clone();
    let root = config.engine.root.clone();
    // Neither kernel nor file system change while the daemon runs.
    let answer = OnceLock::new();
    Arc::new(move || {
        let maps_users = *answer.get_or_init(|| {
            let own = find_executable(&runtime.shim, &folders);
            maps_users(own.as_deref(), &root)
        });
        let shim = |name: &str| {
            let name = if name.is_empty() { &runtime.shim } else { name };
            match find_executable(name, &folders) {
                Some(_) => None,
                None => Some(format!("shim {name:?} is not installed")),
            }
        };
        let candidates = runtime.oci_runtimes.iter();
        let default = first_working(candidates.map(|name| oci_runtime(name, &folders)).collect());
        let mut handlers = vec![handler("", shim(""), &default, maps_users)];
        for (name, wanted) in &runtime.handlers {
            let own = (!wanted.oci_runtime.is_empty())
                .then(|| oci_runtime(&wanted.oci_runtime, &folders));
            let found = own.as_ref().unwrap_or(&default);
            handlers.push(handler(name, shim(&wanted.shim), found, maps_users));
        }
        handlers
    })
}

/// Of several the first that works; if none does, the first with what all of them say.
fn first_working(mut candidates: Vec<OciRuntime>) -> OciRuntime {
    if let Some(works) = candidates.iter().position(|one| one.error.is_none()) {
        return candidates.swap_remove(works);
    }
    let errors: Vec<_> = candidates
        .iter()
        .filter_map(|one| one.error.clone())
        .collect();
    OciRuntime {
        name: String::new(),
        path: None,
        version: String::new(),
        error: Some(format!("no OCI runtime works: {}", errors.join("; "))),
    }
}

/// Whether pods can have user namespaces. Every runtime can run in one: what has to be mapped is mounted before it is asked.
fn maps_users(shim: Option<&Path>, root: &Path) -> bool {
    let Some(shim) = shim else {
        return false;
    };
    let folders = [root.join("content"), root.join("snapshots")];
    match user_namespaces(shim, [&folders[0], &folders[1]]) {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(root = %root.display(), error, "pods cannot have user namespaces here");
            false
        }
    }
}

fn handler(
    name: &str,
    shim_error: Option<String>,
    runtime: &OciRuntime,
    maps_users: bool,
) -> Handler {
    let works = runtime.path.as_deref().filter(|_| runtime.error.is_none());
    let can = works.map_or_else(Features::default, features);
    Handler {
        name: name.to_owned(),
        error: shim_error.or_else(|| runtime.error.clone()),
        recursive_read_only: can.recursive_read_only,
        user_namespaces: maps_users && works.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(name: &str, error: Option<&str>) -> OciRuntime {
        OciRuntime {
            name: name.to_owned(),
            path: None,
            version: String::new(),
            error: error.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn the_first_that_works_is_taken_and_otherwise_all_faults_are_told() {
        let found = first_working(vec![runtime("a", Some("x")), runtime("b", None)]);
        assert_eq!(found.name, "b");
        let none = first_working(vec![runtime("a", Some("x")), runtime("b", Some("y"))]);
        assert_eq!(none.error.as_deref(), Some("no OCI runtime works: x; y"));
    }
}
