//! containerd's gRPC services and `orlop.v1` over the operations of the engine.
//!
//! Purpose: translation. One file per service turns requests into calls of `meta`, `image` and `runtime`, and answers
//! into messages, with containerd's semantics where clients depend on them.
//!
//! Non-goals: deciding anything. A rule that another façade would need as well belongs below this crate. Services that
//! are not here answer `UNIMPLEMENTED`, so that clients know.
//!
//! Invariants:
//! - every id, digest and key of a request is parsed before it goes further;
//! - errors become statuses in one file, and carry the id of the page that explains them;
//! - no call blocks a thread of the async runtime: `meta` is called in the bounded pool;
//! - messages are at most 16 MiB, lists are streamed in pieces where the protocol allows it.
//!
//! Entry points: [`routes`] and [`serve`].

mod authority;
mod checkpoint;
mod collection;
mod containers;
mod content;
mod deadline;
mod diff;
mod ending;
mod events;
mod figures;
mod health;
mod images;
mod introspection;
mod leases;
mod mounts;
mod namespaces;
mod node;
mod request;
mod sandboxes;
mod server;
mod snapshots;
mod status;
mod store;
mod streams;
mod tasks;
mod traced;
mod transfer;
mod transfers;
mod translate;
mod version;
mod workloads;

use orlop_api::containerd::services::containers::v1::containers_server::ContainersServer;
use orlop_api::containerd::services::content::v1::content_server::ContentServer;
use orlop_api::containerd::services::diff::v1::diff_server::DiffServer;
use orlop_api::containerd::services::events::v1::events_server::EventsServer;
use orlop_api::containerd::services::images::v1::images_server::ImagesServer;
use orlop_api::containerd::services::introspection::v1::introspection_server::IntrospectionServer;
use orlop_api::containerd::services::leases::v1::leases_server::LeasesServer;
use orlop_api::containerd::services::mounts::v1::mounts_server::MountsServer;
use orlop_api::containerd::services::namespaces::v1::namespaces_server::NamespacesServer;
use orlop_api::containerd::services::sandbox::v1::store_server::StoreServer;
use orlop_api::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use orlop_api::containerd::services::streaming::v1::streaming_server::StreamingServer;
use orlop_api::containerd::services::tasks::v1::tasks_server::TasksServer;
use orlop_api::containerd::services::transfer::v1::transfer_server::TransferServer;
use orlop_api::containerd::services::version::v1::version_server::VersionServer;
use orlop_api::grpc::health::v1::health_server::HealthServer;
use orlop_api::orlop::v1::collection_server::CollectionServer;
use orlop_api::orlop::v1::containers_server::ContainersServer as WorkloadsServer;
use orlop_api::orlop::v1::images_server::ImagesServer as TransfersServer;
use orlop_api::orlop::v1::node_server::NodeServer;
use orlop_base::task::TaskTree;
use orlop_image::images::Images;
use orlop_meta::Db;
use orlop_runtime::Runtime;
use tonic::service::{Routes, RoutesBuilder};

pub use collection::{Collection, Latest, PassError, PassOutcome, PassRequest, Passes};
pub use introspection::{Component, Identity};
pub use node::{Facts, OciRuntimeFacts};
pub use server::{Access, ServeError, serve};

use server::MESSAGE_BYTES_MAX;

/// What the services stand on.
#[derive(Clone)]
pub struct Parts {
    /// Who this daemon is.
    pub identity: Identity,
    /// What it is made of.
    pub components: Vec<Component>,
    /// What it found on its machine.
    pub facts: Facts,
    /// The records, with their backends.
    pub db: Db,
    /// What runs containers.
    pub runtime: Runtime,
    /// What moves images.
    pub images: Images,
    /// How to ask for collections.
    pub collection: Collection,
    /// Owns what outlives a call. Shut it down after [`serve`] has returned.
    pub tasks: TaskTree,
}

/// Gives a generated server this crate's limits.
macro_rules! limited {
    ($server:expr) => {
        $server
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    };
}

/// Every service of this crate over `parts`.
#[must_use]
pub fn routes(parts: Parts) -> Routes {
    let store = store::Store::new(parts.db.clone());
    let content = content::ContentService {
        store: store.clone(),
        tasks: parts.tasks.clone(),
    };
    let node = node::NodeService {
        store: store.clone(),
        identity: parts.identity.clone(),
        components: parts.components.clone(),
        facts: parts.facts.clone(),
    };
    let mut routes = Routes::builder();
    routes
        .add_service(limited!(ContentServer::new(content)))
        .add_service(limited!(NodeServer::new(node)));
    records(&mut routes, &store);
    kept(&mut routes, &store, &parts.collection);
    running(&mut routes, &store, &parts);
    moving(&mut routes, &store, &parts.images);
    facts(&mut routes, parts);
    routes.routes()
}

/// The services that tell what the daemon is.
fn facts(routes: &mut RoutesBuilder, parts: Parts) {
    let version = version::VersionService {
        version: parts.identity.version.clone(),
        revision: parts.identity.revision.clone(),
    };
    let introspection = introspection::IntrospectionService {
        identity: parts.identity,
        components: parts.components,
        runtime: parts.runtime,
    };
    routes
        .add_service(limited!(VersionServer::new(version)))
        .add_service(limited!(IntrospectionServer::new(introspection)))
        .add_service(limited!(HealthServer::new(health::HealthService)));
}

/// The services of what runs.
fn running(routes: &mut RoutesBuilder, store: &store::Store, parts: &Parts) {
    let tasks = tasks::TasksService {
        runtime: parts.runtime.clone(),
        clock: parts.db.clock().clone(),
    };
    let workloads = workloads::WorkloadsService {
        store: store.clone(),
        runtime: parts.runtime.clone(),
        images: parts.images.clone(),
        clock: parts.db.clock().clone(),
    };
    let diff = diff::DiffService {
        images: parts.images.clone(),
    };
    let containers = containers::ContainersService {
        store: store.clone(),
        tasks: parts.runtime.clone(),
    };
    routes
        .add_service(limited!(ContainersServer::new(containers)))
        .add_service(limited!(DiffServer::new(diff)))
        .add_service(limited!(TasksServer::new(tasks)))
        .add_service(limited!(WorkloadsServer::new(workloads)));
}

/// The services that move images, and the streams beside them.
fn moving(routes: &mut RoutesBuilder, store: &store::Store, images: &Images) {
    let streams = streams::Streams::default();
    let transfer = transfer::TransferService {
        images: images.clone(),
        store: store.clone(),
        streams: streams.clone(),
    };
    let transfers = transfers::TransfersService {
        images: images.clone(),
    };
    routes
        .add_service(limited!(StreamingServer::new(streams::StreamingService {
            streams
        })))
        .add_service(limited!(TransferServer::new(transfer)))
        .add_service(limited!(TransfersServer::new(transfers)));
}

/// The services of what is kept and collected.
fn kept(routes: &mut RoutesBuilder, store: &store::Store, collection: &Collection) {
    let images = images::ImagesService {
        store: store.clone(),
        collection: collection.clone(),
    };
    let leases = leases::LeasesService {
        store: store.clone(),
        collection: collection.clone(),
    };
    let collection = collection::CollectionService {
        store: store.clone(),
        collection: collection.clone(),
    };
    routes
        .add_service(limited!(ImagesServer::new(images)))
        .add_service(limited!(LeasesServer::new(leases)))
        .add_service(limited!(CollectionServer::new(collection)));
}

/// The services that need nothing but the database.
fn records(routes: &mut RoutesBuilder, store: &store::Store) {
    let store = || store.clone();
    routes
        .add_service(limited!(NamespacesServer::new(
            namespaces::NamespacesService { store: store() }
        )))
        .add_service(limited!(SnapshotsServer::new(
            snapshots::SnapshotsService { store: store() }
        )))
        .add_service(limited!(StoreServer::new(sandboxes::SandboxesService {
            store: store()
        })))
        .add_service(limited!(MountsServer::new(mounts::MountsService {
            store: store()
        })))
        .add_service(limited!(EventsServer::new(events::EventsService {
            store: store()
        })));
}
