//! Commands, with streams and without.

use serde_json::json;
use tonic::Code;

use crate::node::{Node, Streams, Wanted, eventually};
use crate::spdy::{Command, exit_code};

const SLEEPER: [&str; 2] = ["sleep", "100000"];
const STDIN: Wanted = Wanted {
    stdin: true,
    terminal: false,
};
const TERMINAL: Wanted = Wanted {
    stdin: true,
    terminal: true,
};
const NO_INPUT: Wanted = Wanted {
    stdin: false,
    terminal: false,
};

#[test]
fn a_command_has_streams_an_end_of_input_and_an_exit_code() {
    let mut node = Node::start(&[]);
    let id = node.container(&SLEEPER, Streams::default());
    let script = "cat; echo problem >&2; exit 7";
    let url = node.exec_url(&id, &["sh", "-c", script], STDIN).unwrap();
    let mut command = Command::start(&url, true, false);
    command.client.send(command.stdin, b"first ");
    command.read_until_stdout_has("first ");
    let stdin = &command.client.streams[&command.stdin];
    assert!(
        !stdin.has_ended,
        "client-go takes this for the end of input"
    );
    command.client.send(command.stdin, b"second");
    command.client.end(command.stdin);
    let status = command.finish();
    assert_eq!(exit_code(&status), 7);
    assert_eq!(command.client.text(command.stdout), "first second");
    assert_eq!(command.client.text(command.stderr), "problem\n");
    let accepted = command
        .client
        .streams
        .values()
        .all(|stream| stream.was_accepted);
    assert!(accepted);
    let left = node.bundle(&id);
    assert!(!left.iter().any(|name| name.contains("exec")), "{left:?}");
}

#[test]
fn a_terminal_has_a_size_and_changes_it() {
    let mut node = Node::start(&[]);
    let id = node.container(&SLEEPER, Streams::default());
    let url = node.exec_url(&id, &["sh"], TERMINAL).unwrap();
    let mut command = Command::start(&url, true, true);
    for (size, expected) in [((132, 43), "43 132"), ((80, 24), "24 80")] {
        let json = format!(r#"{{"Width":{},"Height":{}}}"#, size.0, size.1);
        command.client.send(command.resize, json.as_bytes());
        // The size arrives beside the input: it is asked for until it is there.
        let stdout = command.stdout;
        for _ in 0..100 {
            command
                .client
                .send(command.stdin, b"stty size; echo \"asked$?\"\n");
            command
                .client
                .read_until(|client| client.text(stdout).contains("asked0"));
            if command.client.text(stdout).contains(expected) {
                break;
            }
            command
                .client
                .streams
                .get_mut(&stdout)
                .unwrap()
                .bytes
                .clear();
        }
        assert!(command.client.text(stdout).contains(expected));
        command
            .client
            .streams
            .get_mut(&stdout)
            .unwrap()
            .bytes
            .clear();
    }
    command.client.send(command.stdin, b"exit 3\n");
    assert_eq!(exit_code(&command.finish()), 3);
}

#[test]
fn a_command_runs_as_the_containers_process_does() {
    let mut node = Node::start(&[]);
    let change = |spec: &mut serde_json::Value| {
        spec["process"]["user"] = json!({"uid": 1234, "gid": 5678, "additionalGids": [99]});
    };
    let id = node.container_with(&SLEEPER, Streams::default(), change);
    let script = "id; pwd; env; cat /proc/self/status";
    let answer = node.exec_sync(&id, &["sh", "-c", script], 0).unwrap();
    let text = String::from_utf8(answer.stdout).unwrap();
    for expected in [
        "uid=1234 gid=5678 groups=99",
        "/tmp\n",
        "MARK=here\n",
        "CapBnd:\t0000000000000020\n",
        "NoNewPrivs:\t1\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
}

#[test]
fn a_hundred_megabytes_pass_in_bounded_memory() {
    let mut node = Node::start(&[]);
    let id = node.container(&SLEEPER, Streams::default());
    let url = node.exec_url(&id, &["cat"], STDIN).unwrap();
    let mut command = Command::start(&url, true, false);
    command.client.keeps = false;
    let before = peak_bytes(node.daemon_pid());
    let piece = vec![b'x'; 1 << 20];
    let stdout = command.stdout;
    for round in 1..=100 {
        command.client.send(command.stdin, &piece);
        command
            .client
            .read_until(|client| client.streams[&stdout].count >= round * piece.len());
    }
    command.client.end(command.stdin);
    command.client.keeps = true;
    assert_eq!(exit_code(&command.finish()), 0);
    assert_eq!(command.client.streams[&stdout].count, 100 << 20);
    let grown = peak_bytes(node.daemon_pid()).saturating_sub(before);
    assert!(grown < 4 << 20, "the daemon has grown by {grown} bytes");
}

#[test]
fn a_client_that_does_not_read_stops_the_command_and_costs_no_memory() {
    let mut node = Node::start(&[]);
    let id = node.container(&SLEEPER, Streams::default());
    let script = "head -c 50000000 /dev/zero; echo done >&2; sleep 100000";
    let url = node.exec_url(&id, &["sh", "-c", script], NO_INPUT);
    let mut command = Command::start(&url.unwrap(), false, false);
    let before = peak_bytes(node.daemon_pid());
    std::thread::sleep(std::time::Duration::from_millis(500));
    let grown = peak_bytes(node.daemon_pid()).saturating_sub(before);
    assert!(grown < 4 << 20, "the daemon has grown by {grown} bytes");
    let stderr = command.stderr;
    command.client.keeps = true;
    command
        .client
        .read_until(|client| client.text(stderr).contains("done"));
    command.client.close();
}

#[test]
fn a_process_whose_client_has_gone_is_hung_up_on() {
    let mut node = Node::start(&[]);
    let id = node.container(&SLEEPER, Streams::default());
    for wanted in [STDIN, TERMINAL] {
        let url = node.exec_url(&id, &["sh", "-c", "echo up; exec sleep 54321"], wanted);
        let mut command = Command::start(&url.unwrap(), true, wanted.terminal);
        command.read_until_stdout_has("up");
        eventually("it runs", || node.processes_with(&id, "54321") == 1);
        command.client.close();
        eventually("it is gone", || node.processes_with(&id, "54321") == 0);
    }
}

#[test]
fn a_process_whose_daemon_was_killed_is_hung_up_on_by_the_next() {
    let mut node = Node::start(&[]);
    let id = node.container(&SLEEPER, Streams::default());
    let url = node.exec_url(&id, &["sh", "-c", "echo up; exec sleep 54321"], STDIN);
    let mut command = Command::start(&url.unwrap(), true, false);
    command.read_until_stdout_has("up");
    node.crash_and_restart();
    eventually("it is gone", || node.processes_with(&id, "54321") == 0);
    assert_eq!(
        node.processes_with(&id, "100000"),
        1,
        "the container goes on"
    );
}

#[test]
fn output_held_open_by_a_child_is_not_waited_for() {
    let mut node = Node::start(&["cri.exec_drain_timeout=300ms"]);
    let id = node.container(&SLEEPER, Streams::default());
    let args = ["sh", "-c", "sleep 12345 & echo said"];
    let answer = node.exec_sync(&id, &args, 0).unwrap();
    assert_eq!(
        (answer.stdout.as_slice(), answer.exit_code),
        (&b"said\n"[..], 0)
    );
    let url = node.exec_url(&id, &args, NO_INPUT).unwrap();
    let mut command = Command::start(&url, false, false);
    assert_eq!(exit_code(&command.finish()), 0);
    assert_eq!(command.client.text(command.stdout), "said\n");
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let mut node = Node::start(&[]);
    let id = node.container(&SLEEPER, Streams::default());
    let script = "sleep 54321 & sleep 54322";
    let status = node.exec_sync(&id, &["sh", "-c", script], 1).unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("ORL-E6034"), "{status:?}");
    eventually("all are gone", || node.processes_with(&id, "5432") == 0);
}

#[test]
fn more_output_than_an_answer_holds_is_cut_and_said() {
    let mut node = Node::start(&[]);
    let id = node.container(&SLEEPER, Streams::default());
    let script = "i=0; while [ $i -lt 40 ]; do cat /bin/busybox; i=$((i+1)); done";
    let answer = node.exec_sync(&id, &["sh", "-c", script], 0).unwrap();
    assert_eq!(answer.exit_code, 0);
    assert!(answer.stdout.len() < 16 << 20);
    let tail = &answer.stdout[answer.stdout.len() - 100..];
    assert!(String::from_utf8_lossy(tail).contains("the rest of the output is missing"));
}

#[test]
fn what_cannot_run_says_why() {
    let mut node = Node::start(&[]);
    let id = node.container(&SLEEPER, Streams::default());
    let unknown = "f".repeat(64);
    let code = |result: Result<_, tonic::Status>| result.map(|_: String| ()).unwrap_err().code();
    assert_eq!(
        code(node.exec_url(&unknown, &["id"], NO_INPUT)),
        Code::NotFound
    );
    assert_eq!(
        code(node.exec_url("", &["id"], NO_INPUT)),
        Code::InvalidArgument
    );
    assert_eq!(
        code(node.exec_url(&id, &[], NO_INPUT)),
        Code::InvalidArgument
    );
    let missing = node.exec_sync(&id, &["/no/such/program"], 0).unwrap_err();
    assert!(missing.message().contains("no such file"), "{missing:?}");
    let url = node.exec_url(&id, &["/no/such/program"], NO_INPUT).unwrap();
    let status = Command::start(&url, false, false).finish();
    assert_eq!(status["reason"], "InternalError");
    assert!(
        status["message"].as_str().unwrap().contains("no such file"),
        "{status}"
    );
    node.pause(&id);
    assert_eq!(
        code(node.exec_url(&id, &["id"], NO_INPUT)),
        Code::FailedPrecondition
    );
    let paused = node.exec_sync(&id, &["id"], 0).unwrap_err();
    assert_eq!(paused.code(), Code::FailedPrecondition, "{paused:?}");
    node.resume(&id);
    let url = node.exec_url(&id, &["id"], NO_INPUT).unwrap();
    node.kill(&id);
    let status = Command::start(&url, false, false).finish();
    assert!(
        status["message"].as_str().unwrap().contains("not running"),
        "{status}"
    );
    let stopped = node.exec_sync(&id, &["id"], 0).unwrap_err();
    assert_eq!(stopped.code(), Code::FailedPrecondition, "{stopped:?}");
}

/// The most memory the process had resident so far.
fn peak_bytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes << 10
}
