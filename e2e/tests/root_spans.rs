//! What a collector of spans hears of pods and containers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use orlop_e2e::{Kubelet, Node};
use orlop_testkit::collector::{FakeCollector, SeenSpan};

fn below(collector: &FakeCollector, parent: &SeenSpan, name: &str) -> SeenSpan {
    let is_it = |span: &SeenSpan| span.name == name && span.parent == parent.id;
    collector.wait_for(name, is_it)
}

#[test]
fn each_step_of_a_containers_start_is_below_the_call_that_asked_for_it() {
    let collector = FakeCollector::start();
    let endpoint = format!("telemetry.otlp.endpoint={}", collector.endpoint());
    let node = Node::start_with(&[&endpoint]).unwrap();
    let command = ["run", "--rm", "--name", "web", node.image(), "true"];
    node.caller().orlop(&command).unwrap().success().unwrap();
    let first = collector.wait_for("of the bundle", |span| span.name == "writing the bundle");
    assert_eq!(first.attribute("container"), "web");
    let is_caller = |span: &SeenSpan| span.id == first.parent;
    let created = collector.wait_for("that asked", is_caller);
    assert_eq!(created.attribute("rpc.system"), "grpc", "{created:?}");
    for name in [
        "starting the shim",
        "creating the container in the OCI runtime",
    ] {
        let step = below(&collector, &created, name);
        assert_eq!(step.attribute("container"), "web");
    }
    let started = collector.wait_for("of the start", |span| {
        span.name == "starting the container's process"
    });
    let is_caller = |span: &SeenSpan| span.id == started.parent;
    let asked = collector.wait_for("that asked for the start", is_caller);
    assert_eq!(asked.attribute("rpc.system"), "grpc", "{asked:?}");
    // No span lives as long as a task does: what asked has ended, though the daemon goes on.
    node.close().unwrap();
}

#[test]
fn a_step_that_fails_is_marked_with_its_id() {
    let collector = FakeCollector::start();
    let endpoint = format!("telemetry.otlp.endpoint={}", collector.endpoint());
    let node = Node::start_with(&[&endpoint]).unwrap();
    let command = ["run", "--rm", node.image(), "no-such-program"];
    let answer = node.caller().orlop(&command).unwrap();
    assert_ne!(answer.code, 0);
    let failed = collector.wait_for("that failed", |span| {
        span.is_failed && !span.attribute("container").is_empty()
    });
    assert!(
        failed.attribute("orlop.id").starts_with("ORL-E"),
        "{failed:?}"
    );
    node.close().unwrap();
}

#[test]
fn each_step_of_a_pods_start_is_below_the_kubelets_call() {
    let collector = FakeCollector::start();
    let endpoint = format!("telemetry.otlp.endpoint={}", collector.endpoint());
    let node = Node::start_with(&[&endpoint]).unwrap();
    let kubelet = Kubelet::new(node.scratch(), node.engine().unwrap().socket()).unwrap();
    let pod = kubelet.run_pod(&kubelet.pod_config("web")).unwrap();
    let call = collector.wait_for("of the call", |span| {
        span.name == "runtime.v1.RuntimeService/RunPodSandbox"
    });
    for name in [
        "writing the files",
        "making the namespaces",
        "attaching the network",
    ] {
        assert_eq!(below(&collector, &call, name).attribute("pod"), pod);
    }
    kubelet.take_away(&pod).unwrap();
    node.close().unwrap();
}
