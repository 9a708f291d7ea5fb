//! What containers of a pod share.

use orlop_api::runtime::v1 as cri;
use orlop_api::runtime::v1::NamespaceMode;
use orlop_e2e::Site;

use crate::support::{Pod, says};

fn modes(pid: NamespaceMode, target: &str) -> cri::NamespaceOption {
    cri::NamespaceOption {
        pid: pid.into(),
        target_id: target.to_owned(),
        ..cri::NamespaceOption::default()
    }
}

/// A pod whose processes are in namespaces of this kind.
fn pod_of<'a>(site: &'a Site, name: &str, pid: NamespaceMode) -> Pod<'a> {
    Pod::run_with(site, name, |config| {
        let linux = config.linux.as_mut().unwrap();
        linux.security_context = Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(modes(pid, "")),
            ..cri::LinuxSandboxSecurityContext::default()
        });
    })
}

fn namespace(site: &Site, container: &str, kind: &str) -> String {
    let script = format!("busybox readlink /proc/1/ns/{kind}");
    says(site.kubelet(), container, &script)
}

pub(crate) fn containers_share_what_their_pod_shares(site: &Site) {
    let [one, other] = ["one", "other"].map(|name| pod_of(site, name, NamespaceMode::Container));
    let own = modes(NamespaceMode::Container, "");
    let container = |pod: &Pod<'_>, name: &str| {
        pod.secured(name, |security| {
            security.namespace_options = Some(own.clone())
        })
    };
    let (first, second) = (container(&one, "first"), container(&one, "second"));
    let third = container(&other, "third");
    for kind in ["net", "ipc", "uts"] {
        let of = |container: &str| namespace(site, container, kind);
        assert_eq!(of(&first), of(&second), "{kind}");
        assert_ne!(of(&first), of(&third), "{kind}");
    }
    for kind in ["pid", "mnt"] {
        let of = |container: &str| namespace(site, container, kind);
        assert_ne!(of(&first), of(&second), "{kind}");
    }
    let kubelet = site.kubelet();
    says(kubelet, &first, "echo here > /dev/shm/word");
    assert_eq!(says(kubelet, &second, "cat /dev/shm/word"), "here\n");
    one.take_away();
    other.take_away();
}

pub(crate) fn processes_are_shared_with_the_pod_the_host_or_another_container(site: &Site) {
    let kubelet = site.kubelet();
    let sees = |container: &str, what: &str| says(kubelet, container, "ps").contains(what);
    let mark = |number: u32| format!("sleep {}", 70_000 + number);
    let start = |pod: &Pod<'_>, name: &str, number: u32, options: cri::NamespaceOption| {
        let script = format!("{}; true", mark(number));
        pod.container_with(name, &script, |config| {
            config.linux.as_mut().unwrap().security_context =
                Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(options),
                    ..cri::LinuxContainerSecurityContext::default()
                });
        })
    };
    let shared = pod_of(site, "shared", NamespaceMode::Pod);
    let first = start(&shared, "first", 1, modes(NamespaceMode::Pod, ""));
    let second = start(&shared, "second", 2, modes(NamespaceMode::Pod, ""));
    assert!(sees(&first, &mark(2)) && sees(&second, &mark(1)));
    let apart = pod_of(site, "apart", NamespaceMode::Container);
    let third = start(&apart, "third", 3, modes(NamespaceMode::Container, ""));
    assert!(!sees(&third, &mark(1)));
    let target = modes(NamespaceMode::Target, &third);
    let debugger = start(&apart, "debugger", 4, target);
    assert!(sees(&debugger, &mark(3)));
    let hosts = pod_of(site, "hosts", NamespaceMode::Node);
    let fifth = start(&hosts, "fifth", 5, modes(NamespaceMode::Node, ""));
    assert!(sees(&fifth, &mark(1)) && sees(&fifth, &mark(3)));
    for pod in [shared, apart, hosts] {
        pod.take_away();
    }
}
