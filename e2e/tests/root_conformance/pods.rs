//! Pods: their states, their lists, what they give their containers.

use orlop_api::runtime::v1 as cri;
use orlop_api::runtime::v1::PodSandboxState;
use orlop_e2e::Site;
use tonic::Code;

use crate::support::{Pod, SLEEPING, labels, says};

pub(crate) fn a_pod_is_ready_until_it_is_stopped_and_there_until_it_is_removed(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run_with(site, "web", |config| {
        config.labels = labels("tier", "front");
        config.annotations = labels("note", "any text / at all");
    });
    let status = kubelet.pod(&pod.id).unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, pod.config.metadata);
    assert_eq!(status.labels, pod.config.labels);
    assert_eq!(status.annotations, pod.config.annotations);
    assert!(status.created_at > 0);
    assert!(status.network.unwrap().ip.starts_with("10.213.77."));
    let verbose = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: true,
    };
    kubelet
        .call(async |mut client| client.pod_sandbox_status(verbose).await)
        .unwrap();
    let container = pod.container("sleeper", SLEEPING);
    for _ in 0..2 {
        kubelet.stop_pod(&pod.id).unwrap();
        let stopped = kubelet.pod(&pod.id).unwrap();
        assert_eq!(stopped.state(), PodSandboxState::SandboxNotready);
    }
    let ended = kubelet.container(&container).unwrap();
    assert_eq!(ended.state(), cri::ContainerState::ContainerExited);
    for _ in 0..2 {
        kubelet.remove_pod(&pod.id).unwrap();
        assert_eq!(kubelet.pod(&pod.id).unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(
        kubelet.container(&container).unwrap_err().code(),
        Code::NotFound,
        "a pod takes its containers with it"
    );
}

pub(crate) fn pods_are_found_by_id_state_and_labels(site: &Site) {
    let kubelet = site.kubelet();
    let [one, two] = ["one", "two"]
        .map(|name| Pod::run_with(site, name, |config| config.labels = labels("name", name)));
    kubelet.stop_pod(&two.id).unwrap();
    let found = |filter: cri::PodSandboxFilter| {
        let pods = kubelet.pods(Some(filter)).unwrap();
        let mut ids: Vec<String> = pods.into_iter().map(|pod| pod.id).collect();
        ids.sort();
        ids
    };
    let in_state = |state: PodSandboxState| cri::PodSandboxFilter {
        state: Some(cri::PodSandboxStateValue {
            state: state.into(),
        }),
        ..cri::PodSandboxFilter::default()
    };
    let mut both = vec![one.id.clone(), two.id.clone()];
    both.sort();
    assert_eq!(found(cri::PodSandboxFilter::default()), both);
    assert_eq!(found(in_state(PodSandboxState::SandboxReady)), [&*one.id]);
    assert_eq!(
        found(in_state(PodSandboxState::SandboxNotready)),
        [&*two.id]
    );
    let by_label = cri::PodSandboxFilter {
        label_selector: labels("name", "two"),
        ..cri::PodSandboxFilter::default()
    };
    assert_eq!(found(by_label), [&*two.id]);
    // As people type ids: the beginning is enough.
    for id in [&*one.id, &one.id[..12]] {
        let by_id = cri::PodSandboxFilter {
            id: id.to_owned(),
            ..cri::PodSandboxFilter::default()
        };
        assert_eq!(found(by_id), [&*one.id]);
        assert_eq!(kubelet.pod(id).unwrap().id, one.id);
    }
    one.take_away();
    two.take_away();
    assert!(kubelet.pods(None).unwrap().is_empty());
}

pub(crate) fn a_pod_has_the_names_and_servers_it_asked_for(site: &Site) {
    let pod = Pod::run_with(site, "named", |config| {
        config.hostname = "some-host".to_owned();
        config.dns_config = Some(cri::DnsConfig {
            servers: vec!["192.0.2.53".to_owned()],
            searches: vec!["one.example".to_owned(), "two.example".to_owned()],
            options: vec!["ndots:5".to_owned()],
        });
        let linux = config.linux.as_mut().unwrap();
        linux.sysctls = labels("net.ipv4.ip_local_port_range", "4000\t4100");
    });
    let container = pod.container("sleeper", SLEEPING);
    let says = |script: &str| says(site.kubelet(), &container, script);
    assert_eq!(says("uname -n"), "some-host\n");
    assert_eq!(says("cat /etc/hostname"), "some-host\n");
    let resolv = says("cat /etc/resolv.conf");
    let lines: Vec<&str> = resolv.lines().collect();
    for line in [
        "nameserver 192.0.2.53",
        "search one.example two.example",
        "options ndots:5",
    ] {
        assert!(lines.contains(&line), "{line}: {resolv}");
    }
    let range = says("cat /proc/sys/net/ipv4/ip_local_port_range");
    assert_eq!(range, "4000\t4100\n");
    assert!(says("ls /sys/class/net").contains("eth0"));
    pod.take_away();
}
