//! A running container's own streams, for somebody at the other end of a connection.

use orlop_base::task::CancellationToken;
use orlop_runtime::attach::{AttachEvent, AttachInput, AttachOutput, AttachStreams, Attached};
use orlop_types::ContainerId;

use super::Host;
use super::mux::StreamReader;
use super::remote::{Remote, Wanted, resize_all};
use super::status::Outcome;

/// Attaches until the container ends or the client goes.
pub(super) async fn run(
    host: &Host,
    container: &ContainerId,
    wanted: Wanted,
    mut remote: Remote,
    gone: &CancellationToken,
) {
    let streams = AttachStreams {
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    let attached = host.runtime.attach(&host.namespace, container, streams);
    let outcome = match attached.await {
        Ok(attached) => converse(host, container, attached, &mut remote, gone).await,
        Err(error) => Some(Outcome::Failed(orlop_types::chain(&error))),
    };
    match outcome {
        Some(outcome) => remote.finish(&outcome).await,
        None => tracing::debug!(%container, "an attached client has gone"),
    }
}

async fn converse(
    host: &Host,
    container: &ContainerId,
    attached: Attached,
    remote: &mut Remote,
    gone: &CancellationToken,
) -> Option<Outcome> {
    let Attached { input, mut output } = attached;
    let feeding = feed(remote.stdin.take(), input);
    let sizes = resize_all(remote.resize.take(), |size| async move {
        let size = (size.width.into(), size.height.into());
        let resized = host.runtime.resize(&host.namespace, container, None, size);
        if let Err(error) = resized.await {
            tracing::debug!(%error, "a terminal keeps its size");
        }
    });
    let aside = async {
        // Held to the end: hanging up on input alone is hanging up.
        let _input = tokio::join!(feeding, sizes);
        std::future::pending().await
    };
    tokio::select! {
        () = gone.cancelled() => None,
        outcome = pour(&mut output, remote) => outcome,
        outcome = aside => outcome,
    }
}

/// Nothing if the client has gone.
async fn pour(output: &mut AttachOutput, remote: &Remote) -> Option<Outcome> {
    loop {
        let (to, bytes) = match output.next().await {
            Ok(AttachEvent::Stdout(bytes)) => (&remote.stdout, bytes),
            Ok(AttachEvent::Stderr(bytes)) => (&remote.stderr, bytes),
            Ok(AttachEvent::Cut(reason)) => return Some(Outcome::Failed(reason.to_owned())),
            Ok(AttachEvent::End) => return Some(Outcome::Exited(0)),
            Err(error) => return Some(Outcome::Failed(orlop_types::chain(&error))),
        };
        if let Some(to) = to
            && to.write(bytes).await.is_err()
        {
            return None;
        }
    }
}

async fn feed(from: Option<StreamReader>, mut to: AttachInput) -> AttachInput {
    let Some(mut from) = from else { return to };
    while let Some(bytes) = from.next().await {
        if let Err(error) = to.write(&bytes).await {
            tracing::debug!(%error, "a container takes no more input");
            return to;
        }
    }
    if let Err(error) = to.end().await {
        tracing::debug!(%error, "a container has ended before its input");
    }
    to
}
