//! The bundle folder: what the shim reads in it and keeps in it.
//!
//! ```text
//! <bundle>/config.json    OCI spec, by the engine
//!          options.json   how to call the OCI runtime, for the clean-up after a crash
//!          address        where the server listens, as containerd 1.x wants it
//!          init.pid       by the OCI runtime
//!          exit.json      how processes ended (orlop_types::exit)
//!          log            FIFO or file for the shim's own log, by the engine
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_sys::cgroup::{Cgroup, Hierarchies};
use orlop_sys::fs::{Dir, Mode, Name};
use orlop_sys::signal::{pidfd_of, send_by_pidfd};
use orlop_types::exit::{EXIT_FILE, EXIT_VERSION, ExitFile, ExitRecord};
use serde::Deserialize;

use crate::fault::Fault;

/// The most bytes read of a config.json or exit.json.
const FILE_BYTES_MAX: u64 = 8 << 20;
const SIGKILL: i32 = 9;
/// How often, and with which pauses, what is in the way of a cgroup's removal is killed: a second in all.
const KILLS_MAX: u32 = 50;
const KILL_PAUSE: Duration = Duration::from_millis(20);
/// Ends of further processes kept per container.
const EXECS_MAX: usize = 64;

/// What the shim wants to know of a spec.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Spec {
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default)]
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
    #[serde(default, rename = "uidMappings")]
    uids: Vec<IdMapping>,
    #[serde(default, rename = "gidMappings")]
    gids: Vec<IdMapping>,
    #[serde(default, rename = "cgroupsPath")]
    cgroup: PathBuf,
}

#[derive(Debug, Deserialize)]
struct IdMapping {
    #[serde(default, rename = "containerID")]
    inside: u32,
    #[serde(default, rename = "hostID")]
    outside: u32,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

impl Spec {
    /// Reads `config.json`.
    pub(crate) fn read(bundle: &Path) -> Result<Self, Fault> {
        let path = bundle.join("config.json");
        let text = read_bounded(&path)?;
        serde_json::from_slice(&text)
            .map_err(|error| Fault::Invalid(format!("{} is not a spec: {error}", path.display())))
    }

    /// User and group of its superuser as the host calls them, if a user namespace makes others of them.
    pub(crate) fn mapped_superuser(&self) -> Option<(u32, u32)> {
        let of = |mappings: &[IdMapping]| {
            let mut mappings = mappings.iter();
            let zero = mappings.find(|mapping| mapping.inside == 0)?;
            Some(zero.outside)
        };
        Some((of(&self.linux.uids)?, of(&self.linux.gids)?))
    }

    /// Whether the end of the container's own process ends all others: it does in a PID namespace of its own.
    pub(crate) fn has_own_pid_namespace(&self) -> bool {
        self.linux
            .namespaces
            .iter()
            .any(|namespace| namespace.kind == "pid" && namespace.path.is_empty())
    }
}

/// Removes the cgroup of a container that never was, and ends who is in there: an OCI runtime that is killed while it
/// creates leaves both, and knows nothing of them later. Groups that systemd makes are its own to remove.
pub(crate) fn remove_cgroup(bundle: &Path) -> Result<(), Fault> {
    let path = Spec::read(bundle)?.linux.cgroup;
    if !path.is_absolute() || path.parent().is_none() {
        return Ok(());
    }
    let fault = |error| Fault::io("remove", path.display().to_string(), error);
    let groups = Hierarchies::mounted().map_err(fault)?;
    let found = path.to_str().and_then(|path| groups.at(path));
    let Some(cgroup) = found else {
        return Ok(());
    };
    let mut removed = cgroup.remove_empty();
    // A group that is not named after the container may be others' as well.
    let is_own = path.file_name() == bundle.file_name();
    for _ in 0..KILLS_MAX {
        if removed.is_ok() || !is_own {
            break;
        }
        // What is half made may wait for a dead file system; being killed it leaves in a moment.
        kill_all(&cgroup);
        std::thread::sleep(KILL_PAUSE);
        removed = cgroup.remove_empty();
    }
    removed.map_err(fault)
}

fn kill_all(cgroup: &Cgroup) {
    for pid in cgroup.processes().unwrap_or_default() {
        let Ok(process) = pidfd_of(pid) else {
            continue;
        };
        // The id may have gone to another process before it was opened; later it cannot.
        let is_inside = cgroup.processes().is_ok_and(|pids| pids.contains(&pid));
        if is_inside && let Err(error) = send_by_pidfd(process.as_fd(), SIGKILL) {
            crate::log::warn(&format!("cannot end process {pid}: {error}"));
        }
    }
}

/// Reads a whole file, up to a bound.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, Fault> {
    let fault = |error| Fault::io("read", path.display().to_string(), error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fault)?;
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(fault)?;
    Ok(bytes)
}

/// Replaces a file of the bundle.
pub(crate) fn write(bundle: &Path, name: &'static str, content: &[u8]) -> Result<(), Fault> {
    let write = || {
        let name = Name::new(name).map_err(std::io::Error::other)?;
        let dir = Dir::open(bundle).map_err(std::io::Error::other)?;
        dir.write_volatile(&name, content, Mode::from_raw_mode(0o600))
            .map_err(std::io::Error::other)
    };
    write().map_err(|error| Fault::io("write", bundle.join(name).display().to_string(), error))
}

/// The process id in a file that an OCI runtime wrote.
pub(crate) fn read_pid(path: &Path) -> Result<i32, Fault> {
    let text = read_bounded(path)?;
    let pid = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    pid.filter(|pid| *pid > 0)
        .ok_or_else(|| Fault::Invalid(format!("{} holds no process id", path.display())))
}

/// The ends recorded so far. A file that is missing or of another version counts as empty.
pub(crate) fn read_exits(bundle: &Path) -> Option<ExitFile> {
    let bytes = read_bounded(&bundle.join(EXIT_FILE)).ok()?;
    let file: ExitFile = serde_json::from_slice(&bytes).ok()?;
    (file.version == EXIT_VERSION).then_some(file)
}

/// Where an end belongs.
#[derive(Debug, Clone)]
pub(crate) struct ExitKey {
    pub(crate) bundle: PathBuf,
    pub(crate) namespace: String,
    pub(crate) container: String,
    /// Empty for the container's own process.
    pub(crate) exec: String,
}

/// Adds an end to the record.
pub(crate) fn record_exit(key: &ExitKey, record: ExitRecord) -> Result<(), Fault> {
    let mut file = read_exits(&key.bundle).unwrap_or_else(|| ExitFile {
        version: EXIT_VERSION,
        container_id: key.container.clone(),
        namespace: key.namespace.clone(),
        init: None,
        execs: BTreeMap::new(),
    });
    if key.exec.is_empty() {
        file.init = Some(record);
    } else {
        file.execs.insert(key.exec.clone(), record);
        drop_oldest(&mut file.execs);
    }
    let bytes = serde_json::to_vec(&file)
        .map_err(|error| Fault::Invalid(format!("the exit record cannot be written: {error}")))?;
    write(&key.bundle, EXIT_FILE, &bytes)
}

fn drop_oldest(execs: &mut BTreeMap<String, ExitRecord>) {
    while execs.len() > EXECS_MAX {
        let oldest = execs
            .iter()
            .min_by_key(|(_, record)| record.exited_at.boot_ns)
            .map(|(id, _)| id.clone());
        match oldest {
            Some(id) => execs.remove(&id),
            None => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pid_namespace_without_a_path_is_the_containers_own() {
        let table = [
            (r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#, true),
            (
                r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#,
                false,
            ),
            (r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#, false),
            ("{}", false),
        ];
        for (json, expected) in table {
            let spec: Spec = serde_json::from_str(json).unwrap();
            assert_eq!(spec.has_own_pid_namespace(), expected, "{json}");
        }
    }

    #[test]
    fn a_user_namespace_has_a_superuser_of_its_own() {
        let read = |json: &str| {
            serde_json::from_str::<Spec>(json)
                .unwrap()
                .mapped_superuser()
        };
        let mapped = r#"{"linux":{
            "uidMappings":[{"containerID":1,"hostID":5,"size":9},{"containerID":0,"hostID":7,"size":1}],
            "gidMappings":[{"containerID":0,"hostID":8,"size":9}]}}"#;
        assert_eq!(read(mapped), Some((7, 8)));
        assert_eq!(read(r#"{"linux":{}}"#), None);
    }

    fn record(boot_ns: u64) -> ExitRecord {
        ExitRecord {
            pid: 1,
            raw_status: Some(0x8900),
            exit_status: 137,
            started_at: orlop_types::exit::Moment::default(),
            exited_at: orlop_types::exit::Moment {
                wall_ns: 0,
                boot_ns,
            },
            cause: orlop_types::exit::ExitCause::Exited,
            memory: Vec::new(),
            host_oom_kills: None,
        }
    }

    #[test]
    fn ends_are_kept_side_by_side_and_the_oldest_execs_go() {
        let dir = tempfile::tempdir().unwrap();
        let key = |exec: &str| ExitKey {
            bundle: dir.path().to_owned(),
            namespace: "n".to_owned(),
            container: "c".to_owned(),
            exec: exec.to_owned(),
        };
        record_exit(&key(""), record(1)).unwrap();
        for index in 0..EXECS_MAX + 3 {
            record_exit(&key(&format!("e{index}")), record(index as u64)).unwrap();
        }
        let file = read_exits(dir.path()).unwrap();
        assert_eq!(file.init.unwrap().raw_status, Some(0x8900));
        assert_eq!(file.execs.len(), EXECS_MAX);
        assert!(!file.execs.contains_key("e2"));
        assert!(file.execs.contains_key("e3"));
    }
}
