//! What a pod's configuration must be before anything is done for it.

use std::path::{Component, Path};

use super::config::{PodConfig, ProcessNamespace};
use super::error::PodError;

/// The most bytes of all labels and annotations together: twice what Kubernetes takes.
const NOTES_BYTES_MAX: usize = 512 << 10;

/// The kernel's limit of a host name, in bytes.
const HOSTNAME_BYTES_MAX: usize = 64;

/// The most bytes of a name, namespace or UID.
const NAME_BYTES_MAX: usize = 253;

/// The most entries of each list of resolv.conf, and the most bytes of one.
const DNS_ENTRIES_MAX: usize = 64;
const DNS_ENTRY_BYTES_MAX: usize = 2048;

/// The most kernel parameters and port mappings.
const ENTRIES_MAX: usize = 4096;

/// Refuses what could not be made, or would reach further than the pod.
///
/// # Errors
/// [`PodError::Config`] with the field and its fault.
pub(super) fn check(config: &PodConfig) -> Result<(), PodError> {
    check_word("name", &config.name)?;
    if config.name.is_empty() {
        return Err(refused("name", "it is empty"));
    }
    check_word("namespace", &config.kubernetes_namespace)?;
    check_word("uid", &config.uid)?;
    check_hostname(&config.hostname)?;
    check_path("log folder", &config.log_folder)?;
    check_path("cgroup parent", Path::new(&config.cgroup_parent))?;
    check_dns(config)?;
    check_notes(config)?;
    if config.sysctls.len() > ENTRIES_MAX || config.ports.len() > ENTRIES_MAX {
        let fault = format!("there are more than {ENTRIES_MAX}");
        return Err(refused("sysctls or ports", fault));
    }
    check_users(config)
}

/// What belongs to the host is out of reach of a user namespace's superuser, and so of the OCI runtime inside.
fn check_users(config: &PodConfig) -> Result<(), PodError> {
    let Some(maps) = &config.namespaces.user else {
        return Ok(());
    };
    let field = "user namespace";
    maps.check()
        .map_err(|fault| refused(field, fault.to_string()))?;
    let namespaces = &config.namespaces;
    let shared = [
        (namespaces.host_network, "the host's network"),
        (namespaces.host_ipc, "the host's IPC"),
        (
            namespaces.processes == ProcessNamespace::Host,
            "the host's processes",
        ),
        (config.privileged, "the host's privileges"),
    ];
    match shared.iter().find(|(is_shared, _)| *is_shared) {
        Some((_, what)) => Err(refused(field, format!("a pod with one cannot have {what}"))),
        None => Ok(()),
    }
}

/// Names go into environment variables of plugins, where `;` and `=` separate.
fn check_word(field: &'static str, word: &str) -> Result<(), PodError> {
    if word.len() > NAME_BYTES_MAX {
        return Err(refused(
            field,
            format!("it is longer than {NAME_BYTES_MAX} bytes"),
        ));
    }
    let is_bad = |character: char| {
        character.is_control() || character.is_whitespace() || ";=/".contains(character)
    };
    if word.chars().any(is_bad) || word.contains("..") {
        let fault = format!("{word:?} has blanks, control characters, \"..\", or one of \";=/\"");
        return Err(refused(field, fault));
    }
    Ok(())
}

fn check_hostname(hostname: &str) -> Result<(), PodError> {
    if hostname.len() > HOSTNAME_BYTES_MAX {
        let fault = format!("it is longer than the {HOSTNAME_BYTES_MAX} bytes the kernel takes");
        return Err(refused("hostname", fault));
    }
    let is_sound = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if hostname.is_empty() || hostname.split('.').all(is_sound) {
        return Ok(());
    }
    Err(refused(
        "hostname",
        format!("{hostname:?} is not made of letters, digits, \"-\" and single dots"),
    ))
}

/// Empty, or a clean path. A slice of systemd has no slash.
fn check_path(field: &'static str, path: &Path) -> Result<(), PodError> {
    let climbs = path
        .components()
        .any(|component| component == Component::ParentDir);
    let has_control = path.to_string_lossy().chars().any(char::is_control);
    if climbs || has_control {
        return Err(refused(
            field,
            format!("{path:?} has \"..\" or control characters"),
        ));
    }
    let is_slice =
        field == "cgroup parent" && path.extension().is_some_and(|ending| ending == "slice");
    if path.as_os_str().is_empty() || path.is_absolute() || is_slice {
        return Ok(());
    }
    Err(refused(field, format!("{path:?} is not absolute")))
}

/// Entries become words of resolv.conf's lines.
fn check_dns(config: &PodConfig) -> Result<(), PodError> {
    let Some(dns) = &config.dns else {
        return Ok(());
    };
    for entries in [&dns.servers, &dns.searches, &dns.options] {
        if entries.len() > DNS_ENTRIES_MAX {
            let fault = format!("a list has more than {DNS_ENTRIES_MAX} entries");
            return Err(refused("DNS configuration", fault));
        }
        let is_bad = |entry: &&String| {
            entry.is_empty()
                || entry.len() > DNS_ENTRY_BYTES_MAX
                || entry
                    .chars()
                    .any(|character| character.is_whitespace() || character.is_control())
        };
        if let Some(bad) = entries.iter().find(is_bad) {
            let fault = format!("{bad:?} is not one word");
            return Err(refused("DNS configuration", fault));
        }
    }
    Ok(())
}

fn check_notes(config: &PodConfig) -> Result<(), PodError> {
    let notes = config.labels.iter().chain(&config.annotations);
    let bytes: usize = notes.map(|(key, value)| key.len() + value.len()).sum();
    if bytes > NOTES_BYTES_MAX {
        let fault = format!("they have {bytes} bytes, more than the {NOTES_BYTES_MAX} allowed");
        return Err(refused("labels and annotations", fault));
    }
    Ok(())
}

fn refused(field: &'static str, fault: impl Into<String>) -> PodError {
    PodError::Config {
        field,
        fault: fault.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{DnsConfig, IdMaps, IdRange};
    use super::*;

    fn sound() -> PodConfig {
        PodConfig {
            name: "web".to_owned(),
            kubernetes_namespace: "default".to_owned(),
            uid: "1-2".to_owned(),
            hostname: "web-0.example".to_owned(),
            log_folder: "/var/log/pods/web".into(),
            cgroup_parent: "/kubepods/pod1".to_owned(),
            ..PodConfig::default()
        }
    }

    #[test]
    fn a_sound_pod_is_taken() {
        check(&sound()).unwrap();
        let slice = PodConfig {
            cgroup_parent: "kubepods-pod1.slice".to_owned(),
            hostname: String::new(),
            ..sound()
        };
        check(&slice).unwrap();
    }

    #[test]
    fn a_user_namespace_goes_with_nothing_of_the_hosts() {
        let range = IdRange {
            inside: 0,
            outside: 1000,
            count: 10,
        };
        let mapped = || {
            let mut config = sound();
            config.namespaces.user = Some(IdMaps {
                uids: vec![range],
                gids: vec![range],
            });
            config
        };
        check(&mapped()).unwrap();
        type Spoil = fn(&mut PodConfig);
        let table: &[(&str, Spoil)] = &[
            ("network", |config| config.namespaces.host_network = true),
            ("IPC", |config| config.namespaces.host_ipc = true),
            ("processes", |config| {
                config.namespaces.processes = ProcessNamespace::Host;
            }),
            ("privileges", |config| config.privileged = true),
            ("id 0", |config| {
                config.namespaces.user = Some(IdMaps::default())
            }),
        ];
        for (word, spoil) in table {
            let mut config = mapped();
            spoil(&mut config);
            let error = check(&config).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn bad_input_is_refused_with_its_field() {
        type Spoil = fn(&mut PodConfig);
        let table: &[(&str, Spoil)] = &[
            ("name", |config| config.name.clear()),
            ("name", |config| config.name = "../x".to_owned()),
            ("name", |config| config.name = "a;CNI=1".to_owned()),
            ("namespace", |config| {
                config.kubernetes_namespace = "a b".to_owned()
            }),
            ("uid", |config| config.uid = "x".repeat(300)),
            ("hostname", |config| config.hostname = "x".repeat(65)),
            ("hostname", |config| config.hostname = "../etc".to_owned()),
            ("hostname", |config| config.hostname = "a..b".to_owned()),
            ("log folder", |config| {
                config.log_folder = "/var/log/../x".into()
            }),
            ("log folder", |config| config.log_folder = "logs".into()),
            ("cgroup parent", |config| {
                config.cgroup_parent = "/a/../..".to_owned()
            }),
            ("cgroup parent", |config| {
                config.cgroup_parent = "pod".to_owned()
            }),
            ("DNS configuration", |config| {
                let servers = vec!["1.1.1.1\nsearch x".to_owned()];
                config.dns = Some(DnsConfig {
                    servers,
                    ..DnsConfig::default()
                });
            }),
            ("annotations", |config| {
                config
                    .annotations
                    .insert("a".to_owned(), "x".repeat(1 << 20));
            }),
        ];
        for (field, spoil) in table {
            let mut config = sound();
            spoil(&mut config);
            let error = check(&config).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
            assert_eq!(error.code(), "ORL-E6504");
        }
    }
}
