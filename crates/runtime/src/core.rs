//! What every task of the runtime shares.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use orlop_api::Any;
use orlop_base::clock::SharedClock;
use orlop_base::task::TaskTree;
use orlop_meta::Db;
use orlop_types::Glob;

use crate::Error;
use crate::actor::{Handle, TaskKey};
use crate::member::Calls;

/// How the runtime is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bundles; on a file system that a reboot empties.
    pub state_folder: PathBuf,
    /// Logs of containers that nobody is attached to; kept over a reboot.
    pub log_folder: PathBuf,
    /// The daemon's gRPC socket, told to shims.
    pub address: PathBuf,
    /// The daemon's ttrpc socket, to which shims send events.
    pub ttrpc_address: PathBuf,
    /// An executable that takes `publish` with an event on standard input, for shims that do not speak ttrpc.
    pub publish_binary: PathBuf,
    /// Where shims are looked for, in order.
    pub shim_folders: Vec<PathBuf>,
    /// Runtimes by name, over what is installed.
    pub runtimes: BTreeMap<String, RuntimeSettings>,
    /// The runtime of a container that names none.
    pub default_runtime: String,
    /// How long one step of a task's creation or start may take before it is given up and undone.
    pub step_limit: Duration,
    /// The network of containers that are to have one of their own.
    pub network: orlop_cni::Settings,
    /// Where files of the Container Device Interface are looked for; later folders go before earlier ones.
    pub cdi_folders: Vec<PathBuf>,
    /// How pods are set up.
    pub pods: crate::pod::PodSettings,
    /// The cgroup that containers of [`crate::Runtime::create_container`] are put under, from the controllers' root.
    pub cgroup_parent: PathBuf,
}

/// One configured runtime.
#[derive(Debug, Clone, Default)]
pub struct RuntimeSettings {
    /// The shim's executable; by the runtime's name otherwise.
    pub shim_binary: Option<PathBuf>,
    /// Options for containers that bring none.
    pub options: Option<Any>,
    /// Which annotations of a pod go into the specs of its containers.
    pub pod_annotations: Vec<Glob>,
    /// Which annotations of a pod's container go into its spec.
    pub container_annotations: Vec<Glob>,
}

/// Shared by the façade and all actors.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) db: Db,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: TaskTree,
    pub(crate) pods: crate::pod::Pods,
    /// Calls on containers of pods that are under way.
    pub(crate) calls: Calls,
    handles: Mutex<HashMap<TaskKey, Handle>>,
}

impl Core {
    pub(crate) fn new(
        settings: Settings,
        db: Db,
        clock: SharedClock,
        tasks: TaskTree,
    ) -> Arc<Self> {
        let pods = crate::pod::Pods::new(settings.pods.clone());
        Arc::new(Self {
            pods,
            settings,
            db,
            clock,
            tasks,
            calls: Calls::default(),
            handles: Mutex::new(HashMap::new()),
        })
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.wall()
    }

    /// The way to a task's actor.
    pub(crate) fn handle(&self, key: &TaskKey) -> Option<Handle> {
        self.lock().get(key).cloned()
    }

    /// All tasks that have an actor.
    pub(crate) fn handles(&self) -> Vec<(TaskKey, Handle)> {
        self.lock()
            .iter()
            .map(|(key, handle)| (key.clone(), handle.clone()))
            .collect()
    }

    /// Makes an actor known, unless there is one for the same container.
    pub(crate) fn adopt(&self, key: &TaskKey, handle: &Handle) -> Result<(), Error> {
        use std::collections::hash_map::Entry;
        match self.lock().entry(key.clone()) {
            Entry::Occupied(there) => {
                let phase = there.get().view.borrow().phase.to_string();
                Err(Error::TaskExists {
                    container: key.container.to_string(),
                    phase,
                })
            }
            Entry::Vacant(free) => {
                free.insert(handle.clone());
                Ok(())
            }
        }
    }

    pub(crate) fn forget(&self, key: &TaskKey) {
        self.lock().remove(key);
    }

    /// How the runtime of that name is configured, if it is.
    pub(crate) fn configured(&self, name: &str) -> Option<&RuntimeSettings> {
        let name = if name.is_empty() {
            &self.settings.default_runtime
        } else {
            name
        };
        self.settings.runtimes.get(name)
    }

    /// Whether a runtime's shim is of another make than ours, and so knows only what containerd's do.
    pub(crate) fn is_foreign(&self, name: &str) -> Result<bool, Error> {
        let (shim, _) = self.runtime(name)?;
        Ok(shim.file_name() != self.settings.pods.init_binary.file_name())
    }

    /// The shim's executable for a runtime's name, and the options configured for it. A path is the shim itself, as in
    /// containerd.
    pub(crate) fn runtime(&self, name: &str) -> Result<(PathBuf, Option<Any>), Error> {
        let name = if name.is_empty() {
            &self.settings.default_runtime
        } else {
            name
        };
        if name.starts_with('/') {
            return Ok((PathBuf::from(name), None));
        }
        let configured = self.configured(name).cloned().unwrap_or_default();
        if let Some(binary) = configured.shim_binary {
            return Ok((binary, configured.options));
        }
        let binary = shim_name(name);
        let folders = self.settings.shim_folders.iter();
        let found = binary.as_ref().and_then(|binary| {
            folders
                .map(|folder| folder.join(binary))
                .find(|path| path.is_file())
        });
        let found = found.ok_or_else(|| Error::UnknownRuntime {
            runtime: name.to_owned(),
            binary: binary.unwrap_or_else(|| "containerd-shim-NAME-VERSION".to_owned()),
            folders: self.settings.shim_folders.clone(),
        })?;
        Ok((found, configured.options))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskKey, Handle>> {
        // A panic while the map was locked cannot have left it half-changed: every change is one call.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// containerd's rule: the last two words of `io.containerd.NAME.VERSION` name `containerd-shim-NAME-VERSION`. `None` for
/// any other name: `containerd-shim` alone is the program of a version that we do not speak.
fn shim_name(runtime: &str) -> Option<String> {
    let mut words = runtime.rsplit('.');
    let (version, name) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    // The name becomes part of a path: anything else than a word names no shim.
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let is_sound = is_word(version) && is_word(name);
    is_sound.then(|| format!("containerd-shim-{name}-{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_name_is_its_shims_and_never_a_path() {
        for name in ["runc", "orlop"] {
            let binary = shim_name(&format!("io.containerd.{name}.v2"));
            assert_eq!(binary, Some(format!("containerd-shim-{name}-v2")));
        }
        for odd in ["", "runc", "../../x.v1", "io.containerd./etc.v1"] {
            assert_eq!(shim_name(odd), None, "{odd:?}");
        }
    }
}
