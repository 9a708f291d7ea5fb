//! `orlop.v1.Node`: the daemon and its history.

mod events;
mod facts;

use std::pin::Pin;

use futures_util::stream::Stream;
use orlop_api::containerd::types;
use orlop_api::orlop::v1 as api;
use orlop_api::orlop::v1::node_server::Node;
use orlop_base::blocking;
use orlop_meta::SCHEMA_VERSION;
use orlop_types::Platform;
use tonic::{Request, Response, Status};

use crate::introspection::{Component, Identity};
use crate::status;
use crate::store::Store;

pub use facts::{Facts, OciRuntimeFacts};

/// containerd's plugin type of snapshotters, under which components are listed.
const SNAPSHOTTER_KIND: &str = "io.containerd.snapshotter.v1";

/// Tells events, facts and the state of the database.
#[derive(Debug)]
pub(crate) struct NodeService {
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) components: Vec<Component>,
    pub(crate) facts: Facts,
}

#[tonic::async_trait]
impl Node for NodeService {
    type EventsStream = Pin<Box<dyn Stream<Item = Result<api::EventsResponse, Status>> + Send>>;

    async fn events(
        &self,
        request: Request<api::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let events = events::stream(self.store.clone(), request).await?;
        Ok(Response::new(Box::pin(events)))
    }

    async fn info(
        &self,
        _: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let root = self.store.db().path().parent();
        let snapshotters = self.components.iter();
        let memory = blocking::run("measure memory", self.facts.measure_memory)
            .await
            .map_err(|error| status::of_blocking(&error))?;
        let mut answer = api::InfoResponse {
            version: self.identity.version.clone(),
            revision: self.identity.revision.clone(),
            uuid: self.identity.uuid.clone(),
            pid: self.identity.pid,
            root_folder: root
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            snapshotters: snapshotters
                .filter(|component| component.kind == SNAPSHOTTER_KIND)
                .map(component)
                .collect(),
            platform: Some(platform(&Platform::host())),
            schema_version: schema_version(),
            memory_bytes: memory.unwrap_or(0),
            ..api::InfoResponse::default()
        };
        self.facts.tell(&mut answer);
        Ok(Response::new(answer))
    }

    async fn migrate_status(
        &self,
        _: Request<api::MigrateStatusRequest>,
    ) -> Result<Response<api::MigrateStatusResponse>, Status> {
        // A daemon that serves has migrated its database: what is pending is for `orlopd migrate` to tell.
        Ok(Response::new(api::MigrateStatusResponse {
            schema_version: schema_version(),
            schema_version_supported: schema_version(),
            ..api::MigrateStatusResponse::default()
        }))
    }
}

fn schema_version() -> u32 {
    u32::try_from(SCHEMA_VERSION).unwrap_or(0)
}

fn component(component: &Component) -> api::ComponentInfo {
    api::ComponentInfo {
        name: component.id.clone(),
        path: component.exports.get("root").cloned().unwrap_or_default(),
        error: component.error.clone().unwrap_or_default(),
        ..api::ComponentInfo::default()
    }
}

fn platform(platform: &Platform) -> types::Platform {
    types::Platform {
        os: platform.os().to_owned(),
        architecture: platform.architecture().to_owned(),
        variant: platform.variant().unwrap_or_default().to_owned(),
        ..types::Platform::default()
    }
}
