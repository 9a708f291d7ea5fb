//! What a container may, and as whom.

use orlop_api::runtime::v1 as cri;
use orlop_e2e::Site;

use crate::support::{Pod, SLEEPING, code, says};

const fn id(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

pub(crate) fn a_container_runs_as_whom_it_was_asked_to(site: &Site) {
    let pod = Pod::run(site, "web");
    let root = pod.container("root", SLEEPING);
    let user = pod.secured("user", |security| {
        security.run_as_user = id(1234);
        security.run_as_group = id(2345);
        security.supplemental_groups = vec![3456];
    });
    let says = |container: &str, script: &str| says(site.kubelet(), container, script);
    assert_eq!(says(&root, "id -u"), "0\n");
    assert_eq!(says(&user, "id -u; id -g"), "1234\n2345\n");
    let groups = says(&user, "id -G");
    assert!(
        groups.split_whitespace().any(|group| group == "3456"),
        "{groups}"
    );
    pod.take_away();
}

/// A line of a process's own status.
fn own(site: &Site, container: &str, key: &str) -> String {
    let status = says(site.kubelet(), container, "cat /proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap().trim().to_owned()
}

pub(crate) fn capabilities_are_what_was_asked_for(site: &Site) {
    let pod = Pod::run_with(site, "web", |config| {
        let linux = config.linux.as_mut().unwrap();
        linux.security_context = Some(cri::LinuxSandboxSecurityContext {
            privileged: true,
            ..cri::LinuxSandboxSecurityContext::default()
        });
    });
    let effective = |container: &str| {
        let digits = own(site, container, "CapEff:");
        u64::from_str_radix(&digits, 16).unwrap()
    };
    let (net_admin, chown) = (1 << 12, 1 << 0);
    let usual = pod.container("usual", SLEEPING);
    assert_eq!(effective(&usual) & (net_admin | chown), chown);
    let changed = pod.secured("changed", |security| {
        security.capabilities = Some(cri::Capability {
            add_capabilities: vec!["NET_ADMIN".to_owned()],
            drop_capabilities: vec!["CHOWN".to_owned()],
            ..cri::Capability::default()
        });
        security.no_new_privs = true;
    });
    assert_eq!(effective(&changed) & (net_admin | chown), net_admin);
    assert_eq!(own(site, &changed, "NoNewPrivs:"), "1");
    assert_eq!(own(site, &usual, "NoNewPrivs:"), "0");
    let privileged = pod.secured("privileged", |security| security.privileged = true);
    let sys_admin = 1 << 21;
    assert_eq!(effective(&privileged) & sys_admin, sys_admin);
    pod.take_away();
}

pub(crate) fn paths_are_masked_and_the_root_is_read_only(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let open = pod.container("open", SLEEPING);
    let closed = pod.secured("closed", |security| {
        security.readonly_rootfs = true;
        security.masked_paths = vec!["/etc/passwd".to_owned()];
        security.readonly_paths = vec!["/tmp".to_owned()];
    });
    assert_eq!(code(kubelet, &open, "echo x > /root/file"), 0);
    assert_ne!(code(kubelet, &closed, "echo x > /root/file"), 0);
    assert_ne!(code(kubelet, &closed, "echo x > /tmp/file"), 0);
    assert_eq!(says(kubelet, &closed, "cat /etc/passwd"), "");
    assert!(!says(kubelet, &open, "cat /etc/passwd").is_empty());
    pod.take_away();
}

pub(crate) fn a_system_call_that_a_profile_forbids_fails(site: &Site) {
    let kubelet = site.kubelet();
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let scratch = site.ground().scratch();
    let file = scratch.file("no-mkdir.json", profile).unwrap();
    let pod = Pod::run(site, "web");
    let with = |name: &str, kind: cri::security_profile::ProfileType, localhost_ref: String| {
        pod.secured(name, |security| {
            security.seccomp = Some(cri::SecurityProfile {
                profile_type: kind.into(),
                localhost_ref,
            });
        })
    };
    use cri::security_profile::ProfileType;
    let own = with("own", ProfileType::Localhost, file.display().to_string());
    assert_ne!(code(kubelet, &own, "busybox mkdir /tmp/folder"), 0);
    let unconfined = with("unconfined", ProfileType::Unconfined, String::new());
    assert_eq!(code(kubelet, &unconfined, "busybox mkdir /tmp/folder"), 0);
    let modes = [(&own, "2"), (&unconfined, "0")];
    let default = with("default", ProfileType::RuntimeDefault, String::new());
    for (container, mode) in modes.into_iter().chain([(&default, "2")]) {
        let status = says(kubelet, container, "cat /proc/self/status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp:"));
        assert_eq!(line.unwrap().trim(), mode);
    }
    pod.take_away();
}
