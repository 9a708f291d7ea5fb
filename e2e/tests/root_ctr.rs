//! Debian's `ctr` against the socket: what an engineer types first, on a real image and real containers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use orlop_e2e::node::eventually;
use orlop_e2e::{Daemon, Engine, Node};
use orlop_sys::process::Spawn;

/// What keeps a container running until it is told to end. A shell that is process 1 ends by SIGKILL only.
const FOREVER: &str = "while :; do sleep 1; done";

fn ctr(node: &Node, arguments: &[&str]) -> String {
    node.engine().unwrap().ctr(arguments).unwrap()
}

/// What a command that fails says.
fn refused(node: &Node, arguments: &[&str]) -> String {
    let failed = node.engine().unwrap().ctr(arguments).unwrap_err();
    format!("{failed:#}")
}

/// The rows of a table, without its heading.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().skip(1);
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

fn pull(node: &Node) {
    ctr(node, &["images", "pull", "--plain-http", node.image()]);
}

fn status(node: &Node, container: &str) -> Option<String> {
    let listed = ctr(node, &["tasks", "ls"]);
    let rows = rows(&listed);
    let row = rows.into_iter().find(|row| row[0] == container)?;
    row.last().map(|&status| status.to_owned())
}

fn wait_for(node: &Node, container: &str, wanted: &str) {
    let look = || Ok((status(node, container).as_deref() == Some(wanted)).then_some(()));
    eventually(&format!("{container} is {wanted}"), look).unwrap();
}

#[test]
fn a_pulled_image_is_shown_with_its_blobs_and_snapshots_until_it_is_removed() {
    let node = Node::start().unwrap();
    pull(&node);
    let listed = ctr(&node, &["images", "ls"]);
    assert_eq!(rows(&listed)[0][0], node.image(), "{listed}");
    let checked = ctr(&node, &["images", "check"]);
    assert!(checked.contains("complete"), "{checked}");
    // Manifest, config and layer, and what their index may add.
    assert!(ctr(&node, &["content", "ls", "-q"]).lines().count() >= 3);

    let snapshots = ctr(&node, &["snapshots", "ls"]);
    let snapshot = rows(&snapshots)[0][0].to_owned();
    assert!(snapshot.starts_with("sha256:"), "{snapshots}");
    let usage = ctr(&node, &["snapshots", "usage"]);
    let usage = &rows(&usage)[0];
    assert_eq!(usage[0], snapshot);
    assert!(usage[1].parse::<f64>().unwrap() > 0.0, "{usage:?}");
    ctr(&node, &["snapshots", "prepare", "child", &snapshot]);
    let tree = ctr(&node, &["snapshots", "tree"]);
    let lines: Vec<&str> = tree.lines().collect();
    assert!(lines[0].contains(&snapshot), "{tree}");
    assert!(lines[1].trim_start().ends_with("child"), "{tree}");
    ctr(&node, &["snapshots", "rm", "child"]);

    ctr(&node, &["images", "rm", "--sync", node.image()]);
    assert_eq!(ctr(&node, &["images", "ls", "-q"]), "");
    assert!(rows(&ctr(&node, &["snapshots", "ls"])).is_empty());
    assert_eq!(ctr(&node, &["content", "ls", "-q"]), "");
    node.close().unwrap();
}

#[test]
fn run_passes_output_and_exit_code_on() {
    let node = Node::start().unwrap();
    pull(&node);
    let image = node.image();
    let said = ctr(&node, &["run", "--rm", image, "once", "echo", "hello"]);
    assert_eq!(said, "hello\n");
    let failed = refused(
        &node,
        &["run", "--rm", image, "failing", "sh", "-c", "exit 7"],
    );
    assert!(failed.contains("ended with 7"), "{failed}");
    let missing = refused(&node, &["run", "--rm", image, "missing", "no-such-command"]);
    assert!(missing.contains("no-such-command"), "{missing}");
    assert!(rows(&ctr(&node, &["containers", "ls"])).is_empty());
    node.close().unwrap();
}

#[test]
fn a_task_is_listed_entered_paused_measured_and_killed() {
    let node = Node::start().unwrap();
    pull(&node);
    ctr(
        &node,
        &["run", "-d", node.image(), "web", "sh", "-c", FOREVER],
    );
    wait_for(&node, "web", "RUNNING");
    assert_eq!(rows(&ctr(&node, &["containers", "ls"]))[0][0], "web");
    let inside = ctr(
        &node,
        &["tasks", "exec", "--exec-id", "e1", "web", "echo", "inside"],
    );
    assert_eq!(inside, "inside\n");
    let code = refused(
        &node,
        &[
            "tasks",
            "exec",
            "--exec-id",
            "e2",
            "web",
            "sh",
            "-c",
            "exit 3",
        ],
    );
    assert!(code.contains("ended with 3"), "{code}");
    let processes = ctr(&node, &["tasks", "ps", "web"]);
    assert!(!rows(&processes).is_empty(), "{processes}");

    ctr(&node, &["tasks", "pause", "web"]);
    wait_for(&node, "web", "PAUSED");
    ctr(&node, &["tasks", "resume", "web"]);
    wait_for(&node, "web", "RUNNING");
    let metrics = ctr(&node, &["tasks", "metrics", "web"]);
    assert!(metrics.contains("memory.usage"), "{metrics}");
    let checkpoint = refused(
        &node,
        &["tasks", "checkpoint", "--image-path", "/nowhere", "web"],
    );
    assert!(checkpoint.contains("criu"), "{checkpoint}");

    ctr(&node, &["tasks", "kill", "--signal", "SIGKILL", "web"]);
    wait_for(&node, "web", "STOPPED");
    ctr(&node, &["tasks", "rm", "web"]);
    ctr(&node, &["containers", "rm", "web"]);
    assert!(rows(&ctr(&node, &["tasks", "ls"])).is_empty());
    node.close().unwrap();
}

#[test]
fn leases_are_made_listed_and_removed() {
    let node = Node::start().unwrap();
    ctr(&node, &["leases", "create", "--id", "mine", "why=test"]);
    let unnamed = ctr(&node, &["leases", "create"]);
    let listed = ctr(&node, &["leases", "ls"]);
    assert_eq!(rows(&listed).len(), 2, "{listed}");
    assert!(listed.contains("why=test"), "{listed}");
    let again = refused(&node, &["leases", "create", "--id", "mine"]);
    assert!(again.contains("already exists"), "{again}");
    ctr(&node, &["leases", "rm", "mine", unnamed.trim()]);
    assert!(rows(&ctr(&node, &["leases", "ls"])).is_empty());
    node.close().unwrap();
}

#[test]
fn events_tell_a_containers_life_in_order() {
    let node = Node::start().unwrap();
    pull(&node);
    let engine = node.engine().unwrap();
    let events = watch(&node, engine);
    // The stream has begun once a first event comes through.
    let mut number = 0;
    eventually("events are heard", || {
        number += 1;
        engine.ctr(&[
            "namespaces",
            "create",
            &format!("{}-{number}", engine.namespace()),
        ])?;
        Ok(events.log().contains("/namespaces/create").then_some(()))
    })
    .unwrap();
    ctr(&node, &["run", "--rm", node.image(), "short", "true"]);
    let topics = [
        "/containers/create",
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
        "/containers/delete",
    ];
    let log = eventually("the container's removal is heard", || {
        let log = events.log();
        Ok(log.contains("/containers/delete").then_some(log))
    })
    .unwrap();
    let places: Vec<_> = topics
        .iter()
        .map(|topic| log.find(topic).unwrap())
        .collect();
    assert!(places.is_sorted(), "{log}");
    for number in 1..=number {
        let name = format!("{}-{number}", engine.namespace());
        engine.ctr(&["namespaces", "rm", &name]).unwrap();
    }
    events.kill().unwrap();
    node.close().unwrap();
}

/// `ctr events`, whose output is its log.
fn watch(node: &Node, engine: &Engine) -> Daemon {
    let spawn = Spawn::new("ctr").arg("--address").arg(engine.socket());
    let log = node.scratch().path().join("events.log");
    Daemon::start("ctr events", spawn.arg("events"), &log).unwrap()
}
