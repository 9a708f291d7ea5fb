//! Ending a process together with what it has started.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::signal::{pidfd_of, send_by_pidfd};

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

/// A tree is followed no further: what is below so many processes is killed when its parents are gone, or not at all.
const PROCESSES_MAX: usize = 4096;

/// Kills a process and its descendants. Each is stopped before its children are looked up, so that none starts another
/// meanwhile. A descendant whose parent had ended before belongs to nobody any more and stays.
///
/// # Errors
/// The process cannot be signalled for another reason than having ended.
pub fn kill_tree(pid: i32) -> io::Result<()> {
    let mut stopped: Vec<OwnedFd> = Vec::new();
    let mut waiting = vec![(pid, None)];
    let mut first_error = None;
    while let Some((pid, parent)) = waiting.pop() {
        if stopped.len() >= PROCESSES_MAX {
            break;
        }
        match stop(pid, parent) {
            Ok(Some(process)) => {
                stopped.push(process);
                waiting.extend(children_of(pid).into_iter().map(|child| (child, Some(pid))));
            }
            Ok(None) => {}
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    for process in &stopped {
        // One that has ended by now is as it should be.
        send_by_pidfd(process.as_fd(), SIGKILL).ok();
    }
    first_error.map_or(Ok(()), Err)
}

/// Stops a process that still is who it was: its number may be somebody else's by now.
fn stop(pid: i32, parent: Option<i32>) -> io::Result<Option<OwnedFd>> {
    let process = match pidfd_of(pid) {
        Ok(process) => process,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if parent.is_some_and(|parent| !children_of(parent).contains(&pid)) {
        return Ok(None);
    }
    match send_by_pidfd(process.as_fd(), SIGSTOP) {
        Ok(()) => Ok(Some(process)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    // ESRCH
    error.raw_os_error() == Some(3)
}

/// The children of all threads of a process; none if it has ended.
fn children_of(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .filter_map(Result::ok)
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let numbers = list.split_ascii_whitespace();
            numbers
                .filter_map(|number| number.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Spawn, exists};

    #[test]
    fn a_tree_ends_with_its_root_and_a_stranger_does_not() {
        // The outer shell waits for the inner one, which waits for the sleeper; each tells its number by being a child.
        let script = "sh -c 'sleep 1000 & wait' & wait";
        let root = Spawn::new("/bin/sh").args(["-c", script]).start().unwrap();
        let stranger = Spawn::new("/bin/sleep").arg("1000").start().unwrap();
        let inner = loop {
            let children = children_of(root.pid());
            let grandchildren: Vec<i32> =
                children.iter().flat_map(|pid| children_of(*pid)).collect();
            if let [sleeper] = grandchildren[..] {
                break [children[0], sleeper];
            }
            std::thread::yield_now();
        };
        kill_tree(root.pid()).unwrap();
        assert_eq!(root.wait().unwrap().signal(), Some(SIGKILL));
        for pid in inner {
            while exists(pid) && !is_zombie(pid) {
                std::thread::yield_now();
            }
        }
        assert!(exists(stranger.pid()));
        kill_tree(stranger.pid()).unwrap();
        stranger.wait().unwrap();
        kill_tree(stranger.pid()).unwrap();
    }

    fn is_zombie(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }
}
