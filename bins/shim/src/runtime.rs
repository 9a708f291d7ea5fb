//! The OCI runtime as an executable: runc, crun or youki, which share runc's command line.

use std::path::{Path, PathBuf};

use orlop_api::Any;
use orlop_api::any::unpack;
use orlop_api::containerd::runc::v1::Options as RuncOptions;
use orlop_sys::process::Spawn;
use serde::{Deserialize, Serialize};

use crate::bundle;
use crate::fault::Fault;
use crate::runc::Plain;

const DEFAULT_BINARY: &str = "runc";
/// containerd's choice, so that a container survives a change of the shim.
const DEFAULT_ROOT: &str = "/run/containerd/runc";
const OPTIONS_FILE: &str = "options.json";

/// How to call the runtime. Kept in the bundle, because the clean-up after a crash is told nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Runtime {
    binary: String,
    /// Where the runtime keeps its state, the namespace included.
    root: PathBuf,
    systemd_cgroup: bool,
    #[serde(default)]
    no_pivot_root: bool,
    #[serde(default)]
    no_new_keyring: bool,
    #[serde(default)]
    pub(crate) io_uid: u32,
    #[serde(default)]
    pub(crate) io_gid: u32,
}

impl Runtime {
    /// From the options of a request; none means all defaults.
    pub(crate) fn from_options(options: Option<&Any>, namespace: &str) -> Result<Self, Fault> {
        let options = match options.filter(|any| !any.type_url.is_empty()) {
            None => RuncOptions::default(),
            Some(any) => {
                unpack(any).map_err(|error| Fault::Invalid(format!("runtime options: {error}")))?
            }
        };
        let or_default = |text: String, default: &str| match text.is_empty() {
            true => default.to_owned(),
            false => text,
        };
        Ok(Self {
            binary: or_default(options.binary_name, DEFAULT_BINARY),
            root: Path::new(&or_default(options.root, DEFAULT_ROOT)).join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
        })
    }

    /// Gives the streams to this user and group, unless the options name others: the superuser of a user namespace could
    /// not open the host's by their names, as `/dev/stderr` is.
    pub(crate) fn give_streams(self, owner: Option<(u32, u32)>) -> Self {
        match owner {
            Some((io_uid, io_gid)) if (self.io_uid, self.io_gid) == (0, 0) => Self {
                io_uid,
                io_gid,
                ..self
            },
            Some(_) | None => self,
        }
    }

    /// As kept by [`Runtime::save`]; the defaults if nothing was.
    pub(crate) fn load(bundle: &Path, namespace: &str) -> Result<Self, Fault> {
        match bundle::read_bounded(&bundle.join(OPTIONS_FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Fault::Invalid(format!("{OPTIONS_FILE}: {error}"))),
            Err(_) => Self::from_options(None, namespace),
        }
    }

    /// Keeps this for [`Runtime::load`].
    pub(crate) fn save(&self, bundle: &Path) -> Result<(), Fault> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Fault::Invalid(format!("{OPTIONS_FILE}: {error}")))?;
        bundle::write(bundle, OPTIONS_FILE, &bytes)
    }

    /// The program.
    pub(crate) fn binary(&self) -> &str {
        &self.binary
    }

    /// A call of the runtime that logs to `log`.
    pub(crate) fn call<'fd>(&self, log: &Path, command: &str) -> Spawn<'fd> {
        let mut spawn = Spawn::new(&self.binary)
            .own_group()
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(log)
            .args(["--log-format", "json"]);
        if self.systemd_cgroup {
            spawn = spawn.arg("--systemd-cgroup");
        }
        spawn.arg(command)
    }

    /// The container `id` whose first process is `pid`, if it needs no call of the runtime to be started and deleted.
    pub(crate) fn plain(&self, id: &str, pid: i32) -> Option<Plain> {
        Plain::read(&self.root, id, pid)
    }

    /// The flags of `create` that come from the options.
    pub(crate) fn create_flags(&self) -> Vec<&'static str> {
        let flags = [
            (self.no_pivot_root, "--no-pivot"),
            (self.no_new_keyring, "--no-new-keyring"),
        ];
        flags
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, flag)| *flag)
            .collect()
    }
}

#[derive(Deserialize)]
struct LogLine {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// The last error in a runtime's JSON log. crun writes plain lines in some cases: then the last line counts.
pub(crate) fn last_error(log: &str) -> Option<String> {
    let parsed = log
        .lines()
        .filter_map(|line| serde_json::from_str::<LogLine>(line).ok())
        .filter(|line| matches!(line.level.as_str(), "error" | "fatal"))
        .map(|line| line.msg.trim().to_owned())
        .rfind(|message| !message.is_empty());
    parsed.or_else(|| {
        let last = log.lines().rfind(|line| !line.trim().is_empty())?;
        (!last.starts_with('{')).then(|| last.trim().to_owned())
    })
}

/// Whether a runtime's error says that the container is gone already.
pub(crate) fn says_gone(message: &str) -> bool {
    message.contains("does not exist") || message.contains("no such file or directory: state")
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::any::pack;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        let table = [
            (r#"{"level":"warning","msg":"w"}"#, None),
            (
                "{\"level\":\"error\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\" b \"}\n{\"level\":\"info\",\"msg\":\"c\"}",
                Some("b"),
            ),
            ("", None),
            ("plain words\n", Some("plain words")),
            ("{\"level\":\"err", None),
        ];
        for (log, expected) in table {
            assert_eq!(last_error(log).as_deref(), expected, "{log}");
        }
    }

    #[test]
    fn options_choose_the_binary_and_the_namespace_is_part_of_the_root() {
        let options = RuncOptions {
            binary_name: "/bin/crun".to_owned(),
            root: "/r".to_owned(),
            ..RuncOptions::default()
        };
        let runtime = Runtime::from_options(Some(&pack(&options)), "k8s.io").unwrap();
        assert_eq!(runtime.binary, "/bin/crun");
        assert_eq!(runtime.root, Path::new("/r/k8s.io"));
        assert_eq!(Runtime::from_options(None, "n").unwrap().binary, "runc");
        let other = Any {
            type_url: "x.Y".to_owned(),
            value: vec![],
        };
        assert!(Runtime::from_options(Some(&other), "n").is_err());
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let options = RuncOptions {
            systemd_cgroup: true,
            ..RuncOptions::default()
        };
        let runtime = Runtime::from_options(Some(&pack(&options)), "n").unwrap();
        runtime.save(dir.path()).unwrap();
        assert_eq!(Runtime::load(dir.path(), "other").unwrap(), runtime);
    }
}
