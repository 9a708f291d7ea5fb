//! `RuntimeService`: one file per call, named after it.

mod attach;
mod checkpoint_container;
mod container_stats;
mod container_status;
mod create_container;
mod exec;
mod exec_sync;
mod get_container_events;
mod list_container_stats;
mod list_containers;
mod list_metric_descriptors;
mod list_pod_sandbox;
mod list_pod_sandbox_metrics;
mod list_pod_sandbox_stats;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod remove_container;
mod remove_pod_sandbox;
mod reopen_container_log;
mod run_pod_sandbox;
mod runtime_config;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod stream_container_stats;
mod stream_containers;
mod stream_pod_sandbox_metrics;
mod stream_pod_sandbox_stats;
mod stream_pod_sandboxes;
mod streams;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod version;

use orlop_api::runtime::v1 as api;
use orlop_api::runtime::v1::runtime_service_server::RuntimeService;
use tonic::{Request, Response, Status};

use crate::Cri;
use crate::stream::Answers;

#[tonic::async_trait]
impl RuntimeService for Cri {
    async fn version(
        &self,
        request: Request<api::VersionRequest>,
    ) -> Result<Response<api::VersionResponse>, Status> {
        let answer = version::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<api::RunPodSandboxRequest>,
    ) -> Result<Response<api::RunPodSandboxResponse>, Status> {
        let answer = run_pod_sandbox::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<api::StopPodSandboxRequest>,
    ) -> Result<Response<api::StopPodSandboxResponse>, Status> {
        let answer = stop_pod_sandbox::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<api::RemovePodSandboxRequest>,
    ) -> Result<Response<api::RemovePodSandboxResponse>, Status> {
        let answer = remove_pod_sandbox::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<api::PodSandboxStatusRequest>,
    ) -> Result<Response<api::PodSandboxStatusResponse>, Status> {
        let answer = pod_sandbox_status::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<api::ListPodSandboxRequest>,
    ) -> Result<Response<api::ListPodSandboxResponse>, Status> {
        let answer = list_pod_sandbox::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    type StreamPodSandboxesStream = Answers<api::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<api::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        let answer = stream_pod_sandboxes::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn create_container(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Result<Response<api::CreateContainerResponse>, Status> {
        let answer = create_container::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn start_container(
        &self,
        request: Request<api::StartContainerRequest>,
    ) -> Result<Response<api::StartContainerResponse>, Status> {
        let answer = start_container::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn stop_container(
        &self,
        request: Request<api::StopContainerRequest>,
    ) -> Result<Response<api::StopContainerResponse>, Status> {
        let answer = stop_container::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn remove_container(
        &self,
        request: Request<api::RemoveContainerRequest>,
    ) -> Result<Response<api::RemoveContainerResponse>, Status> {
        let answer = remove_container::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_containers(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Response<api::ListContainersResponse>, Status> {
        let answer = list_containers::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    type StreamContainersStream = Answers<api::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<api::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        let answer = stream_containers::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn container_status(
        &self,
        request: Request<api::ContainerStatusRequest>,
    ) -> Result<Response<api::ContainerStatusResponse>, Status> {
        let answer = container_status::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn update_container_resources(
        &self,
        request: Request<api::UpdateContainerResourcesRequest>,
    ) -> Result<Response<api::UpdateContainerResourcesResponse>, Status> {
        let answer = update_container_resources::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn reopen_container_log(
        &self,
        request: Request<api::ReopenContainerLogRequest>,
    ) -> Result<Response<api::ReopenContainerLogResponse>, Status> {
        let answer = reopen_container_log::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn exec_sync(
        &self,
        request: Request<api::ExecSyncRequest>,
    ) -> Result<Response<api::ExecSyncResponse>, Status> {
        let answer = exec_sync::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn exec(
        &self,
        request: Request<api::ExecRequest>,
    ) -> Result<Response<api::ExecResponse>, Status> {
        let answer = exec::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn attach(
        &self,
        request: Request<api::AttachRequest>,
    ) -> Result<Response<api::AttachResponse>, Status> {
        let answer = attach::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn port_forward(
        &self,
        request: Request<api::PortForwardRequest>,
    ) -> Result<Response<api::PortForwardResponse>, Status> {
        let answer = port_forward::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn container_stats(
        &self,
        request: Request<api::ContainerStatsRequest>,
    ) -> Result<Response<api::ContainerStatsResponse>, Status> {
        let answer = container_stats::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_container_stats(
        &self,
        request: Request<api::ListContainerStatsRequest>,
    ) -> Result<Response<api::ListContainerStatsResponse>, Status> {
        let answer = list_container_stats::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    type StreamContainerStatsStream = Answers<api::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<api::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        let answer = stream_container_stats::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<api::PodSandboxStatsRequest>,
    ) -> Result<Response<api::PodSandboxStatsResponse>, Status> {
        let answer = pod_sandbox_stats::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<api::ListPodSandboxStatsRequest>,
    ) -> Result<Response<api::ListPodSandboxStatsResponse>, Status> {
        let answer = list_pod_sandbox_stats::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    type StreamPodSandboxStatsStream = Answers<api::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<api::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        let answer = stream_pod_sandbox_stats::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn update_runtime_config(
        &self,
        request: Request<api::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<api::UpdateRuntimeConfigResponse>, Status> {
        let answer = update_runtime_config::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        let answer = status::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn checkpoint_container(
        &self,
        request: Request<api::CheckpointContainerRequest>,
    ) -> Result<Response<api::CheckpointContainerResponse>, Status> {
        let answer = checkpoint_container::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    type GetContainerEventsStream = Answers<api::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        request: Request<api::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        let answer = get_container_events::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<api::ListMetricDescriptorsRequest>,
    ) -> Result<Response<api::ListMetricDescriptorsResponse>, Status> {
        let answer = list_metric_descriptors::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<api::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<api::ListPodSandboxMetricsResponse>, Status> {
        let answer = list_pod_sandbox_metrics::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    type StreamPodSandboxMetricsStream = Answers<api::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<api::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        let answer = stream_pod_sandbox_metrics::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn runtime_config(
        &self,
        request: Request<api::RuntimeConfigRequest>,
    ) -> Result<Response<api::RuntimeConfigResponse>, Status> {
        let answer = runtime_config::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<api::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<api::UpdatePodSandboxResourcesResponse>, Status> {
        let answer = update_pod_sandbox_resources::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}
