//! `pod-init`: the first process of a process namespace that the containers of a pod share.
//!
//! Two processes: the starter joins the pod's namespaces, begins a process namespace and starts the first process in it,
//! says its number on standard output and ends; the first process gives up everything it has, and reaps. Both run from a
//! sealed file in memory, their descriptor 3.
//!
//! Crash: the first process ends with the daemon until that says, on standard input, that it has put it on record; from then
//! on it depends on nobody. Ordering: the starter says the number only when the first process has given everything up.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use orlop_sys::process::{
    Input, OomScore, Spawn, confine, enter_and_unshare, enter_as_superuser, reap_next,
    take_inherited_fd,
};
use orlop_sys::signal::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use crate::fault::Fault;

/// The word that makes this program the starter.
pub(crate) const STARTER: &str = "pod-init";

/// The word that makes it the first process.
pub(crate) const FIRST: &str = "pod-init-first";

/// Where the program is, for both.
const PROGRAM: &str = "/proc/self/fd/3";

/// What the first process says when it has given everything up.
const READY: &[u8] = b"ready";

/// What the starter is told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Order {
    /// The pinned user namespace whose superuser to become.
    user: Option<PathBuf>,
    /// Pinned namespaces to join.
    join: Vec<PathBuf>,
    /// Files of cgroups that take a process's number.
    cgroups: Vec<PathBuf>,
    oom_score: Option<OomScore>,
}

/// Starts the first process. Returns its number, as text.
pub(crate) fn start(args: impl Iterator<Item = String>) -> Result<Vec<u8>, Fault> {
    let order = Order::parse(args)?;
    if let Some(score) = order.oom_score {
        // Lowering may be refused; then it keeps the score it was started with.
        score.apply().ok();
    }
    for file in &order.cgroups {
        join_cgroup(file).map_err(|error| Fault::io("join", file.display().to_string(), error))?;
    }
    if let Some(user) = &order.user {
        enter_as_superuser(user)
            .map_err(|error| Fault::io("enter", "the user namespace", error))?;
    }
    enter_and_unshare(&order.join).map_err(|error| Fault::io("enter", "namespaces", error))?;
    let started = start_first().map_err(|error| Fault::io("start", "the first process", error))?;
    Ok(started.to_string().into_bytes())
}

/// Is the first process; returns only if it cannot be, or need not be because its pod is not on record.
pub(crate) fn be_first() -> Result<Vec<u8>, Fault> {
    let failed = |error| Fault::io("be", "the first process", error);
    // A name for people: the program's own would be that of its descriptor.
    rustix::thread::set_name(c"orlop-pod").map_err(|error| failed(error.into()))?;
    confine().map_err(failed)?;
    // Made before anybody can become a child of this process.
    let mut ends = SignalFd::new(&[Signal::CHILD.as_raw()]).map_err(failed)?;
    io::stdout().write_all(READY).map_err(failed)?;
    io::stdout().flush().map_err(failed)?;
    let mut released = [0];
    if io::stdin().read(&mut released).map_err(failed)? == 0 {
        // Whoever started this process is gone, and no other daemon knows of it.
        return Ok(Vec::new());
    }
    loop {
        let mut fds = [PollFd::from_borrowed_fd(ends.as_fd(), PollFlags::IN)];
        // An interruption is as good as a signal: the look costs nothing.
        poll(&mut fds, None).ok();
        while let Ok(Some(_signal)) = ends.next_signal() {}
        while let Ok(Some(_ended)) = reap_next() {}
    }
}

fn start_first() -> io::Result<i32> {
    let program = take_inherited_fd()?;
    let (mut told, teller) = io::pipe()?;
    let child = Spawn::new(PROGRAM)
        .env_clear()
        .arg(FIRST)
        .dir("/")
        .own_group()
        .stdin(Input::Inherit)
        .stdout(Input::Fd(teller.as_fd()))
        .stderr(Input::Inherit)
        .extra_fd(program.as_fd())
        .start()
        .map_err(|error| error.source)?;
    drop(teller);
    let mut word = Vec::new();
    // Ends after the word: the first process keeps its end of the pipe open.
    (&mut told)
        .take(READY.len() as u64)
        .read_to_end(&mut word)?;
    if word == READY {
        return Ok(child.pid());
    }
    child.signal(Signal::KILL)?;
    Err(io::Error::other("it ended before it was ready"))
}

fn join_cgroup(file: &Path) -> io::Result<()> {
    // Zero stands for whoever writes.
    OpenOptions::new().write(true).open(file)?.write_all(b"0")
}

impl Order {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Fault> {
        let mut order = Self::default();
        while let Some(flag) = args.next() {
            let missing = || Fault::Invalid(format!("the flag {flag} needs a value"));
            let value = args.next().ok_or_else(missing)?;
            match flag.as_str() {
                "-user" => order.user = Some(value.into()),
                "-join" => order.join.push(value.into()),
                "-procs" => order.cgroups.push(value.into()),
                "-oom-score" => {
                    let score = value.parse();
                    let wrong = |_| Fault::Invalid(format!("{value:?} is no score"));
                    order.oom_score = Some(OomScore(score.map_err(wrong)?));
                }
                other => return Err(Fault::Invalid(format!("unknown flag {other}"))),
            }
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Order, Fault> {
        Order::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn an_order_is_understood_and_nonsense_is_refused() {
        let order =
            parse("-user /u -join /a -procs /c/cgroup.procs -oom-score -998 -join /b").unwrap();
        assert_eq!(order.user, Some(PathBuf::from("/u")));
        assert_eq!(order.join, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(order.cgroups, [PathBuf::from("/c/cgroup.procs")]);
        assert_eq!(order.oom_score, Some(OomScore(-998)));
        for bad in ["-join", "-what 1", "-oom-score low"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
