//! A daemon in a process of its own, to be killed: the test program itself, run with its test `daemon` only, which says
//! how far it is.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Node;

/// The folder of the node on which the test program is to be a daemon.
const NODE: &str = "ORLOP_TEST_NODE";

/// In that process: the node. `None` where the test is run like any other: it is a part of the one beside it then.
pub(crate) fn node() -> Option<Node> {
    let folder = std::env::var_os(NODE).map(PathBuf::from)?;
    Some(Node::of(&folder))
}

/// In that process: tells how far it is.
pub(crate) fn say(word: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n>{word}").unwrap();
    out.flush().unwrap();
}

/// A daemon that was killed.
pub(crate) struct Killed {
    /// Its process id.
    pub(crate) pid: u32,
    /// From its "begin" to the word that was waited for.
    pub(crate) took: Duration,
}

/// Runs the daemon with environment variables until it says `word` and for `more`, and kills it.
pub(crate) fn run_until(
    node: &Node,
    variables: &[(&str, &str)],
    word: &str,
    more: Duration,
) -> Killed {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .envs(variables.iter().copied())
        .args(["--exact", "daemon", "--nocapture"])
        .env(NODE, node.folder())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut wait_for = |word: &str| {
        let wanted = format!(">{word}");
        let found = lines.any(|line| line.unwrap() == wanted);
        assert!(found, "the daemon ended before {word}");
    };
    wait_for("begin");
    let begun = Instant::now();
    if word != "begin" {
        wait_for(word);
    }
    let took = begun.elapsed();
    std::thread::sleep(more);
    child.kill().unwrap();
    child.wait().unwrap();
    Killed {
        pid: child.id(),
        took,
    }
}
