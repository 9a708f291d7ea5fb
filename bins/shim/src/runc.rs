//! What `runc start` and `runc delete` come to for a plain container, done here: each is a process of its own, 10 ms and
//! more on a busy machine, to read a FIFO and to remove a few folders (ADR 23).
//!
//! ```text
//! <root>/<id>/state.json   what runc knows of the container
//!             exec.fifo    until it is started: its first process waits until somebody reads here
//! ```
//!
//! Purpose: know a container that runc made from its own record, start it, and remove what runc keeps of it.
//!
//! Non-goals: containers with hooks, in groups of systemd, with cache allocation (resctrl) or processes of others in
//! their PID namespace, and runtimes that keep another record: for all of them the runtime is called, as for anything
//! that goes wrong here.
//!
//! Ordering: the groups go first and the folder last, as with runc, so that whoever finds the folder can go on. Crash: the
//! same: `runc delete --force` takes what is left at any point. Cancellation: there is none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use orlop_sys::fs::{Dir, Name, remove_tree_beneath};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::bundle;

const STATE: &str = "state.json";
const START_FIFO: &str = "exec.fifo";

/// A container as runc keeps it, with nothing about it that only runc knows how to treat.
#[derive(Debug)]
pub(crate) struct Plain {
    root: PathBuf,
    id: Name,
    groups: Vec<PathBuf>,
}

/// What of `state.json` matters; what it must have for being runc's has no default.
#[derive(Deserialize)]
struct State {
    id: String,
    init_process_pid: i32,
    cgroup_paths: BTreeMap<String, PathBuf>,
    intel_rdt_path: String,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    namespaces: Vec<Namespace>,
    cgroups: Groups,
    #[serde(default, rename = "Hooks")]
    hooks: Option<BTreeMap<String, Option<Vec<IgnoredAny>>>>,
    #[serde(default)]
    intel_rdt: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

#[derive(Deserialize)]
struct Groups {
    /// Older and newer releases write it in different cases.
    #[serde(alias = "Systemd")]
    systemd: bool,
}

impl State {
    fn is_plain(&self, id: &str, pid: i32) -> bool {
        let config = &self.config;
        let mut hooks = config.hooks.iter().flat_map(BTreeMap::values).flatten();
        let mut namespaces = config.namespaces.iter();
        self.id == id
            && self.init_process_pid == pid
            && self.intel_rdt_path.is_empty()
            && config.intel_rdt.is_none()
            && !config.cgroups.systemd
            && hooks.all(Vec::is_empty)
            && namespaces.any(|own| own.kind == "NEWPID" && own.path.is_empty())
            && self.cgroup_paths.values().all(|path| path.is_absolute())
    }
}

impl Plain {
    /// The container `id` below `root`, if runc made it, its first process is `pid`, and it is plain.
    pub(crate) fn read(root: &Path, id: &str, pid: i32) -> Option<Self> {
        // With it, runc has more to do at a start: to tell systemd.
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            return None;
        }
        let text = bundle::read_bounded(&root.join(id).join(STATE)).ok()?;
        let state: State = serde_json::from_slice(&text).ok()?;
        let name = Name::new(id).ok()?;
        state.is_plain(id, pid).then(|| Self {
            root: root.to_owned(),
            id: name,
            groups: state.cgroup_paths.into_values().collect(),
        })
    }

    /// Lets the container's first process go on.
    ///
    /// # Errors
    /// The FIFO is not there: it was started already, or it is not runc's.
    pub(crate) fn start(&self) -> io::Result<Starting> {
        let path = self.folder().join(START_FIFO);
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let fifo = File::options()
            .read(true)
            .custom_flags(nonblocking)
            .open(&path)?;
        Ok(Starting {
            path,
            fifo,
            has_begun: false,
        })
    }

    /// Removes what runc keeps of a container whose processes have all ended.
    ///
    /// # Errors
    /// Something is not as expected, a group inside one of the groups for example. The folder stays for runc then.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for group in &self.groups {
            match fs::remove_dir(group) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        let root = Dir::open(&self.root).map_err(io::Error::other)?;
        remove_tree_beneath(&root, &self.id)
            .map(drop)
            .map_err(io::Error::other)
    }

    fn folder(&self) -> PathBuf {
        self.root.join(self.id.as_os_str())
    }
}

/// A start under way: the first process writes one byte and closes the FIFO by becoming the container's program.
#[derive(Debug)]
pub(crate) struct Starting {
    path: PathBuf,
    fifo: File,
    has_begun: bool,
}

/// How far a start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The first process has not come by yet.
    Waiting,
    /// The container's program runs, or has run.
    Started,
}

impl Starting {
    /// Takes what the first process has written. To be asked when there is something to read, or that process has ended.
    ///
    /// # Errors
    /// The FIFO cannot be read.
    pub(crate) fn advance(&mut self) -> io::Result<Progress> {
        let mut bytes = [0; 16];
        loop {
            match self.fifo.read(&mut bytes) {
                // Nobody has it open for writing: not yet, or not any more.
                Ok(0) => break,
                Ok(_) => self.has_begun = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Waiting);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if !self.has_begun {
            return Ok(Progress::Waiting);
        }
        // Its absence is how runc tells a started container from one that is not. Gone already is as good.
        fs::remove_file(&self.path).ok();
        Ok(Progress::Started)
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: i32 = 7;

    fn state(change: impl FnOnce(&mut serde_json::Value)) -> State {
        let mut state = serde_json::json!({
            "id": "web", "init_process_pid": PID, "intel_rdt_path": "",
            "cgroup_paths": {"memory": "/sys/fs/cgroup/memory/web"},
            "config": {
                "namespaces": [{"type": "NEWPID", "path": ""}],
                "cgroups": {"Systemd": false},
                "Hooks": {"poststop": null, "prestart": []},
            },
        });
        change(&mut state);
        serde_json::from_value(state).unwrap()
    }

    #[test]
    fn what_only_runc_knows_how_to_treat_is_not_plain() {
        assert!(state(|_| {}).is_plain("web", PID));
        type Change = fn(&mut serde_json::Value);
        let table: [(&str, Change); 7] = [
            ("another container", |state| state["id"] = "other".into()),
            ("another process", |state| {
                state["init_process_pid"] = 8.into();
            }),
            ("a hook", |state| {
                state["config"]["Hooks"]["poststop"] = serde_json::json!([{"path": "/x"}]);
            }),
            ("a group of systemd", |state| {
                state["config"]["cgroups"]["Systemd"] = true.into();
            }),
            ("cache allocation", |state| {
                state["intel_rdt_path"] = "/sys/fs/resctrl/x".into();
            }),
            ("a shared PID namespace", |state| {
                state["config"]["namespaces"][0]["path"] = "/proc/1/ns/pid".into();
            }),
            ("a group anywhere", |state| {
                state["cgroup_paths"]["memory"] = "web".into();
            }),
        ];
        for (what, change) in table {
            assert!(!state(change).is_plain("web", PID), "{what}");
        }
    }

    #[test]
    fn a_record_of_another_runtime_is_not_taken_for_runcs() {
        let youki =
            r#"{"ociVersion":"v1.0.2","id":"web","status":"created","pid":7,"bundle":"/b"}"#;
        assert!(serde_json::from_str::<State>(youki).is_err());
    }

    #[test]
    fn a_start_is_done_when_the_first_process_has_written_and_closed() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web").join(START_FIFO);
        fs::create_dir(path.parent().unwrap()).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o622);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let plain = Plain {
            root: folder.path().to_owned(),
            id: Name::new("web").unwrap(),
            groups: vec![folder.path().join("gone")],
        };
        let mut starting = plain.start().unwrap();
        assert_eq!(starting.advance().unwrap(), Progress::Waiting);
        let mut process = File::options().write(true).open(&path).unwrap();
        assert_eq!(starting.advance().unwrap(), Progress::Waiting);
        process.write_all(b"0").unwrap();
        assert_eq!(starting.advance().unwrap(), Progress::Waiting);
        drop(process);
        assert_eq!(starting.advance().unwrap(), Progress::Started);
        assert!(plain.start().is_err(), "a second start finds nothing");
        plain.remove().unwrap();
        assert!(!folder.path().join("web").exists());
    }
}
