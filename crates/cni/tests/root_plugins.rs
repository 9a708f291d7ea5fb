//! Debian's real CNI plugins, in network namespaces of our own.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test drives ip(8), writes into its own folder, and may panic"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use orlop_cni::{Attachment, AttachmentId, Network, Plugins, Settings};

/// A named network namespace and a bridge, both gone when dropped.
struct Bench {
    folder: tempfile::TempDir,
    namespace: String,
    bridge: String,
}

impl Bench {
    fn new(tag: &str, plugins: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let namespace = format!("orlop-cni-{tag}-{}", std::process::id());
        let bridge = format!("oc{tag}{}", std::process::id() % 100_000);
        ip(&["netns", "add", &namespace]);
        let bench = Self {
            folder,
            namespace,
            bridge,
        };
        std::fs::create_dir(bench.folder.path().join("net.d")).unwrap();
        let text = plugins
            .replace("BRIDGE", &bench.bridge)
            .replace("DATA", bench.folder.path().join("ipam").to_str().unwrap());
        std::fs::write(bench.folder.path().join("net.d/10-test.conflist"), text).unwrap();
        bench
    }

    fn network(&self, plugin_limit: Duration) -> Network<Plugins> {
        let settings = Settings {
            config_folder: self.folder.path().join("net.d"),
            plugin_folders: vec![
                PathBuf::from("/usr/lib/cni"),
                self.folder.path().join("bin"),
            ],
            cache_folder: self.folder.path().join("cache"),
            plugin_limit,
        };
        Network::load(settings, Plugins).unwrap()
    }

    fn namespace_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    fn reservations(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("ipam/test")) else {
            return 0;
        };
        entries
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with("10.")
            })
            .count()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Both may be gone already; a failing test must not leave either behind.
        drop(
            Command::new("ip")
                .args(["netns", "del", &self.namespace])
                .output(),
        );
        drop(
            Command::new("ip")
                .args(["link", "del", &self.bridge])
                .output(),
        );
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

const BRIDGE: &str = r#"{"cniVersion":"1.0.0","name":"test","plugins":[
    {"type":"bridge","bridge":"BRIDGE","isGateway":true,
     "ipam":{"type":"host-local","dataDir":"DATA","ranges":[[{"subnet":"10.231.7.0/24"}]]}}]}"#;

#[test]
fn a_namespace_gets_an_address_and_gives_it_back() {
    let bench = Bench::new("a", BRIDGE);
    let network = bench.network(Duration::from_secs(20));
    let container = AttachmentId::new("web").unwrap();
    let path = bench.namespace_path();
    let attachment = Attachment {
        container: &container,
        namespace_path: &path,
        interface: "eth0",
        capabilities: BTreeMap::new(),
        arguments: String::new(),
    };
    network.status().unwrap();
    let outcome = network.add(&attachment).unwrap();
    let address = outcome.addresses().next().unwrap().to_owned();
    assert!(ip(&["-n", &bench.namespace, "addr", "show", "eth0"]).contains(&address));
    assert_eq!(bench.reservations(), 1);
    network.check(&attachment).unwrap();

    ip(&["-n", &bench.namespace, "addr", "flush", "dev", "eth0"]);
    network.check(&attachment).unwrap_err();

    network.del(&attachment).unwrap();
    network.del(&attachment).unwrap();
    assert_eq!(bench.reservations(), 0);
}

#[test]
fn an_exhausted_range_is_reported_and_leaves_no_interface() {
    let small = BRIDGE.replace("10.231.7.0/24\"", "10.231.7.0/30\"");
    let bench = Bench::new("b", &small);
    let network = bench.network(Duration::from_secs(20));
    let path = bench.namespace_path();
    let id = |name: &str| AttachmentId::new(name).unwrap();
    let attach = |container: &AttachmentId, interface: &str| {
        let capabilities = BTreeMap::new();
        network
            .add(&Attachment {
                container,
                namespace_path: &path,
                interface,
                capabilities,
                arguments: String::new(),
            })
            .map(drop)
    };
    let before = ip(&["link", "show"]).lines().count();
    attach(&id("one"), "eth0").unwrap();
    let error = attach(&id("two"), "eth1").unwrap_err();
    assert!(
        error.to_string().contains("no IP addresses available"),
        "{error}"
    );
    let links = ip(&["-n", &bench.namespace, "link", "show"]);
    assert!(!links.contains("eth1"), "{links}");
    assert!(ip(&["link", "show"]).lines().count() > before);
}

#[test]
fn a_plugin_that_hangs_is_killed_at_its_deadline() {
    let bench = Bench::new(
        "c",
        r#"{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"hangs"}]}"#,
    );
    let bin = bench.folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("hangs"), "#!/bin/sh\nexec sleep 600\n").unwrap();
    assert!(
        Command::new("chmod")
            .arg("755")
            .arg(bin.join("hangs"))
            .status()
            .unwrap()
            .success()
    );
    let container = AttachmentId::new("web").unwrap();
    let path = bench.namespace_path();
    let capabilities = BTreeMap::new();
    let attachment = Attachment {
        container: &container,
        namespace_path: &path,
        interface: "eth0",
        capabilities,
        arguments: String::new(),
    };
    let error = bench
        .network(Duration::from_millis(300))
        .add(&attachment)
        .unwrap_err();
    assert_eq!(error.code(), "ORL-E6206", "{error}");
}
