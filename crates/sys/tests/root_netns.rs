//! Network namespaces on the real kernel.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test drives ip(8) and may panic"
)]

use std::path::Path;
use std::process::Command;

use orlop_sys::netns;

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
    netns::create(&path).unwrap();
    netns::create(&path).unwrap();
    assert!(netns::is_pinned(&path));
    let links = ip(&["-n", &name, "link", "show", "lo"]);
    assert!(links.contains("LOOPBACK,UP"), "{links}");
    assert_eq!(
        std::fs::read_link("/proc/self/ns/net").unwrap(),
        own,
        "the process changed its own namespace"
    );
    netns::remove(&path).unwrap();
    netns::remove(&path).unwrap();
    assert!(!path.exists());
    assert!(!ip(&["netns", "list"]).contains(&name));
}

#[test]
fn a_leftover_file_is_taken_over_and_a_missing_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pod");
    std::fs::File::create(&path).unwrap();
    assert!(!netns::is_pinned(&path));
    netns::create(&path).unwrap();
    assert!(netns::is_pinned(&path));
    netns::remove(&path).unwrap();
    let error = netns::create(&folder.path().join("none/pod")).unwrap_err();
    assert!(error.to_string().contains("none/pod"), "{error}");
}
