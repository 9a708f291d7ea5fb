//! `containerd.services.version.v1`.

use orlop_api::containerd::services::version::v1::VersionResponse;
use orlop_api::containerd::services::version::v1::version_server::Version;
use tonic::{Request, Response, Status};

/// Tells the version of the daemon.
#[derive(Debug)]
pub(crate) struct VersionService {
    pub(crate) version: String,
    pub(crate) revision: String,
}

#[tonic::async_trait]
impl Version for VersionService {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: self.version.clone(),
            revision: self.revision.clone(),
        }))
    }
}
