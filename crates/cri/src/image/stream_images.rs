//! `StreamImages`.

use orlop_api::runtime::v1 as api;
use tonic::Status;

use crate::Cri;
use crate::stream::Answers;

pub(super) async fn call(
    _cri: &Cri,
    _request: api::StreamImagesRequest,
) -> Result<Answers<api::StreamImagesResponse>, Status> {
    Err(Status::unimplemented("StreamImages is not served yet"))
}
