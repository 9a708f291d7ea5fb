//! A pod's namespaces, pinned, all of them its user namespace's if it has one; the file system behind `/dev/shm`; the first process, where there has to be one.
//!
//! Crash: all can be repeated, undoing as well. Ordering: the first process joins the other namespaces, so it comes last
//! and goes first.

use std::path::Path;
use std::time::Duration;

use orlop_sys::fs::{Dir, Mode};
use orlop_sys::mount::{MountTable, Unmount, mount_all, unmount_all};
use orlop_sys::namespace::user::{Making, create_owned};
use orlop_sys::namespace::{self, Kind, NamespaceError, Pin, Setup};
use orlop_types::Mount;

use super::config::{IdMaps, PodConfig, ProcessNamespace};
use super::error::PodError;
use super::init;
use super::init::Started;
use super::record::{PodKey, PodRecord};
use super::settings::PodSettings;
use super::sysctl::{Unprivileged, parameters};
use super::{PodPlaces, cgroup, files};

/// Where `ip netns` looks.
const NETWORKS_FOLDER: &str = "/run/netns";

/// What pods that share IPC with the host have as `/dev/shm`.
const HOST_SHM: &str = "/dev/shm";

/// As containerd and Docker have it.
const SHM_OPTIONS: &[&str] = &["size=65536k", "mode=1777", "noexec", "nosuid", "nodev"];

/// Where everything of a pod will be.
pub(super) fn places(settings: &PodSettings, key: &PodKey, config: &PodConfig) -> PodPlaces {
    let folder = files::folder(settings, key);
    let at = |name: &str| Some(folder.join(name));
    let namespaces = &config.namespaces;
    let own_network = !namespaces.host_network;
    let network = Path::new(NETWORKS_FOLDER).join(format!("orlop-{}", key.pod));
    PodPlaces {
        network: own_network.then_some(network),
        ipc: at("ipc").filter(|_| !namespaces.host_ipc),
        uts: at("uts").filter(|_| own_network),
        processes: at("pid").filter(|_| namespaces.processes == ProcessNamespace::Pod),
        user: at("user").filter(|_| namespaces.user.is_some()),
        resolv_conf: at("resolv.conf"),
        hosts: at("hosts"),
        hostname: at("hostname"),
        shm: if namespaces.host_ipc {
            Some(HOST_SHM.into())
        } else {
            at("shm")
        },
    }
}

/// Makes and pins them. Returns the first process, if there is one. Blocks.
pub(super) fn create(
    settings: &PodSettings,
    key: &PodKey,
    record: &PodRecord,
    limit: Duration,
) -> Result<Option<Started>, PodError> {
    let config = &record.config;
    let unprivileged = Unprivileged {
        ports: settings.unprivileged_ports,
        icmp: settings.unprivileged_icmp,
    };
    let setup = Setup {
        hostname: record
            .places
            .uts
            .is_some()
            .then(|| config.hostname.clone())
            .filter(|hostname| !hostname.is_empty()),
        parameters: parameters(config, unprivileged)?.first,
    };
    make_folder(Path::new(NETWORKS_FOLDER), 0o755)?;
    let pins = pins(&record.places);
    let made = match (&record.places.user, &config.namespaces.user) {
        (Some(user), Some(maps)) => {
            let making = Making {
                program: &settings.init_binary,
                maps,
                limit,
            };
            create_owned(&making, user, &pins, &setup)
        }
        (Some(_) | None, Some(_) | None) => namespace::create(&pins, &setup),
    };
    made.map_err(failed(key))?;
    mount_shm(&record.places, config)?;
    let Some(target) = &record.places.processes else {
        return Ok(None);
    };
    let cgroup = init::cgroup(&cgroup::path(&record.cgroup_parent), key);
    let files = cgroup::create(&cgroup)?;
    let joined: Vec<_> = pins.into_iter().map(|pin| pin.path).collect();
    let surroundings = init::Surroundings {
        user: record.places.user.as_deref(),
        namespaces: &joined,
        cgroups: &files,
    };
    init::start(&settings.init_binary, key, &surroundings, target, limit).map(Some)
}

/// Sets the kernel parameters of interfaces that the network's plugins have made. Blocks.
pub(super) fn set_up_interfaces(
    settings: &PodSettings,
    key: &PodKey,
    record: &PodRecord,
) -> Result<(), PodError> {
    let Some(network) = &record.places.network else {
        return Ok(());
    };
    let unprivileged = Unprivileged {
        ports: settings.unprivileged_ports,
        icmp: settings.unprivileged_icmp,
    };
    let parameters = parameters(&record.config, unprivileged)?.of_interfaces;
    if parameters.is_empty() {
        return Ok(());
    }
    namespace::set_parameters(network, &parameters).map_err(failed(key))
}

/// Takes all of it away, as far as it is there. Goes on after a failure and returns every one. Blocks.
pub(super) fn remove(key: &PodKey, record: &PodRecord) -> Vec<PodError> {
    let mut failures = Vec::new();
    let mut keep = |outcome: Result<(), PodError>| failures.extend(outcome.err());
    let cgroup = cgroup::path(&record.cgroup_parent);
    if let Some(pinned) = &record.places.processes {
        keep(init::end(key, record.init, pinned));
        let own = init::cgroup(&cgroup, key);
        keep(cgroup::remove(&own));
    }
    for path in record.places.namespaces() {
        keep(namespace::remove(path).map_err(failed(key)));
    }
    if !record.config.namespaces.host_ipc
        && let Some(shm) = &record.places.shm
    {
        let how = Unmount {
            detach: true,
            recursive: true,
        };
        keep(unmount_all(shm, how).map_err(PodError::Unmount));
    }
    // Where systemd makes groups it removes those that nothing is in.
    if record.config.cgroup_parent.is_empty() && record.cgroup_parent.is_absolute() {
        keep(cgroup::remove(&cgroup));
    }
    failures
}

/// What a ready pod has to have and does not; `None` if all is there. Blocks.
pub(super) fn missing(record: &PodRecord) -> Option<String> {
    let unpinned = record
        .places
        .namespaces()
        .find(|path| !namespace::is_pinned(path));
    if let Some(path) = unpinned {
        return Some(format!(
            "the namespace at {} is gone, as after a reboot",
            path.display()
        ));
    }
    match (&record.places.processes, record.init) {
        (Some(pinned), Some(init)) if !init::is_alive(init, pinned) => Some(init::ended(init)),
        (Some(_) | None, Some(_) | None) => None,
    }
}

fn pins(places: &PodPlaces) -> Vec<Pin> {
    let kinds = [
        (Kind::Network, &places.network),
        (Kind::Ipc, &places.ipc),
        (Kind::Uts, &places.uts),
    ];
    let made = kinds.into_iter().filter_map(|(kind, path)| {
        let path = path.clone()?;
        Some(Pin { kind, path })
    });
    made.collect()
}

fn mount_shm(places: &PodPlaces, config: &PodConfig) -> Result<(), PodError> {
    let Some(shm) = places.shm.as_ref().filter(|_| !config.namespaces.host_ipc) else {
        return Ok(());
    };
    make_folder(shm, 0o700)?;
    // An earlier try may have mounted it already.
    let is_mounted = MountTable::read().is_ok_and(|table| {
        let covering = table.covering(shm);
        covering.is_some_and(|entry| entry.mountpoint == *shm)
    });
    if is_mounted {
        return Ok(());
    }
    let mut options: Vec<_> = SHM_OPTIONS.iter().map(ToString::to_string).collect();
    let users = config.namespaces.user.as_ref();
    if let Some((uid, gid)) = users.and_then(IdMaps::superuser) {
        options.extend([format!("uid={uid}"), format!("gid={gid}")]);
    }
    let mount = Mount {
        fs_type: "tmpfs".to_owned(),
        source: "shm".to_owned(),
        target: String::new(),
        options,
    };
    mount_all(&[mount], shm).map_err(PodError::Mount)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), PodError> {
    Dir::create_all(path, Mode::from_raw_mode(mode))
        .map(drop)
        .map_err(|source| PodError::Files {
            operation: "make",
            path: path.to_owned(),
            source,
        })
}

fn failed(key: &PodKey) -> impl Fn(NamespaceError) -> PodError {
    let pod = key.pod.to_string();
    move |source| PodError::Namespace {
        pod: pod.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use orlop_types::{Namespace, SandboxId};

    use std::path::PathBuf;

    use super::*;

    fn places_of(config: &PodConfig) -> PodPlaces {
        let key = PodKey {
            namespace: Namespace::new("k8s.io").unwrap(),
            pod: SandboxId::new("abc").unwrap(),
        };
        places(
            &PodSettings::new("/pods".into(), "/shim".into()),
            &key,
            config,
        )
    }

    #[test]
    fn a_pod_has_what_it_does_not_share_with_the_host() {
        let mut config = PodConfig::default();
        let own = places_of(&config);
        assert_eq!(own.network, Some("/run/netns/orlop-abc".into()));
        assert_eq!(own.shm, Some("/pods/k8s.io/abc/shm".into()));
        assert_eq!(own.processes, None);
        config.namespaces.host_network = true;
        config.namespaces.host_ipc = true;
        config.namespaces.processes = ProcessNamespace::Pod;
        let shared = places_of(&config);
        assert_eq!(
            (&shared.network, &shared.uts, &shared.ipc),
            (&None, &None, &None)
        );
        assert_eq!(shared.shm, Some(PathBuf::from(HOST_SHM)));
        assert_eq!(shared.processes, Some("/pods/k8s.io/abc/pid".into()));
    }
}
