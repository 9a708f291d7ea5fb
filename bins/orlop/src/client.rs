//! The connection to the daemon.

use std::time::Duration;

use orlop_api::containerd::services::containers::v1::containers_client::ContainersClient as ContainerRecordsClient;
use orlop_api::containerd::services::content::v1::content_client::ContentClient;
use orlop_api::containerd::services::images::v1::images_client::ImagesClient as ImageRecordsClient;
use orlop_api::containerd::services::leases::v1::leases_client::LeasesClient;
use orlop_api::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use orlop_api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use orlop_api::containerd::services::tasks::v1::tasks_client::TasksClient;
use orlop_api::containerd::services::version::v1::version_client::VersionClient;
use orlop_api::orlop::v1::collection_client::CollectionClient;
use orlop_api::orlop::v1::containers_client::ContainersClient;
use orlop_api::orlop::v1::images_client::ImagesClient;
use orlop_api::orlop::v1::node_client::NodeClient;
use orlop_types::Namespace;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::error::CliError;

/// The daemon's own limit (`docs` of orlop.v1): both sides take messages up to this size.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A daemon that does not even accept is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Puts the namespace into every request.
#[derive(Clone)]
pub(crate) struct Headers {
    namespace: MetadataValue<Ascii>,
}

impl tonic::service::Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        Ok(request)
    }
}

/// What every generated client speaks through.
pub(crate) type Service = InterceptedService<Channel, Headers>;

/// A connection, and the namespace of its calls. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Client {
    service: Service,
    namespace: Namespace,
}

/// A client of one service, with our limit for messages.
macro_rules! service {
    ($($(#[$doc:meta])* $name:ident -> $client:ident),+ $(,)?) => {
        $($(#[$doc])* pub(crate) fn $name(&self) -> $client<Service> {
            $client::new(self.service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
        })+
    };
}

impl Client {
    /// Connects to the socket at `address`: a path, also with `unix://` in front.
    pub(crate) async fn connect(address: &str, namespace: &Namespace) -> Result<Self, CliError> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let unreachable = |source| CliError::Unreachable {
            address: path.to_owned(),
            source,
        };
        let channel = Endpoint::from_shared(format!("unix:{path}"))
            .map_err(unreachable)?
            .connect_timeout(CONNECT_TIMEOUT)
            .connect()
            .await
            .map_err(unreachable)?;
        let header = MetadataValue::try_from(namespace.as_str())
            .map_err(|_| CliError::argument("--namespace", "cannot be sent as a header"))?;
        let headers = Headers { namespace: header };
        Ok(Self {
            service: InterceptedService::new(channel, headers),
            namespace: namespace.clone(),
        })
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    service! {
        /// Pull, push, import, export.
        images -> ImagesClient,
        /// Making and observing containers.
        containers -> ContainersClient,
        /// What is kept, and why.
        collection -> CollectionClient,
        /// The daemon and its history.
        node -> NodeClient,
        /// containerd's image records.
        image_records -> ImageRecordsClient,
        /// containerd's container records.
        container_records -> ContainerRecordsClient,
        /// containerd's tasks.
        tasks -> TasksClient,
        /// containerd's blobs.
        content -> ContentClient,
        /// containerd's snapshots.
        snapshots -> SnapshotsClient,
        /// containerd's leases.
        leases -> LeasesClient,
        /// containerd's namespaces.
        namespaces -> NamespacesClient,
        /// containerd's version.
        version -> VersionClient,
    }
}
