//! `ImageService`: one file per call, named after it.

mod image_fs_info;
mod image_status;
mod list_images;
mod message;
mod pull_image;
mod remove_image;
mod stream_images;

use orlop_api::runtime::v1 as api;
use orlop_api::runtime::v1::image_service_server::ImageService;
use tonic::{Request, Response, Status};

use crate::Cri;
use crate::stream::Answers;

#[tonic::async_trait]
impl ImageService for Cri {
    async fn list_images(
        &self,
        request: Request<api::ListImagesRequest>,
    ) -> Result<Response<api::ListImagesResponse>, Status> {
        let answer = list_images::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    type StreamImagesStream = Answers<api::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<api::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let answer = stream_images::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn image_status(
        &self,
        request: Request<api::ImageStatusRequest>,
    ) -> Result<Response<api::ImageStatusResponse>, Status> {
        let answer = image_status::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn pull_image(
        &self,
        request: Request<api::PullImageRequest>,
    ) -> Result<Response<api::PullImageResponse>, Status> {
        let answer = pull_image::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn remove_image(
        &self,
        request: Request<api::RemoveImageRequest>,
    ) -> Result<Response<api::RemoveImageResponse>, Status> {
        let answer = remove_image::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn image_fs_info(
        &self,
        request: Request<api::ImageFsInfoRequest>,
    ) -> Result<Response<api::ImageFsInfoResponse>, Status> {
        let answer = image_fs_info::call(self, request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}
