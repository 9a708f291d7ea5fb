//! Pods as the kubelet has them, through CRI, with real parts: what a whole life looks like, what is refused, and that
//! nothing is left of either.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use anyhow::{Result, ensure};
use orlop_api::runtime::v1 as cri;
use orlop_api::runtime::v1::{ContainerState, NamespaceMode, PodSandboxState};
use orlop_e2e::kubelet::{container_config, image_spec};
use orlop_e2e::node::eventually;
use orlop_e2e::{Kubelet, Node};
use tonic::{Code, Status};

/// A script that writes a line ten times a second, and ends when it is asked.
const COUNTING: &str =
    "trap 'exit 3' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done";

const SLEEPING: &str = "while :; do sleep 1; done";

const MEMORY_BYTES: i64 = 16 << 20;

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

/// As the kubelet takes a pod away.
fn remove_pod(kubelet: &Kubelet, pod: &str) {
    kubelet.stop_pod(pod).unwrap();
    kubelet.remove_pod(pod).unwrap();
}

fn wait_for_end(kubelet: &Kubelet, container: &str) -> cri::ContainerStatus {
    eventually(&format!("{container} has ended"), || {
        let status = kubelet.container(container)?;
        Ok((status.state() == ContainerState::ContainerExited).then_some(status))
    })
    .unwrap()
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

#[test]
fn a_container_over_its_memory_limit_is_told_as_killed_for_it_also_if_nobody_watched() {
    let (mut node, kubelet) = start();
    let config = kubelet.pod_config("hungry");
    let pod = kubelet.run_pod(&config).unwrap();
    let eat = "sleep 1; x=a; while :; do x=$x$x$x; done";
    let mut hungry = container_config("hungry", node.image(), eat);
    hungry.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: MEMORY_BYTES,
        ..cri::LinuxContainerResources::default()
    });
    for (attempt, is_watched) in [(0, true), (1, false)] {
        hungry.metadata.as_mut().unwrap().attempt = attempt;
        let container = kubelet.run(&pod, &hungry, &config).unwrap();
        if !is_watched {
            node.kill_daemon().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2500));
            node.start_daemon().unwrap();
        }
        let ended = wait_for_end(&kubelet, &container);
        assert_eq!(
            (ended.exit_code, &*ended.reason),
            (137, "OOMKilled"),
            "watched: {is_watched}: {ended:?}"
        );
    }
    remove_pod(&kubelet, &pod);
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
    remove_pod(&kubelet, &pod);
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
    remove_pod(&kubelet, &pod);
    close(node, &kubelet);
}

#[test]
fn a_name_that_is_taken_is_refused_with_the_id_of_who_has_it() {
    let (node, kubelet) = start();
    let config = kubelet.pod_config("web");
    let pod = kubelet.run_pod(&config).unwrap();
    let refused = kubelet.run_pod(&config).unwrap_err();
    check_refusal("the same pod", &refused, Code::AlreadyExists, &pod);
    let sleeper = container_config("sleeper", node.image(), SLEEPING);
    let container = kubelet.create(&pod, &sleeper, &config).unwrap();
    let refused = kubelet.create(&pod, &sleeper, &config).unwrap_err();
    check_refusal(
        "the same container",
        &refused,
        Code::AlreadyExists,
        &container,
    );
    // One that was never started goes with its pod.
    remove_pod(&kubelet, &pod);
    let again = kubelet.run_pod(&config).unwrap();
    assert_ne!(again, pod);
    remove_pod(&kubelet, &again);
    close(node, &kubelet);
}

#[test]
fn what_is_not_there_can_be_stopped_and_removed_but_not_asked_about() {
    let (node, kubelet) = start();
    for id in [&"0".repeat(64), "no-such-thing"] {
        kubelet.stop_pod(id).unwrap();
        kubelet.remove_pod(id).unwrap();
        kubelet.stop(id, 0).unwrap();
        kubelet.remove(id).unwrap();
        let refusals = [
            kubelet.pod(id).unwrap_err(),
            kubelet.container(id).unwrap_err(),
            kubelet.start(id).unwrap_err(),
            kubelet.exec(id, &["true"]).unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!(refusal.code(), Code::NotFound, "{id}: {refusal}");
        }
    }
    close(node, &kubelet);
}

/// Changes a good configuration into one that cannot be.
type Spoil<T> = fn(&mut T);

#[test]
fn a_pod_that_cannot_be_is_refused_and_leaves_nothing() {
    let (node, kubelet) = start();
    let table: [(&str, Spoil<cri::PodSandboxConfig>); 10] = [
        ("no metadata", |pod| pod.metadata = None),
        ("no name", |pod| {
            pod.metadata.as_mut().unwrap().name.clear();
        }),
        ("a name like a path", |pod| {
            pod.metadata.as_mut().unwrap().name = "../../etc".to_owned();
        }),
        ("a namespace like a path", |pod| {
            pod.metadata.as_mut().unwrap().namespace = "a/b".to_owned();
        }),
        ("a hostname like a path", |pod| {
            pod.hostname = "../host".to_owned();
        }),
        ("a hostname that is too long", |pod| {
            pod.hostname = "h".repeat(65);
        }),
        ("logs that climb", |pod| {
            pod.log_directory = "/var/log/../../etc".to_owned();
        }),
        ("logs at a relative path", |pod| {
            pod.log_directory = "logs".to_owned();
        }),
        ("a megabyte of annotations", |pod| {
            let value = "v".repeat(1 << 20);
            pod.annotations.insert("large".to_owned(), value);
        }),
        ("a sysctl of the host", |pod| {
            let sysctls = &mut pod.linux.as_mut().unwrap().sysctls;
            sysctls.insert("kernel.panic".to_owned(), "1".to_owned());
        }),
    ];
    let before = node.leftovers().unwrap();
    for (what, spoil) in table {
        let mut config = kubelet.pod_config("bad");
        spoil(&mut config);
        let refused = kubelet.run_pod(&config).unwrap_err();
        check_refusal(what, &refused, Code::InvalidArgument, "");
        assert_eq!(node.leftovers().unwrap(), before, "{what}");
        assert!(pods(&kubelet).is_empty(), "{what}");
    }
    let request = cri::RunPodSandboxRequest {
        config: Some(kubelet.pod_config("bad")),
        runtime_handler: "no-such-handler".to_owned(),
    };
    let refused = kubelet.call(async |mut client| client.run_pod_sandbox(request).await);
    check_refusal(
        "handler",
        &refused.unwrap_err(),
        Code::InvalidArgument,
        "no-such-handler",
    );
    assert_eq!(node.leftovers().unwrap(), before);
    close(node, &kubelet);
}

#[test]
fn a_container_that_cannot_be_is_refused_and_leaves_nothing() {
    let (node, kubelet) = start();
    let pod_config = kubelet.pod_config("web");
    let pod = kubelet.run_pod(&pod_config).unwrap();
    let table: [(&str, Code, Spoil<cri::ContainerConfig>); 9] = [
        ("no metadata", Code::InvalidArgument, |container| {
            container.metadata = None;
        }),
        ("no name", Code::InvalidArgument, |container| {
            container.metadata.as_mut().unwrap().name.clear();
        }),
        ("no image", Code::InvalidArgument, |container| {
            container.image = None;
        }),
        ("an image that is not here", Code::NotFound, |container| {
            container.image = Some(image_spec("localhost/not/here:1"));
        }),
        ("a log that climbs", Code::InvalidArgument, |container| {
            container.log_path = "../../escape.log".to_owned();
        }),
        ("a mount of nothing", Code::InvalidArgument, |container| {
            container.mounts = vec![cri::Mount::default()];
        }),
        ("a device of nothing", Code::InvalidArgument, |container| {
            container.devices = vec![cri::Device::default()];
        }),
        ("a group alone", Code::InvalidArgument, |container| {
            let linux = container.linux.as_mut().unwrap();
            linux.security_context = Some(cri::LinuxContainerSecurityContext {
                run_as_group: Some(cri::Int64Value { value: 7 }),
                ..cri::LinuxContainerSecurityContext::default()
            });
        }),
        ("an image volume's way out", Code::Unknown, |container| {
            let image = container.image.clone();
            container.mounts = vec![cri::Mount {
                container_path: "/volume".to_owned(),
                image,
                image_sub_path: "../..".to_owned(),
                readonly: true,
                ..cri::Mount::default()
            }];
        }),
    ];
    let before = node.leftovers().unwrap();
    for (what, code, spoil) in table {
        let mut config = container_config("bad", node.image(), SLEEPING);
        spoil(&mut config);
        let refused = kubelet.create(&pod, &config, &pod_config).unwrap_err();
        // Of image volumes the kubelet reads the word only.
        let code = Some(code).filter(|code| *code != Code::Unknown);
        check_refusal(what, &refused, code.unwrap_or(refused.code()), "");
        assert_eq!(node.leftovers().unwrap(), before, "{what}");
        assert!(containers(&kubelet).is_empty(), "{what}");
    }
    assert!(!node.scratch().path().join("escape.log").exists());
    remove_pod(&kubelet, &pod);
    close(node, &kubelet);
}

#[test]
fn a_network_that_fails_leaves_nothing_and_the_pod_comes_up_once_it_is_mended() {
    let (node, kubelet) = start();
    let networks = node.scratch().path().join("net.d/10-e2e.conflist");
    let sound = std::fs::read_to_string(&networks).unwrap();
    let put = |text: &str| -> Result<()> {
        let file = node.scratch().file("next.conflist", text)?;
        Ok(std::fs::rename(file, &networks)?)
    };
    let one = r#""rangeStart": "10.213.77.9", "rangeEnd": "10.213.77.9", "subnet""#;
    let config = kubelet.pod_config("web");
    let before = node.leftovers().unwrap();
    for broken in [
        "{\"no json".to_owned(),
        sound.replace("\"bridge\", \"bridge\"", "\"no-such-plugin\", \"bridge\""),
    ] {
        put(&broken).unwrap();
        let refused = kubelet.run_pod(&config).unwrap_err();
        assert!(refused.message().contains("ORL-E"), "{refused}");
        assert_eq!(node.leftovers().unwrap(), before, "{refused}");
        assert!(pods(&kubelet).is_empty(), "{refused}");
    }
    put(&sound.replace("\"subnet\"", one)).unwrap();
    let pod = kubelet.run_pod(&config).unwrap();
    let second = kubelet.pod_config("second");
    let refused = kubelet.run_pod(&second).unwrap_err();
    assert!(refused.message().contains("ORL-E"), "{refused}");
    remove_pod(&kubelet, &pod);
    put(&sound).unwrap();
    let pod = kubelet.run_pod(&second).unwrap();
    remove_pod(&kubelet, &pod);
    close(node, &kubelet);
}

#[test]
fn a_log_folder_that_is_gone_does_not_keep_a_container_from_its_end() {
    let (node, kubelet) = start();
    let config = kubelet.pod_config("web");
    let pod = kubelet.run_pod(&config).unwrap();
    let container = container_config("counter", node.image(), COUNTING);
    let container = kubelet.run(&pod, &container, &config).unwrap();
    let logs = kubelet.log_folder("web");
    std::fs::rename(&logs, logs.with_extension("away")).unwrap();
    let request = cri::ReopenContainerLogRequest {
        container_id: container.clone(),
    };
    let reopened = kubelet.call(async |mut client| client.reopen_container_log(request).await);
    // Made anew or refused: both are well, a container that hangs is not.
    if let Err(refused) = reopened {
        assert!(refused.message().contains("ORL-E"), "{refused}");
    }
    let listed = kubelet.exec(&container, &["echo", "here"]).unwrap();
    assert_eq!(output(listed), "here\n");
    remove_pod(&kubelet, &pod);
    close(node, &kubelet);
}

fn pods(kubelet: &Kubelet) -> Vec<cri::PodSandbox> {
    let request = cri::ListPodSandboxRequest::default();
    let answer = kubelet.call(async |mut client| client.list_pod_sandbox(request).await);
    answer.unwrap().items
}

fn containers(kubelet: &Kubelet) -> Vec<cri::Container> {
    let request = cri::ListContainersRequest::default();
    let answer = kubelet.call(async |mut client| client.list_containers(request).await);
    answer.unwrap().containers
}

/// The code, an id to look up, and what the message has to name.
fn check_refusal(what: &str, refused: &Status, code: Code, named: &str) {
    let check = || -> Result<()> {
        ensure!(refused.code() == code, "another code than {code:?}");
        ensure!(refused.message().contains("ORL-E"), "no error id");
        ensure!(refused.message().contains(named), "{named} is not named");
        Ok(())
    };
    check().unwrap_or_else(|error| panic!("{what}: {error}: {refused}"));
}
