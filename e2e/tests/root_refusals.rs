//! What cannot be is refused with a code and an id to look up, and leaves everything as it was: mounts, network
//! namespaces, links, addresses, cgroups, processes, files and rows of the database are compared.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use anyhow::{Result, ensure};
use orlop_api::runtime::v1 as cri;
use orlop_api::runtime::v1::{ContainerState, NamespaceMode};
use orlop_e2e::dead_volume::DeadVolume;
use orlop_e2e::kubelet::{container_config, image_spec};
use orlop_e2e::node::eventually;
use orlop_e2e::traces::Traces;
use orlop_e2e::{Kubelet, Node};
use tonic::Code::{
    AlreadyExists, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, NotFound,
};
use tonic::{Code, Status};

const SLEEPING: &str = "while :; do sleep 1; done";

/// Steps that hang are given up soon.
const SETTINGS: [&str; 1] = ["runtime.step_timeout=3s"];

/// Changes a good configuration into one that cannot be.
type Spoil<T> = fn(&mut T);

/// What is wrong, the code, the error's id, how to make it wrong.
type Row<T> = (&'static str, Code, &'static str, Spoil<T>);

/// A node whose kubelet has pulled the image and had a pod, so that bridge and folders are there.
struct Scene {
    // First: it takes the pods of a test that failed away, and needs the daemon for that.
    kubelet: Kubelet,
    node: Node,
    before: Traces,
}

impl Scene {
    fn new() -> Self {
        let node = Node::start_with(&SETTINGS).unwrap();
        let socket = node.engine().unwrap().socket().to_owned();
        let kubelet = Kubelet::new(node.scratch(), &socket).unwrap();
        let before = Traces::of_used(&node, &kubelet).unwrap();
        Self {
            node,
            kubelet,
            before,
        }
    }

    /// The node as it is from now on is what everything is compared with.
    fn mark(&mut self) {
        self.before = Traces::of_collected(&self.node).unwrap();
    }

    /// Checks an answer, and that nothing has changed.
    fn refused<T>(&self, what: &str, answer: Result<T, Status>, code: Code, id: &str) -> Status {
        let Err(refused) = answer else {
            panic!("{what}: it was not refused");
        };
        let check = || -> Result<()> {
            ensure!(refused.code() == code, "another code than {code:?}");
            ensure!(refused.message().contains(&format!("({id})")), "not {id}");
            self.before.settle(&self.node)
        };
        check().unwrap_or_else(|error| panic!("{what}: {error:#}: {refused}"));
        refused
    }

    fn container(&self, name: &str) -> cri::ContainerConfig {
        container_config(name, self.node.image(), SLEEPING)
    }

    /// Ends everything; nothing may be left.
    fn close(self) {
        let Self { node, kubelet, .. } = self;
        eventually("nothing of the pods is left", || {
            Ok(kubelet.leftovers().is_empty().then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", kubelet.leftovers()));
        node.close().unwrap();
    }
}

fn security(pod: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    let linux = pod.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

fn options(pod: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    security(pod).namespace_options.get_or_insert_default()
}

const BAD_PODS: [Row<cri::PodSandboxConfig>; 19] = [
    ("no metadata", InvalidArgument, "ORL-E7001", |pod| {
        pod.metadata = None;
    }),
    ("no name", InvalidArgument, "ORL-E6504", |pod| {
        pod.metadata.as_mut().unwrap().name.clear();
    }),
    ("a name like a path", InvalidArgument, "ORL-E6504", |pod| {
        pod.metadata.as_mut().unwrap().name = "../../etc".to_owned();
    }),
    (
        "a namespace like a path",
        InvalidArgument,
        "ORL-E6504",
        |pod| {
            pod.metadata.as_mut().unwrap().namespace = "a/b".to_owned();
        },
    ),
    ("a uid like a path", InvalidArgument, "ORL-E6504", |pod| {
        pod.metadata.as_mut().unwrap().uid = "..".to_owned();
    }),
    (
        "a hostname like a path",
        InvalidArgument,
        "ORL-E6504",
        |pod| {
            pod.hostname = "../host".to_owned();
        },
    ),
    (
        "a hostname that is too long",
        InvalidArgument,
        "ORL-E6504",
        |pod| {
            pod.hostname = "h".repeat(65);
        },
    ),
    ("logs that climb", InvalidArgument, "ORL-E6504", |pod| {
        pod.log_directory = "/var/log/../../etc".to_owned();
    }),
    (
        "logs at a relative path",
        InvalidArgument,
        "ORL-E6504",
        |pod| {
            pod.log_directory = "logs".to_owned();
        },
    ),
    (
        "a cgroup that climbs",
        InvalidArgument,
        "ORL-E6504",
        |pod| {
            pod.linux.as_mut().unwrap().cgroup_parent = "/a/../../b".to_owned();
        },
    ),
    (
        "a megabyte of annotations",
        InvalidArgument,
        "ORL-E6504",
        |pod| {
            let value = "v".repeat(1 << 20);
            pod.annotations.insert("large".to_owned(), value);
        },
    ),
    (
        "a server of two lines",
        InvalidArgument,
        "ORL-E6504",
        |pod| {
            pod.dns_config = Some(cri::DnsConfig {
                servers: vec!["192.0.2.1\nsearch evil".to_owned()],
                ..cri::DnsConfig::default()
            });
        },
    ),
    (
        "a sysctl of the host",
        InvalidArgument,
        "ORL-E6504",
        |pod| {
            let sysctls = &mut pod.linux.as_mut().unwrap().sysctls;
            sysctls.insert("kernel.panic".to_owned(), "1".to_owned());
        },
    ),
    (
        "a sysctl the kernel does not have",
        InvalidArgument,
        "ORL-E6301",
        |pod| {
            let sysctls = &mut pod.linux.as_mut().unwrap().sysctls;
            sysctls.insert("net.ipv4.no_such_thing".to_owned(), "1".to_owned());
        },
    ),
    (
        "a sysctl's value the kernel refuses",
        InvalidArgument,
        "ORL-E6301",
        |pod| {
            let sysctls = &mut pod.linux.as_mut().unwrap().sysctls;
            sysctls.insert("net.ipv4.ip_forward".to_owned(), "perhaps".to_owned());
        },
    ),
    (
        "a port beyond all ports",
        InvalidArgument,
        "ORL-E7001",
        |pod| {
            pod.port_mappings = vec![cri::PortMapping {
                container_port: 80,
                host_port: 70_000,
                ..cri::PortMapping::default()
            }];
        },
    ),
    (
        "a network of a container",
        InvalidArgument,
        "ORL-E7001",
        |pod| {
            options(pod).network = NamespaceMode::Container.into();
        },
    ),
    (
        "processes of a container that is not there yet",
        InvalidArgument,
        "ORL-E7001",
        |pod| {
            options(pod).pid = NamespaceMode::Target.into();
        },
    ),
    (
        "the host's network in a user namespace",
        InvalidArgument,
        "ORL-E6504",
        |pod| {
            let range = || {
                vec![cri::IdMapping {
                    host_id: 700_000,
                    container_id: 0,
                    length: 1000,
                }]
            };
            options(pod).network = NamespaceMode::Node.into();
            options(pod).userns_options = Some(cri::UserNamespace {
                mode: NamespaceMode::Pod.into(),
                uids: range(),
                gids: range(),
            });
        },
    ),
];

#[test]
fn a_pod_that_cannot_be_is_refused_and_leaves_nothing() {
    let scene = Scene::new();
    let kubelet = &scene.kubelet;
    for (what, code, id, spoil) in BAD_PODS {
        let mut config = kubelet.pod_config("bad");
        spoil(&mut config);
        scene.refused(what, kubelet.run_pod(&config), code, id);
        assert!(kubelet.pods(None).unwrap().is_empty(), "{what}");
    }
    let request = cri::RunPodSandboxRequest {
        config: Some(kubelet.pod_config("bad")),
        runtime_handler: "no-such-handler".to_owned(),
    };
    let answer = kubelet.call(async |mut client| client.run_pod_sandbox(request).await);
    let refused = scene.refused("handler", answer, InvalidArgument, "ORL-E6006");
    assert!(refused.message().contains("no-such-handler"), "{refused}");
    let request = cri::RunPodSandboxRequest::default();
    let answer = kubelet.call(async |mut client| client.run_pod_sandbox(request).await);
    scene.refused("nothing at all", answer, InvalidArgument, "ORL-E7001");
    scene.close();
}

fn secured(container: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    let linux = container.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

fn mounted(container: &mut cri::ContainerConfig, mount: cri::Mount) {
    container.mounts.push(mount);
}

const BAD_CONTAINERS: [Row<cri::ContainerConfig>; 25] = [
    ("no metadata", InvalidArgument, "ORL-E7001", |container| {
        container.metadata = None;
    }),
    ("no name", InvalidArgument, "ORL-E6604", |container| {
        container.metadata.as_mut().unwrap().name.clear();
    }),
    (
        "a name like a path",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            container.metadata.as_mut().unwrap().name = "../../etc".to_owned();
        },
    ),
    ("no image", InvalidArgument, "ORL-E7001", |container| {
        container.image = None;
    }),
    (
        "an image without a name",
        InvalidArgument,
        "ORL-E7001",
        |container| {
            container.image = Some(image_spec(""));
        },
    ),
    (
        "an image that is not here",
        NotFound,
        "ORL-E7004",
        |container| {
            container.image = Some(image_spec("localhost/not/here:1"));
        },
    ),
    (
        "a log that climbs",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            container.log_path = "../../escape.log".to_owned();
        },
    ),
    (
        "a log elsewhere",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            container.log_path = "/etc/escape.log".to_owned();
        },
    ),
    (
        "a megabyte of annotations",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            let value = "v".repeat(1 << 20);
            container.annotations.insert("large".to_owned(), value);
        },
    ),
    (
        "a mount of nothing",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            mounted(container, cri::Mount::default());
        },
    ),
    (
        "a mount of a relative path",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            mounted(
                container,
                cri::Mount {
                    container_path: "/data".to_owned(),
                    host_path: "some/folder".to_owned(),
                    ..cri::Mount::default()
                },
            );
        },
    ),
    (
        "read-only all the way down but writable",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            mounted(
                container,
                cri::Mount {
                    container_path: "/data".to_owned(),
                    host_path: "/tmp".to_owned(),
                    recursive_read_only: true,
                    ..cri::Mount::default()
                },
            );
        },
    ),
    (
        "a device of nothing",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            container.devices = vec![cri::Device::default()];
        },
    ),
    (
        "a device that is not there",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            container.devices = vec![cri::Device {
                container_path: "/dev/none".to_owned(),
                host_path: "/dev/no-such-device".to_owned(),
                permissions: "rw".to_owned(),
            }];
        },
    ),
    ("a group alone", InvalidArgument, "ORL-E6604", |container| {
        secured(container).run_as_group = Some(cri::Int64Value { value: 7 });
    }),
    ("a user twice", InvalidArgument, "ORL-E7001", |container| {
        secured(container).run_as_user = Some(cri::Int64Value { value: 7 });
        secured(container).run_as_username = "root".to_owned();
    }),
    (
        "a user nobody knows",
        InvalidArgument,
        "ORL-E6005",
        |container| {
            secured(container).run_as_username = "no-such-user".to_owned();
        },
    ),
    (
        "privileges beyond the pod's",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            secured(container).privileged = true;
        },
    ),
    (
        "the host's processes beyond the pod's",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            secured(container).namespace_options = Some(cri::NamespaceOption {
                pid: NamespaceMode::Node.into(),
                ..cri::NamespaceOption::default()
            });
        },
    ),
    (
        "processes of a container that is not there",
        NotFound,
        "ORL-E6601",
        |container| {
            secured(container).namespace_options = Some(cri::NamespaceOption {
                pid: NamespaceMode::Target.into(),
                target_id: "0".repeat(64),
                ..cri::NamespaceOption::default()
            });
        },
    ),
    (
        "a profile that is not there",
        InvalidArgument,
        "ORL-E6608",
        |container| {
            secured(container).seccomp = Some(cri::SecurityProfile {
                profile_type: cri::security_profile::ProfileType::Localhost.into(),
                localhost_ref: "/no/such/profile.json".to_owned(),
            });
        },
    ),
    (
        "a default profile with a path",
        InvalidArgument,
        "ORL-E7001",
        |container| {
            secured(container).seccomp = Some(cri::SecurityProfile {
                profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
                localhost_ref: "/a/profile.json".to_owned(),
            });
        },
    ),
    (
        "a capability nobody knows",
        InvalidArgument,
        "ORL-E6604",
        |container| {
            secured(container).capabilities = Some(cri::Capability {
                add_capabilities: vec!["NO_SUCH".to_owned()],
                ..cri::Capability::default()
            });
        },
    ),
    (
        "an image volume's way out",
        InvalidArgument,
        "ORL-E6613",
        |container| {
            let image = container.image.clone();
            mounted(container, image_volume(image, "../.."));
        },
    ),
    (
        "a CDI device nobody describes",
        FailedPrecondition,
        "ORL-E6612",
        |container| {
            container.cdi_devices = vec![cri::CdiDevice {
                name: "example.com/device=none".to_owned(),
            }];
        },
    ),
];

fn image_volume(image: Option<cri::ImageSpec>, image_sub_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: "/volume".to_owned(),
        image,
        image_sub_path: image_sub_path.to_owned(),
        readonly: true,
        ..cri::Mount::default()
    }
}

#[test]
fn a_container_that_cannot_be_is_refused_and_leaves_nothing() {
    let mut scene = Scene::new();
    let pod_config = scene.kubelet.pod_config("web");
    let pod = scene.kubelet.run_pod(&pod_config).unwrap();
    // The pod's folder of volumes stays with it from the first one on.
    let mut sound = scene.container("sound");
    let volume = image_volume(sound.image.clone(), "");
    sound.mounts.push(volume);
    let sound = scene.kubelet.create(&pod, &sound, &pod_config).unwrap();
    scene.kubelet.remove(&sound).unwrap();
    scene.mark();
    let kubelet = &scene.kubelet;
    for (what, code, id, spoil) in BAD_CONTAINERS {
        let mut config = scene.container("bad");
        spoil(&mut config);
        scene.refused(what, kubelet.create(&pod, &config, &pod_config), code, id);
        assert!(kubelet.containers(None).unwrap().is_empty(), "{what}");
    }
    let config = scene.container("bad");
    for (what, pod, code, id) in [
        ("no pod", "", InvalidArgument, "ORL-E7001"),
        ("a pod like a path", "../web", InvalidArgument, "ORL-E7001"),
        ("another pod", &"0".repeat(64), NotFound, "ORL-E6501"),
    ] {
        scene.refused(what, kubelet.create(pod, &config, &pod_config), code, id);
    }
    assert!(!scene.node.scratch().path().join("escape.log").exists());
    assert!(!Path::new("/etc/escape.log").exists());
    kubelet.take_away(&pod).unwrap();
    scene.close();
}

#[test]
fn a_name_that_is_taken_is_refused_with_the_id_of_who_has_it() {
    let mut scene = Scene::new();
    let config = scene.kubelet.pod_config("web");
    let pod = scene.kubelet.run_pod(&config).unwrap();
    let sleeper = scene.container("sleeper");
    let container = scene.kubelet.create(&pod, &sleeper, &config).unwrap();
    scene.mark();
    let kubelet = &scene.kubelet;
    let refused = scene.refused("pod", kubelet.run_pod(&config), AlreadyExists, "ORL-E6502");
    assert!(refused.message().contains(&pod), "{refused}");
    let again = kubelet.create(&pod, &sleeper, &config);
    let refused = scene.refused("container", again, AlreadyExists, "ORL-E6602");
    assert!(refused.message().contains(&container), "{refused}");
    // One that was never started goes with its pod.
    kubelet.take_away(&pod).unwrap();
    let again = kubelet.run_pod(&config).unwrap();
    assert_ne!(again, pod);
    kubelet.take_away(&again).unwrap();
    scene.close();
}

/// A call with an id.
type Call = fn(&Kubelet, String) -> Result<(), Status>;

/// Makes a request of its only field and calls.
macro_rules! with_id {
    ($method:ident, $request:ident { $field:ident }) => {
        (stringify!($method), |kubelet: &Kubelet, id: String| {
            let request = cri::$request {
                $field: id,
                ..Default::default()
            };
            kubelet
                .call(async |mut client| client.$method(request).await)
                .map(drop)
        })
    };
}

#[allow(
    clippy::needless_update,
    reason = "some of these requests have one field only"
)]
const QUESTIONS: [(&str, Call); 13] = [
    with_id!(
        pod_sandbox_status,
        PodSandboxStatusRequest { pod_sandbox_id }
    ),
    with_id!(container_status, ContainerStatusRequest { container_id }),
    with_id!(start_container, StartContainerRequest { container_id }),
    with_id!(exec_sync, ExecSyncRequest { container_id }),
    with_id!(exec, ExecRequest { container_id }),
    with_id!(attach, AttachRequest { container_id }),
    with_id!(port_forward, PortForwardRequest { pod_sandbox_id }),
    with_id!(container_stats, ContainerStatsRequest { container_id }),
    with_id!(pod_sandbox_stats, PodSandboxStatsRequest { pod_sandbox_id }),
    with_id!(
        reopen_container_log,
        ReopenContainerLogRequest { container_id }
    ),
    with_id!(
        checkpoint_container,
        CheckpointContainerRequest { container_id }
    ),
    with_id!(
        update_container_resources,
        UpdateContainerResourcesRequest { container_id }
    ),
    with_id!(
        update_pod_sandbox_resources,
        UpdatePodSandboxResourcesRequest { pod_sandbox_id }
    ),
];

#[allow(
    clippy::needless_update,
    reason = "some of these requests have one field only"
)]
const ENDS: [(&str, Call); 4] = [
    with_id!(stop_pod_sandbox, StopPodSandboxRequest { pod_sandbox_id }),
    with_id!(
        remove_pod_sandbox,
        RemovePodSandboxRequest { pod_sandbox_id }
    ),
    with_id!(stop_container, StopContainerRequest { container_id }),
    with_id!(remove_container, RemoveContainerRequest { container_id }),
];

#[test]
fn an_id_that_is_none_is_refused_by_every_call() {
    let scene = Scene::new();
    let kubelet = &scene.kubelet;
    let long = "a".repeat(10_000);
    for id in [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "a b",
        "a\nb",
        "a\0b",
        &long,
    ] {
        for (name, call) in QUESTIONS.iter().chain(&ENDS) {
            let what = format!("{name} {:?}", &id[..id.len().min(20)]);
            let answer = call(kubelet, id.to_owned());
            let Err(refused) = answer else {
                panic!("{what}: it was not refused");
            };
            assert_eq!(refused.code(), InvalidArgument, "{what}: {refused}");
            assert!(refused.message().contains("ORL-E"), "{what}: {refused}");
        }
    }
    for id in ["no-such-thing", &"0".repeat(64)] {
        for (name, call) in QUESTIONS {
            let refused = call(kubelet, id.to_owned()).unwrap_err();
            assert!(
                [NotFound, InvalidArgument].contains(&refused.code()),
                "{name} {id}: {refused}"
            );
            assert!(
                refused.message().contains("ORL-E"),
                "{name} {id}: {refused}"
            );
        }
        for (name, call) in ENDS {
            call(kubelet, id.to_owned()).unwrap_or_else(|error| panic!("{name} {id}: {error}"));
        }
    }
    scene.before.settle(&scene.node).unwrap();
    scene.close();
}

#[test]
fn an_image_that_cannot_be_is_refused() {
    let scene = Scene::new();
    let kubelet = &scene.kubelet;
    let host = scene.node.registry().host();
    for (image, code) in [
        (String::new(), InvalidArgument),
        ("../../etc/passwd".to_owned(), InvalidArgument),
        (format!("{host}/UPPER/case"), InvalidArgument),
        (format!("{host}/no/such:1"), NotFound),
        (format!("{host}/e2e/small:no-such-tag"), NotFound),
    ] {
        let refused = kubelet.pull(&image).unwrap_err();
        assert_eq!(refused.code(), code, "{image}: {refused}");
        assert!(refused.message().contains("ORL-E"), "{image}: {refused}");
        scene.before.settle(&scene.node).unwrap();
    }
    scene.close();
}

#[test]
fn a_network_that_fails_leaves_nothing_and_the_pod_comes_up_once_it_is_mended() {
    let scene = Scene::new();
    let (node, kubelet) = (&scene.node, &scene.kubelet);
    let networks = node.scratch().path().join("net.d/10-e2e.conflist");
    let sound = std::fs::read_to_string(&networks).unwrap();
    let put = |text: &str| {
        let file = node.scratch().file("next.conflist", text).unwrap();
        std::fs::rename(file, &networks).unwrap();
    };
    let with = |from: &str, to: &str| sound.replace(from, to);
    let config = kubelet.pod_config("web");
    for (what, text, code, id) in [
        ("no JSON", "{\"no json".to_owned(), Internal, "ORL-E6203"),
        (
            "no plugins",
            "{\"cniVersion\": \"1.0.0\", \"name\": \"n\"}".to_owned(),
            Internal,
            "ORL-E6203",
        ),
        (
            "a missing plugin",
            with("\"bridge\", \"bridge\"", "\"no-such-plugin\", \"bridge\""),
            Internal,
            "ORL-E6204",
        ),
    ] {
        put(&text);
        scene.refused(what, kubelet.run_pod(&config), code, id);
        assert!(kubelet.pods(None).unwrap().is_empty(), "{what}");
    }
    put(&sound);
    let pod = kubelet.run_pod(&config).unwrap();
    kubelet.take_away(&pod).unwrap();
    scene.close();
}

#[test]
fn a_pod_that_cannot_be_detached_stays_on_record_and_goes_once_the_network_is_mended() {
    let scene = Scene::new();
    let (node, kubelet) = (&scene.node, &scene.kubelet);
    let networks = node.scratch().path().join("net.d/10-e2e.conflist");
    let sound = std::fs::read_to_string(&networks).unwrap();
    let put = |text: &str| {
        let file = node.scratch().file("next.conflist", text).unwrap();
        std::fs::rename(file, &networks).unwrap();
    };
    for (from, to) in [
        ("\"host-local\"", "\"no-such-allocator\""),
        ("10.213.77.0/24", "10.213.77.0/99"),
    ] {
        put(&sound.replace(from, to));
        let refused = kubelet.run_pod(&kubelet.pod_config("web")).unwrap_err();
        assert!(refused.message().contains("ORL-E6207"), "{refused}");
        // What would give an address back fails in the same way, so nobody knows whether one is taken.
        let left = kubelet.pods(None).unwrap();
        assert_eq!(left.len(), 1, "{to}");
        assert_eq!(left[0].state(), cri::PodSandboxState::SandboxNotready);
        kubelet.take_away(&left[0].id).unwrap_err();
        put(&sound);
        kubelet.take_away(&left[0].id).unwrap();
        scene.before.settle(node).unwrap();
    }
    scene.close();
}

#[test]
fn a_network_without_a_free_address_refuses_the_next_pod_only() {
    let mut scene = Scene::new();
    let networks = scene.node.scratch().path().join("net.d/10-e2e.conflist");
    let sound = std::fs::read_to_string(&networks).unwrap();
    let one = r#""rangeStart": "10.213.77.9", "rangeEnd": "10.213.77.9", "subnet""#;
    let file = scene
        .node
        .scratch()
        .file("next.conflist", &sound.replace("\"subnet\"", one));
    std::fs::rename(file.unwrap(), &networks).unwrap();
    let pod = scene
        .kubelet
        .run_pod(&scene.kubelet.pod_config("web"))
        .unwrap();
    scene.mark();
    let kubelet = &scene.kubelet;
    let second = kubelet.pod_config("second");
    for _ in 0..3 {
        scene.refused(
            "no address",
            kubelet.run_pod(&second),
            Internal,
            "ORL-E6207",
        );
    }
    kubelet.take_away(&pod).unwrap();
    let pod = kubelet.run_pod(&second).unwrap();
    kubelet.take_away(&pod).unwrap();
    scene.close();
}

#[test]
fn a_log_folder_that_cannot_be_or_is_gone_keeps_no_container_from_its_end() {
    let mut scene = Scene::new();
    let mut config = scene.kubelet.pod_config("web");
    let file = scene.node.scratch().file("no-folder", "a file").unwrap();
    config.log_directory = file.join("logs").display().to_string();
    let pod = scene.kubelet.run_pod(&config).unwrap();
    scene.mark();
    let container = scene.container("bad");
    let refused = scene.kubelet.create(&pod, &container, &config);
    scene.refused("no folder", refused, Internal, "ORL-E6016");
    let kubelet = &scene.kubelet;
    kubelet.take_away(&pod).unwrap();

    let config = kubelet.pod_config("other");
    let pod = kubelet.run_pod(&config).unwrap();
    let created = kubelet.create(&pod, &container, &config).unwrap();
    let logs = kubelet.log_folder("other");
    std::fs::remove_dir(&logs).unwrap();
    // Made anew or refused: both are well, a container that hangs is not.
    if let Err(refused) = kubelet.start(&created) {
        assert!(refused.message().contains("ORL-E"), "{refused}");
        let ended = kubelet.container(&created).unwrap();
        assert_eq!(ended.state(), ContainerState::ContainerExited);
    }
    let talker = container_config("talker", scene.node.image(), "while :; do echo x; done");
    let talker = kubelet.run(&pod, &talker, &config).unwrap();
    std::fs::rename(&logs, logs.with_extension("away")).unwrap();
    let container_id = talker.clone();
    let request = cri::ReopenContainerLogRequest { container_id };
    let reopened = kubelet.call(async |mut client| client.reopen_container_log(request).await);
    if let Err(refused) = reopened {
        assert!(refused.message().contains("ORL-E"), "{refused}");
    }
    let answer = kubelet.exec(&talker, &["echo", "here"]).unwrap();
    assert_eq!(answer.stdout, b"here\n");
    kubelet.take_away(&pod).unwrap();
    scene.close();
}

/// A container that sees a folder of the volume.
fn on_volume(scene: &Scene, name: &str, volume: &DeadVolume) -> cri::ContainerConfig {
    let mut config = scene.container(name);
    mounted(
        &mut config,
        cri::Mount {
            container_path: "/data".to_owned(),
            host_path: volume.folder().display().to_string(),
            ..cri::Mount::default()
        },
    );
    config
}

#[test]
fn a_dead_volume_refuses_its_containers_and_nobody_elses() {
    let mut scene = Scene::new();
    let volume = DeadVolume::mount(scene.node.scratch()).unwrap();
    let config = scene.kubelet.pod_config("web");
    let pod = scene.kubelet.run_pod(&config).unwrap();
    let late = scene
        .kubelet
        .create(&pod, &on_volume(&scene, "late", &volume), &config);
    let late = late.unwrap();
    volume.set_dead(true);
    scene.mark();
    let kubelet = &scene.kubelet;
    let dead = kubelet.create(&pod, &on_volume(&scene, "dead", &volume), &config);
    let refused = scene.refused("dead", dead, DeadlineExceeded, "ORL-E6606");
    let folder = volume.folder().display().to_string();
    assert!(refused.message().contains(&folder), "{refused}");
    // It was alive when the container was made.
    let started = kubelet.start(&late).unwrap_err();
    assert!(started.message().contains("ORL-E"), "{started}");
    let ended = kubelet.container(&late).unwrap();
    assert_eq!(
        (ended.state(), &*ended.reason),
        (ContainerState::ContainerExited, "StartError")
    );
    let other = kubelet
        .run(&pod, &scene.container("other"), &config)
        .unwrap();
    assert_eq!(kubelet.exec(&other, &["true"]).unwrap().exit_code, 0);
    kubelet.take_away(&pod).unwrap();
    drop(volume);
    scene.close();
}

#[test]
fn what_does_not_fit_where_a_container_is_is_refused() {
    let mut scene = Scene::new();
    let config = scene.kubelet.pod_config("web");
    let pod = scene.kubelet.run_pod(&config).unwrap();
    let container = scene.container("sleeper");
    let container = scene.kubelet.run(&pod, &container, &config).unwrap();
    scene.mark();
    let kubelet = &scene.kubelet;
    let started = kubelet.start(&container);
    scene.refused("started twice", started, FailedPrecondition, "ORL-E6603");
    let missing = kubelet.exec(&container, &["/no/such"]);
    assert!(missing.unwrap_err().message().contains("ORL-E"));
    kubelet.stop_pod(&pod).unwrap();
    scene.mark();
    let kubelet = &scene.kubelet;
    let late = kubelet.create(&pod, &scene.container("late"), &config);
    scene.refused("in a stopped pod", late, FailedPrecondition, "ORL-E6503");
    let ended = kubelet.exec(&container, &["true"]);
    scene.refused("in one that ended", ended, FailedPrecondition, "ORL-E7002");
    kubelet.remove_pod(&pod).unwrap();
    scene.close();
}
