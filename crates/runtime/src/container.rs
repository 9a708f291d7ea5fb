//! Making a container from an image: its root file system, its OCI spec, its record.
//!
//! Crash: the snapshot is bound to a lease from its first moment, and to the container's record before the lease goes;
//! whatever a crash leaves has no holder and is collected. Cancellation: the job runs to its end. Ordering: none needed.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use oci_spec::runtime::Spec;
use orlop_api::any::OCI_SPEC;
use orlop_base::blocking;
use orlop_meta::{Container, SnapshotOptions, TypedBytes, View};
use orlop_sys::fs::{Dir, Mode, Name, OFlags};
use orlop_sys::mount::Detached;
use orlop_types::{ContainerId, Labels, LeaseId, Mount, Namespace, SnapshotKey, SnapshotterName};

use crate::Error;
use crate::bundle::Bundle;
use crate::cdi::{self, DeviceName, Edits};
use crate::core::Core;
use crate::record::LastTask;
use crate::runtime::Runtime;
use crate::spec::{
    self, Accounts, ContainerOptions, Device, ImageDefaults, Network, Place, ResolvedUser,
    SpecError,
};
use crate::{host, network};

/// The label that says where a container's log is; only containers made here have one.
pub const LOG_LABEL: &str = "orlop.dev/log-path";

/// The label of containers that are to be removed when their task ends.
pub const AUTO_REMOVE_LABEL: &str = "orlop.dev/auto-remove";

/// The label that says where a container's network comes from: `host`, `none` or `cni`.
pub const NETWORK_LABEL: &str = "orlop.dev/network";

/// The value of that label for containers whose tasks get a network of their own by CNI.
pub(crate) const NETWORK_CNI: &str = "cni";

/// What the leases of creations are called.
const LEASE_PREFIX: &str = "orlop-create-";

/// How long the lease of an interrupted creation keeps its snapshot.
const LEASE_DURATION: Duration = Duration::from_secs(3600);

/// `/etc/passwd` and `/etc/group` beyond this are not read to their end.
const ACCOUNTS_BYTES_MAX: u64 = 4 << 20;

/// A container to be made.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// Its id.
    pub id: ContainerId,
    /// The image's name, for people.
    pub image: String,
    /// What the image says about how it is run.
    pub image_defaults: ImageDefaults,
    /// The committed snapshot of the whole image.
    pub image_snapshot: SnapshotKey,
    /// Where that snapshot is.
    pub snapshotter: SnapshotterName,
    /// What the user asks for.
    pub options: ContainerOptions,
    /// Devices on top: of the host, `PATH`, `PATH:TARGET` or `PATH:TARGET:PERMISSIONS`; or by name, `VENDOR/CLASS=NAME`.
    pub devices: Vec<String>,
    /// The runtime's name; empty for the default.
    pub runtime: String,
    /// Labels of the record.
    pub labels: Labels,
    /// Whether it is to be removed when its task ends.
    pub auto_remove: bool,
    /// Whether its tasks are attached to the node's CNI network; then `options.network` is set here.
    pub attach_network: bool,
}

impl Runtime {
    /// Makes a container: a writable snapshot on top of the image, the OCI spec, the record. Starts nothing. On failure
    /// nothing is left.
    ///
    /// # Errors
    /// The id is taken, the runtime is unknown, or image and options make no container.
    pub async fn create_container(
        &self,
        namespace: &Namespace,
        new: NewContainer,
    ) -> Result<Container, Error> {
        self.core.runtime(&new.runtime)?;
        let (core, namespace) = (std::sync::Arc::clone(&self.core), namespace.clone());
        blocking::run("create container", move || create(&core, &namespace, new))
            .await
            .map_err(Error::Daemon)?
    }

    /// The file a container's log is in; `None` for containers of other clients, whose streams go where they say.
    #[must_use]
    pub fn log_path(container: &Container) -> Option<&Path> {
        container.labels.value(LOG_LABEL).map(Path::new)
    }
}

/// The extension of a container's record that says how its last task went.
const LAST_TASK_EXTENSION: &str = "orlop.dev/last-task";

/// The type of that extension's value: JSON of [`LastTask`].
const LAST_TASK_TYPE: &str = "orlop.dev/last-task/1";

impl Runtime {
    /// How a container's last task went; `None` if it had none, or was made by another client.
    #[must_use]
    pub fn last_task(container: &Container) -> Option<LastTask> {
        let kept = container.extensions.get(LAST_TASK_EXTENSION)?;
        serde_json::from_slice(&kept.value)
            .ok()
            .filter(|_| kept.type_url == LAST_TASK_TYPE)
    }

    /// Removes a container that has no task, with its log. Its snapshot goes with the next collection.
    ///
    /// # Errors
    /// No such container, or it has a task.
    pub async fn remove_container(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<(), Error> {
        let (core, namespace, id) = (
            std::sync::Arc::clone(&self.core),
            namespace.clone(),
            id.clone(),
        );
        blocking::run("remove container", move || remove(&core, &namespace, &id))
            .await
            .map_err(Error::Daemon)?
    }
}

/// Writes into a container's record how its task went. A container that is gone has nobody who would ask.
pub(crate) fn keep_last_task(
    view: &View,
    id: &ContainerId,
    last: &LastTask,
) -> Result<(), orlop_meta::Error> {
    let mut container = match view.containers().find(id) {
        Ok(container) => container,
        Err(error) if error.kind() == orlop_meta::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let value = serde_json::to_vec(last).expect("a task's end has only text keys");
    container.extensions.insert(
        LAST_TASK_EXTENSION.to_owned(),
        TypedBytes {
            type_url: LAST_TASK_TYPE.to_owned(),
            value,
        },
    );
    view.containers()
        .update(&container, &[format!("extensions.{LAST_TASK_EXTENSION}")])
        .map(drop)
}

/// Deletes the record, then the log: a crash in between leaves a log that the next start sweeps.
pub(crate) fn remove(core: &Core, namespace: &Namespace, id: &ContainerId) -> Result<(), Error> {
    let failed = |source| Error::Record {
        container: id.to_string(),
        attempt: "written",
        source,
    };
    core.db
        .namespace(namespace)
        .containers()
        .delete(id)
        .map_err(failed)?;
    let folder = core.settings.log_folder.join(namespace.as_str());
    let removed = Dir::open(&folder).and_then(|folder| folder.remove_file(&log_name(id)));
    match removed {
        Err(source) if !source.is_not_found() => Err(Error::Logs {
            path: folder,
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Releases the leases of creations that a dead daemon did not finish, so that their names are free again. To be called
/// before this daemon makes containers.
pub(crate) fn release_leases(core: &Core) -> Result<(), orlop_meta::Error> {
    for namespace in core.db.namespaces().list()? {
        let view = core.db.namespace(&namespace.name);
        for lease in view.leases().list(&[])? {
            if lease.id.as_str().starts_with(LEASE_PREFIX) {
                view.leases().delete(&lease.id)?;
            }
        }
    }
    Ok(())
}

/// Removes logs whose container is gone. What cannot be removed is said and left for the next start.
pub(crate) fn sweep_logs(core: &Core) {
    let Ok(namespaces) = std::fs::read_dir(&core.settings.log_folder) else {
        return;
    };
    for folder in namespaces.flatten() {
        let Some(namespace) = folder
            .file_name()
            .to_str()
            .and_then(|name| Namespace::new(name).ok())
        else {
            continue;
        };
        let Ok(dir) = Dir::open(&folder.path()) else {
            continue;
        };
        for log in std::fs::read_dir(folder.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = log.file_name();
            let id = name
                .to_str()
                .and_then(|name| ContainerId::new(name.strip_suffix(".log")?).ok());
            let Some(id) = id.filter(|id| is_missing(core, &namespace, id)) else {
                continue;
            };
            if let Err(error) = dir.remove_file(&log_name(&id)) {
                tracing::warn!(container = %id, error = orlop_types::chain(&error), "cannot remove the log of a container that is gone");
            }
        }
    }
}

fn is_missing(core: &Core, namespace: &Namespace, id: &ContainerId) -> bool {
    let found = core.db.namespace(namespace).containers().find(id);
    found.is_err_and(|error| error.kind() == orlop_meta::ErrorKind::NotFound)
}

fn log_name(id: &ContainerId) -> Name {
    Name::new(format!("{id}.log")).expect("a container id with an ending is one path component")
}

fn create(core: &Core, namespace: &Namespace, new: NewContainer) -> Result<Container, Error> {
    refuse_taken(&core.db.namespace(namespace), &new.id)?;
    check_binds(&new)?;
    under_lease(core, namespace, &new.id, |leased| {
        let image = (&new.snapshotter, &new.image_snapshot);
        on_snapshot(leased, &new.id, image, |mounts| {
            make_on(core, namespace, leased, &new, mounts)
        })
    })
}

/// Does `work` with records whose makings a lease holds until their container does.
pub(crate) fn under_lease<T>(
    core: &Core,
    namespace: &Namespace,
    id: &ContainerId,
    work: impl FnOnce(&View) -> Result<T, Error>,
) -> Result<T, Error> {
    let failed = |source| Error::Record {
        container: id.to_string(),
        attempt: "written",
        source,
    };
    let plain = core.db.namespace(namespace);
    let lease = lease(core, id);
    let expiry = expiry(core.now()).map_err(|source| Error::Label {
        container: id.to_string(),
        source,
    })?;
    plain
        .leases()
        .create_relaxed(&lease, &expiry)
        .map_err(failed)?;
    let worked = work(&core.db.namespace(namespace).under(lease.clone()));
    let released = plain.leases().delete_relaxed(&lease);
    let result = worked?;
    released.map_err(failed)?;
    Ok(result)
}

/// Says so before anything is made; of two creations at once the database refuses the later one.
fn refuse_taken(view: &View, id: &ContainerId) -> Result<(), Error> {
    match view.containers().find(id) {
        Ok(_there) => Err(Error::ContainerExists {
            container: id.to_string(),
        }),
        Err(error) if error.kind() == orlop_meta::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Record {
            container: id.to_string(),
            attempt: "read",
            source,
        }),
    }
}

/// Does `work` with the mounts of a new snapshot on top of an image's. Undoes only what it made itself: a snapshot that
/// was there already is another container's, which may be running.
pub(crate) fn on_snapshot<T>(
    leased: &View,
    id: &ContainerId,
    (snapshotter, image): (&SnapshotterName, &SnapshotKey),
    work: impl FnOnce(&[Mount]) -> Result<T, Error>,
) -> Result<T, Error> {
    let key = snapshot_key(id);
    let on_image = SnapshotOptions {
        parent: Some(image.clone()),
        labels: Labels::new(),
    };
    let snapshots = leased.snapshots(snapshotter);
    let mounts = snapshots
        .prepare(&key, &on_image)
        .map_err(|source| Error::Record {
            container: id.to_string(),
            attempt: "written",
            source,
        })?;
    let worked = work(&mounts);
    if worked.is_err() {
        // Best effort: without its lease the next collection takes it anyway.
        drop(snapshots.remove(&key));
    }
    worked
}

fn make_on(
    core: &Core,
    namespace: &Namespace,
    leased: &View,
    new: &NewContainer,
    mounts: &[Mount],
) -> Result<Container, Error> {
    let (named, paths): (Vec<_>, Vec<_>) = new
        .devices
        .iter()
        .partition(|word| !word.starts_with('/') && word.contains('='));
    let edits = named_devices(core, new, named)?;
    let mut user = user(new, mounts)?;
    user.join(edits.groups());
    let mut options = new.options.clone();
    if new.attach_network {
        options.network = Network::Pinned(network::pinned_at(namespace, &new.id));
    }
    options.cgroup_parent = cgroup_parent(core, namespace);
    options.machine = host::machine(options.security.privileged);
    for device in paths {
        let found = find_devices(device).map_err(|source| Error::Spec {
            container: new.id.to_string(),
            source,
        })?;
        options.devices.extend(found);
    }
    if host::has_unified_cgroups() && !options.security.privileged {
        options.namespaces.cgroup = Place::Own;
    }
    let bundle = Bundle::new(&core.settings.state_folder, namespace, &new.id);
    options
        .engine_files
        .extend(bundle.shared_files(&options.network));
    let spec = options
        .limits
        .check_room()
        .and_then(|()| spec::build(&new.id, &new.image_defaults, &options, &user))
        .and_then(|mut spec| edits.apply(&mut spec, None).map(|()| spec))
        .map_err(|source| Error::Spec {
            container: new.id.to_string(),
            source,
        })?;
    let spec = encoded(&spec);
    let name = if new.runtime.is_empty() {
        core.settings.default_runtime.clone()
    } else {
        new.runtime.clone()
    };
    let mut container = Container::new(
        new.id.clone(),
        orlop_meta::Runtime {
            name,
            options: None,
        },
        spec,
    );
    container.labels = labels(core, namespace, new)?;
    container.image.clone_from(&new.image);
    container.snapshotter = new.snapshotter.to_string();
    container.snapshot_key = snapshot_key(&new.id).to_string();
    let created = leased.containers().create(&container);
    created.map_err(|source| Error::Record {
        container: new.id.to_string(),
        attempt: "written",
        source,
    })
}

/// The devices that are given by their names, `VENDOR/CLASS=NAME`.
fn named_devices(core: &Core, new: &NewContainer, names: Vec<&String>) -> Result<Edits, Error> {
    let names: Result<Vec<_>, _> = names
        .into_iter()
        .map(|name| DeviceName::parse(name))
        .collect();
    let found = names.and_then(|names| cdi::find(&core.settings.cdi_folders, &names));
    found.map_err(|source| Error::Cdi {
        container: new.id.to_string(),
        source,
    })
}

/// The devices of one word of a command line. As in Docker, what is left out is the same path and all permissions.
fn find_devices(word: &str) -> Result<Vec<Device>, SpecError> {
    let mut parts = word.splitn(3, ':');
    let path = parts.next().unwrap_or_default();
    let target = parts.next().filter(|target| !target.is_empty());
    let access = parts.next().unwrap_or_default();
    host::devices(Path::new(path), Path::new(target.unwrap_or(path)), access)
}

/// A spec as containerd's clients encode it.
pub(crate) fn encoded(spec: &Spec) -> TypedBytes {
    TypedBytes {
        type_url: OCI_SPEC.to_owned(),
        value: serde_json::to_vec(spec).expect("an OCI spec has only text keys"),
    }
}

/// An OCI runtime would say so too, but only at the start, and not of which option.
fn check_binds(new: &NewContainer) -> Result<(), Error> {
    let mut binds = new
        .options
        .mounts
        .iter()
        .filter(|mount| mount.kind == "bind");
    match binds.find(|mount| !Path::new(&mount.source).exists()) {
        None => Ok(()),
        Some(mount) => Err(Error::Spec {
            container: new.id.to_string(),
            source: SpecError::BadMount {
                target: mount.target.clone(),
                fault: "the path on the host does not exist",
            },
        }),
    }
}

fn labels(core: &Core, namespace: &Namespace, new: &NewContainer) -> Result<Labels, Error> {
    let failed = |source| Error::Label {
        container: new.id.to_string(),
        source,
    };
    let mut labels = new.labels.clone();
    let folder = core.settings.log_folder.join(namespace.as_str());
    Dir::create_all(&folder, Mode::from_raw_mode(0o711)).map_err(|source| Error::Logs {
        path: folder.clone(),
        source,
    })?;
    let log = folder.join(log_name(&new.id).as_os_str());
    labels
        .insert(LOG_LABEL, log.to_string_lossy())
        .map_err(failed)?;
    if new.auto_remove {
        labels.insert(AUTO_REMOVE_LABEL, "true").map_err(failed)?;
    }
    let network = match (&new.options.network, new.attach_network) {
        (_, true) | (Network::Pinned(_), false) => NETWORK_CNI,
        (Network::Host, false) => "host",
        (Network::None, false) => "none",
    };
    labels.insert(NETWORK_LABEL, network).map_err(failed)?;
    Ok(labels)
}

/// Ids are unique within a namespace only, so each namespace has a cgroup of its own. A slice's name is its path, with
/// hyphens between the levels (systemd.slice(5)), so a hyphen of the namespace is escaped.
pub(crate) fn cgroup_parent(core: &Core, namespace: &Namespace) -> std::path::PathBuf {
    let parent = &core.settings.cgroup_parent;
    match parent
        .to_str()
        .and_then(|parent| parent.strip_suffix(".slice"))
    {
        Some(slice) => format!("{slice}-{}.slice", namespace.as_str().replace('-', "_")).into(),
        None => parent.join(namespace.as_str()),
    }
}

fn lease(core: &Core, id: &ContainerId) -> LeaseId {
    let nanos = core
        .now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    LeaseId::new(format!("{LEASE_PREFIX}{id}-{nanos}"))
        .expect("an id and digits make a lease's name")
}

fn expiry(now: SystemTime) -> Result<Labels, orlop_types::LabelError> {
    let mut labels = Labels::new();
    labels.insert(
        "containerd.io/gc.expire",
        orlop_base::units::format_moment(now + LEASE_DURATION),
    )?;
    Ok(labels)
}

/// The container's snapshot is called as the container is: what an engineer looks for with `ctr snapshot ls`.
pub(crate) fn snapshot_key(id: &ContainerId) -> SnapshotKey {
    SnapshotKey::new(id.as_str()).expect("a container id is a sound key")
}

fn user(new: &NewContainer, mounts: &[Mount]) -> Result<ResolvedUser, Error> {
    let wanted = new
        .options
        .user
        .clone()
        .unwrap_or_else(|| new.image_defaults.user.clone());
    let accounts = accounts(mounts).map_err(|source| Error::Accounts {
        container: new.id.to_string(),
        source,
    })?;
    ResolvedUser::resolve(&wanted, &accounts).map_err(|source| Error::User {
        container: new.id.to_string(),
        source,
    })
}

/// Reads the image's account files through a mount that is attached nowhere, so nothing has to be cleaned up.
pub(crate) fn accounts(mounts: &[Mount]) -> Result<Accounts, std::io::Error> {
    let [mount] = mounts else {
        return Ok(Accounts::default());
    };
    let mount = Detached::new(mount).map_err(std::io::Error::other)?;
    let root = Dir::from_parts(mount.as_fd().try_clone_to_owned()?, "/".into());
    Ok(Accounts {
        passwd: read(&root, "etc/passwd")?,
        group: read(&root, "etc/group")?,
    })
}

/// A file of the image; links stay inside it. Absent is empty; a device or FIFO in its place is refused.
fn read(root: &Dir, path: &str) -> std::io::Result<String> {
    let opened = root.open_in_root(
        Path::new(path),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let file = match opened {
        Ok(descriptor) => File::from(descriptor),
        Err(error) if error.is_not_found() => return Ok(String::new()),
        Err(error) => return Err(std::io::Error::other(error)),
    };
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other(format!(
            "/{path} of the image is not a regular file"
        )));
    }
    let mut bytes = Vec::new();
    file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
