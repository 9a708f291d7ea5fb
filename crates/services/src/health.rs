//! `grpc.health.v1`: whether the daemon takes calls. It does for as long as it answers at all.

use futures_util::stream::{self, Stream, StreamExt};
use orlop_api::grpc::health::v1::health_check_response::ServingStatus;
use orlop_api::grpc::health::v1::health_server::Health;
use orlop_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use std::pin::Pin;
use tonic::{Request, Response, Status};

use crate::status;

/// Answers for the whole daemon; single services are not told apart, as in containerd.
#[derive(Debug)]
pub(crate) struct HealthService;

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "" => Ok(Response::new(answer(ServingStatus::Serving))),
            other => Err(status::not_found(format!("health of service {other:?}"))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first = match request.get_ref().service.as_str() {
            "" => ServingStatus::Serving,
            _ => ServingStatus::ServiceUnknown,
        };
        // The protocol wants the stream open until the caller leaves; the connection's end is the only change there is.
        let stream = stream::iter([Ok(answer(first))]).chain(stream::pending());
        Ok(Response::new(Box::pin(stream)))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
