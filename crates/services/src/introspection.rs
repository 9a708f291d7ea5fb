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
use orlop_api::{Any, any};
use orlop_runtime::Runtime;
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

/// containerd's plugin that runs tasks: asked for more, it describes a runtime.
pub(crate) const TASKS: (&str, &str) = ("io.containerd.runtime.v2", "task");

/// Lists components and identifies the daemon.
pub(crate) struct IntrospectionService {
    pub(crate) identity: Identity,
    pub(crate) components: Vec<Component>,
    /// Describes runtimes.
    pub(crate) runtime: Runtime,
}

impl IntrospectionService {
    /// What a component says beyond its row.
    async fn extra(&self, component: &Component, options: Any) -> Result<Any, Status> {
        if (component.kind.as_str(), component.id.as_str()) != TASKS {
            let name = format!("{}.{}", component.kind, component.id);
            return Err(status::unimplemented(format!("{name} has no more to say")));
        }
        let wanted: types::RuntimeRequest =
            any::unpack(&options).map_err(|error| status::invalid(&error))?;
        let options = wanted.options.filter(|it| !it.type_url.is_empty());
        let info = self.runtime.runtime_info(&wanted.runtime_path, options);
        let info = info.await.map_err(|error| status::of_runtime(&error))?;
        Ok(any::pack(&info))
    }
}

#[tonic::async_trait]
impl Introspection for IntrospectionService {
    async fn plugins(
        &self,
        request: Request<PluginsRequest>,
    ) -> Result<Response<PluginsResponse>, Status> {
        let plugins = listed(&self.components, &request.get_ref().filters)?;
        Ok(Response::new(PluginsResponse { plugins }))
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
        let wanted = request.into_inner();
        let found = find(&self.components, &wanted.r#type, &wanted.id)?;
        let extra = match wanted.options {
            Some(options) => Some(self.extra(found, options).await?),
            None => None,
        };
        Ok(Response::new(PluginInfoResponse {
            plugin: Some(plugin(found)),
            extra,
        }))
    }
}

fn find<'a>(components: &'a [Component], kind: &str, id: &str) -> Result<&'a Component, Status> {
    components
        .iter()
        .find(|component| component.kind == kind && component.id == id)
        .ok_or_else(|| status::not_found(format!("plugin {id:?} of type {kind:?}")))
}

fn listed(components: &[Component], filters: &[String]) -> Result<Vec<Plugin>, Status> {
    let filters = Filters::parse(filters).map_err(|error| status::invalid(&error))?;
    let matching = components.iter().filter(|it| filters.matches(*it));
    Ok(matching.map(plugin).collect())
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

    fn components() -> Vec<Component> {
        let mut broken = Component::working("io.containerd.snapshotter.v1", "zfs");
        broken.error = Some("no zfs here".to_owned());
        vec![
            Component::working("io.containerd.snapshotter.v1", "overlayfs"),
            Component::working("io.containerd.content.v1", "content"),
            broken,
        ]
    }

    fn kept(filter: &str) -> Vec<Plugin> {
        listed(&components(), &[filter.to_owned()]).unwrap()
    }

    #[test]
    fn a_client_finds_the_platforms_of_its_snapshotter() {
        let found = kept("type==io.containerd.snapshotter.v1, id==overlayfs");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].platforms[0].os, "linux");
    }

    #[test]
    fn a_part_that_does_not_work_says_why() {
        let found = kept("id==zfs");
        assert_eq!(found[0].init_err.as_ref().unwrap().message, "no zfs here");
    }

    #[test]
    fn an_unknown_part_is_not_found() {
        let error = find(&components(), "x", "").unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
}
