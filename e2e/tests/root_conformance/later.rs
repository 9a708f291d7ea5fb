//! Calls and fields that came after containerd 1.6, which is what Debian has.

use std::collections::BTreeSet;

use orlop_api::runtime::v1 as cri;
use orlop_api::runtime::v1::ContainerEventType;
use orlop_api::runtime::v1::NamespaceMode;
use orlop_e2e::kubelet::image_spec;
use orlop_e2e::{Kubelet, Site};
use tonic::Code;

use crate::support::{Pod, SLEEPING, code, says, wait_for_end};

const MIB: i64 = 1 << 20;

pub(crate) fn the_runtime_tells_its_version_and_readiness_and_its_cgroup_driver(site: &Site) {
    let kubelet = site.kubelet();
    let request = cri::VersionRequest::default();
    let version = kubelet.call(async |mut client| client.version(request).await);
    let version = version.unwrap();
    assert_eq!(
        (&*version.runtime_name, &*version.runtime_api_version),
        ("orlop", "v1")
    );
    let request = cri::StatusRequest { verbose: true };
    let status = kubelet.call(async |mut client| client.status(request).await);
    let status = status.unwrap();
    let conditions = status.status.unwrap().conditions;
    for name in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|one| one.r#type == name);
        assert!(condition.unwrap().status, "{conditions:?}");
    }
    let config: serde_json::Value = serde_json::from_str(&status.info["config"]).unwrap();
    assert_eq!(config["snapshotter"], "overlayfs");
    assert!(
        status
            .runtime_handlers
            .iter()
            .any(|one| one.name.is_empty())
    );
    let request = cri::RuntimeConfigRequest {};
    let config = kubelet.call(async |mut client| client.runtime_config(request).await);
    let driver = config.unwrap().linux.unwrap().cgroup_driver();
    assert_eq!(driver, cri::CgroupDriver::Cgroupfs);
    let request = cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig {
                pod_cidr: "10.213.0.0/16".to_owned(),
            }),
        }),
    };
    let updated = kubelet.call(async |mut client| client.update_runtime_config(request).await);
    updated.unwrap();
}

pub(crate) fn what_changes_is_told_as_it_changes(site: &Site) {
    let kubelet = site.kubelet();
    let other = Kubelet::new(site.ground().scratch(), site.engine().socket()).unwrap();
    let is_last = |event: &cri::ContainerEventResponse| {
        event.container_event_type() == ContainerEventType::ContainerDeletedEvent
            && event.pod_sandbox_status.is_none()
    };
    let (started, begun) = std::sync::mpsc::channel();
    let follower =
        std::thread::spawn(move || other.follow(async || started.send(()).unwrap(), is_last));
    begun.recv().unwrap();
    let pod = Pod::run(site, "web");
    let container = pod.container("brief", "exit 3");
    wait_for_end(kubelet, &container);
    let pod_id = pod.id.clone();
    pod.take_away();
    let events = follower.join().unwrap().unwrap();
    use ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
        ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
    };
    let of = |id: &str| -> Vec<ContainerEventType> {
        let its = events.iter().filter(|event| event.container_id == id);
        its.map(cri::ContainerEventResponse::container_event_type)
            .collect()
    };
    assert_eq!(of(&container), [Created, Started, Stopped, Deleted]);
    assert_eq!(of(&pod_id), [Created, Started, Stopped, Deleted]);
    let stopped = events
        .iter()
        .find(|event| event.container_id == container && event.container_event_type() == Stopped);
    let statuses = &stopped.unwrap().containers_statuses;
    assert_eq!(statuses[0].exit_code, 3, "{statuses:?}");
}

pub(crate) fn lists_in_pieces_say_what_lists_say(site: &Site) {
    let kubelet = site.kubelet();
    let pods = ["one", "two"].map(|name| Pod::run(site, name));
    for pod in &pods {
        pod.container("sleeper", SLEEPING);
    }
    let request = cri::StreamPodSandboxesRequest::default();
    let streamed = kubelet.collect(async |mut client| client.stream_pod_sandboxes(request).await);
    let streamed = streamed.unwrap().into_iter();
    let streamed: Vec<_> = streamed.flat_map(|piece| piece.pod_sandboxes).collect();
    assert_eq!(streamed, kubelet.pods(None).unwrap());
    let request = cri::StreamContainersRequest::default();
    let streamed = kubelet.collect(async |mut client| client.stream_containers(request).await);
    let streamed = streamed.unwrap().into_iter();
    let streamed: Vec<_> = streamed.flat_map(|piece| piece.containers).collect();
    assert_eq!(streamed, kubelet.containers(None).unwrap());
    assert_eq!(stats_streamed(kubelet), 2);
    assert_eq!(images_streamed(kubelet), 1);
    let ids: BTreeSet<&str> = pods.iter().map(|pod| &*pod.id).collect();
    let request = cri::StreamPodSandboxStatsRequest::default();
    let streamed =
        kubelet.collect(async |mut client| client.stream_pod_sandbox_stats(request).await);
    let streamed = streamed.unwrap().into_iter();
    let streamed: Vec<_> = streamed.flat_map(|piece| piece.pod_sandbox_stats).collect();
    let of = streamed
        .iter()
        .map(|one| &*one.attributes.as_ref().unwrap().id);
    assert_eq!(of.collect::<BTreeSet<_>>(), ids);
    let request = cri::StreamPodSandboxMetricsRequest {};
    let streamed =
        kubelet.collect(async |mut client| client.stream_pod_sandbox_metrics(request).await);
    let streamed = streamed.unwrap().into_iter();
    let streamed: Vec<_> = streamed
        .flat_map(|piece| piece.pod_sandbox_metrics)
        .collect();
    let of = streamed.iter().map(|one| &*one.pod_sandbox_id);
    assert_eq!(of.collect::<BTreeSet<_>>(), ids);
    for pod in pods {
        pod.take_away();
    }
}

fn stats_streamed(kubelet: &Kubelet) -> usize {
    let request = cri::StreamContainerStatsRequest::default();
    let streamed = kubelet.collect(async |mut client| client.stream_container_stats(request).await);
    let streamed = streamed.unwrap().into_iter();
    streamed.flat_map(|piece| piece.container_stats).count()
}

fn images_streamed(kubelet: &Kubelet) -> usize {
    let request = cri::StreamImagesRequest::default();
    let streamed = kubelet.collect_images(async |mut client| client.stream_images(request).await);
    streamed
        .unwrap()
        .into_iter()
        .flat_map(|piece| piece.images)
        .count()
}

pub(crate) fn every_metric_of_a_pod_is_described(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    pod.container("sleeper", SLEEPING);
    let request = cri::ListMetricDescriptorsRequest {};
    let described = kubelet.call(async |mut client| client.list_metric_descriptors(request).await);
    let described = described.unwrap().descriptors;
    let request = cri::ListPodSandboxMetricsRequest {};
    let told = kubelet.call(async |mut client| client.list_pod_sandbox_metrics(request).await);
    let told = told.unwrap().pod_metrics;
    assert_eq!(told.len(), 1);
    let of_containers = told[0].container_metrics.iter();
    let metrics = of_containers
        .flat_map(|one| &one.metrics)
        .chain(&told[0].metrics);
    let mut names = BTreeSet::new();
    for metric in metrics {
        let descriptor = described.iter().find(|one| one.name == metric.name);
        let keys = descriptor.unwrap().label_keys.len();
        assert_eq!(metric.label_values.len(), keys, "{metric:?}");
        names.insert(&*metric.name);
    }
    for name in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_network_receive_bytes_total",
        "container_oom_events_total",
    ] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    pod.take_away();
}

pub(crate) fn a_pods_resources_are_kept_with_it(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let resources = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 * MIB,
        ..cri::LinuxContainerResources::default()
    };
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: None,
        resources: Some(resources),
    };
    let mut unknown = request.clone();
    unknown.pod_sandbox_id = "0".repeat(64);
    let updated =
        kubelet.call(async |mut client| client.update_pod_sandbox_resources(request).await);
    updated.unwrap();
    let refused =
        kubelet.call(async |mut client| client.update_pod_sandbox_resources(unknown).await);
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    pod.take_away();
}

pub(crate) fn a_container_that_cannot_be_checkpointed_says_why(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.container("sleeper", SLEEPING);
    let request = cri::CheckpointContainerRequest {
        container_id: container.clone(),
        location: "/var/tmp/no-checkpoint.tar".to_owned(),
        timeout: 5,
    };
    let refused = kubelet.call(async |mut client| client.checkpoint_container(request).await);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("criu"), "{refused}");
    assert!(!std::path::Path::new("/var/tmp/no-checkpoint.tar").exists());
    assert_eq!(code(kubelet, &container, "true"), 0);
    pod.take_away();
}

pub(crate) fn a_user_namespace_maps_the_containers_superuser_away(site: &Site) {
    let kubelet = site.kubelet();
    let range = || {
        vec![cri::IdMapping {
            host_id: 700_000,
            container_id: 0,
            length: 65_536,
        }]
    };
    let options = cri::NamespaceOption {
        userns_options: Some(cri::UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: range(),
            gids: range(),
        }),
        ..cri::NamespaceOption::default()
    };
    let pod = Pod::run_with(site, "mapped", |config| {
        let linux = config.linux.as_mut().unwrap();
        linux.security_context = Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..cri::LinuxSandboxSecurityContext::default()
        });
    });
    let container = pod.secured("mapped", |security| {
        security.namespace_options = Some(options.clone());
    });
    let map = says(kubelet, &container, "cat /proc/self/uid_map");
    let numbers: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(numbers, ["0", "700000", "65536"]);
    assert_eq!(says(kubelet, &container, "id -u"), "0\n");
    assert_eq!(code(kubelet, &container, "echo x > /root/file"), 0);
    pod.take_away();
}

pub(crate) fn an_image_is_mounted_in_a_container(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.container_with("reader", SLEEPING, |config| {
        config.mounts = vec![cri::Mount {
            container_path: "/volume".to_owned(),
            image: Some(image_spec(site.image())),
            image_sub_path: "etc".to_owned(),
            readonly: true,
            ..cri::Mount::default()
        }];
    });
    let passwd = says(kubelet, &container, "cat /volume/passwd");
    assert!(passwd.starts_with("root:"), "{passwd}");
    assert_ne!(code(kubelet, &container, "echo x > /volume/new"), 0);
    pod.take_away();
}
