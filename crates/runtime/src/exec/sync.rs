//! Running a process to its end and keeping what it says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orlop_types::{ContainerId, Namespace};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};

use super::{ExecCommand, ExecControl};
use crate::Error;
use crate::runtime::Runtime;

/// Read at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// What a process may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecLimits {
    /// How long it may run; absent for as long as it wants.
    pub timeout: Option<Duration>,
    /// How much of its output is kept, standard output and standard error together, in bytes. The rest is thrown away.
    pub output_bytes_max: usize,
    /// How long output is waited for after its end, when it left somebody behind who holds it open.
    pub drain: Duration,
}

/// What became of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Its exit status.
    pub code: u32,
    /// Its standard output. A note at its end says if some is missing.
    pub stdout: Vec<u8>,
    /// Its standard error, likewise.
    pub stderr: Vec<u8>,
}

impl Runtime {
    /// Runs a process in a running container to its end.
    ///
    /// # Errors
    /// As [`Runtime::open_exec`]; and it ran for longer than it may: then it was killed with its descendants.
    pub async fn run_exec(
        &self,
        namespace: &Namespace,
        container: &ContainerId,
        args: Vec<String>,
        limits: ExecLimits,
    ) -> Result<ExecOutcome, Error> {
        let command = ExecCommand {
            args,
            stdout: true,
            stderr: true,
            ..ExecCommand::default()
        };
        let execution = self.open_exec(namespace, container, command).await?;
        let control = execution.control;
        let mut kept = Kept::new(limits.output_bytes_max);
        let reading = kept.read(execution.stdout, execution.stderr);
        let ended = end_of(&control, reading, limits);
        let Some(limit) = limits.timeout else {
            let code = ended.await?;
            control.finish().await;
            return Ok(kept.outcome(code));
        };
        if let Ok(code) = timeout(limit, ended).await {
            let code = code?;
            control.finish().await;
            return Ok(kept.outcome(code));
        }
        // Dropping the handle waits for the end and removes what is left, whether or not killing worked.
        control.kill().await?;
        Err(Error::ExecTimeout {
            container: container.to_string(),
            limit,
        })
    }
}

/// Waits for the process, and then for its output.
async fn end_of(
    control: &ExecControl,
    reading: impl Future<Output = ()>,
    limits: ExecLimits,
) -> Result<u32, Error> {
    tokio::pin!(reading);
    let mut has_read = false;
    let code = loop {
        tokio::select! {
            code = control.wait() => break code?,
            () = &mut reading, if !has_read => has_read = true,
        }
    };
    if !has_read {
        tokio::select! {
            () = &mut reading => {}
            () = sleep(limits.drain) => tracing::debug!("output is still held open after the end of a process"),
        }
    }
    Ok(code)
}

/// What is kept of two outputs.
#[derive(Debug)]
struct Kept {
    stdout: Part,
    stderr: Part,
    /// Bytes that may still be kept.
    room: AtomicUsize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Part {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Kept {
    fn new(bytes_max: usize) -> Self {
        Self {
            stdout: Part::default(),
            stderr: Part::default(),
            room: AtomicUsize::new(bytes_max),
            bytes_max,
        }
    }

    /// Reads both to their ends. What was read is there, too, when this is dropped before.
    async fn read(&mut self, stdout: Option<Receiver>, stderr: Option<Receiver>) {
        let room = &self.room;
        tokio::join!(
            self.stdout.read(stdout, room),
            self.stderr.read(stderr, room)
        );
    }

    fn outcome(self, code: u32) -> ExecOutcome {
        ExecOutcome {
            code,
            stdout: self.stdout.finish(self.bytes_max),
            stderr: self.stderr.finish(self.bytes_max),
        }
    }
}

impl Part {
    /// Reads on when there is no room left: the process must not hang for it.
    async fn read(&mut self, from: Option<Receiver>, room: &AtomicUsize) {
        let Some(mut from) = from else { return };
        let mut chunk = vec![0; CHUNK_BYTES];
        // A fault of a pipe is its end.
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            self.keep(&chunk[..count], room);
        }
    }

    fn keep(&mut self, bytes: &[u8], room: &AtomicUsize) {
        let before = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| {
            Some(room.saturating_sub(bytes.len()))
        });
        let kept = before.unwrap_or(0).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.is_cut |= kept < bytes.len();
    }

    fn finish(mut self, bytes_max: usize) -> Vec<u8> {
        if self.is_cut {
            let note = format!(
                "\n[orlop: the rest of the output is missing: only {bytes_max} bytes are kept]\n"
            );
            self.bytes.extend_from_slice(note.as_bytes());
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_share_one_bound_and_say_what_is_missing() {
        let mut kept = Kept::new(5);
        kept.stdout.keep(b"abc", &kept.room);
        kept.stderr.keep(b"defg", &kept.room);
        kept.stderr.keep(b"h", &kept.room);
        let outcome = kept.outcome(0);
        assert_eq!(outcome.stdout, b"abc");
        let note = "de\n[orlop: the rest of the output is missing: only 5 bytes are kept]\n";
        assert_eq!(String::from_utf8(outcome.stderr).unwrap(), note);
    }
}
