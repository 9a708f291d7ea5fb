//! A logging program for shims of another make (`binary://`): what a container says goes into a log in CRI's form, and to
//! attached clients, as if the container were one of this shim's.
//!
//! 3 and 4 are the container's outputs, and 5 is told when they are read (containerd's `pkg/cio`, "binary"). What to do is
//! told by pairs of words in any order, because that is how such shims pass a URI's query on.
//!
//! Crash: the container's output then breaks, as with any logging program. Cancellation: it ends when both outputs have.
//! Ordering: as the outputs are read.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock;
use crate::fault::Fault;
use crate::stdio::attach::{Hub, Output, SharedHub, Tap};
use crate::stdio::copy::{BUFFER_BYTES, Copy, Sink};
use crate::stdio::cri::{CriFile, CriStream};

/// The words that pairs begin with, and any of which makes this program a logging program.
const BUNDLE: &str = "bundle";
const LOG: &str = "cri-log";
const LINE_BYTES: &str = "max_line_bytes";
const TERMINAL: &str = "terminal";

/// Where the outputs are, and where to say that they are read.
const STDOUT: &str = "/proc/self/fd/3";
const STDERR: &str = "/proc/self/fd/4";
const READY: &str = "/proc/self/fd/5";

/// How long clients may take to hear the last of a container that has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the daemon asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Order {
    /// Where clients are let in.
    bundle: PathBuf,
    /// Absent for attached clients only.
    log: Option<PathBuf>,
    line_bytes_max: usize,
    /// There is one output, and nobody tells when the other one ends.
    has_terminal: bool,
}

/// Whether the first word says that this program is to be one.
pub(crate) fn is_asked_for(word: &str) -> bool {
    [BUNDLE, LOG, LINE_BYTES, TERMINAL].contains(&word)
}

/// Logs until the container has no more to say.
pub(crate) fn run(words: impl Iterator<Item = String>) -> Result<(), Fault> {
    let order = Order::parse(words)?;
    let hub: SharedHub = Rc::new(RefCell::new(Hub::listen(&order.bundle)?));
    let log = order
        .log
        .as_deref()
        .map(CriFile::open_followed)
        .transpose()?;
    let log = log.map(|log| Rc::new(RefCell::new(log)));
    let outputs = [
        (STDOUT, "stdout", Output::Stdout),
        (STDERR, "stderr", Output::Stderr),
    ];
    let count = if order.has_terminal { 1 } else { 2 };
    let mut copies = Vec::new();
    for (path, name, output) in outputs.into_iter().take(count) {
        let sink = match &log {
            Some(log) => Sink::Cri(CriStream::new(Rc::clone(log), name, order.line_bytes_max)),
            None => Sink::Null,
        };
        copies.push(Copy::new(open(path)?, sink).with_tap(Some(Tap::new(&hub, output))));
    }
    say_ready().map_err(|error| Fault::io("write to", READY, error))?;
    serve(copies, &hub)
}

impl Order {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Fault> {
        let mut order = Self {
            line_bytes_max: crate::stdio::MAX_LINE_BYTES,
            ..Self::default()
        };
        while let Some(key) = words.next() {
            let value = words.next().unwrap_or_default();
            let bad = || Fault::Invalid(format!("{key} cannot be {value:?}"));
            match key.as_str() {
                BUNDLE => order.bundle = value.into(),
                LOG => order.log = Some(value.into()),
                LINE_BYTES => {
                    let limit = value.parse().ok();
                    order.line_bytes_max = limit.filter(|limit| *limit > 0).ok_or_else(bad)?;
                }
                TERMINAL => order.has_terminal = value == "true",
                _unknown => return Err(Fault::Invalid(format!("unknown word {key:?}"))),
            }
        }
        if !order.bundle.is_absolute() {
            return Err(Fault::Invalid(
                "a logging program needs a bundle".to_owned(),
            ));
        }
        Ok(order)
    }
}

/// By its path: that is a description of its own, whose not blocking is nobody else's matter.
fn open(path: &str) -> Result<OwnedFd, Fault> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(crate::stdio::nonblocking())
        .open(path);
    file.map(OwnedFd::from)
        .map_err(|error| Fault::io("open", path, error))
}

fn say_ready() -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(Path::new(READY))?
        .write_all(b"1")
}

/// Copies until there is nothing more to copy, then lets clients hear the rest.
fn serve(mut copies: Vec<Copy>, hub: &SharedHub) -> Result<(), Fault> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut until = None;
    loop {
        if copies.is_empty() {
            let until = *until.get_or_insert_with(|| clock::boot() + FAREWELL);
            if !hub.borrow().has_output() || clock::boot() >= until {
                return Ok(());
            }
        }
        wait(&copies, hub, until)?;
        copies.retain_mut(|copy| copy.advance(&mut buffer));
        hub.borrow_mut().turn(&mut buffer);
    }
}

fn wait(copies: &[Copy], hub: &SharedHub, until: Option<Duration>) -> Result<(), Fault> {
    let hub = hub.borrow();
    let hub = hub.as_fd();
    let descriptors = copies
        .iter()
        .map(|copy| copy.waiting().1)
        .chain([hub.as_fd()]);
    let mut watched: Vec<_> = descriptors
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
        .collect();
    let left = until.map(|until| until.saturating_sub(clock::boot()));
    let timeout = left.map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    match poll(&mut watched, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(Fault::io("wait for", "output", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Order, Fault> {
        Order::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn pairs_come_in_any_order() {
        let expected = Order {
            bundle: "/b".into(),
            log: Some("/l".into()),
            line_bytes_max: 7,
            has_terminal: true,
        };
        for words in [
            [
                "bundle",
                "/b",
                "cri-log",
                "/l",
                "max_line_bytes",
                "7",
                "terminal",
                "true",
            ],
            [
                "terminal",
                "true",
                "max_line_bytes",
                "7",
                "cri-log",
                "/l",
                "bundle",
                "/b",
            ],
        ] {
            assert!(is_asked_for(words[0]));
            assert_eq!(parse(&words).unwrap(), expected);
        }
        for words in [
            &["cri-log", "/l"][..],
            &["bundle", "b"],
            &["bundle", "/b", "max_line_bytes", "0"],
            &["bundle", "/b", "color", "red"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert!(!is_asked_for("-namespace"));
    }
}
