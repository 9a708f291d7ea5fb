//! A container's own streams.

use crate::node::{Node, Streams, Wanted, eventually};
use crate::spdy::{Command, exit_code};

const STDIN: Wanted = Wanted {
    stdin: true,
    terminal: false,
};
const OUTPUT: Wanted = Wanted {
    stdin: false,
    terminal: false,
};

/// Says back what it is told, line by line.
const ECHO: &str = "while read line; do echo \"heard $line\"; done; echo over";

fn log_of(node: &Node) -> (std::path::PathBuf, String) {
    let path = node.folder().join("0.log");
    let uri = format!("cri-log://{}", path.display());
    (path, uri)
}

#[test]
fn input_reaches_a_container_and_its_output_every_client_and_the_log() {
    let mut node = Node::start(&[]);
    let (log, output) = log_of(&node);
    let streams = Streams {
        stdin: "attach://?once=true",
        output: &output,
        terminal: false,
    };
    let id = node.container(&["sh", "-c", ECHO], streams);
    let mut watcher = Command::start(&node.attach_url(&id, OUTPUT), false, false);
    let mut speaker = Command::start(&node.attach_url(&id, STDIN), true, false);
    // The watcher may not be attached yet: it is when it hears something.
    let stdout = watcher.stdout;
    speaker.client.send(speaker.stdin, b"one\n");
    speaker.read_until_stdout_has("heard one\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    speaker.client.send(speaker.stdin, b"two\n");
    watcher
        .client
        .read_until(|client| client.text(stdout).contains("heard two\n"));
    speaker.client.end(speaker.stdin);
    assert_eq!(exit_code(&speaker.finish()), 0);
    assert_eq!(exit_code(&watcher.finish()), 0);
    assert_eq!(
        speaker.client.text(speaker.stdout),
        "heard one\nheard two\nover\n"
    );
    let logged = std::fs::read_to_string(log).unwrap();
    assert_eq!(logged.lines().count(), 3, "{logged}");
}

#[test]
fn a_container_is_attached_to_after_its_daemon_was_killed() {
    let mut node = Node::start(&[]);
    let streams = Streams {
        stdin: "attach://",
        output: "attach://",
        terminal: false,
    };
    let id = node.container(&["sh", "-c", ECHO], streams);
    let mut first = Command::start(&node.attach_url(&id, STDIN), true, false);
    first.client.send(first.stdin, b"one\n");
    first.read_until_stdout_has("heard one\n");
    node.crash_and_restart();
    let mut second = Command::start(&node.attach_url(&id, STDIN), true, false);
    second.client.send(second.stdin, b"two\n");
    second.read_until_stdout_has("heard two\n");
    // Not once: its input goes on without a client, and so does it.
    second.client.close();
    let mut third = Command::start(&node.attach_url(&id, STDIN), true, false);
    third.client.send(third.stdin, b"three\n");
    third.read_until_stdout_has("heard three\n");
    node.kill(&id);
    assert_eq!(exit_code(&third.finish()), 0);
}

#[test]
fn a_terminal_is_attached_to_and_resized() {
    let mut node = Node::start(&[]);
    let (_, output) = log_of(&node);
    let streams = Streams {
        stdin: "attach://",
        output: &output,
        terminal: true,
    };
    let id = node.container(&["sh"], streams);
    let wanted = Wanted {
        stdin: true,
        terminal: true,
    };
    let mut command = Command::start(&node.attach_url(&id, wanted), true, true);
    command
        .client
        .send(command.resize, br#"{"Width":99,"Height":33}"#);
    let stdout = command.stdout;
    for _ in 0..100 {
        command
            .client
            .send(command.stdin, b"stty size; echo \"asked$?\"\n");
        command
            .client
            .read_until(|client| client.text(stdout).contains("asked0"));
        if command.client.text(stdout).contains("33 99") {
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
    assert!(command.client.text(stdout).contains("33 99"));
    command.client.send(command.stdin, b"exit\n");
    assert_eq!(exit_code(&command.finish()), 0);
}

#[test]
fn a_client_that_does_not_read_stops_neither_the_container_nor_its_log() {
    let mut node = Node::start(&[]);
    let (log, output) = log_of(&node);
    let streams = Streams {
        stdin: "attach://",
        output: &output,
        terminal: false,
    };
    let script = "read go; i=0; while [ $i -lt 300 ]; do head -c 65535 /bin/busybox | cat -v | head -c 65535; echo; i=$((i+1)); done; echo finished; sleep 100000";
    let id = node.container(&["sh", "-c", script], streams);
    let mut slow = Command::start(&node.attach_url(&id, STDIN), true, false);
    slow.client.send(slow.stdin, b"go\n");
    eventually("the log is whole", || {
        let text = std::fs::read(&log).unwrap();
        text.windows(9)
            .rev()
            .take(64)
            .any(|window| window == b"finished\n")
    });
    let status = slow.finish();
    assert!(
        status["message"].as_str().unwrap().contains("too slowly"),
        "{status}"
    );
}

#[test]
fn a_log_goes_on_in_a_new_file() {
    let mut node = Node::start(&[]);
    let (log, output) = log_of(&node);
    let streams = Streams {
        stdin: "attach://",
        output: &output,
        terminal: false,
    };
    let id = node.container(&["sh", "-c", ECHO], streams);
    let mut command = Command::start(&node.attach_url(&id, STDIN), true, false);
    command.client.send(command.stdin, b"before\n");
    command.read_until_stdout_has("heard before\n");
    let rotated = node.folder().join("0.log.1");
    std::fs::rename(&log, &rotated).unwrap();
    node.reopen_log(&id);
    command.client.send(command.stdin, b"after\n");
    command.read_until_stdout_has("heard after\n");
    let has =
        |path: &std::path::Path, text: &str| std::fs::read_to_string(path).unwrap().contains(text);
    assert!(has(&rotated, "heard before") && !has(&rotated, "heard after"));
    assert!(has(&log, "heard after") && !has(&log, "heard before"));
}
