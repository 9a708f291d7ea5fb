//! Attaching to a running container: through a socket that its shim serves in the bundle ([ADR 20]).
//!
//! Crash: the socket is the shim's, so a daemon that was started anew attaches as the one before did; whoever was attached
//! through the old one is disconnected. Cancellation: dropping both halves of an [`Attached`] hangs up. Ordering: output
//! comes in the order the shim read it. Bounds: one frame at a time; a reader that does not read is hung up on by the shim.
//!
//! [ADR 20]: ../../../docs/adr/0020-attach-through-the-shim.md

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use orlop_base::blocking;
use orlop_sys::fs::Dir;
use orlop_types::attach::{ATTACH_SOCKET, Frame, Hello, PAYLOAD_BYTES_MAX};
use orlop_types::{ContainerId, Namespace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::Error;
use crate::bundle::Bundle;
use crate::machine::Phase;
use crate::record::Streams;
use crate::runtime::{Runtime, failed, uri_path};

/// As our shim makes logs.
const LOG_MODE: u32 = 0o640;

/// Which of a container's streams somebody wants to be attached to.
pub use orlop_types::attach::Hello as AttachStreams;

/// The streams of a container that can be attached to, as our shim takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachableStreams {
    /// Where output is logged, in CRI's format; absent for nowhere.
    pub log: Option<PathBuf>,
    /// Lines longer than this are cut, in bytes; 0 for the shim's default.
    pub max_line_bytes: u32,
    /// Whether standard input can be attached to; otherwise it is empty.
    pub stdin: bool,
    /// Whether standard input ends with the first one attached.
    pub stdin_once: bool,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

impl From<AttachableStreams> for Streams {
    fn from(wanted: AttachableStreams) -> Self {
        let stdin = match (wanted.stdin, wanted.stdin_once) {
            (false, _) => "",
            (true, false) => "attach://",
            (true, true) => "attach://?once=true",
        };
        let output = match (&wanted.log, wanted.max_line_bytes) {
            (None, _) => "attach://".to_owned(),
            (Some(log), 0) => format!("cri-log://{}", uri_path(log)),
            (Some(log), limit) => format!("cri-log://{}?max_line_bytes={limit}", uri_path(log)),
        };
        Self {
            stdin: stdin.to_owned(),
            stderr: if wanted.terminal {
                String::new()
            } else {
                output.clone()
            },
            stdout: output,
            terminal: wanted.terminal,
        }
    }
}

impl AttachableStreams {
    /// The same through a logging program, for a shim of another make; `own_shim` is that program, and `bundle` is where
    /// clients will look for it. Such shims have no way for input.
    pub(crate) fn through_logger(&self, own_shim: &Path, bundle: &Path) -> Streams {
        let mut uri = format!("binary://{}?bundle={}", uri_path(own_shim), query(bundle));
        if let Some(log) = &self.log {
            uri += &format!("&cri-log={}", query(log));
        }
        if self.max_line_bytes > 0 {
            uri += &format!("&max_line_bytes={}", self.max_line_bytes);
        }
        if self.terminal {
            uri += "&terminal=true";
        }
        Streams {
            stdin: String::new(),
            stderr: if self.terminal {
                String::new()
            } else {
                uri.clone()
            },
            stdout: uri,
            terminal: self.terminal,
        }
    }
}

/// A path as the value of a URI's query.
fn query(path: &Path) -> String {
    let encoded = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
            char::from(*byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    path.as_os_str().as_bytes().iter().map(encoded).collect()
}

/// A connection to a container's streams.
#[derive(Debug)]
pub struct Attached {
    /// What the container is given.
    pub input: AttachInput,
    /// What the container gives.
    pub output: AttachOutput,
}

/// The way to a container's standard input.
#[derive(Debug)]
pub struct AttachInput {
    socket: OwnedWriteHalf,
    buffer: Vec<u8>,
}

/// The way from a container's output.
#[derive(Debug)]
pub struct AttachOutput {
    socket: OwnedReadHalf,
    buffer: Vec<u8>,
    /// How much of the buffer was given out by the last call.
    given: usize,
}

/// What a container's output brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachEvent<'a> {
    /// It wrote this to its standard output.
    Stdout(&'a [u8]),
    /// It wrote this to its standard error.
    Stderr(&'a [u8]),
    /// The shim has hung up, for this reason.
    Cut(&'a str),
    /// There is no more: the container has ended, or its shim has.
    End,
}

impl Runtime {
    /// Attaches to the streams of a running container.
    ///
    /// # Errors
    /// No such task, it does not run, it was started in a way that cannot be attached to, or its shim does not answer.
    pub async fn attach(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        streams: AttachStreams,
    ) -> Result<Attached, Error> {
        let view = self.view(namespace, container)?;
        match view.phase {
            Phase::Created | Phase::Starting | Phase::Running | Phase::Paused => {}
            Phase::Creating(_) | Phase::Stopped | Phase::Deleting => {
                return Err(Error::NotRunning {
                    container: container.to_string(),
                    phase: view.phase.to_string(),
                });
            }
        }
        let refused = |source| Error::Attach {
            container: container.to_string(),
            source,
        };
        let bundle = Bundle::new(&self.core.settings.state_folder, namespace, container).path();
        let mut socket = connect(bundle).await.map_err(refused)?;
        let mut hello = Vec::new();
        Frame::Hello(streams).encode(&mut hello);
        socket.write_all(&hello).await.map_err(refused)?;
        let (read, write) = socket.into_split();
        Ok(Attached {
            input: AttachInput {
                socket: write,
                buffer: Vec::new(),
            },
            output: AttachOutput {
                socket: read,
                buffer: Vec::new(),
                given: 0,
            },
        })
    }

    /// Makes a container's shim go on in a new log file after the old one was moved away.
    ///
    /// # Errors
    /// No such task, or its shim cannot open the file.
    pub async fn reopen_log(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
    ) -> Result<(), Error> {
        let shim = self.shim(namespace, container)?;
        let member = self.member(namespace, container).await;
        if let Ok(member) = member
            && self.core.is_foreign(&member.runtime)?
        {
            return make_log(container, member.log_path).await;
        }
        shim.reopen_log()
            .await
            .map_err(|source| failed(container, "reopen the log", source))
    }
}

/// The logging program of a foreign shim goes on in the new file by itself once that is there.
async fn make_log(container: &ContainerId, log: Option<PathBuf>) -> Result<(), Error> {
    let Some(path) = log else {
        return Ok(());
    };
    let asked = path.clone();
    let made = blocking::run("make log", move || {
        let mut options = std::fs::OpenOptions::new();
        options
            .append(true)
            .create(true)
            .mode(LOG_MODE)
            .open(&asked)
            .map(drop)
    });
    let made = made.await.map_err(Error::Daemon)?;
    made.map_err(|source| Error::LogFile {
        container: container.to_string(),
        path,
        source,
    })
}

/// Through the folder's descriptor: the path of a bundle may be longer than a socket's may be (unix(7)).
async fn connect(bundle: PathBuf) -> io::Result<UnixStream> {
    let folder = blocking::run("open bundle", move || Dir::open(&bundle));
    let folder = folder
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)?;
    let number = folder.as_fd().as_raw_fd();
    let path = Path::new("/proc/self/fd")
        .join(number.to_string())
        .join(ATTACH_SOCKET);
    UnixStream::connect(path).await
}

impl AttachInput {
    /// Gives the container bytes; waits until the shim has taken them.
    ///
    /// # Errors
    /// The shim has hung up.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PAYLOAD_BYTES_MAX) {
            self.buffer.clear();
            Frame::Input(piece).encode(&mut self.buffer);
            self.socket.write_all(&self.buffer).await?;
        }
        Ok(())
    }

    /// Says that there is no more; the container sees an end only if its standard input is to end with the first client.
    ///
    /// # Errors
    /// The shim has hung up.
    pub async fn end(&mut self) -> io::Result<()> {
        self.buffer.clear();
        Frame::InputEnd.encode(&mut self.buffer);
        self.socket.write_all(&self.buffer).await
    }
}

impl AttachOutput {
    /// What comes next. May be dropped and called again.
    ///
    /// # Errors
    /// The shim speaks another language.
    pub async fn next(&mut self) -> io::Result<AttachEvent<'_>> {
        self.buffer.drain(..self.given);
        self.given = 0;
        loop {
            let length = match Frame::decode(&self.buffer) {
                Ok(Some((_, length))) => length,
                Ok(None) => {
                    self.buffer.reserve(16 << 10);
                    if self.socket.read_buf(&mut self.buffer).await? == 0 {
                        return Ok(AttachEvent::End);
                    }
                    continue;
                }
                Err(error) => return Err(io::Error::other(error)),
            };
            self.given = length;
            break;
        }
        match Frame::decode(&self.buffer) {
            Ok(Some((Frame::Output(bytes), _))) => Ok(AttachEvent::Stdout(bytes)),
            Ok(Some((Frame::Error(bytes), _))) => Ok(AttachEvent::Stderr(bytes)),
            Ok(Some((Frame::Cut(reason), _))) => Ok(AttachEvent::Cut(reason)),
            Ok(Some((Frame::End, _)) | None) => Ok(AttachEvent::End),
            Ok(Some((Frame::Hello(Hello { .. }) | Frame::Input(_) | Frame::InputEnd, _))) => {
                Err(io::Error::other("the shim sent a frame of a client"))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_shim_is_given_a_program_with_words_it_can_pass_on() {
        let wanted = AttachableStreams {
            log: Some("/l/a+b &c".into()),
            max_line_bytes: 7,
            ..AttachableStreams::default()
        };
        let streams = wanted.through_logger(Path::new("/bin/shim"), Path::new("/b"));
        let expected =
            "binary:///bin/shim?bundle=/b&cri-log=/l/a%2Bb%20%26c&max_line_bytes=7".to_owned();
        assert_eq!(
            (streams.stdout, streams.stderr),
            (expected.clone(), expected)
        );
    }

    #[test]
    fn streams_to_attach_to_are_uris_the_shim_takes() {
        let table = [
            (AttachableStreams::default(), ["", "attach://", "attach://"]),
            (
                AttachableStreams {
                    log: Some("/l/a?b".into()),
                    max_line_bytes: 7,
                    stdin: true,
                    ..AttachableStreams::default()
                },
                [
                    "attach://",
                    "cri-log:///l/a%3Fb?max_line_bytes=7",
                    "cri-log:///l/a%3Fb?max_line_bytes=7",
                ],
            ),
            (
                AttachableStreams {
                    log: Some("/l".into()),
                    stdin: true,
                    stdin_once: true,
                    terminal: true,
                    ..AttachableStreams::default()
                },
                ["attach://?once=true", "cri-log:///l", ""],
            ),
        ];
        for (wanted, expected) in table {
            let streams = Streams::from(wanted.clone());
            let uris = [streams.stdin, streams.stdout, streams.stderr];
            assert_eq!(uris, expected, "{wanted:?}");
        }
    }
}
