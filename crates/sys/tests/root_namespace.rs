//! Namespaces on the real kernel.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test drives ip(8) and may panic"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use orlop_sys::namespace::{self, Kind, Parameter, Pin, Setup};

fn network(path: &Path) -> [Pin; 1] {
    [Pin {
        kind: Kind::Network,
        path: path.to_owned(),
    }]
}

fn create(path: &Path) -> Result<(), namespace::NamespaceError> {
    namespace::create(&network(path), &Setup::default())
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_pinned_namespace_is_one_for_ip_netns_and_goes_without_a_trace() {
    let name = format!("orlop-sys-{}", std::process::id());
    std::fs::create_dir_all("/run/netns").unwrap();
    let path = Path::new("/run/netns").join(&name);
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    create(&path).unwrap();
    create(&path).unwrap();
    assert!(namespace::is_pinned(&path));
    let links = ip(&["-n", &name, "link", "show", "lo"]);
    assert!(links.contains("LOOPBACK,UP"), "{links}");
    assert_eq!(
        std::fs::read_link("/proc/self/ns/net").unwrap(),
        own,
        "the process changed its own namespace"
    );
    namespace::remove(&path).unwrap();
    namespace::remove(&path).unwrap();
    assert!(!path.exists());
    assert!(!ip(&["netns", "list"]).contains(&name));
}

#[test]
fn a_leftover_file_is_taken_over_and_a_missing_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pod");
    std::fs::File::create(&path).unwrap();
    assert!(!namespace::is_pinned(&path));
    create(&path).unwrap();
    assert!(namespace::is_pinned(&path));
    namespace::remove(&path).unwrap();
    let error = create(&folder.path().join("none/pod")).unwrap_err();
    assert!(error.to_string().contains("none/pod"), "{error}");
}

/// A thread's view of a file of the kernel, from inside a pinned namespace.
fn seen_in(path: &Path, file: &'static str) -> String {
    let text = namespace::within(path, || std::fs::read_to_string(file).unwrap()).unwrap();
    text.trim().to_owned()
}

fn parameter(path: &str, value: &str) -> Parameter {
    Parameter {
        path: PathBuf::from(path),
        value: value.to_owned(),
        optional: false,
    }
}

#[test]
fn name_and_parameters_are_set_inside_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let pins = [Kind::Network, Kind::Ipc, Kind::Uts].map(|kind| Pin {
        kind,
        path: folder.path().join(format!("{kind:?}")),
    });
    let host = |file: &str| std::fs::read_to_string(file).unwrap();
    let files = [
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/shm_rmid_forced",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    ];
    let before = files.map(host);
    let missing = Parameter {
        optional: true,
        ..parameter("net/no/such", "1")
    };
    let setup = Setup {
        hostname: Some("web-0".to_owned()),
        parameters: vec![
            parameter("kernel/shm_rmid_forced", "1"),
            parameter("net/ipv4/ip_unprivileged_port_start", "7"),
            missing,
        ],
    };
    namespace::create(&pins, &setup).unwrap();
    assert_eq!(seen_in(&pins[2].path, files[0]), "web-0");
    assert_eq!(seen_in(&pins[1].path, files[1]), "1");
    assert_eq!(seen_in(&pins[0].path, files[2]), "7");
    namespace::set_parameters(&pins[0].path, &[parameter("net/ipv4/ip_forward", "1")]).unwrap();
    assert_eq!(seen_in(&pins[0].path, "/proc/sys/net/ipv4/ip_forward"), "1");
    assert_eq!(files.map(host), before, "the host was changed");
    for pin in &pins {
        namespace::remove(&pin.path).unwrap();
        assert!(!pin.path.exists());
    }
}

#[test]
fn what_cannot_be_set_is_named_and_nothing_stays_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net");
    for (bad, value) in [
        ("net/no/such", "1"),
        ("net/ipv4/ip_forward", "many"),
        ("../etc/orlop-test", "1"),
    ] {
        let setup = Setup {
            hostname: None,
            parameters: vec![parameter(bad, value)],
        };
        let error = namespace::create(&network(&path), &setup).unwrap_err();
        assert!(error.to_string().contains(bad), "{error}");
        assert!(!path.exists());
    }
    assert!(!Path::new("/etc/orlop-test").exists());
}

#[test]
fn the_namespace_of_a_process_is_pinned_beyond_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    create(&first).unwrap();
    namespace::pin(&first, &second).unwrap();
    namespace::remove(&first).unwrap();
    assert!(namespace::is_pinned(&second));
    namespace::remove(&second).unwrap();
    let error = namespace::pin(Path::new("/proc/0/ns/pid"), &second).unwrap_err();
    assert!(!second.exists(), "{error}");
}
