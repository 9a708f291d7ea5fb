//! The program as a process: its exit codes and its manners towards pipes, signals and terminals.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the program under test is started as a shell starts it, and helpers of tests may fail as tests do"
)]

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, tcgetattr};

fn orlop(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
    command
        .args(arguments)
        .env_remove("ORLOP_ADDRESS")
        .env_remove("ORLOP_NAMESPACE");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn outcome(arguments: &[&str]) -> Output {
    orlop(arguments).output().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A terminal: the side of the person, and the side of the program.
fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let person = rustix::pty::openpt(flags).unwrap();
    rustix::pty::grantpt(&person).unwrap();
    rustix::pty::unlockpt(&person).unwrap();
    let program = rustix::pty::ioctl_tiocgptpeer(&person, flags).unwrap();
    (person, program)
}

#[test]
fn a_reader_that_goes_away_ends_the_program_without_a_word() {
    let mut child = orlop(&["completions", "zsh"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn exit_codes_are_as_documented_where_no_daemon_is_needed() {
    for (arguments, code) in [
        (&["--help"][..], 0),
        (&["completions", "bash"], 0),
        (&["no-such-command"], 2),
        (&["run"], 2),
        (&["--address", "/nonexistent/socket", "ps"], 4),
    ] {
        assert_eq!(
            outcome(arguments).status.code(),
            Some(code),
            "{arguments:?}"
        );
    }
}

#[test]
fn with_json_a_failure_is_json_on_stderr() {
    let output = outcome(&["--address", "/nonexistent/socket", "-o", "json", "ps"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(document["error"]["id"], "ORL-E8001");
    assert!(output.stdout.is_empty());
}

#[test]
fn ctrl_c_ends_a_command_whose_daemon_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let child = orlop(&["--address", socket.to_str().unwrap(), "images"])
        .spawn()
        .unwrap();
    // It has come so far that it speaks, so its handlers are in place.
    let (mut connection, _) = listener.accept().unwrap();
    connection.read_exact(&mut [0; 24]).unwrap();
    signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("ORL-E8004"), "{stderr}");
}

#[test]
fn a_terminal_is_given_back_after_a_failed_interactive_run() {
    let (person, program) = terminal();
    let before = tcgetattr(&program).unwrap();
    let mut command = orlop(&["--address", "/nonexistent/socket", "run", "-it", "alpine"]);
    command.stdin(Stdio::from(program.try_clone().unwrap()));
    let output = command.output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let after = tcgetattr(program.as_fd()).unwrap();
    assert_eq!(before.local_modes, after.local_modes);
    assert!(after.local_modes.contains(LocalModes::ECHO));
    drop(person);
}

#[test]
fn a_password_is_read_from_standard_input_and_never_an_argument() {
    let mut command = orlop(&[
        "--address",
        "/nonexistent/socket",
        "pull",
        "--user",
        "me",
        "alpine",
    ]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // It may have failed to connect before it reads: then the pipe is closed, which is as good.
    let written = child.stdin.take().unwrap().write_all(b"secret\n");
    drop(written);
    assert_eq!(child.wait().unwrap().code(), Some(4));
    assert_eq!(
        outcome(&["pull", "--password", "x", "alpine"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        outcome(&["man", folder.path().to_str().unwrap()])
            .status
            .code(),
        Some(0)
    );
    for page in ["orlop.1", "orlop-run.1", "orlop-gc-why.1"] {
        assert!(folder.path().join(page).exists(), "{page} is missing");
    }
    assert!(
        !folder.path().join("orlop-man.1").exists(),
        "a hidden command has a page"
    );
}
