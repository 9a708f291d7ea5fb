//! Calls that cannot be, and what they answer.

use orlop_api::runtime::v1 as cri;
use orlop_e2e::kubelet::container_config;
use orlop_e2e::{Kind, Site};
use tonic::Code;

use crate::support::{Pod, SLEEPING};

pub(crate) fn what_is_not_there_can_be_stopped_and_removed_but_not_asked_about(site: &Site) {
    let kubelet = site.kubelet();
    let id = &"0".repeat(64);
    // containerd 1.6 knew of the rule for removal only.
    if site.kind() == Kind::Orlop {
        kubelet.stop_pod(id).unwrap();
        kubelet.stop(id, 0).unwrap();
    }
    kubelet.remove_pod(id).unwrap();
    kubelet.remove(id).unwrap();
    let (container_id, pod_sandbox_id) = (id.clone(), id.clone());
    let stats = cri::ContainerStatsRequest { container_id };
    let of_pod = cri::PodSandboxStatsRequest { pod_sandbox_id };
    let refusals = [
        kubelet.pod(id).unwrap_err(),
        kubelet.container(id).unwrap_err(),
        kubelet.start(id).unwrap_err(),
        kubelet
            .call(async |mut client| client.container_stats(stats).await)
            .unwrap_err(),
        kubelet
            .call(async |mut client| client.pod_sandbox_stats(of_pod).await)
            .unwrap_err(),
    ];
    // containerd says of some that it knows them not without the code; what matters to the kubelet are the first two.
    for refusal in &refusals[..2] {
        assert_eq!(refusal.code(), Code::NotFound, "{refusal}");
    }
}

pub(crate) fn a_name_in_use_is_refused(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let refused = kubelet.run_pod(&pod.config).unwrap_err();
    assert!(refused.message().contains(&pod.id), "{refused}");
    let container = pod.container("sleeper", SLEEPING);
    let config = container_config("sleeper", site.image(), SLEEPING);
    let refused = kubelet.create(&pod.id, &config, &pod.config).unwrap_err();
    assert!(refused.message().contains(&container), "{refused}");
    // Another attempt is another name.
    let mut next = config;
    next.metadata.as_mut().unwrap().attempt = 1;
    kubelet.create(&pod.id, &next, &pod.config).unwrap();
    kubelet.stop_pod(&pod.id).unwrap();
    let late = container_config("late", site.image(), SLEEPING);
    kubelet.create(&pod.id, &late, &pod.config).unwrap_err();
    pod.take_away();
}

pub(crate) fn what_needs_a_running_container_is_refused_without_one(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.create_with("waiting", SLEEPING, |_| {});
    kubelet.exec(&container, &["true"]).unwrap_err();
    let container_id = container.clone();
    let reopen = cri::ReopenContainerLogRequest { container_id };
    kubelet
        .call(async |mut client| client.reopen_container_log(reopen).await)
        .unwrap_err();
    let exec = cri::ExecRequest {
        container_id: container,
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..cri::ExecRequest::default()
    };
    kubelet
        .call(async |mut client| client.exec(exec).await)
        .unwrap_err();
    kubelet.stop_pod(&pod.id).unwrap();
    let forward = cri::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![80],
    };
    kubelet
        .call(async |mut client| client.port_forward(forward).await)
        .unwrap_err();
    pod.take_away();
}
