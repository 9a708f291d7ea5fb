//! Input and output of containers.
//!
//! FIFOs, files and logging programs are handed to the container itself, so that no byte passes through the shim and
//! none is lost when the shim dies. Only terminals, CRI logs and what can be attached to are copied, see [`copy`] and
//! [`attach`].
//!
//! A FIFO's reading end is kept open here until the process is deleted: then an engine that restarts neither breaks the
//! container's pipe nor loses what is in it.

pub(crate) mod attach;
pub(crate) mod copy;
pub(crate) mod cri;

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use orlop_sys::process::{Child, Spawn};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::fault::Fault;
use attach::{Hub, Output, SharedHub, Tap};
use copy::{Copy, Sink};
use cri::{CriFile, CriStream};

/// What a request says about input and output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) terminal: bool,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Who owns pipes made here, inside user namespaces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What stays open as long as the process is known.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Reading ends of FIFOs.
    readers: Vec<OwnedFd>,
    /// Keeps the input open while clients come and go.
    stdin_holder: Option<OwnedFd>,
    log: Option<Rc<RefCell<CriFile>>>,
    pub(crate) hub: Option<SharedHub>,
    logger: Option<Child>,
    pub(crate) terminal: Option<OwnedFd>,
}

impl Kept {
    /// Lets the process see the end of its input once the clients are gone.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin_holder = None;
        if let Some(hub) = &self.hub {
            hub.borrow_mut().close_stdin();
        }
    }

    /// Opens the log anew after it was rotated.
    pub(crate) fn reopen_log(&self) -> Result<(), Fault> {
        match &self.log {
            Some(log) => log.borrow_mut().reopen(),
            None => Ok(()),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(logger) = &self.logger {
            // It sees the end of its input; this is for one that does not look. One that ended already is fine.
            logger.signal(rustix::process::Signal::TERM).ok();
        }
    }
}

/// Descriptors for the container, and what is to be kept and copied meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// For 0, 1 and 2; nothing means `/dev/null`.
    pub(crate) child: [Option<OwnedFd>; 3],
    pub(crate) kept: Kept,
    pub(crate) copies: Vec<Copy>,
}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Null,
    /// A FIFO or a file that exists.
    Path(PathBuf),
    /// `file://`: made if missing.
    File(PathBuf),
    Binary {
        program: PathBuf,
        args: Vec<String>,
        must_say_ready: bool,
    },
    CriLog {
        path: PathBuf,
        max_line_bytes: usize,
    },
    /// To attached clients and to nobody else.
    Attach,
}

pub(crate) const MAX_LINE_BYTES: usize = 16 << 10;

fn parse_target(text: &str) -> Result<Target, Fault> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(if text.is_empty() {
            Target::Null
        } else {
            Target::Path(text.into())
        });
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = PathBuf::from(decode(path)?);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    match scheme {
        "fifo" => Ok(Target::Path(path)),
        "file" => Ok(Target::File(path)),
        "binary" | "binary-v2" => {
            let mut args = Vec::new();
            for (key, value) in pairs {
                args.extend(
                    [decode(key)?, decode(value)?]
                        .into_iter()
                        .filter(|arg| !arg.is_empty()),
                );
            }
            Ok(Target::Binary {
                program: path,
                args,
                must_say_ready: scheme == "binary-v2",
            })
        }
        "cri-log" => {
            let mut pairs = pairs;
            let limit = pairs.rfind(|(key, _)| *key == "max_line_bytes");
            let max_line_bytes = match limit {
                None => MAX_LINE_BYTES,
                Some((_, value)) => value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=1 << 20).contains(limit))
                    .ok_or_else(|| {
                        Fault::Invalid(format!(
                            "max_line_bytes {value:?} is not between 1 and 1048576"
                        ))
                    })?,
            };
            Ok(Target::CriLog {
                path,
                max_line_bytes,
            })
        }
        "attach" => Ok(Target::Attach),
        other => Err(Fault::Invalid(format!(
            "unknown scheme {other:?} in {text:?}"
        ))),
    }
}

/// Percent signs with two hexadecimal digits.
fn decode(text: &str) -> Result<String, Fault> {
    let bad = || Fault::Invalid(format!("{text:?} is not a sound URI"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let digits = after
                .get(..2)
                .and_then(|digits| std::str::from_utf8(digits).ok());
            let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(code.filter(|code| *code != 0).ok_or_else(bad)?);
            rest = &after[2..];
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Whether clients give the input, and whether it ends with the first one; nothing for other inputs.
fn attached_stdin(text: &str) -> Option<bool> {
    let query = text.strip_prefix("attach://")?;
    Some(query == "?once=true")
}

/// Opens all that `terms` name for a process without a terminal. Clients are attached through a socket in `hub`, which is
/// there for a container's own process.
pub(crate) fn open(
    terms: &Terms,
    owner: Owner,
    id: &str,
    namespace: &str,
    hub: Option<&Path>,
) -> Result<Opened, Fault> {
    let mut opened = Opened::default();
    let stdout = parse_target(&terms.stdout)?;
    opened.listen(terms, &stdout, hub)?;
    if let Some(is_once) = attached_stdin(&terms.stdin) {
        let (reader, writer) = input_pipe(owner)?;
        opened.child[0] = Some(reader);
        if let Some(hub) = &opened.kept.hub {
            hub.borrow_mut().set_stdin(writer, is_once);
        }
    } else if !terms.stdin.is_empty() {
        let (reader, holder) = open_stdin(Path::new(&terms.stdin))?;
        give(&reader, owner)?;
        opened.child[0] = Some(reader);
        opened.kept.stdin_holder = Some(holder);
    }
    if let Target::Binary {
        program,
        args,
        must_say_ready,
    } = &stdout
    {
        return start_logger(
            opened,
            Spawn::new(program).args(args),
            *must_say_ready,
            id,
            namespace,
        );
    }
    // One URI takes both outputs, in containerd's way.
    let stderr = match (&stdout, terms.stderr.is_empty()) {
        (Target::File(_) | Target::CriLog { .. } | Target::Attach, true) => stdout.clone(),
        _ => parse_target(&terms.stderr)?,
    };
    opened.output(&stdout, 1, owner)?;
    opened.output(&stderr, 2, owner)?;
    Ok(opened)
}

impl Opened {
    /// Listens for clients if anything of the process can be attached to.
    fn listen(
        &mut self,
        terms: &Terms,
        stdout: &Target,
        bundle: Option<&Path>,
    ) -> Result<(), Fault> {
        let is_attachable = matches!(stdout, Target::CriLog { .. } | Target::Attach)
            || attached_stdin(&terms.stdin).is_some();
        match bundle.filter(|_| is_attachable) {
            Some(bundle) => {
                let hub = Hub::listen(bundle)?;
                self.kept.hub = Some(Rc::new(RefCell::new(hub)));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn tap(&self, number: usize) -> Option<Tap> {
        let output = if number == 1 {
            Output::Stdout
        } else {
            Output::Stderr
        };
        self.kept.hub.as_ref().map(|hub| Tap::new(hub, output))
    }

    fn output(&mut self, target: &Target, number: usize, owner: Owner) -> Result<(), Fault> {
        let child = match target {
            Target::Null => return Ok(()),
            Target::Path(path) => {
                let (writer, reader) = open_output(path)?;
                give(&writer, owner)?;
                self.kept.readers.extend(reader);
                writer
            }
            Target::File(path) => create_file(path)?,
            Target::CriLog {
                path,
                max_line_bytes,
            } => {
                let (reader, writer) = pipe(owner)?;
                let name = if number == 1 { "stdout" } else { "stderr" };
                let stream = CriStream::new(self.log(path)?, name, *max_line_bytes);
                let copy = Copy::new(reader, Sink::Cri(stream)).with_tap(self.tap(number));
                self.copies.push(copy);
                writer
            }
            Target::Attach => {
                let (reader, writer) = pipe(owner)?;
                let copy = Copy::new(reader, Sink::Null).with_tap(self.tap(number));
                self.copies.push(copy);
                writer
            }
            Target::Binary { .. } => {
                return Err(Fault::Invalid(
                    "binary:// is for both outputs: name it as stdout".to_owned(),
                ));
            }
        };
        self.child[number] = Some(child);
        Ok(())
    }

    fn log(&mut self, path: &Path) -> Result<Rc<RefCell<CriFile>>, Fault> {
        if let Some(log) = self
            .kept
            .log
            .as_ref()
            .filter(|log| log.borrow().path() == path)
        {
            return Ok(Rc::clone(log));
        }
        let log = Rc::new(RefCell::new(CriFile::open(path)?));
        self.kept.log = Some(Rc::clone(&log));
        Ok(log)
    }
}

/// Connects a terminal's master to what `terms` name; clients as in [`open`].
pub(crate) fn attach_terminal(
    terms: &Terms,
    master: OwnedFd,
    hub: Option<&Path>,
) -> Result<Opened, Fault> {
    let fault = |error: rustix::io::Errno| Fault::io("duplicate", "a terminal", error);
    rustix::io::ioctl_fionbio(&master, true).map_err(fault)?;
    let mut opened = Opened::default();
    let stdout = parse_target(&terms.stdout)?;
    opened.listen(terms, &stdout, hub)?;
    let output = match stdout {
        Target::Null | Target::Attach => Sink::Null,
        Target::Path(path) => Sink::Fd(open_for_copy(&path)?),
        Target::File(path) => Sink::Fd(create_file(&path)?),
        Target::CriLog {
            path,
            max_line_bytes,
        } => Sink::Cri(CriStream::new(opened.log(&path)?, "stdout", max_line_bytes)),
        Target::Binary { .. } => {
            return Err(Fault::Unsupported(
                "a terminal cannot be logged by a program".to_owned(),
            ));
        }
    };
    let clone = || {
        let cloned = master.try_clone();
        cloned.map_err(|error| Fault::io("duplicate", "a terminal", error))
    };
    let copy = Copy::new(clone()?, output).with_tap(opened.tap(1));
    opened.copies.push(copy);
    if let Some(is_once) = attached_stdin(&terms.stdin) {
        if let Some(hub) = &opened.kept.hub {
            hub.borrow_mut().set_stdin(clone()?, is_once);
        }
    } else if !terms.stdin.is_empty() {
        let (reader, holder) = open_stdin(Path::new(&terms.stdin))?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(fault)?;
        let input = clone()?;
        opened
            .copies
            .push(Copy::new(reader, Sink::Fd(input)).marked_as_input());
        opened.kept.stdin_holder = Some(holder);
    }
    opened.kept.terminal = Some(master);
    Ok(opened)
}

/// The reading end, which blocks as programs expect, and a writing end that keeps it from ending.
fn open_stdin(path: &Path) -> Result<(OwnedFd, OwnedFd), Fault> {
    let fault = |error| Fault::io("open", path.display().to_string(), error);
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking())
        .open(path)
        .map_err(fault)?;
    let holder = OpenOptions::new()
        .write(true)
        .custom_flags(nonblocking())
        .open(path)
        .map_err(fault)?;
    rustix::io::ioctl_fionbio(&reader, false).map_err(|error| fault(error.into()))?;
    Ok((reader.into(), holder.into()))
}

/// The writing end, and for a FIFO a reading end to be kept.
fn open_output(path: &Path) -> Result<(OwnedFd, Option<OwnedFd>), Fault> {
    let fault = |error| Fault::io("open", path.display().to_string(), error);
    let is_fifo = fs::metadata(path).map_err(fault)?.file_type().is_fifo();
    let reader = match is_fifo {
        false => None,
        true => {
            let reader = OpenOptions::new()
                .read(true)
                .custom_flags(nonblocking())
                .open(path);
            Some(reader.map_err(fault)?.into())
        }
    };
    // The reader above lets this return at once.
    let writer = OpenOptions::new().append(true).open(path).map_err(fault)?;
    Ok((writer.into(), reader))
}

/// A FIFO for both ways, so that writing neither waits nor breaks without a reader.
fn open_for_copy(path: &Path) -> Result<OwnedFd, Fault> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nonblocking())
        .open(path);
    file.map(OwnedFd::from)
        .map_err(|error| Fault::io("open", path.display().to_string(), error))
}

fn create_file(path: &Path) -> Result<OwnedFd, Fault> {
    let fault = |error| Fault::io("open", path.display().to_string(), error);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fault)?;
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path);
    file.map(OwnedFd::from).map_err(fault)
}

pub(crate) fn nonblocking() -> i32 {
    i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0)
}

/// Our end does not block; the container's, the second one, does.
fn pipe(owner: Owner) -> Result<(OwnedFd, OwnedFd), Fault> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(pipe_fault)?;
    hand_over(&reader, &writer, owner)?;
    Ok((reader, writer))
}

/// As [`pipe`], for the other direction: the container's end is the first one.
fn input_pipe(owner: Owner) -> Result<(OwnedFd, OwnedFd), Fault> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(pipe_fault)?;
    hand_over(&writer, &reader, owner)?;
    Ok((reader, writer))
}

fn hand_over(ours: &OwnedFd, theirs: &OwnedFd, owner: Owner) -> Result<(), Fault> {
    rustix::io::ioctl_fionbio(ours, true).map_err(pipe_fault)?;
    give(theirs, owner)
}

/// Lets the container open a pipe or FIFO anew by what `/proc` calls it. Whatever else a client names stays its own.
fn give(end: &OwnedFd, owner: Owner) -> Result<(), Fault> {
    if (owner.uid, owner.gid) == (0, 0) {
        return Ok(());
    }
    let stat = rustix::fs::fstat(end).map_err(pipe_fault)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Fifo {
        return Ok(());
    }
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(owner.uid),
        rustix::fs::Gid::from_raw(owner.gid),
    );
    rustix::fs::fchown(end, Some(uid), Some(gid)).map_err(pipe_fault)
}

fn pipe_fault(error: rustix::io::Errno) -> Fault {
    Fault::io("make", "a pipe", error)
}

/// Starts a logging program: 3 and 4 are the outputs to read, 5 is closed by it when it is ready.
fn start_logger(
    mut opened: Opened,
    program: Spawn<'_>,
    must_say_ready: bool,
    id: &str,
    namespace: &str,
) -> Result<Opened, Fault> {
    let fault = |error: rustix::io::Errno| Fault::io("make", "a pipe", error);
    let (out_reader, out_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(fault)?;
    let (err_reader, err_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(fault)?;
    let (ready_reader, ready_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(fault)?;
    let logger = program
        .env_clear()
        .env("CONTAINER_ID", id)
        .env("CONTAINER_NAMESPACE", namespace)
        .extra_fd(out_reader.as_fd())
        .extra_fd(err_reader.as_fd())
        .extra_fd(ready_writer.as_fd())
        .start()
        .map_err(|error| Fault::io("start", error.program.display().to_string(), error.source))?;
    drop(ready_writer);
    opened.kept.logger = Some(logger);
    wait_until_ready(&ready_reader, must_say_ready)?;
    opened.child[1] = Some(out_writer);
    opened.child[2] = Some(err_writer);
    Ok(opened)
}

/// The one place that waits, for at most ten seconds: output before the logger is there would be lost.
fn wait_until_ready(reader: &OwnedFd, must_say_ready: bool) -> Result<(), Fault> {
    const READY_SECONDS: i64 = 10;
    let silent = || Fault::Invalid("the logging program did not become ready".to_owned());
    let timeout = rustix::event::Timespec {
        tv_sec: READY_SECONDS,
        tv_nsec: 0,
    };
    let mut fds = [rustix::event::PollFd::new(
        reader,
        rustix::event::PollFlags::IN,
    )];
    let ready = rustix::event::poll(&mut fds, Some(&timeout));
    if ready.map_err(|error| Fault::io("wait for", "the logging program", error))? == 0 {
        return Err(silent());
    }
    let count = rustix::io::read(reader, &mut [0; 1]);
    match count {
        Ok(0) if must_say_ready => Err(silent()),
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::io(
            "wait for",
            "the logging program",
            io::Error::from(error),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_understood() {
        let table = [
            ("", Target::Null),
            ("attach://", Target::Attach),
            ("/run/f", Target::Path("/run/f".into())),
            ("fifo:///run/f", Target::Path("/run/f".into())),
            ("file:///a%20b", Target::File("/a b".into())),
            (
                "binary:///bin/log?a=b&c",
                Target::Binary {
                    program: "/bin/log".into(),
                    args: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
                    must_say_ready: false,
                },
            ),
            (
                "cri-log:///l/0.log",
                Target::CriLog {
                    path: "/l/0.log".into(),
                    max_line_bytes: 16384,
                },
            ),
            (
                "cri-log:///l?max_line_bytes=7",
                Target::CriLog {
                    path: "/l".into(),
                    max_line_bytes: 7,
                },
            ),
        ];
        for (text, expected) in table {
            assert_eq!(parse_target(text).unwrap(), expected, "{text}");
        }
        for text in [
            "http://x",
            "file:///%zz",
            "file:///%00",
            "file:///%4",
            "cri-log:///l?max_line_bytes=0",
        ] {
            assert!(parse_target(text).is_err(), "{text}");
        }
    }
}
