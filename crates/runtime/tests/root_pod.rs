//! Pods on the real kernel, with the distribution's network plugins.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test drives programs, writes into its own folder, and may panic"
)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use orlop_runtime::ErrorKind;
use orlop_runtime::pod::{
    DnsConfig, FindingKind, Pod, PodConfig, PodPhase, PodProbe, PodStep, PortMapping, PortProtocol,
    ProcessNamespace,
};
use orlop_sys::namespace;
use support::{Life, Node, config, eventually, names, namespace as kubernetes, output};

fn text(path: Option<&Path>) -> String {
    std::fs::read_to_string(path.unwrap()).unwrap()
}

/// What a file of the kernel says inside a namespace.
fn inside(path: Option<&Path>, file: &'static str) -> String {
    let read = || std::fs::read_to_string(file).unwrap();
    namespace::within(path.unwrap(), read)
        .unwrap()
        .trim()
        .to_owned()
}

fn check_namespaces(pod: &Pod) {
    let places = &pod.places;
    let network = places.network.as_deref();
    let (ipc, uts) = (places.ipc.as_deref(), places.uts.as_deref());
    for (place, file, value) in [
        (uts, "/proc/sys/kernel/hostname", "web"),
        (ipc, "/proc/sys/kernel/shm_rmid_forced", "1"),
        (network, "/proc/sys/net/ipv4/ip_forward", "1"),
        (network, "/proc/sys/net/ipv4/conf/eth0/forwarding", "0"),
        (
            network,
            "/proc/sys/net/ipv4/ip_unprivileged_port_start",
            "0",
        ),
        (
            network,
            "/proc/sys/net/ipv4/ping_group_range",
            "0\t2147483647",
        ),
    ] {
        assert_eq!(inside(place, file), value, "{file}");
    }
    let name = network.unwrap().file_name().unwrap().to_str().unwrap();
    let shown = output("ip", &["netns", "exec", name, "ip", "addr"]);
    assert!(shown.contains("LOOPBACK,UP"), "{shown}");
    assert!(shown.contains(&pod.addresses[0].to_string()), "{shown}");
}

fn check_files(pod: &Pod) {
    let places = &pod.places;
    let resolv_conf = text(places.resolv_conf.as_deref());
    assert_eq!(resolv_conf, "nameserver 10.10.10.10\n");
    assert_eq!(text(places.hostname.as_deref()), "web\n");
    let hosts = text(Some(Path::new("/etc/hosts")));
    assert_eq!(text(places.hosts.as_deref()), hosts);
    let shm = std::fs::metadata(places.shm.as_ref().unwrap()).unwrap();
    assert_eq!(shm.permissions().mode() & 0o7777, 0o1777);
}

fn check_first_process(pod: &Pod, init: u32) {
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{init}/{file}")).unwrap();
    let link = |file: &str| std::fs::read_link(format!("/proc/{init}/{file}")).unwrap();
    let status = of("status");
    assert!(status.contains("Name:\torlop-pod"), "{status}");
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Threads:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let pids = status
        .lines()
        .find(|line| line.starts_with("NSpid:"))
        .unwrap();
    assert!(pids.ends_with("\t1"), "{pids}");
    assert!(
        link("exe")
            .to_string_lossy()
            .starts_with("/memfd:orlop-pod")
    );
    assert!(of("mountinfo").lines().count() == 1, "{}", of("mountinfo"));
    assert!(
        of("cgroup").contains(&format!("pod{}/{}", pod.id, pod.id)),
        "{}",
        of("cgroup")
    );
    for (kind, pinned) in [
        ("net", &pod.places.network),
        ("ipc", &pod.places.ipc),
        ("uts", &pod.places.uts),
    ] {
        let own = std::fs::metadata(format!("/proc/{init}/ns/{kind}")).unwrap();
        assert_eq!(
            own.ino(),
            std::fs::metadata(pinned.as_ref().unwrap()).unwrap().ino(),
            "{kind}"
        );
    }
}

async fn stop(life: &Life, id: &orlop_types::SandboxId) {
    life.runtime.stop_pod(&kubernetes(), id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_what_was_asked_for_and_goes_without_a_trace() {
    let node = Node::new(1);
    let life = node.begin();
    let own_network = std::fs::read_link("/proc/self/ns/net").unwrap();
    let mut asked = config("web");
    asked.dns = Some(DnsConfig {
        servers: vec!["10.10.10.10".to_owned()],
        ..DnsConfig::default()
    });
    for (name, value) in [
        ("kernel.shm_rmid_forced", "1"),
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.eth0.forwarding", "0"),
    ] {
        asked.sysctls.insert(name.to_owned(), value.to_owned());
    }
    let id = life.run(asked).await;
    let pod = life.pod(&id).await;
    assert!(pod.is_ready());
    assert_eq!(pod.transitions.len(), 3);
    check_namespaces(&pod);
    check_files(&pod);
    assert_eq!(
        std::fs::read_link("/proc/self/ns/net").unwrap(),
        own_network
    );
    let holds = |kind: &str| node.traces().iter().any(|trace| trace.starts_with(kind));
    assert!(
        ["mount", "address", "link", "attachment"]
            .iter()
            .all(|kind| holds(kind))
    );

    stop(&life, &id).await;
    stop(&life, &id).await;
    let stopped = life.pod(&id).await;
    assert_eq!(stopped.phase, PodPhase::NotReady);
    assert!(
        !["mount", "address", "link", "attachment", "rule", "netns"]
            .iter()
            .any(|kind| holds(kind)),
        "{:?}",
        node.traces()
    );
    life.remove(&id).await;
    assert!(node.traces().is_empty(), "{:?}", node.traces());
    let error = life
        .runtime
        .remove_pod(&kubernetes(), &id)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_port_leads_into_the_pod_until_it_is_stopped() {
    let node = Node::new(2);
    let life = node.begin();
    let mut asked = config("ported");
    asked.ports = vec![PortMapping {
        protocol: PortProtocol::Tcp,
        container_port: 80,
        host_port: 28_080,
        host_ip: None,
    }];
    let id = life.run(asked).await;
    let pod = life.pod(&id).await;
    let network = pod.places.network.clone().unwrap();
    let listener = namespace::within(&network, || std::net::TcpListener::bind("0.0.0.0:80"));
    let listener = listener.unwrap().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        caller.write_all(b"from the pod").unwrap();
    });
    let gateway = "10.232.2.1:28080".to_owned();
    let mut stream = TcpStream::connect(&gateway).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    answering.join().unwrap();
    assert_eq!(said, "from the pod");
    life.remove(&id).await;
    assert!(node.traces().is_empty(), "{:?}", node.traces());
    let refused = TcpStream::connect_timeout(&gateway.parse().unwrap(), Duration::from_secs(2));
    assert!(refused.is_err(), "the port is still open");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_the_host_makes_nothing_of_its_own() {
    let node = Node::new(3);
    let life = node.begin();
    let mut asked = config("hosted");
    asked.namespaces.host_network = true;
    asked.namespaces.host_ipc = true;
    let id = life.run(asked).await;
    let pod = life.pod(&id).await;
    assert!(pod.addresses.is_empty());
    assert_eq!(pod.places.shm.as_deref(), Some(Path::new("/dev/shm")));
    assert!(pod.places.network.is_none() && pod.places.uts.is_none());
    let own = text(Some(Path::new("/proc/sys/kernel/hostname")));
    assert_eq!(text(pod.places.hostname.as_deref()), own);
    let traces = node.traces();
    assert!(
        traces.iter().all(|trace| trace.starts_with("folder")),
        "{traces:?}"
    );
    life.remove(&id).await;
    assert!(Path::new("/dev/shm").exists());
    assert!(node.traces().is_empty(), "{:?}", node.traces());
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_namespace_has_a_first_process_that_nobody_can_use() {
    let node = Node::new(4);
    let life = node.begin();
    let mut asked = config("together");
    asked.namespaces.processes = ProcessNamespace::Pod;
    let id = life.run(asked).await;
    let pod = life.pod(&id).await;
    let init = pod.init.unwrap().pid;
    check_first_process(&pod, init);
    // A process that joins and leaves an orphan behind: the first process reaps it.
    let pinned = pod.places.processes.clone().unwrap();
    let joined = format!(
        "nsenter --pid={} sh -c 'sleep 0.2 & exit'",
        pinned.display()
    );
    assert!(
        Command::new("sh")
            .arg("-c")
            .arg(joined)
            .status()
            .unwrap()
            .success()
    );
    let children = format!("/proc/{init}/task/{init}/children");
    eventually("the orphan is reaped", async || {
        std::fs::read_to_string(&children)
            .unwrap()
            .trim()
            .is_empty()
    })
    .await;
    life.remove(&id).await;
    // One that has ended has no network namespace, even before its parent knows.
    let network = std::fs::read_link(format!("/proc/{init}/ns/net"));
    assert!(network.is_err(), "{network:?}");
    assert!(node.traces().is_empty(), "{:?}", node.traces());
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_first_process_is_killed_is_not_ready_and_says_so() {
    let node = Node::new(5);
    let life = node.begin();
    let mut asked = config("killed");
    asked.namespaces.processes = ProcessNamespace::Pod;
    let id = life.run(asked).await;
    let init = life.pod(&id).await.init.unwrap().pid;
    assert!(
        Command::new("kill")
            .args(["-9", &init.to_string()])
            .status()
            .unwrap()
            .success()
    );
    eventually("the pod is not ready", async || {
        life.pod(&id).await.phase == PodPhase::NotReady
    })
    .await;
    let pod = life.pod(&id).await;
    assert!(pod.reason.unwrap().contains(&init.to_string()));
    let traces = node.traces();
    assert!(
        traces.iter().all(|trace| trace.starts_with("folder")),
        "{traces:?}"
    );
    assert!(life.runtime.hold_pod(&kubernetes(), &id).await.is_err());
    life.remove(&id).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_leaves_nothing_and_is_named() {
    let node = Node::new(6);
    let life = node.begin();
    let mut bad_sysctl = config("sysctl");
    bad_sysctl
        .sysctls
        .insert("net.no.such".to_owned(), "1".to_owned());
    let error = life
        .runtime
        .run_pod(&kubernetes(), bad_sysctl)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(orlop_types::chain(&error).contains("net/no/such"));
    let refused = |name: &str| {
        let mut asked = config("refused");
        asked.sysctls.insert(name.to_owned(), "1".to_owned());
        asked
    };
    let error = life
        .runtime
        .run_pod(&kubernetes(), refused("kernel.panic"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "ORL-E6504");
    // The chain's last plugin is missing: what the first one did is undone.
    let list = std::fs::read_to_string(node.folder().join("net.d/10-test.conflist")).unwrap();
    node.write(
        "net.d/10-test.conflist",
        &list.replace("\"portmap\"", "\"absent\""),
    );
    let error = life
        .runtime
        .run_pod(&kubernetes(), config("plugin"))
        .await
        .unwrap_err();
    assert!(orlop_types::chain(&error).contains("absent"), "{error}");
    node.write("net.d/10-test.conflist", "{");
    let error = life
        .runtime
        .run_pod(&kubernetes(), config("json"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "ORL-E6203");
    assert_eq!(
        life.runtime.network_status().await.unwrap_err().code(),
        "ORL-E6203"
    );
    assert!(life.pods().await.is_empty());
    let left: Vec<_> = node
        .traces()
        .into_iter()
        .filter(|trace| !trace.starts_with("attachment"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_pod_wait_for_each_other_and_no_other_pod_waits() {
    let node = Node::new(7);
    let life = node.begin();
    let list = std::fs::read_to_string(node.folder().join("net.d/10-test.conflist")).unwrap();
    // A plugin that takes its time for one of the pods.
    std::fs::create_dir(node.folder().join("bin")).unwrap();
    let slow = "#!/bin/sh\ncase \"$CNI_ARGS\" in *K8S_POD_NAME=slow\\;*) [ \"$CNI_COMMAND\" = ADD ] && sleep 3;; esac\nexec /usr/lib/cni/portmap\n";
    node.write("bin/slow", slow);
    std::fs::set_permissions(
        node.folder().join("bin/slow"),
        PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    node.write(
        "net.d/10-test.conflist",
        &list.replace("\"portmap\"", "\"slow\""),
    );
    let runtime = life.runtime.clone();
    let first =
        tokio::task::spawn(async move { runtime.run_pod(&kubernetes(), config("slow")).await });
    eventually("the first call is attaching", async || {
        let pods = life.pods().await;
        pods.iter()
            .any(|pod| pod.phase == PodPhase::Creating(PodStep::Network))
    })
    .await;
    let error = life
        .runtime
        .run_pod(&kubernetes(), config("slow"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(
        error.to_string().contains("attaching the network"),
        "{error}"
    );
    let other = life.run(config("quick")).await;
    assert!(!first.is_finished(), "the other pod waited");
    // A caller that goes away stops nothing, and a removal waits for what is under way.
    let id = life
        .pods()
        .await
        .into_iter()
        .find(|pod| pod.config.name == "slow")
        .unwrap()
        .id;
    first.abort();
    life.remove(&id).await;
    life.remove(&other).await;
    assert!(node.traces().is_empty(), "{:?}", node.traces());
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_inherits_name_servers_follows_the_host_in_place() {
    let node = Node::new(8);
    let life = node.begin();
    life.runtime.recover().await.unwrap();
    let id = life.run(config("heir")).await;
    let path = life.pod(&id).await.places.resolv_conf.unwrap();
    let before = std::fs::metadata(&path).unwrap().ino();
    assert_eq!(
        text(Some(&path)),
        "nameserver 10.0.0.53\nsearch one.example\n"
    );
    node.write("resolv.conf", "nameserver 127.0.0.53\n");
    node.write("upstream", "nameserver 10.9.9.9\n");
    eventually("the file has changed", async || {
        text(Some(&path)) == "nameserver 10.9.9.9\n"
    })
    .await;
    assert_eq!(
        std::fs::metadata(&path).unwrap().ino(),
        before,
        "containers keep the old file"
    );
    life.remove(&id).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_pods_are_not_ready_and_their_addresses_are_free() {
    let node = Node::new(9);
    let life = node.begin();
    let (one, two) = (life.run(config("one")).await, life.run(config("two")).await);
    life.end().await;
    // What a reboot takes: namespaces and mounts, with what was in them.
    let lost = node.traces();
    for trace in lost.iter().filter_map(|trace| trace.strip_prefix("mount ")) {
        assert!(
            Command::new("umount")
                .args(["-l", trace])
                .stderr(Stdio::null())
                .status()
                .is_ok()
        );
    }
    for id in [&one, &two] {
        let path = format!("/run/netns/orlop-{id}");
        assert!(
            Command::new("umount")
                .args(["-l", &path])
                .status()
                .unwrap()
                .success()
        );
        std::fs::remove_file(path).unwrap();
    }
    node.forget_rules();
    // An attachment of nobody, as a crash of another time may have left it.
    let orphan = format!("pods-{}-eth0", "f".repeat(64));
    let kept = names(&node.folder().join("cni/results")).pop().unwrap();
    let text = std::fs::read_to_string(node.folder().join("cni/results").join(&kept)).unwrap();
    let id = kept.split('-').nth(1).unwrap();
    node.write(
        &format!("cni/results/{orphan}"),
        &text.replace(id, &"f".repeat(64)),
    );

    let life = node.begin();
    life.runtime.recover().await.unwrap();
    eventually("both are not ready", async || {
        life.pods()
            .await
            .iter()
            .all(|pod| pod.phase == PodPhase::NotReady)
    })
    .await;
    let reason = life.pod(&one).await.reason.unwrap();
    assert!(reason.contains("reboot"), "{reason}");
    eventually("nothing but folders is left", async || {
        node.traces()
            .iter()
            .all(|trace| trace.starts_with("folder"))
    })
    .await;
    life.remove(&one).await;
    life.remove(&two).await;
    // The names are free again.
    let again = life.run(config("one")).await;
    life.remove(&again).await;
    assert!(node.traces().is_empty(), "{:?}", node.traces());
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_are_kept_with_a_ready_pod() {
    let node = Node::new(10);
    let life = node.begin();
    let mut asked: PodConfig = config("sized");
    asked.namespaces.host_network = true;
    let id = life.run(asked).await;
    let resources = orlop_runtime::pod::PodResources {
        memory_limit_bytes: 64 << 20,
        ..Default::default()
    };
    let changes = (None, Some(resources.clone()));
    life.runtime
        .update_pod_resources(&kubernetes(), &id, changes.clone())
        .await
        .unwrap();
    assert_eq!(life.pod(&id).await.config.resources, Some(resources));
    assert!(
        life.pod(&id)
            .await
            .cgroup()
            .ends_with(format!("k8s.io/pod{id}"))
    );
    stop(&life, &id).await;
    let error = life
        .runtime
        .update_pod_resources(&kubernetes(), &id, changes)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    life.remove(&id).await;
    life.end().await;
}

/// The fault of the latest finding of a kind, once there is one.
fn found(life: &Life, kind: FindingKind) -> Option<Option<String>> {
    let findings = life.runtime.network_findings().into_iter();
    let mut findings = findings.filter(|(_, _, finding)| finding.kind == kind);
    findings.next().map(|(_, _, finding)| finding.fault)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_was_changed_meanwhile_is_found_at_the_next_start_and_only_told() {
    let node = Node::new(11);
    let life = node.begin();
    let id = life.run(config("checked")).await;
    life.end().await;
    let life = node.begin();
    life.runtime.recover().await.unwrap();
    eventually("it was asked for", async || {
        found(&life, FindingKind::Check) == Some(None)
    })
    .await;
    life.end().await;
    let namespace = format!("orlop-{id}");
    let change = ["netns", "exec", &namespace, "ip", "route", "del", "default"];
    assert!(Command::new("ip").args(change).status().unwrap().success());
    let life = node.begin();
    life.runtime.recover().await.unwrap();
    eventually("it was found", async || {
        found(&life, FindingKind::Check).flatten().is_some()
    })
    .await;
    assert_eq!(life.pod(&id).await.phase, PodPhase::Ready);
    life.remove(&id).await;
    assert!(life.runtime.network_findings().is_empty());
    assert!(node.traces().is_empty(), "{:?}", node.traces());
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_tried_from_inside_its_pod_and_only_told_of() {
    let node = Node::new(12);
    node.write("resolv.conf", "nameserver 10.232.12.1\n");
    let life = node.begin();
    let id = life.run(config("probed")).await;
    // The bridge's own address is there from the first pod on.
    let listener = TcpListener::bind("10.232.12.1:0").unwrap();
    let names = UdpSocket::bind("10.232.12.1:53").unwrap();
    std::thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, client)) = names.recv_from(&mut message) {
            // An answer without any records: the name is known.
            message[2] |= 0x80;
            names.send_to(&message[..length], client).unwrap();
        }
    });
    life.end().await;
    *node.probe.borrow_mut() = PodProbe {
        interval: Duration::from_millis(100),
        names: vec!["db.example".to_owned()],
        targets: vec![listener.local_addr().unwrap()],
    };
    let life = node.begin();
    life.runtime.recover().await.unwrap();
    eventually("all of it works", async || {
        found(&life, FindingKind::Probe) == Some(None)
    })
    .await;
    drop(listener);
    eventually("nobody listens any more", async || {
        let fault = found(&life, FindingKind::Probe).flatten();
        fault.is_some_and(|fault| fault.contains("refused"))
    })
    .await;
    eventually("an event tells of it", async || {
        let page = life.db.events_since(0, 1000).unwrap();
        let mut events = page.events.iter();
        events.any(|event| event.event.topic() == "/orlop/pods/network")
    })
    .await;
    assert_eq!(life.pod(&id).await.phase, PodPhase::Ready);
    life.remove(&id).await;
    assert!(node.traces().is_empty(), "{:?}", node.traces());
    life.end().await;
}
