//! The files that containers of a pod see as `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname`.
//!
//! ```text
//! <folder>/<namespace>/<pod>/
//!     resolv.conf, hosts, hostname
//!     shm/                            a file system of its own, shown as /dev/shm
//!     ipc, uts, pid                   namespaces, pinned
//! ```
//!
//! Crash: all can be repeated. The folder lies where a reboot empties it, and so do the namespaces it belongs to.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use orlop_sys::fs::{Dir, FsError, Mode, Name, remove_tree_beneath};

use super::config::{DnsConfig, IdMaps, PodConfig};
use super::error::PodError;
use super::record::PodKey;
use super::settings::PodSettings;
use crate::dns;

/// A host's file beyond this is no such file.
const HOST_FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a pod's files are, whether or not they exist.
pub(super) fn folder(settings: &PodSettings, key: &PodKey) -> PathBuf {
    settings
        .folder
        .join(key.namespace.as_str())
        .join(key.pod.as_str())
}

/// Writes the files; what an earlier try left is replaced. Blocks.
pub(super) fn create(
    settings: &PodSettings,
    key: &PodKey,
    config: &PodConfig,
) -> Result<(), PodError> {
    let path = folder(settings, key);
    let texts = [
        ("resolv.conf", resolv_conf(settings, config)),
        ("hosts", host_file(Path::new("/etc/hosts"))),
        ("hostname", hostname(config)),
    ];
    let write = || {
        let parent = Dir::create_all(
            path.parent().unwrap_or(&settings.folder),
            Mode::from_raw_mode(0o711),
        )?;
        let folder = parent.ensure_dir(&name(key), Mode::from_raw_mode(0o711))?;
        for (name, text) in texts {
            let mode = Mode::from_raw_mode(0o644);
            folder.write_volatile(&Name::from_static(name), text.as_bytes(), mode)?;
        }
        Ok(())
    };
    write().map_err(failed("write", &path))?;
    let users = config.namespaces.user.as_ref();
    users.and_then(IdMaps::superuser).map_or(Ok(()), |owner| {
        let names = ["resolv.conf", "hosts", "hostname"];
        names
            .iter()
            .try_for_each(|name| give(&path.join(name), owner))
    })
}

/// To the superuser of the pod's user namespace: not every file system shows files with other owners than they have.
fn give(path: &Path, (uid, gid): (u32, u32)) -> Result<(), PodError> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|source| {
        let source = FsError::Io {
            operation: "change the owner of",
            path: path.to_owned(),
            source,
        };
        failed("give away", path)(source)
    })
}

/// Removes the folder; what is still mounted in it makes this fail. Nothing there is no error. Blocks.
pub(super) fn remove(settings: &PodSettings, key: &PodKey) -> Result<(), PodError> {
    let path = folder(settings, key);
    let removed = Dir::open(path.parent().unwrap_or(&settings.folder))
        .and_then(|parent| remove_tree_beneath(&parent, &name(key)));
    match removed {
        Err(error) if !error.is_not_found() => Err(failed("remove", &path)(error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether a pod resolves names as the host does.
pub(super) fn inherits_dns(config: &PodConfig) -> bool {
    config
        .dns
        .as_ref()
        .is_none_or(|dns| *dns == DnsConfig::default())
}

/// What a pod finds in `/etc/resolv.conf` (resolv.conf(5)).
pub(super) fn resolv_conf(settings: &PodSettings, config: &PodConfig) -> String {
    if let Some(dns) = config.dns.as_ref().filter(|_| !inherits_dns(config)) {
        return written(dns);
    }
    let host = host_file(&settings.host_resolv_conf);
    if config.namespaces.host_network {
        return host;
    }
    let text = dns::for_own_network(&host, Some(&host_file(&settings.resolved_upstream)));
    if dns::servers(&text) == 0 && dns::servers(&host) > 0 {
        tracing::warn!(pod = config.name, file = %settings.host_resolv_conf.display(), "the host's name servers are all on its loopback, where the pod cannot reach them: the pod gets none");
    }
    text
}

/// As it was asked for, loopback servers included: a container of the pod may be the one that answers there.
fn written(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

/// Writes new text into a file that containers have mounted: in place, because a mount stays with the file it was made of.
/// Does nothing if the text is there already. Returns whether it wrote.
pub(super) fn rewrite(path: &Path, text: &str) -> std::io::Result<bool> {
    if host_file(path) == text {
        return Ok(false);
    }
    let file = File::options().write(true).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)?;
    Ok(true)
}

fn hostname(config: &PodConfig) -> String {
    if config.hostname.is_empty() || config.namespaces.host_network {
        return host_file(Path::new("/proc/sys/kernel/hostname"));
    }
    format!("{}\n", config.hostname)
}

/// A file of the host, links followed; empty if there is none, or if it is no regular file that could block a reader.
fn host_file(path: &Path) -> String {
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(HOST_FILE_BYTES_MAX).read_to_end(&mut bytes));
    // What was read before a failure is no file of the host's.
    read.map_or_else(
        |_| String::new(),
        |_| String::from_utf8_lossy(&bytes).into_owned(),
    )
}

fn name(key: &PodKey) -> Name {
    Name::new(key.pod.as_str()).expect("a pod's id is one path component")
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(FsError) -> PodError {
    let path = path.to_owned();
    move |source| PodError::Files {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test's own folder needs no durability"
)]
mod tests {
    use super::*;

    fn settings(folder: &Path) -> PodSettings {
        PodSettings {
            host_resolv_conf: folder.join("resolv.conf"),
            resolved_upstream: folder.join("upstream"),
            ..PodSettings::new(folder.join("pods"), "/nonexistent".into())
        }
    }

    #[test]
    fn what_is_asked_for_is_written_and_else_the_hosts_is_made_fit() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        std::fs::write(&settings.host_resolv_conf, "nameserver 127.0.0.53\n").unwrap();
        std::fs::write(&settings.resolved_upstream, "nameserver 10.0.0.2\n").unwrap();
        let mut config = PodConfig::default();
        assert_eq!(resolv_conf(&settings, &config), "nameserver 10.0.0.2\n");
        config.namespaces.host_network = true;
        assert_eq!(resolv_conf(&settings, &config), "nameserver 127.0.0.53\n");
        config.namespaces.host_network = false;
        config.dns = Some(DnsConfig {
            servers: vec!["10.10.10.10".to_owned(), "127.0.0.1".to_owned()],
            searches: vec!["a.example".to_owned(), "b.example".to_owned()],
            options: vec!["ndots:8".to_owned()],
        });
        assert_eq!(
            resolv_conf(&settings, &config),
            "search a.example b.example\nnameserver 10.10.10.10\nnameserver 127.0.0.1\noptions ndots:8\n"
        );
        std::fs::remove_file(&settings.host_resolv_conf).unwrap();
        std::fs::remove_file(&settings.resolved_upstream).unwrap();
        config.dns = Some(DnsConfig::default());
        assert_eq!(resolv_conf(&settings, &config), "");
    }

    #[test]
    fn a_file_is_rewritten_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.0.0.1\nsearch example\n").unwrap();
        let opened = File::open(&path).unwrap();
        assert!(rewrite(&path, "nameserver 10.0.0.9\n").unwrap());
        assert!(!rewrite(&path, "nameserver 10.0.0.9\n").unwrap());
        let mut text = String::new();
        (&opened).read_to_string(&mut text).unwrap();
        assert_eq!(
            text, "nameserver 10.0.0.9\n",
            "a mount would show the old file"
        );
    }
}
