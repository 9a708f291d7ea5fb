//! `Exec`: where a command can be run, with its streams.

use orlop_api::runtime::v1 as api;
use orlop_runtime::exec::ExecCommand;
use tonic::Status;

use crate::Cri;
use crate::runtime::streams;

pub(super) async fn call(
    cri: &Cri,
    request: api::ExecRequest,
) -> Result<api::ExecResponse, Status> {
    let wanted = streams::wanted(request.stdin, request.stdout, request.stderr, request.tty)?;
    let container = streams::running(cri, &request.container_id).await?;
    if request.cmd.is_empty() {
        return Err(crate::status::missing("cmd"));
    }
    let command = ExecCommand {
        args: request.cmd,
        terminal: wanted.terminal,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    let url = cri.parts().streaming.exec(container, command);
    let url = url.map_err(|error| streams::no_token(&error))?;
    Ok(api::ExecResponse { url })
}
