//! What containers, clients and a successor see when the daemon or a shim ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use orlop_e2e::Node;
use orlop_e2e::node::eventually;
use rustix::process::{Pid, Signal, kill_process};

/// Starts a detached container.
fn start(node: &Node, name: &str, script: &str) {
    let run = [
        "run",
        "-d",
        "--name",
        name,
        node.image(),
        "sh",
        "-c",
        script,
    ];
    node.caller().orlop(&run).unwrap().success().unwrap();
}

fn remove(node: &Node, name: &str) {
    let removed = node.caller().orlop(&["rm", "-f", name]).unwrap();
    removed.success().unwrap();
}

fn log_lines(node: &Node, name: &str) -> usize {
    let answer = node.caller().orlop(&["logs", name]).unwrap();
    answer.success().unwrap().lines().count()
}

/// A script that writes a line ten times a second.
const COUNTING: &str = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done";

#[test]
fn a_killed_daemon_leaves_containers_running_and_its_successor_takes_them_over() {
    let mut node = Node::start().unwrap();
    start(&node, "web", COUNTING);
    let before = node.inspect("web").unwrap();
    node.kill_daemon().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    node.start_daemon().unwrap();

    let after = node.inspect("web").unwrap();
    assert_eq!(after["task"]["state"], "running");
    assert_eq!(after["task"]["pid"], before["task"]["pid"]);
    assert_eq!(after["shim_pid"], before["shim_pid"]);
    let lines = log_lines(&node, "web");
    assert!(lines > 2, "the log goes on without the daemon: {lines}");
    eventually("the log goes on", || {
        Ok(Some(()).filter(|()| log_lines(&node, "web") > lines))
    })
    .unwrap();
    let executed = node.caller().orlop(&["exec", "web", "echo", "there"]);
    assert_eq!(executed.unwrap().success().unwrap(), "there\n");
    let stop = node.caller().orlop(&["stop", "-t", "0s", "web"]).unwrap();
    stop.success().unwrap();
    remove(&node, "web");
    node.close().unwrap();
}

#[test]
fn ends_that_nobody_saw_are_learnt_with_code_and_cause() {
    let mut node = Node::start().unwrap();
    let hungry = "sleep 1; x=a; while :; do x=$x$x$x; done";
    start(&node, "plain", "sleep 1; exit 42");
    let run = [
        "run",
        "-d",
        "--name",
        "hungry",
        "--memory",
        "16m",
        node.image(),
    ];
    let run = [&run[..], &["sh", "-c", hungry]].concat();
    node.caller().orlop(&run).unwrap().success().unwrap();
    node.kill_daemon().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    node.start_daemon().unwrap();
    for (name, code, cause) in [("plain", 42, "exited"), ("hungry", 137, "workload_oom")] {
        let exit = node.wait_for_exit(name).unwrap();
        assert_eq!(
            (&exit["exit_code"], &exit["cause"]),
            (&code.into(), &cause.into()),
            "{name}"
        );
        remove(&node, name);
    }
    node.close().unwrap();
}

#[test]
fn a_killed_shim_ends_its_container_and_no_other() {
    let node = Node::start().unwrap();
    start(&node, "orphan", COUNTING);
    start(&node, "other", COUNTING);
    let shim = node.inspect("orphan").unwrap()["shim_pid"]
        .as_i64()
        .unwrap();
    let shim = Pid::from_raw(i32::try_from(shim).unwrap()).unwrap();
    kill_process(shim, Signal::KILL).unwrap();
    let exit = node.wait_for_exit("orphan").unwrap();
    assert_eq!(exit["cause"], "shim_crash", "{exit}");
    eventually("its processes are gone", || {
        let left = node.leftovers()?;
        let its = |line: &String| line.starts_with("process") && line.contains("orphan");
        Ok(Some(()).filter(|()| !left.iter().any(its)))
    })
    .unwrap();
    assert_eq!(node.inspect("other").unwrap()["task"]["state"], "running");
    remove(&node, "orphan");
    remove(&node, "other");
    node.close().unwrap();
}

#[test]
fn a_shim_that_ended_with_the_daemon_is_found_dead() {
    let mut node = Node::start().unwrap();
    start(&node, "orphan", COUNTING);
    let shim = node.inspect("orphan").unwrap()["shim_pid"]
        .as_i64()
        .unwrap();
    let shim = Pid::from_raw(i32::try_from(shim).unwrap()).unwrap();
    node.kill_daemon().unwrap();
    kill_process(shim, Signal::KILL).unwrap();
    node.start_daemon().unwrap();
    let exit = node.wait_for_exit("orphan").unwrap();
    assert_eq!(exit["cause"], "shim_crash", "{exit}");
    remove(&node, "orphan");
    node.close().unwrap();
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let node = Node::start().unwrap();
    start(&node, "web", COUNTING);
    let refused = node.second_daemon().unwrap();
    assert_ne!(refused.code, 0, "{refused:?}");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("in use by another process"), "{said}");
    let after = node.inspect("web").unwrap();
    assert_eq!(after["task"]["state"], "running", "{:#}", after["exit"]);
    remove(&node, "web");
    node.close().unwrap();
}

#[test]
fn a_daemon_that_is_asked_to_end_leaves_containers_running() {
    let mut node = Node::start().unwrap();
    start(&node, "web", COUNTING);
    assert_eq!(node.end_daemon().unwrap(), Some(0));
    let left = node.leftovers().unwrap();
    assert!(
        left.iter().any(|line| line.starts_with("process")),
        "{left:?}"
    );
    node.start_daemon().unwrap();
    let after = node.inspect("web").unwrap();
    assert_eq!(after["task"]["state"], "running", "{:#}", after["exit"]);
    remove(&node, "web");
    node.close().unwrap();
}
