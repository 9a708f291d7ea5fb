//! `ExecSync`: a command run to its end.

use std::time::Duration;

use orlop_api::runtime::v1 as api;
use orlop_runtime::exec::ExecLimits;
use tonic::Status;

use crate::runtime::streams;
use crate::{Cri, MESSAGE_BYTES_MAX, status};

/// What an answer needs beside the output: notes on what is missing, and the encoding.
const ANSWER_BYTES: usize = 4096;

pub(super) async fn call(
    cri: &Cri,
    request: api::ExecSyncRequest,
) -> Result<api::ExecSyncResponse, Status> {
    let container = streams::running(cri, &request.container_id).await?;
    if request.cmd.is_empty() {
        return Err(status::missing("cmd"));
    }
    let seconds = u64::try_from(request.timeout)
        .ok()
        .filter(|seconds| *seconds > 0);
    let limits = ExecLimits {
        timeout: seconds.map(Duration::from_secs),
        output_bytes_max: MESSAGE_BYTES_MAX - ANSWER_BYTES,
        drain: cri.parts().exec_drain,
    };
    let run = cri
        .runtime()
        .run_exec(cri.namespace(), &container, request.cmd, limits);
    let outcome = run.await.map_err(|error| status::of_runtime(&error))?;
    Ok(api::ExecSyncResponse {
        stdout: outcome.stdout,
        stderr: outcome.stderr,
        exit_code: i32::try_from(outcome.code).unwrap_or(-1),
    })
}
