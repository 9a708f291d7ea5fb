//! From what was asked of a member to what its spec is made with. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::paths::Found;
use super::{
    GroupPolicy, MemberConfig, MemberError, MemberProcesses, MemberSecurity, Profile, RunAs,
};
use crate::cdi::DeviceName;
use crate::core::RuntimeSettings;
use crate::pod::{Pod, ProcessNamespace};
use crate::spec::{
    Accounts, BindMount, ContainerOptions, ImageDefaults, Limits, Namespaces, Network, Place,
    ResolvedUser, Security, UserError,
};

/// The most bytes of a name.
const NAME_BYTES_MAX: usize = 253;

/// The most bytes of all labels and annotations together, as of a pod: twice what Kubernetes takes.
const NOTES_BYTES_MAX: usize = 512 << 10;

/// The prefix of a member's systemd scope.
const SCOPE_PREFIX: &str = "cri-orlop";

/// Refuses what cannot be, before anything is touched.
pub(super) fn check(config: &MemberConfig, pod: &Pod) -> Result<(), MemberError> {
    let bad = |field, value: &str, fault| MemberError::BadConfig {
        name: config.name.clone(),
        field,
        value: value.to_owned(),
        fault,
    };
    check_words(config)?;
    if !is_below(&config.log_path) {
        let fault = "it has to be below the pod's log folder";
        return Err(bad("log path", &config.log_path, fault));
    }
    let security = &config.security;
    if security.privileged && !pod.config.privileged {
        return Err(bad("privileges", "all", "the pod is not privileged"));
    }
    if security.run_as_group.is_some() && security.run_as == RunAs::Image {
        let fault = "a group is only possible with a user";
        return Err(bad("run_as_group", "", fault));
    }
    let shares_hosts = pod.config.namespaces.processes == ProcessNamespace::Host;
    if security.processes == MemberProcesses::Host && !shares_hosts {
        let fault = "the pod does not share the host's processes";
        return Err(bad("process namespace", "NODE", fault));
    }
    if security.user_namespace != pod.config.namespaces.user {
        let fault = "it differs from the pod's";
        return Err(bad("user namespace", "", fault));
    }
    let mut mapped = config.mounts.iter().filter(|mount| mount.id_maps.is_some());
    if let Some(mount) = mapped.find(|mount| mount.id_maps != pod.config.namespaces.user) {
        let fault = "its id maps are not those of the pod's user namespace";
        return Err(bad("mount", &mount.container_path, fault));
    }
    cdi_devices(config)?;
    if let Profile::Localhost(path) = &security.seccomp
        && !path.starts_with('/')
    {
        return Err(bad("seccomp profile", path, "its path has to be absolute"));
    }
    config.limits.check().map_err(|source| MemberError::Spec {
        name: config.name.clone(),
        source,
    })
}

/// The devices that it asks for by name, in either way.
pub(super) fn cdi_devices(config: &MemberConfig) -> Result<Vec<DeviceName>, MemberError> {
    DeviceName::all(&config.cdi_devices, &config.annotations).map_err(|source| MemberError::Cdi {
        name: config.name.clone(),
        source,
    })
}

/// Names go into annotations and messages, labels and annotations into the record.
fn check_words(config: &MemberConfig) -> Result<(), MemberError> {
    let bad = |field, value: &str, fault| MemberError::BadConfig {
        name: config.name.chars().take(NAME_BYTES_MAX).collect(),
        field,
        value: value.to_owned(),
        fault,
    };
    let name = &config.name;
    let is_odd =
        |character: char| character.is_control() || character.is_whitespace() || character == '/';
    if name.is_empty() {
        return Err(bad("name", "", "it is needed"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(bad("name", "", "it is longer than 253 bytes"));
    }
    if name.chars().any(is_odd) || name.contains("..") {
        let fault = "it has blanks, control characters, \"/\" or \"..\"";
        return Err(bad("name", name, fault));
    }
    let notes = config.labels.iter().chain(&config.annotations);
    let bytes: usize = notes.map(|(key, value)| key.len() + value.len()).sum();
    if bytes > NOTES_BYTES_MAX {
        let fault = "they have more than 512 KiB";
        return Err(bad("labels and annotations", "", fault));
    }
    Ok(())
}

/// Whether a relative path stays below the folder it is joined to.
fn is_below(path: &str) -> bool {
    Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// The file a member's log is in.
pub(super) fn log_path(config: &MemberConfig, pod: &Pod) -> Option<PathBuf> {
    let folder = &pod.config.log_folder;
    let has_log = !config.log_path.is_empty() && !folder.as_os_str().is_empty();
    has_log.then(|| folder.join(&config.log_path))
}

/// The options of a member's spec; `target_pid` is the first process of the container whose processes it sees.
pub(super) fn build(
    config: &MemberConfig,
    pod: &Pod,
    found: Found,
    target_pid: Option<u32>,
) -> ContainerOptions {
    let security = &config.security;
    let read_only_root = security.read_only_root;
    ContainerOptions {
        entrypoint: Some(config.command.clone()).filter(|words| !words.is_empty()),
        args: config.args.clone(),
        env: config.env.clone(),
        working_dir: Some(config.working_dir.clone()).filter(|folder| !folder.is_empty()),
        terminal: config.terminal,
        mounts: found.mounts,
        capabilities_added: security.capabilities_added.clone(),
        capabilities_dropped: security.capabilities_dropped.clone(),
        engine_files: engine_files(pod, read_only_root),
        limits: limits(&config.limits, found.own_oom_score_adjustment),
        network: network(pod),
        read_only_root,
        namespaces: namespaces(security, pod, target_pid, found.has_unified_cgroups),
        id_maps: pod.config.namespaces.user.clone(),
        security: Security {
            privileged: security.privileged,
            no_new_privileges: security.no_new_privileges,
            capabilities_ambient: security.capabilities_ambient.clone(),
            seccomp: found.seccomp,
            masked_paths: Some(security.masked_paths.clone()),
            read_only_paths: Some(security.read_only_paths.clone()),
            apparmor_profile: found.apparmor_profile,
            selinux_label: security.selinux_label.clone(),
            selinux_file_label: found.selinux_file_label,
        },
        devices: found.devices,
        run_in_memory: false,
        open_files_max: None,
        annotations: annotations(config, pod),
        cgroup_parent: pod.cgroup_parent.clone(),
        scope_prefix: SCOPE_PREFIX,
        machine: found.machine,
        ..ContainerOptions::default()
    }
}

/// A process cannot make itself safer from the kernel's choice than its engine is, so the score is held above.
fn limits(asked: &Limits, own: Option<i32>) -> Limits {
    let score = asked.oom_score_adjustment;
    Limits {
        oom_score_adjustment: score.map(|score| own.map_or(score, |own| score.max(own))),
        ..asked.clone()
    }
}

fn network(pod: &Pod) -> Network {
    match (&pod.places.network, pod.config.namespaces.host_network) {
        (Some(path), _) => Network::Pinned(path.clone()),
        (None, true) => Network::Host,
        (None, false) => Network::None,
    }
}

fn namespaces(
    security: &MemberSecurity,
    pod: &Pod,
    target_pid: Option<u32>,
    has_unified_cgroups: bool,
) -> Namespaces {
    let (places, shared) = (&pod.places, &pod.config.namespaces);
    let place = |pinned: &Option<PathBuf>, is_hosts: bool| match pinned {
        Some(path) => Place::At(path.clone()),
        None if is_hosts => Place::Host,
        None => Place::Own,
    };
    let of_target = target_pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/pid")));
    let processes = match &security.processes {
        MemberProcesses::Own => Place::Own,
        MemberProcesses::Host => Place::Host,
        MemberProcesses::Of(_) => place(&of_target, false),
        MemberProcesses::Pod => place(
            &places.processes,
            shared.processes == ProcessNamespace::Host,
        ),
    };
    Namespaces {
        ipc: place(&places.ipc, shared.host_ipc),
        uts: place(&places.uts, shared.host_network),
        processes,
        // A privileged container manages the host's groups.
        cgroup: if has_unified_cgroups && !security.privileged {
            Place::Own
        } else {
            Place::Host
        },
        user: place(&places.user, true),
    }
}

/// The pod's files, for containers that bring none of their own.
fn engine_files(pod: &Pod, read_only_root: bool) -> Vec<BindMount> {
    let places = &pod.places;
    let hosts_shm = pod
        .config
        .namespaces
        .host_ipc
        .then(|| PathBuf::from("/dev/shm"));
    let files = [
        (&places.hostname, "/etc/hostname", read_only_root),
        (&places.hosts, "/etc/hosts", read_only_root),
        (&places.resolv_conf, "/etc/resolv.conf", read_only_root),
        (
            if places.shm.is_some() {
                &places.shm
            } else {
                &hosts_shm
            },
            "/dev/shm",
            false,
        ),
    ];
    let there = files.into_iter().filter_map(|(source, target, read_only)| {
        Some(BindMount {
            source: source.clone()?,
            target: target.into(),
            read_only,
        })
    });
    there.collect()
}

/// What runtimes and their hooks expect to be told under Kubernetes (containerd `internal/cri/annotations`).
fn annotations(config: &MemberConfig, pod: &Pod) -> BTreeMap<String, String> {
    let told = [
        ("container-type", "container".to_owned()),
        ("container-name", config.name.clone()),
        ("sandbox-id", pod.id.to_string()),
        ("sandbox-name", pod.config.name.clone()),
        ("sandbox-namespace", pod.config.kubernetes_namespace.clone()),
        ("sandbox-uid", pod.config.uid.clone()),
    ];
    told.into_iter()
        .map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value))
        .collect()
}

/// Adds the annotations that the runtime's configuration names. The engine's own are not for pods to set.
pub(super) fn pass_on(
    annotations: &mut BTreeMap<String, String>,
    runtime: &RuntimeSettings,
    config: &MemberConfig,
    pod: &Pod,
) {
    let sources = [
        (&config.annotations, &runtime.container_annotations),
        (&pod.config.annotations, &runtime.pod_annotations),
    ];
    for (given, wanted) in sources {
        let is_wanted = |key: &str| wanted.iter().any(|pattern| pattern.matches(key));
        for (key, value) in given.iter().filter(|(key, _)| is_wanted(key)) {
            annotations
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
    }
}

/// What the image says, with the host name where no other says it.
pub(super) fn image_defaults(image: &ImageDefaults, pod: &Pod, host_name: &str) -> ImageDefaults {
    let name = if pod.config.hostname.is_empty() {
        host_name
    } else {
        &pod.config.hostname
    };
    let mut image = image.clone();
    image.env.insert(0, format!("HOSTNAME={name}"));
    image
}

/// Whom a member runs as: its groups are the first one, those asked for, and unless the policy is strict the image's.
pub(super) fn user(
    security: &MemberSecurity,
    image_user: &str,
    accounts: &Accounts,
) -> Result<ResolvedUser, UserError> {
    let named = match &security.run_as {
        RunAs::Image => image_user.to_owned(),
        RunAs::Uid(uid) => uid.to_string(),
        RunAs::Name(name) => name.clone(),
    };
    let asked = match security.run_as_group {
        Some(group) => format!("{}:{group}", named.split(':').next().unwrap_or_default()),
        None => named,
    };
    let mut user = ResolvedUser::resolve(&asked, accounts)?;
    let name = asked.split(':').next().unwrap_or_default();
    let of_image = match security.group_policy {
        GroupPolicy::Merge => ResolvedUser::resolve(name, accounts)?.additional_gids,
        GroupPolicy::Strict => Vec::new(),
    };
    user.additional_gids = of_image;
    user.additional_gids.push(user.gid);
    user.additional_gids.extend(&security.supplemental_groups);
    user.additional_gids.sort_unstable();
    user.additional_gids.dedup();
    Ok(user)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::SystemTime;

    use orlop_types::SandboxId;

    use super::*;
    use crate::pod::{PodConfig, PodPhase, PodPlaces};

    fn pod(change: impl FnOnce(&mut Pod)) -> Pod {
        let mut pod = Pod {
            id: SandboxId::new("p").unwrap(),
            config: PodConfig::default(),
            phase: PodPhase::Ready,
            reason: None,
            created_at: SystemTime::UNIX_EPOCH,
            addresses: Vec::<IpAddr>::new(),
            places: PodPlaces::default(),
            cgroup_parent: "/pods/p".into(),
            init: None,
            network: None,
            transitions: Vec::new(),
        };
        change(&mut pod);
        pod
    }

    fn config() -> MemberConfig {
        MemberConfig {
            name: "web".into(),
            ..MemberConfig::default()
        }
    }

    #[test]
    fn a_log_stays_below_its_pods_folder() {
        for (path, is_sound) in [
            ("", true),
            ("web/0.log", true),
            ("./0.log", true),
            ("../0.log", false),
            ("a/../../b", false),
            ("/var/log/x", false),
        ] {
            assert_eq!(is_below(path), is_sound, "{path}");
        }
        let pod = pod(|pod| pod.config.log_folder = "/logs".into());
        let asked = MemberConfig {
            log_path: "web/0.log".into(),
            ..config()
        };
        assert_eq!(log_path(&asked, &pod), Some("/logs/web/0.log".into()));
        assert_eq!(log_path(&config(), &pod), None);
    }

    #[test]
    fn a_device_without_a_name_is_refused_before_anything_is_looked_up() {
        let device = MemberConfig {
            annotations: BTreeMap::from([("cdi.k8s.io/a".into(), "gpu0".into())]),
            ..config()
        };
        let error = check(&device, &pod(|_| {})).unwrap_err();
        assert_eq!(error.code(), "ORL-E6612", "{error}");
        assert!(check(&config(), &pod(|_| {})).is_ok());
    }

    #[test]
    fn annotations_pass_as_the_runtimes_configuration_says() {
        let keys = |keys: &[&str], value: &str| -> BTreeMap<String, String> {
            let pairs = keys.iter().map(|key| ((*key).to_owned(), value.to_owned()));
            pairs.collect()
        };
        let own = "io.kubernetes.cri.sandbox-id";
        let pod = pod(|pod| pod.config.annotations = keys(&["v.com/a", "w.com/a", own], "pod"));
        let asked = MemberConfig {
            annotations: keys(&["v.com/a", "v.com/b/c", "x.com/a"], "container"),
            ..config()
        };
        let globs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let runtime = RuntimeSettings {
            pod_annotations: globs(&["v.com/*", "io.*"]),
            container_annotations: globs(&["v.com/*", "x.com/?"]),
            ..RuntimeSettings::default()
        };
        let mut made = annotations(&asked, &pod);
        let before = made.clone();
        pass_on(&mut made, &runtime, &asked, &pod);
        made.retain(|key, value| before.get(key) != Some(value));
        let mut expected = keys(&["x.com/a"], "container");
        expected.extend(keys(&["v.com/a"], "container"));
        assert_eq!(made, expected);
    }

    #[test]
    fn namespaces_are_the_pods_where_it_has_them() {
        let at = |path: &str| Place::At(path.into());
        let shared = pod(|pod| {
            pod.places.ipc = Some("/i".into());
            pod.places.uts = Some("/u".into());
            pod.places.processes = Some("/p".into());
            pod.places.network = Some("/n".into());
        });
        let of =
            |security: &MemberSecurity, pod: &Pod, target| namespaces(security, pod, target, true);
        let made = of(&MemberSecurity::default(), &shared, None);
        assert_eq!(
            (made.ipc, made.uts, made.processes),
            (at("/i"), at("/u"), at("/p"))
        );
        assert_eq!((made.cgroup, made.user), (Place::Own, Place::Host));
        assert_eq!(network(&shared), Network::Pinned("/n".into()));
        let own = MemberSecurity {
            processes: MemberProcesses::Own,
            privileged: true,
            ..MemberSecurity::default()
        };
        let made = of(&own, &shared, None);
        assert_eq!((made.processes, made.cgroup), (Place::Own, Place::Host));
        let target = orlop_types::ContainerId::new("t").unwrap();
        let debugger = MemberSecurity {
            processes: MemberProcesses::Of(target),
            ..MemberSecurity::default()
        };
        assert_eq!(
            of(&debugger, &shared, Some(7)).processes,
            at("/proc/7/ns/pid")
        );
        let hosts = pod(|pod| {
            pod.config.namespaces.host_network = true;
            pod.config.namespaces.host_ipc = true;
            pod.config.namespaces.processes = ProcessNamespace::Host;
        });
        let made = of(&MemberSecurity::default(), &hosts, None);
        assert_eq!(
            (made.ipc, made.uts, made.processes),
            (Place::Host, Place::Host, Place::Host)
        );
        assert_eq!(network(&hosts), Network::Host);
        let shm = engine_files(&hosts, false);
        assert_eq!(shm.len(), 1);
        assert_eq!(shm[0].source, Path::new("/dev/shm"));
    }

    #[test]
    fn an_oom_score_is_never_below_the_engines() {
        let asked = |score| Limits {
            oom_score_adjustment: score,
            ..Limits::default()
        };
        for (score, own, expected) in [
            (Some(-998), Some(-500), Some(-500)),
            (Some(1000), Some(-500), Some(1000)),
            (Some(3), None, Some(3)),
            (None, Some(-500), None),
        ] {
            assert_eq!(limits(&asked(score), own).oom_score_adjustment, expected);
        }
    }
}
