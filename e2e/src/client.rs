//! The generated gRPC clients over a unix socket, with the namespace in every request.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use orlop_api::containerd::services::containers::v1::containers_client::ContainersClient;
use orlop_api::containerd::services::content::v1::content_client::ContentClient;
use orlop_api::containerd::services::images::v1::images_client::ImagesClient;
use orlop_api::containerd::services::leases::v1::leases_client::LeasesClient;
use orlop_api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use orlop_api::containerd::services::snapshots::v1::{Kind, ListSnapshotsRequest};
use orlop_api::containerd::services::tasks::v1::tasks_client::TasksClient;
use orlop_api::orlop::v1::collection_client::CollectionClient;
use orlop_api::orlop::v1::containers_client::ContainersClient as OrlopContainersClient;
use orlop_api::orlop::v1::images_client::ImagesClient as OrlopImagesClient;
use orlop_api::runtime::v1::image_service_client::ImageServiceClient;
use orlop_api::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// What both engines send at most.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The backend that is used everywhere: both engines have it.
pub const SNAPSHOTTER: &str = "overlayfs";

/// Puts namespace and lease into every request.
#[derive(Debug, Clone)]
pub struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl tonic::service::Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

/// What every generated client speaks through.
pub type Service = InterceptedService<Channel, Headers>;

/// One connection to an engine. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    headers: Headers,
}

/// A client of one service.
macro_rules! service {
    ($($(#[$doc:meta])* $name:ident -> $client:ident),+ $(,)?) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> $client<Service> {
                $client::new(self.service()).max_decoding_message_size(MESSAGE_BYTES_MAX)
            }
        )+
    };
}

impl Client {
    /// Connects to `socket`, to work in `namespace`.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(socket: &Path, namespace: &str) -> Result<Self> {
        let what = || format!("cannot connect to {}", socket.display());
        let channel = Endpoint::from_shared(format!("unix:{}", socket.display()))
            .with_context(what)?
            .connect_timeout(CONNECT_TIMEOUT)
            .connect()
            .await
            .with_context(what)?;
        let headers = Headers {
            namespace: namespace.parse().context("the namespace is no header")?,
            lease: None,
        };
        Ok(Self { channel, headers })
    }

    /// The same, with this lease in every request.
    ///
    /// # Errors
    /// The lease's name cannot be a header.
    pub fn with_lease(&self, lease: &str) -> Result<Self> {
        let mut client = self.clone();
        client.headers.lease = Some(lease.parse().context("the lease is no header")?);
        Ok(client)
    }

    /// The same in another namespace.
    ///
    /// # Errors
    /// The namespace cannot be a header.
    pub fn with_namespace(&self, namespace: &str) -> Result<Self> {
        let mut client = self.clone();
        client.headers.namespace = namespace.parse().context("the namespace is no header")?;
        Ok(client)
    }

    /// For services that are not generated.
    #[must_use]
    pub fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.headers.clone())
    }

    service! {
        /// containerd's container records.
        containers -> ContainersClient,
        /// containerd's blobs.
        content -> ContentClient,
        /// containerd's image records.
        images -> ImagesClient,
        /// containerd's leases.
        leases -> LeasesClient,
        /// containerd's snapshots.
        snapshots -> SnapshotsClient,
        /// containerd's tasks.
        tasks -> TasksClient,
        /// Orlop's collection; containerd has none.
        collection -> CollectionClient,
        /// Orlop's containers; containerd has none.
        orlop_containers -> OrlopContainersClient,
        /// Orlop's pull and push; containerd has none.
        orlop_images -> OrlopImagesClient,
        /// What the kubelet asks about pods.
        cri_runtime -> RuntimeServiceClient,
        /// What the kubelet asks about images.
        cri_images -> ImageServiceClient,
    }

    /// The committed snapshot that no other stands on, if there is exactly one: an image's, in a fresh namespace.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn top_snapshot(&self) -> Result<Option<String>> {
        let request = ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            ..ListSnapshotsRequest::default()
        };
        let answer = self.snapshots().list(request).await;
        let mut pages = answer.context("cannot list snapshots")?.into_inner();
        let (mut committed, mut parents) = (BTreeSet::new(), BTreeSet::new());
        while let Some(page) = pages.message().await? {
            for info in page.info {
                parents.insert(info.parent);
                if info.kind == i32::from(Kind::Committed) {
                    committed.insert(info.name);
                }
            }
        }
        let mut tops = committed.difference(&parents);
        let top = tops.next().cloned();
        Ok(top.filter(|_| tops.next().is_none()))
    }
}
