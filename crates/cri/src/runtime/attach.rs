//! `Attach`: where a container's own streams can be had.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;
use crate::runtime::streams;

pub(super) async fn call(
    cri: &Cri,
    request: api::AttachRequest,
) -> Result<api::AttachResponse, Status> {
    let wanted = streams::wanted(request.stdin, request.stdout, request.stderr, request.tty)?;
    let container = streams::running(cri, &request.container_id).await?;
    let url = cri.parts().streaming.attach(container, wanted);
    let url = url.map_err(|error| streams::no_token(&error))?;
    Ok(api::AttachResponse { url })
}
