//! The two calls of the kubelet's image service that a pull needs: containerd then does everything in the daemon.
//! They are written out here because Orlop does not serve CRI yet, and so has no generated form of it.

use anyhow::{Context, Result};
use http::uri::PathAndQuery;
use orlop_e2e::client::Service;
use tonic::Request;
use tonic_prost::ProstCodec;

/// `runtime.v1.ImageSpec`.
#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

/// `runtime.v1.PullImageRequest` and `RemoveImageRequest`, which begin alike.
#[derive(Clone, PartialEq, prost::Message)]
struct ImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

/// `runtime.v1.PullImageResponse`; the answer to a removal has no fields.
#[derive(Clone, PartialEq, prost::Message)]
struct ImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

pub(crate) async fn pull(service: Service, reference: &str) -> Result<()> {
    call(service, "/runtime.v1.ImageService/PullImage", reference).await
}

pub(crate) async fn remove(service: Service, reference: &str) -> Result<()> {
    call(service, "/runtime.v1.ImageService/RemoveImage", reference).await
}

async fn call(service: Service, method: &'static str, reference: &str) -> Result<()> {
    let mut client = tonic::client::Grpc::new(service);
    let ready = client.ready().await;
    ready.context("containerd hung up")?;
    let request = ImageRequest {
        image: Some(ImageSpec {
            image: reference.to_owned(),
        }),
    };
    let codec: ProstCodec<ImageRequest, ImageResponse> = ProstCodec::default();
    let path = PathAndQuery::from_static(method);
    let answer = client.unary(Request::new(request), path, codec).await;
    answer
        .map(drop)
        .with_context(|| format!("{method} {reference}"))
}
