//! AppArmor: the engine's own profile, and which profiles the kernel knows.
//!
//! Crash: a profile that was loaded stays until the machine is booted; loading it again replaces it by itself. Ordering:
//! two that load at once load the same.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_sys::process::{Input, Spawn, in_memory, run};
use orlop_types::chain;

use crate::member::Profile;

/// The name of the engine's profile.
pub(crate) const OWN_PROFILE: &str = "orlop-default";

/// How long the parser may take; a profile of this size takes it 50 ms.
const PARSER_LIMIT: Duration = Duration::from_secs(10);
const PARSER_SAYS_BYTES_MAX: usize = 16 << 10;

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct AppArmor {
    /// `Y` if the kernel confines programs.
    enabled: PathBuf,
    /// One line for each profile that the kernel knows.
    profiles: PathBuf,
    parser: PathBuf,
    /// Files that profiles include.
    includes: PathBuf,
}

impl AppArmor {
    /// This machine's.
    pub(crate) fn of_machine() -> Self {
        Self {
            enabled: "/sys/module/apparmor/parameters/enabled".into(),
            profiles: "/sys/kernel/security/apparmor/profiles".into(),
            parser: "/sbin/apparmor_parser".into(),
            includes: "/etc/apparmor.d".into(),
        }
    }

    /// The profile that a container gets, loaded. Without AppArmor the engine's own is none, as Kubernetes has it; one that
    /// is named has to be there. Privileged containers are kept from nothing unless a profile is named. Blocks.
    ///
    /// # Errors
    /// What the kernel or the machine lacks, as one sentence.
    pub(crate) fn choose(
        &self,
        wanted: &Profile,
        is_privileged: bool,
    ) -> Result<Option<String>, String> {
        let is_enabled = fs::read_to_string(&self.enabled).is_ok_and(|text| text.trim() == "Y");
        match wanted {
            Profile::Unconfined => Ok(None),
            // Without a parser nothing of the engine's can be in force, which is as without AppArmor.
            Profile::RuntimeDefault if is_privileged || !is_enabled || !self.parser.exists() => {
                Ok(None)
            }
            Profile::RuntimeDefault => {
                if !self.is_loaded(OWN_PROFILE)? {
                    self.load_own()?;
                }
                Ok(Some(OWN_PROFILE.to_owned()))
            }
            Profile::Localhost(_) if !is_enabled => {
                Err(format!("{} is not Y", self.enabled.display()))
            }
            Profile::Localhost(name) if self.is_loaded(name)? => Ok(Some(name.clone())),
            Profile::Localhost(name) => Err(format!(
                "profile {name:?} is not loaded: it is not in {}",
                self.profiles.display()
            )),
        }
    }

    /// Lines are `NAME (MODE)`.
    fn is_loaded(&self, name: &str) -> Result<bool, String> {
        let text = fs::read_to_string(&self.profiles)
            .map_err(|error| format!("{} cannot be read: {error}", self.profiles.display()))?;
        let names = text.lines().filter_map(|line| line.rsplit_once(" ("));
        Ok(names.into_iter().any(|(there, _mode)| there == name))
    }

    fn load_own(&self) -> Result<(), String> {
        let failed = |fault: String| format!("profile {OWN_PROFILE} cannot be loaded: {fault}");
        let profile = own_profile(&self.includes);
        let file = in_memory("profile", profile.as_bytes());
        let file = file.map_err(|error| failed(error.to_string()))?;
        // -K: no cache is written. -r: one that is there is replaced.
        let spawn = Spawn::new(&self.parser)
            .args(["-Kr"])
            .stdin(Input::Fd(file.as_fd()));
        let finished = run(spawn, PARSER_LIMIT, PARSER_SAYS_BYTES_MAX);
        let finished = finished.map_err(|error| failed(chain(&error)))?;
        if finished.status.exit_code() == Some(0) {
            return Ok(());
        }
        Err(failed(
            String::from_utf8_lossy(&finished.stderr).trim().to_owned(),
        ))
    }
}

/// The engine's profile: all that a container's namespaces, capabilities and seccomp profile leave, but for the files of
/// `/proc` and `/sys` by which one container could change the machine for all, for mounts, and for tracing others. It
/// allows and refuses what Docker's and containerd's do.
fn own_profile(includes: &Path) -> String {
    let include = |name: &str| {
        let is_there = includes.join(name).exists();
        let line = format!("#include <{name}>\n");
        if is_there { line } else { String::new() }
    };
    let (tunables, base) = (include("tunables/global"), include("abstractions/base"));
    // The variable is one of the tunables.
    let proc = if tunables.is_empty() {
        "/proc"
    } else {
        "@{PROC}"
    };
    format!(
        "{tunables}
profile {OWN_PROFILE} flags=(attach_disconnected,mediate_deleted) {{
  {base}
  network,
  capability,
  file,
  umount,

  # The engine and its runtimes end containers; processes of containers signal each other.
  signal (receive) peer=unconfined,
  signal (receive) peer={{runc,crun,youki}},
  signal (send, receive) peer={OWN_PROFILE},

  # Everything directly below /proc, and everything in its folders that are no process's and not sys.
  deny {proc}/* w,
  deny {proc}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}}/** w,
  # Of sys only kernel/shm* may be written.
  deny {proc}/sys/[^k]** w,
  deny {proc}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny {proc}/sysrq-trigger rwklx,
  deny {proc}/kcore rwklx,

  deny mount,

  # Of /sys only fs/cgroup may be changed.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,

  ptrace (trace, tracedby, read, readby) peer={OWN_PROFILE},
}}
"
    )
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests write files"
)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A machine whose parser notes what it is given and calls it loaded.
    fn machine(folder: &Path, enabled: &str, parser: &str) -> AppArmor {
        let at = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        let script = parser.replace("FOLDER", &folder.to_string_lossy());
        fs::create_dir_all(folder.join("apparmor.d/tunables")).unwrap();
        at("apparmor.d/tunables/global", "");
        AppArmor {
            enabled: at("enabled", enabled),
            profiles: at("profiles", "local one (enforce)\nother (complain)\n"),
            parser: at("parser", &format!("#!/bin/sh\n{script}\n")),
            includes: folder.join("apparmor.d"),
        }
    }

    const LOADS: &str = "[ \"$1\" = -Kr ] && cat > FOLDER/loaded && echo 'orlop-default (enforce)' >> FOLDER/profiles";

    #[test]
    fn the_engines_profile_is_loaded_once_and_a_named_one_has_to_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(folder.path(), "Y\n", LOADS);
        let local = |name: &str| Profile::Localhost(name.to_owned());
        for _ in 0..2 {
            let chosen = machine.choose(&Profile::RuntimeDefault, false);
            assert_eq!(chosen, Ok(Some(OWN_PROFILE.to_owned())));
        }
        let profiles = fs::read_to_string(&machine.profiles).unwrap();
        assert_eq!(profiles.matches(OWN_PROFILE).count(), 1);
        let given = fs::read_to_string(folder.path().join("loaded")).unwrap();
        assert!(given.contains("#include <tunables/global>") && given.contains("deny mount,"));
        assert!(!given.contains("abstractions/base"), "{given}");
        assert_eq!(
            machine.choose(&local("local one"), true),
            Ok(Some("local one".into()))
        );
        assert!(
            machine
                .choose(&local("local"), false)
                .unwrap_err()
                .contains("not loaded")
        );
        assert_eq!(machine.choose(&Profile::RuntimeDefault, true), Ok(None));
        assert_eq!(machine.choose(&Profile::Unconfined, false), Ok(None));
    }

    #[test]
    fn without_apparmor_only_a_named_profile_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(folder.path(), "N\n", "exit 1");
        assert_eq!(machine.choose(&Profile::RuntimeDefault, false), Ok(None));
        let named = Profile::Localhost("x".to_owned());
        assert!(
            machine
                .choose(&named, false)
                .unwrap_err()
                .contains("is not Y")
        );
    }

    #[test]
    fn a_parser_that_refuses_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(
            folder.path(),
            "Y\n",
            "echo 'syntax error, line 7' >&2; exit 1",
        );
        let error = machine.choose(&Profile::RuntimeDefault, false).unwrap_err();
        assert!(error.contains("syntax error, line 7"), "{error}");
    }
}
