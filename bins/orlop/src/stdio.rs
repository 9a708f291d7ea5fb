//! A process's standard streams over FIFOs, as containerd's clients and shims do it, and the session around them.
//!
//! The FIFOs live in a folder of our own below the temporary directory; the shim opens the other ends. Until the
//! process has started we hold a writer of each output ourselves: without one, reading would find an end that is
//! none. Cancellation: dropping a [`Stdio`] closes everything and removes the folder. Crash: a folder with FIFOs
//! stays behind, empty of bytes; the shim sees closed streams. Ordering: output is written in the order in which each
//! stream delivers it; between the two streams there is none.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use orlop_api::containerd::services::tasks::v1::{CloseIoRequest, ResizePtyRequest};
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use crate::client::Client;
use crate::container::{self, Process};
use crate::error::{CliError, Explain};
use crate::output::Output;
use crate::signals::{self, Asked};
use crate::terminal::{self, RawMode};

const BUFFER_BYTES: usize = 64 << 10;

/// How long output may still come after the process has ended: a grandchild may hold the streams open for ever.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// What a process is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
}

/// The paths for the daemon; empty where there is no stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Our ends of the FIFOs.
pub(crate) struct Stdio {
    pub(crate) paths: Paths,
    wanted: Wanted,
    stdin: Option<Sender>,
    stdout: Receiver,
    stderr: Option<Receiver>,
    /// Keeps outputs from ending before the process has opened them.
    held_open: Vec<Sender>,
    /// Removed with everything in it when dropped.
    _folder: TempDir,
}

impl Wanted {
    /// Checks that a terminal is there where one is wanted.
    pub(crate) fn check(self) -> Result<(), CliError> {
        if self.tty && self.stdin && !io::stdin().is_terminal() {
            return Err(CliError::argument(
                "-t",
                "standard input is no terminal: leave -t away when piping",
            ));
        }
        Ok(())
    }
}

impl Stdio {
    /// Makes the FIFOs and opens our ends. Needs a runtime.
    pub(crate) fn create(wanted: Wanted) -> Result<Self, CliError> {
        let what = || "cannot make FIFOs for the container's streams".to_owned();
        let folder = tempfile::Builder::new()
            .prefix("orlop-stdio-")
            .tempdir()
            .explain(what)?;
        Self::create_in(folder, wanted).explain(what)
    }

    fn create_in(folder: TempDir, wanted: Wanted) -> io::Result<Self> {
        let mut held_open = Vec::new();
        let mut output = |name: &str| -> io::Result<(String, Receiver)> {
            let path = make_fifo(folder.path(), name)?;
            let receiver = OpenOptions::new().open_receiver(&path)?;
            held_open.push(OpenOptions::new().open_sender(&path)?);
            Ok((path, receiver))
        };
        let (stdout_path, stdout) = output("stdout")?;
        // A terminal has one output.
        let (stderr_path, stderr) = match wanted.tty {
            true => (String::new(), None),
            false => output("stderr").map(|(path, receiver)| (path, Some(receiver)))?,
        };
        let (stdin_path, stdin) = match wanted.stdin {
            false => (String::new(), None),
            true => {
                let path = make_fifo(folder.path(), "stdin")?;
                // Opened for both, because a writer alone has to wait for the shim's reader.
                let sender = OpenOptions::new().read_write(true).open_sender(&path)?;
                (path, Some(sender))
            }
        };
        Ok(Self {
            paths: Paths {
                stdin: stdin_path,
                stdout: stdout_path,
                stderr: stderr_path,
            },
            wanted,
            stdin,
            stdout,
            stderr,
            held_open,
            _folder: folder,
        })
    }

    /// Hands streams, signals and the terminal's size back and forth until the process ends; returns its exit code.
    /// The process has been started.
    pub(crate) async fn attend(
        self,
        client: &Client,
        process: &Process,
        output: &mut Output,
    ) -> Result<u8, CliError> {
        let Self {
            wanted,
            stdin,
            stdout,
            stderr,
            held_open,
            _folder,
            ..
        } = self;
        drop(held_open);
        let raw = wanted.tty && wanted.stdin;
        let _raw_mode = raw
            .then(|| RawMode::enter(rustix::stdio::stdin()))
            .transpose()
            .explain(|| "cannot switch the terminal to raw mode".to_owned())?;
        let output = RefCell::new(output);
        let streams = async {
            tokio::try_join!(
                pump(Some(stdout), |bytes| output.borrow_mut().write(bytes)),
                pump(stderr, |bytes| output.borrow_mut().write_error(bytes)),
            )
            .map(drop)
        };
        let exit = container::wait(client, process);
        // Each of these goes on as long as the process; the end of one is no end of the session.
        let beside = async {
            tokio::join!(
                feed(stdin, client, process),
                follow_size(wanted.tty, client, process),
                hand_on_signals(client, process),
            );
            std::future::pending::<()>().await;
        };
        tokio::select! {
            code = until_ended(exit, streams, DRAIN_TIME) => code,
            () = beside => Err(CliError::Interrupted),
        }
    }
}

fn make_fifo(folder: &Path, name: &str) -> io::Result<String> {
    let path = folder.join(name);
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    path.into_os_string()
        .into_string()
        .map_err(|_| io::Error::other("the temporary directory's path is not UTF-8"))
}

/// Waits for the process's end and then for its streams', the latter for a limited time.
async fn until_ended(
    exit: impl Future<Output = Result<u8, CliError>>,
    streams: impl Future<Output = Result<(), CliError>>,
    drain_time: Duration,
) -> Result<u8, CliError> {
    let (mut exit, mut streams) = (pin!(exit), pin!(streams));
    let mut streams_ended = false;
    let code = loop {
        tokio::select! {
            code = &mut exit => break code?,
            ended = &mut streams, if !streams_ended => {
                ended?;
                streams_ended = true;
            }
        }
    };
    if !streams_ended {
        // What holds the streams open after that is no part of the process, so its output is not waited for.
        if let Ok(ended) = tokio::time::timeout(drain_time, streams).await {
            ended?;
        }
    }
    Ok(code)
}

/// Writes what comes out of a stream until it ends.
async fn pump(
    stream: Option<Receiver>,
    mut write: impl FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let Some(mut stream) = stream else {
        return Ok(());
    };
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = stream.read(&mut buffer).await;
        match length.explain(|| "cannot read the container's output".to_owned())? {
            0 => return Ok(()),
            length => write(&buffer[..length])?,
        }
    }
}

/// Writes our standard input into the process's, and closes that when ours ends.
async fn feed(stdin: Option<Sender>, client: &Client, process: &Process) {
    let Some(mut sender) = stdin else { return };
    let mut ours = tokio::io::stdin();
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(length @ 1..) = ours.read(&mut buffer).await {
        if sender.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    drop(sender);
    // The shim holds an end of its own, so closing ours says nothing to the process.
    let request = CloseIoRequest {
        container_id: process.container_id.clone(),
        exec_id: process.exec_id.clone(),
        stdin: true,
    };
    let closed = client.tasks().close_io(request).await;
    // A process that has ended needs no end of input; `wait` tells about it.
    drop(closed);
}

/// Tells the process's terminal the size of ours, now and whenever it changes.
async fn follow_size(tty: bool, client: &Client, process: &Process) {
    if !tty {
        return;
    }
    let Ok(mut resized) = signals::resized() else {
        return;
    };
    loop {
        if let Some((width, height)) = terminal::size(rustix::stdio::stdin().as_fd()) {
            let request = ResizePtyRequest {
                container_id: process.container_id.clone(),
                exec_id: process.exec_id.clone(),
                width: u32::try_from(width).unwrap_or(u32::MAX),
                height: u32::try_from(height).unwrap_or(u32::MAX),
            };
            let resize = client.tasks().resize_pty(request).await;
            // A wrong size is ugly and nothing more; the next change tries again.
            drop(resize);
        }
        if resized.recv().await.is_none() {
            return;
        }
    }
}

/// What we are asked, the process is asked: it decides when to end.
async fn hand_on_signals(client: &Client, process: &Process) {
    let Ok(mut asked) = Asked::listen() else {
        return;
    };
    loop {
        let signal = asked.next().await;
        let handed_on = container::kill(client, process, signal, false).await;
        // A process that cannot be reached is ending: `wait` tells how.
        drop(handed_on);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn wanted(stdin: bool, tty: bool) -> Wanted {
        Wanted { stdin, tty }
    }

    #[tokio::test]
    async fn output_flows_until_the_last_writer_closes() {
        let stdio = Stdio::create(wanted(false, false)).unwrap();
        let mut shim = std::fs::OpenOptions::new()
            .write(true)
            .open(&stdio.paths.stdout)
            .unwrap();
        shim.write_all(b"hello").unwrap();
        drop(shim);
        drop(stdio.held_open);
        let mut seen = Vec::new();
        pump(Some(stdio.stdout), |bytes| {
            seen.extend_from_slice(bytes);
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(seen, b"hello");
    }

    #[tokio::test]
    async fn a_terminal_has_one_output_and_no_input_unless_asked_for() {
        let stdio = Stdio::create(wanted(false, true)).unwrap();
        assert_eq!(
            (stdio.paths.stdin.as_str(), stdio.paths.stderr.as_str()),
            ("", "")
        );
        assert!(stdio.paths.stdout.ends_with("/stdout"));
    }

    #[tokio::test]
    async fn the_folder_goes_with_the_session() {
        let stdio = Stdio::create(wanted(true, false)).unwrap();
        let path = stdio.paths.stdin.clone();
        assert!(Path::new(&path).exists());
        drop(stdio);
        assert!(!Path::new(&path).exists());
    }

    #[tokio::test]
    async fn streams_that_stay_open_do_not_keep_us_after_the_end() {
        let code = until_ended(async { Ok(3) }, std::future::pending(), Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(code, 3);
    }

    #[tokio::test]
    async fn a_failure_to_write_ends_the_session() {
        let broken = async { Err(CliError::Output(io::ErrorKind::BrokenPipe.into())) };
        let result = until_ended(std::future::pending(), broken, Duration::ZERO).await;
        assert!(result.unwrap_err().is_closed_pipe());
    }
}
