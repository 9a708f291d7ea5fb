//! A command in a container, run for somebody at the other end of a connection.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use orlop_base::task::CancellationToken;
use orlop_runtime::exec::{ExecCommand, ExecControl, Execution};
use orlop_types::ContainerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::sleep;

use super::Host;
use super::mux::{CHUNK_BYTES_MAX, StreamReader, StreamWriter};
use super::remote::{Remote, resize_all};
use super::status::Outcome;

/// Runs the command and tells how it ended. When the client goes, the process is hung up on.
pub(super) async fn run(
    host: &Host,
    container: &ContainerId,
    command: ExecCommand,
    mut remote: Remote,
    gone: &CancellationToken,
) {
    let opened = host.runtime.open_exec(&host.namespace, container, command);
    let outcome = match opened.await {
        Ok(execution) => converse(execution, &mut remote, gone, host.options.drain).await,
        Err(error) => Some(Outcome::Failed(orlop_types::chain(&error))),
    };
    match outcome {
        Some(outcome) => remote.finish(&outcome).await,
        None => tracing::debug!(%container, "the client of a process has gone"),
    }
}

/// Nothing if the client has gone: then dropping the process's handle hangs up.
async fn converse(
    execution: Execution,
    remote: &mut Remote,
    gone: &CancellationToken,
    drain: Duration,
) -> Option<Outcome> {
    let Execution {
        stdin,
        stdout,
        stderr,
        control,
    } = execution;
    let progress = Progress::default();
    let input = feed(remote.stdin.take(), stdin, &control);
    let terminal = &control;
    let sizes = resize_all(remote.resize.take(), |size| async move {
        let resized = terminal.resize(size.width.into(), size.height.into());
        if let Err(error) = resized.await {
            tracing::debug!(%error, "a terminal keeps its size");
        }
    });
    let output = async {
        tokio::join!(
            pour(stdout, remote.stdout.as_ref(), &progress),
            pour(stderr, remote.stderr.as_ref(), &progress)
        );
    };
    let aside = async {
        tokio::join!(input, sizes);
        std::future::pending().await
    };
    let ended = tokio::select! {
        () = gone.cancelled() => return None,
        code = end_of(&control, output, &progress, drain) => code,
        ended = aside => ended,
    };
    let outcome = match ended {
        Ok(code) => Outcome::Exited(code),
        Err(error) => Outcome::Failed(orlop_types::chain(&error)),
    };
    // The client need not wait for this.
    control.finish().await;
    Some(outcome)
}

/// Waits for the process and then for its output: until nobody holds it open, or nothing has come for a while from those
/// whom the process left behind.
async fn end_of(
    control: &ExecControl,
    output: impl Future<Output = ()>,
    progress: &Progress,
    drain: Duration,
) -> Result<u32, orlop_runtime::Error> {
    tokio::pin!(output);
    let mut is_drained = false;
    let code = loop {
        tokio::select! {
            code = control.wait() => break code?,
            () = &mut output, if !is_drained => is_drained = true,
        }
    };
    while !is_drained {
        let before = progress.chunks.load(Ordering::Relaxed);
        tokio::select! {
            () = &mut output => is_drained = true,
            () = sleep(drain) => is_drained = progress.has_stopped_since(before),
        }
    }
    Ok(code)
}

/// What output does.
#[derive(Debug, Default)]
struct Progress {
    chunks: AtomicU64,
    /// Outputs that wait for the client.
    writing: AtomicUsize,
}

impl Progress {
    fn has_stopped_since(&self, chunks: u64) -> bool {
        self.chunks.load(Ordering::Relaxed) == chunks && self.writing.load(Ordering::Relaxed) == 0
    }
}

/// Takes output to the client; what nobody wants is thrown away.
async fn pour(from: Option<Receiver>, to: Option<&StreamWriter>, progress: &Progress) {
    let Some(mut from) = from else { return };
    let mut chunk = vec![0; CHUNK_BYTES_MAX];
    // A fault of a pipe is its end.
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        progress.chunks.fetch_add(1, Ordering::Relaxed);
        if let Some(to) = to {
            progress.writing.fetch_add(1, Ordering::Relaxed);
            let written = to.write(&chunk[..count]).await;
            progress.writing.fetch_sub(1, Ordering::Relaxed);
            if written.is_err() {
                return;
            }
        }
    }
}

/// Takes input to the process, and its end. What the process does not want is thrown away.
async fn feed(from: Option<StreamReader>, to: Option<Sender>, control: &ExecControl) {
    let Some(mut from) = from else { return };
    let mut to = to;
    while let Some(bytes) = from.next().await {
        if let Some(pipe) = &mut to
            && pipe.write_all(&bytes).await.is_err()
        {
            to = None;
        }
    }
    drop(to);
    if let Err(error) = control.close_stdin().await {
        tracing::debug!(%error, "a process has ended before its input");
    }
}
