//! Pods as the kubelet has them, through CRI, with real parts: what a whole life looks like, and that nothing is left of
//! it. What is refused is in `root_refusals`, how pods end in `root_ends`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use orlop_api::runtime::v1 as cri;
use orlop_api::runtime::v1::{ContainerState, NamespaceMode, PodSandboxState};
use orlop_e2e::kubelet::{container_config, image_spec};
use orlop_e2e::node::eventually;
use orlop_e2e::{Kubelet, Node};
use tonic::Code;

/// A script that writes a line ten times a second, and ends when it is asked.
const COUNTING: &str =
    "trap 'exit 3' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done";

const SLEEPING: &str = "while :; do sleep 1; done";

/// A node whose kubelet has pulled the image.
fn start() -> (Node, Kubelet) {
    let node = Node::start().unwrap();
    let socket = node.engine().unwrap().socket().to_owned();
    let kubelet = Kubelet::new(node.scratch(), &socket).unwrap();
    kubelet.pull(node.image()).unwrap();
    (node, kubelet)
}

/// Ends everything; nothing may be left.
fn close(node: Node, kubelet: &Kubelet) {
    eventually("nothing of the pods is left", || {
        Ok(kubelet.leftovers().is_empty().then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", kubelet.leftovers()));
    node.close().unwrap();
}

fn log_lines(path: &str) -> Vec<String> {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    log.lines().map(ToOwned::to_owned).collect()
}

fn output(answer: cri::ExecSyncResponse) -> String {
    assert_eq!(answer.exit_code, 0, "{answer:?}");
    String::from_utf8(answer.stdout).unwrap()
}

fn memory_bytes(stats: &cri::ContainerStats) -> u64 {
    let memory = stats.memory.as_ref().unwrap();
    memory.working_set_bytes.unwrap().value
}

fn container_stats(kubelet: &Kubelet, container: &str) -> cri::ContainerStats {
    let container_id = container.to_owned();
    let request = cri::ContainerStatsRequest { container_id };
    let answer = kubelet.call(async |mut client| client.container_stats(request).await);
    answer.unwrap().stats.unwrap()
}

fn pod_stats(kubelet: &Kubelet, pod: &str) -> cri::LinuxPodSandboxStats {
    let pod_sandbox_id = pod.to_owned();
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id };
    let answer = kubelet.call(async |mut client| client.pod_sandbox_stats(request).await);
    answer.unwrap().stats.unwrap().linux.unwrap()
}

#[test]
fn a_pod_of_two_containers_goes_on_through_a_kill_of_the_daemon_and_leaves_nothing() {
    let (mut node, kubelet) = start();
    let config = kubelet.pod_config("web");
    let pod = kubelet.run_pod(&config).unwrap();
    let counter = container_config("counter", node.image(), COUNTING);
    let counter = kubelet.run(&pod, &counter, &config).unwrap();
    let sleeper = container_config("sleeper", node.image(), SLEEPING);
    let sleeper = kubelet.run(&pod, &sleeper, &config).unwrap();
    let before = running_pod(&kubelet, &pod, &counter);

    node.kill_daemon().unwrap();
    let lines = log_lines(&before.log_path).len();
    eventually("the log goes on without the daemon", || {
        Ok((log_lines(&before.log_path).len() > lines).then_some(()))
    })
    .unwrap();
    node.start_daemon().unwrap();
    assert_eq!(running_pod(&kubelet, &pod, &counter), before);
    let other = kubelet.container(&sleeper).unwrap();
    assert_eq!(other.state(), ContainerState::ContainerRunning);

    kubelet.stop(&counter, 10).unwrap();
    let ended = kubelet.container(&counter).unwrap();
    assert_eq!(ended.state(), ContainerState::ContainerExited);
    assert_eq!((ended.exit_code, &*ended.reason), (3, "Error"), "{ended:?}");
    assert!(ended.finished_at >= ended.started_at, "{ended:?}");
    kubelet.stop(&sleeper, 0).unwrap();
    assert_eq!(kubelet.container(&sleeper).unwrap().exit_code, 137);
    kubelet.remove(&counter).unwrap();
    kubelet.stop_pod(&pod).unwrap();
    let stopped = kubelet.pod(&pod).unwrap();
    assert_eq!(stopped.state(), PodSandboxState::SandboxNotready);
    kubelet.remove_pod(&pod).unwrap();
    assert_eq!(kubelet.pod(&pod).unwrap_err().code(), Code::NotFound);
    let gone = kubelet.container(&sleeper).unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    close(node, &kubelet);
}

/// What has to hold of the pod while it runs; gives the counter's status.
fn running_pod(kubelet: &Kubelet, pod: &str, counter: &str) -> cri::ContainerStatus {
    let status = kubelet.pod(pod).unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert!(status.network.unwrap().ip.starts_with("10.213.77."));
    let status = kubelet.container(counter).unwrap();
    assert_eq!(
        status.state(),
        ContainerState::ContainerRunning,
        "{status:?}"
    );
    let host_name = kubelet.exec(counter, &["uname", "-n"]).unwrap();
    assert_eq!(output(host_name), "web\n");
    let failing = kubelet.exec(counter, &["sh", "-c", "echo no >&2; exit 7"]);
    let failing = failing.unwrap();
    assert_eq!((failing.exit_code, &*failing.stderr), (7, &b"no\n"[..]));
    let first = eventually("there is a log", || {
        Ok(log_lines(&status.log_path).into_iter().next())
    });
    let first = first.unwrap();
    let words: Vec<&str> = first.splitn(4, ' ').collect();
    assert_eq!(words[1..], ["stdout", "F", "line 0"], "{first}");
    assert!(memory_bytes(&container_stats(kubelet, counter)) > 0);
    let stats = pod_stats(kubelet, pod);
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    assert_eq!(stats.containers.len(), 2);
    assert_eq!(
        stats.network.unwrap().default_interface.unwrap().name,
        "eth0"
    );
    status
}

/// What the kubelet's evented PLEG lives on (KEP-3386).
#[test]
fn events_and_a_pods_status_carry_the_states_of_its_containers() {
    let (node, kubelet) = start();
    let config = kubelet.pod_config("evented");
    let pod = kubelet.run_pod(&config).unwrap();
    let sleeper = container_config("sleeper", node.image(), SLEEPING);
    let create = cri::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(sleeper),
        sandbox_config: Some(config.clone()),
    };
    let started = kubelet.call(async |mut client| {
        let events = client
            .get_container_events(cri::GetEventsRequest {})
            .await?;
        let mut events = events.into_inner();
        let made = client.create_container(create).await?.into_inner();
        let container_id = made.container_id;
        let start = cri::StartContainerRequest {
            container_id: container_id.clone(),
        };
        client.start_container(start).await?;
        loop {
            let event = events.message().await?;
            let event = event.ok_or_else(|| tonic::Status::internal("the events ended"))?;
            let kind = event.container_event_type();
            if kind == cri::ContainerEventType::ContainerStartedEvent {
                return Ok(tonic::Response::new(event));
            }
        }
    });
    let event = started.unwrap();
    let told = event.pod_sandbox_status.unwrap();
    assert_eq!(
        (told.id.as_str(), told.state()),
        (pod.as_str(), PodSandboxState::SandboxReady)
    );
    assert_eq!(event.containers_statuses.len(), 1);
    let status = &event.containers_statuses[0];
    assert_eq!(status.id, event.container_id);
    assert_eq!(status.state(), ContainerState::ContainerRunning);

    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: false,
    };
    let answer = kubelet.call(async |mut client| client.pod_sandbox_status(request).await);
    let answer = answer.unwrap();
    assert_eq!(answer.containers_statuses, event.containers_statuses);
    assert!(answer.timestamp >= event.created_at, "{answer:?}");
    assert_eq!(answer.status, Some(told));
    kubelet.stop_pod(&pod).unwrap();
    kubelet.remove_pod(&pod).unwrap();
    close(node, &kubelet);
}

#[test]
fn a_pod_in_the_hosts_network_has_the_hosts_and_no_address() {
    let (node, kubelet) = start();
    let mut config = kubelet.pod_config("host");
    config.hostname = String::new();
    let namespaces = cri::NamespaceOption {
        network: NamespaceMode::Node.into(),
        ..cri::NamespaceOption::default()
    };
    config.linux.as_mut().unwrap().security_context = Some(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces.clone()),
        ..cri::LinuxSandboxSecurityContext::default()
    });
    let pod = kubelet.run_pod(&config).unwrap();
    let mut inside = container_config("inside", node.image(), SLEEPING);
    inside.linux.as_mut().unwrap().security_context = Some(cri::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces),
        ..cri::LinuxContainerSecurityContext::default()
    });
    let inside = kubelet.run(&pod, &inside, &config).unwrap();
    let shown = output(kubelet.exec(&inside, &["ls", "/sys/class/net"]).unwrap());
    let links = std::fs::read_dir("/sys/class/net").unwrap();
    for link in links.flatten() {
        let name = link.file_name().into_string().unwrap();
        assert!(shown.lines().any(|line| line == name), "{name}: {shown}");
    }
    let network = kubelet.pod(&pod).unwrap().network.unwrap_or_default();
    assert_eq!(network.ip, "", "the kubelet knows the host's itself");
    kubelet.take_away(&pod).unwrap();
    close(node, &kubelet);
}

#[test]
fn an_image_that_is_removed_stays_with_the_containers_that_run_from_it() {
    let (node, kubelet) = start();
    let config = kubelet.pod_config("web");
    let pod = kubelet.run_pod(&config).unwrap();
    let sleeper = container_config("sleeper", node.image(), SLEEPING);
    let container = kubelet.run(&pod, &sleeper, &config).unwrap();
    let request = cri::RemoveImageRequest {
        image: Some(image_spec(node.image())),
    };
    for _ in 0..2 {
        let request = request.clone();
        let removed = kubelet.call_images(async |mut client| client.remove_image(request).await);
        removed.unwrap();
    }
    node.caller()
        .orlop(&["gc", "run"])
        .unwrap()
        .success()
        .unwrap();
    let listed = kubelet.exec(&container, &["ls", "/bin/busybox"]).unwrap();
    assert_eq!(output(listed), "/bin/busybox\n");
    let mut second = sleeper;
    second.metadata.as_mut().unwrap().name = "second".to_owned();
    let refused = kubelet.create(&pod, &second, &config).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    kubelet.pull(node.image()).unwrap();
    kubelet.run(&pod, &second, &config).unwrap();
    kubelet.take_away(&pod).unwrap();
    close(node, &kubelet);
}
