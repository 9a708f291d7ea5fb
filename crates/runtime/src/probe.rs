//! Which OCI runtimes there are on this machine, and whether they run at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_sys::mount::{Detached, escape_layer};
use orlop_sys::namespace::user::{Making, UserNamespace};
use orlop_sys::process::{Spawn, run};
use orlop_types::{IdMaps, IdRange, Mount, chain};

/// How long a runtime may take to tell its version.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// An OCI runtime as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRuntime {
    /// As it was asked for.
    pub name: String,
    /// Its executable, if there is one.
    pub path: Option<PathBuf>,
    /// What it calls its version; empty if it does not work.
    pub version: String,
    /// Why it does not work.
    pub error: Option<String>,
}

/// Looks for a runtime by path, or by name in `folders`, and has it tell its version. Blocks.
#[must_use]
pub fn oci_runtime(name: &str, folders: &[PathBuf]) -> OciRuntime {
    let path = find_executable(name, folders);
    let answer = path
        .as_deref()
        .ok_or_else(|| format!("{name:?} is not installed"))
        .and_then(version_of);
    let (version, error) = match answer {
        Ok(version) => (version, None),
        Err(error) => (String::new(), Some(error)),
    };
    OciRuntime {
        name: name.to_owned(),
        path,
        version,
        error,
    }
}

/// The executable called `name`: itself if it is a path, else the first match in `folders`.
#[must_use]
pub fn find_executable(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// `runc version 1.1.5+ds1` is the first line of what every OCI runtime answers.
fn version_of(path: &Path) -> Result<String, String> {
    let finished = run(
        Spawn::new(path).arg("--version"),
        ANSWER_LIMIT,
        OUTPUT_BYTES_MAX,
    );
    let finished = finished.map_err(|error| chain(&error))?;
    if finished.status.exit_code() != Some(0) {
        let said = String::from_utf8_lossy(&finished.stderr).trim().to_owned();
        return Err(format!(
            "--version ended with status {}: {said}",
            finished.status.shell_code()
        ));
    }
    let text = String::from_utf8_lossy(&finished.stdout);
    let line = text.lines().next().unwrap_or_default();
    Ok(line
        .split_once("version ")
        .map_or(line, |(_, version)| version)
        .trim()
        .to_owned())
}

/// What an OCI runtime says it can do (`features` of runtime-spec 1.1). One that does not say can do none of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Mounts that are read-only with everything below them (`rro`).
    pub recursive_read_only: bool,
}

/// Asks a runtime what it can do. Blocks.
#[must_use]
pub fn features(path: &Path) -> Features {
    let finished = run(
        Spawn::new(path).arg("features"),
        ANSWER_LIMIT,
        OUTPUT_BYTES_MAX,
    );
    match finished {
        Ok(finished) if finished.status.exit_code() == Some(0) => parse_features(&finished.stdout),
        Ok(_) | Err(_) => Features::default(),
    }
}

/// Whether pods can have user namespaces here: makes one with `shim`, and has it map an overlay of two `folders` on one file
/// system, as the root file system of a container would be. Leaves nothing. Blocks.
///
/// # Errors
/// What the kernel, the file system or this machine's settings refuse, as text.
pub fn user_namespaces(shim: &Path, folders: [&Path; 2]) -> Result<(), String> {
    const RANGE: IdRange = IdRange {
        inside: 0,
        outside: 65_536,
        count: 65_536,
    };
    let maps = IdMaps {
        uids: vec![RANGE],
        gids: vec![RANGE],
    };
    let making = Making {
        program: shim,
        maps: &maps,
        limit: ANSWER_LIMIT,
    };
    let namespace = UserNamespace::make(&making).map_err(|error| chain(&error))?;
    let layers = folders.map(|folder| escape_layer(&folder.to_string_lossy()));
    let overlay = Mount {
        fs_type: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: vec![format!("lowerdir={}", layers.join(":")), "ro".to_owned()],
    };
    let mapped = Detached::mapped(&overlay, &namespace);
    mapped.map(drop).map_err(|error| chain(&error))
}

fn parse_features(json: &[u8]) -> Features {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let mount_options = value["mountOptions"].as_array();
    Features {
        recursive_read_only: mount_options
            .is_some_and(|options| options.iter().any(|option| option == "rro")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_runtime_is_told_apart_from_a_broken_one() {
        let folders = [PathBuf::from("/bin"), PathBuf::from("/usr/bin")];
        let missing = oci_runtime("orlop-no-such-runtime", &folders);
        assert!(missing.path.is_none() && missing.error.unwrap().contains("not installed"));
        let broken = oci_runtime("false", &folders);
        assert!(broken.path.is_some() && broken.error.unwrap().contains("status 1"));
    }

    #[test]
    fn a_runtimes_own_words_decide_what_it_can_do() {
        let can = parse_features(br#"{"mountOptions":["ro","rro"],"linux":{}}"#);
        assert!(can.recursive_read_only);
        assert_eq!(parse_features(b"unknown command"), Features::default());
    }
}
