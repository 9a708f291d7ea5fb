//! Limits, and what is used of them.

use orlop_api::runtime::v1 as cri;
use orlop_e2e::node::eventually;
use orlop_e2e::{Kubelet, Site};

use crate::support::{Pod, SLEEPING, says};

const MIB: i64 = 1 << 20;

/// The value of a file of the container's own memory group, whichever version of cgroups there is.
fn memory_limit(kubelet: &Kubelet, container: &str) -> String {
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    says(kubelet, container, script).trim().to_owned()
}

fn limits(memory: i64, shares: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_shares: shares,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..cri::LinuxContainerResources::default()
    }
}

pub(crate) fn limits_are_in_force_and_can_be_changed(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.container_with("limited", SLEEPING, |config| {
        config.linux.as_mut().unwrap().resources = Some(limits(32 * MIB, 512));
    });
    assert_eq!(memory_limit(kubelet, &container), (32 * MIB).to_string());
    let request = cri::UpdateContainerResourcesRequest {
        container_id: container.clone(),
        linux: Some(limits(48 * MIB, 256)),
        ..cri::UpdateContainerResourcesRequest::default()
    };
    kubelet
        .call(async |mut client| client.update_container_resources(request).await)
        .unwrap();
    assert_eq!(memory_limit(kubelet, &container), (48 * MIB).to_string());
    let status = kubelet.container(&container).unwrap();
    let told = status.resources.unwrap().linux.unwrap();
    assert_eq!(told.memory_limit_in_bytes, 48 * MIB);
    assert_eq!(told.cpu_shares, 256);
    pod.take_away();
}

pub(crate) fn what_is_used_is_told_of_containers_and_pods(site: &Site) {
    let kubelet = site.kubelet();
    let [one, other] = ["one", "other"].map(|name| Pod::run(site, name));
    let busy = one.container("busy", "i=0; while :; do i=$((i+1)); done");
    let idle = other.container("idle", SLEEPING);
    let container_id = busy.clone();
    let request = cri::ContainerStatsRequest { container_id };
    let stats = eventually("the busy one has used its processor", || {
        let request = request.clone();
        let answer = kubelet.call(async |mut client| client.container_stats(request).await);
        let stats = answer?.stats.unwrap_or_default();
        let used = stats
            .cpu
            .as_ref()
            .and_then(|cpu| cpu.usage_core_nano_seconds);
        Ok(used.filter(|used| used.value > 100_000_000).map(|_| stats))
    })
    .unwrap();
    assert_eq!(stats.attributes.unwrap().id, busy);
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    let listed = |filter: cri::ContainerStatsFilter| {
        let filter = Some(filter);
        let request = cri::ListContainerStatsRequest { filter };
        let answer = kubelet.call(async |mut client| client.list_container_stats(request).await);
        let stats = answer.unwrap().stats.into_iter();
        let mut ids: Vec<String> = stats.map(|one| one.attributes.unwrap().id).collect();
        ids.sort();
        ids
    };
    let mut both = vec![busy.clone(), idle.clone()];
    both.sort();
    assert_eq!(listed(cri::ContainerStatsFilter::default()), both);
    let by_pod = cri::ContainerStatsFilter {
        pod_sandbox_id: other.id.clone(),
        ..cri::ContainerStatsFilter::default()
    };
    assert_eq!(listed(by_pod), [&*idle]);
    check_pod_stats(kubelet, &one.id, &busy);
    one.take_away();
    other.take_away();
}

fn check_pod_stats(kubelet: &Kubelet, pod: &str, container: &str) {
    let pod_sandbox_id = pod.to_owned();
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id };
    let answer = kubelet.call(async |mut client| client.pod_sandbox_stats(request).await);
    let stats = answer.unwrap().stats.unwrap();
    assert_eq!(stats.attributes.unwrap().id, pod);
    let linux = stats.linux.unwrap();
    assert_eq!(
        linux.containers[0].attributes.as_ref().unwrap().id,
        container
    );
    assert_eq!(
        linux.network.unwrap().default_interface.unwrap().name,
        "eth0"
    );
    assert!(linux.memory.unwrap().working_set_bytes.unwrap().value > 0);
    let filter = Some(cri::PodSandboxStatsFilter {
        id: pod.to_owned(),
        ..cri::PodSandboxStatsFilter::default()
    });
    let request = cri::ListPodSandboxStatsRequest { filter };
    let answer = kubelet.call(async |mut client| client.list_pod_sandbox_stats(request).await);
    let listed = answer.unwrap().stats;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].attributes.as_ref().unwrap().id, pod);
}
