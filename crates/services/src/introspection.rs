//! `containerd.services.introspection.v1`: the parts of the daemon, told as containerd's plugins.
//!
//! Clients ask for the snapshotter's entry before they unpack, and for its platforms.

use std::borrow::Cow;
use std::collections::BTreeMap;

use orlop_api::containerd::services::introspection::v1::introspection_server::Introspection;
use orlop_api::containerd::services::introspection::v1::{
    Plugin, PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse, ServerResponse,
};
use orlop_api::containerd::types;
use orlop_api::google::rpc;
use orlop_types::Platform;
use orlop_types::filter::{Fields, Filters, text_field};
use tonic::{Code, Request, Response, Status};

use crate::status;

/// Who this daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The version of the program.
    pub version: String,
    /// The revision it was built from.
    pub revision: String,
    /// Made once for a root folder; stays the same over restarts.
    pub uuid: String,
    /// The process.
    pub pid: u32,
    /// The inode of the daemon's process namespace, so that clients know whether process ids mean the same to them.
    pub pid_namespace: u64,
}

/// A part of the daemon, as clients may ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// containerd's plugin type, such as `io.containerd.snapshotter.v1`.
    pub kind: String,
    /// The part's name, such as `overlayfs`.
    pub id: String,
    /// The platforms it works for.
    pub platforms: Vec<Platform>,
    /// Facts about it, such as `root`.
    pub exports: BTreeMap<String, String>,
    /// Words for what it can do.
    pub capabilities: Vec<String>,
    /// Why it does not work.
    pub error: Option<String>,
}

impl Component {
    /// A part that works on this machine's platform and has nothing more to say.
    #[must_use]
    pub fn working(kind: &str, id: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            id: id.to_owned(),
            platforms: vec![Platform::host()],
            exports: BTreeMap::new(),
            capabilities: Vec::new(),
            error: None,
        }
    }
}

/// Lists components and identifies the daemon.
#[derive(Debug)]
pub(crate) struct IntrospectionService {
    pub(crate) identity: Identity,
    pub(crate) components: Vec<Component>,
}

#[tonic::async_trait]
impl Introspection for IntrospectionService {
    async fn plugins(
        &self,
        request: Request<PluginsRequest>,
    ) -> Result<Response<PluginsResponse>, Status> {
        let filters =
            Filters::parse(&request.get_ref().filters).map_err(|e| status::invalid(&e))?;
        let matching = self.components.iter().filter(|c| filters.matches(*c));
        Ok(Response::new(PluginsResponse {
            plugins: matching.map(plugin).collect(),
        }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<ServerResponse>, Status> {
        Ok(Response::new(ServerResponse {
            uuid: self.identity.uuid.clone(),
            pid: u64::from(self.identity.pid),
            pidns: self.identity.pid_namespace,
            deprecations: Vec::new(),
        }))
    }

    async fn plugin_info(
        &self,
        request: Request<PluginInfoRequest>,
    ) -> Result<Response<PluginInfoResponse>, Status> {
        let wanted = request.get_ref();
        let found = self
            .components
            .iter()
            .find(|component| component.kind == wanted.r#type && component.id == wanted.id)
            .ok_or_else(|| {
                status::not_found(format!(
                    "plugin {:?} of type {:?}",
                    wanted.id, wanted.r#type
                ))
            })?;
        Ok(Response::new(PluginInfoResponse {
            plugin: Some(plugin(found)),
            extra: None,
        }))
    }
}

impl Fields for Component {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "type" => text_field(&self.kind),
            "id" => text_field(&self.id),
            "capabilities" => {
                let wanted = path.get(1..)?.join(".");
                self.capabilities
                    .contains(&wanted)
                    .then_some(Cow::Owned(wanted))
            }
            _ => None,
        }
    }
}

fn plugin(component: &Component) -> Plugin {
    Plugin {
        r#type: component.kind.clone(),
        id: component.id.clone(),
        requires: Vec::new(),
        platforms: component.platforms.iter().map(platform).collect(),
        exports: component.exports.clone(),
        capabilities: component.capabilities.clone(),
        init_err: component.error.as_ref().map(|message| rpc::Status {
            code: Code::Unavailable.into(),
            message: message.clone(),
            details: Vec::new(),
        }),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> IntrospectionService {
        let mut broken = Component::working("io.containerd.snapshotter.v1", "zfs");
        broken.error = Some("no zfs here".to_owned());
        IntrospectionService {
            identity: Identity {
                version: "1".to_owned(),
                revision: "2".to_owned(),
                uuid: "3".to_owned(),
                pid: 4,
                pid_namespace: 5,
            },
            components: vec![
                Component::working("io.containerd.snapshotter.v1", "overlayfs"),
                Component::working("io.containerd.content.v1", "content"),
                broken,
            ],
        }
    }

    async fn listed(filter: &str) -> Vec<Plugin> {
        let request = PluginsRequest {
            filters: vec![filter.to_owned()],
        };
        let response = service().plugins(Request::new(request)).await.unwrap();
        response.into_inner().plugins
    }

    #[tokio::test]
    async fn a_client_finds_the_platforms_of_its_snapshotter() {
        let found = listed("type==io.containerd.snapshotter.v1, id==overlayfs").await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].platforms[0].os, "linux");
    }

    #[tokio::test]
    async fn a_part_that_does_not_work_says_why() {
        let found = listed("id==zfs").await;
        assert_eq!(found[0].init_err.as_ref().unwrap().message, "no zfs here");
    }

    #[tokio::test]
    async fn an_unknown_part_is_not_found() {
        let request = PluginInfoRequest {
            r#type: "x".to_owned(),
            ..PluginInfoRequest::default()
        };
        let error = service().plugin_info(Request::new(request)).await;
        assert_eq!(error.unwrap_err().code(), Code::NotFound);
    }
}
