//! `containerd.services.mounts.v1`: mounts that the daemon makes ahead of a task or for somebody who wants to look, for
//! kinds that the kernel cannot make by itself.
//!
//! When nothing needs help the answer is `UNIMPLEMENTED`, as containerd's is, and clients make the mounts they have.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream};
use orlop_api::containerd::services::mounts::v1 as api;
use orlop_api::containerd::services::mounts::v1::mounts_server::Mounts;
use orlop_api::containerd::types;
use orlop_meta::{Activation, ActiveMount, View, WantedMounts};
use orlop_types::ActivationName;
use tonic::{Request, Response, Status};

use crate::request;
use crate::status;
use crate::store::Store;
use crate::translate::{labels, mount, mount_message, parse, paths, required, timestamp};

/// Keeps activations.
#[derive(Debug)]
pub(crate) struct MountsService {
    pub(crate) store: Store,
}

#[tonic::async_trait]
impl Mounts for MountsService {
    async fn activate(
        &self,
        request: Request<api::ActivateRequest>,
    ) -> Result<Response<api::ActivateResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let name = name_of(&wanted.name)?;
        if wanted.mounts.is_empty() {
            return Err(status::missing("mounts"));
        }
        let labels = labels(wanted.labels)?;
        let kinds: Vec<String> = wanted.mounts.iter().map(|it| it.r#type.clone()).collect();
        let wanted = WantedMounts {
            mounts: wanted.mounts.into_iter().map(mount).collect(),
            temporary: wanted.temporary,
        };
        // A new file system takes a program and its time.
        let made = self.store.run_long(caller, move |view| {
            view.activations().activate(&name, wanted, &labels)
        });
        match made.await? {
            Some(made) => Ok(Response::new(api::ActivateResponse {
                info: Some(message(made)),
            })),
            None => Err(status::unimplemented(format!(
                "mounts of type {} need no help: whoever wants them makes them",
                kinds.join(", ")
            ))),
        }
    }

    async fn deactivate(
        &self,
        request: Request<api::DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let name = name_of(&wanted.name)?;
        let job = move |view: &View| view.activations().deactivate(&name);
        self.store.run_long(caller, job).await?;
        Ok(Response::new(()))
    }

    async fn info(
        &self,
        request: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let name = name_of(&wanted.name)?;
        let job = move |view: &View| view.activations().find(&name);
        let info = Some(message(self.store.run(caller, job).await?));
        Ok(Response::new(api::InfoResponse { info }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateRequest>,
    ) -> Result<Response<api::UpdateResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let info = required(wanted.info, "info")?;
        let (name, labels) = (name_of(&info.name)?, labels(info.labels)?);
        let fields = paths(wanted.update_mask);
        let updated = self.store.run(caller, move |view| {
            view.activations().update(&name, &labels, &fields)
        });
        let info = Some(message(updated.await?));
        Ok(Response::new(api::UpdateResponse { info }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<api::ListMessage, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let (caller, wanted) = request::open(request)?;
        let job = move |view: &View| view.activations().list(&wanted.filters);
        let found = self.store.run(caller, job).await?.into_iter();
        let messages = found.map(|activation| {
            let info = Some(message(activation));
            Ok(api::ListMessage { info })
        });
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }
}

fn name_of(name: &str) -> Result<ActivationName, Status> {
    if name.is_empty() {
        return Err(status::missing("name"));
    }
    parse(name)
}

fn message(activation: Activation) -> types::ActivationInfo {
    types::ActivationInfo {
        name: activation.name.to_string(),
        active: activation.active.into_iter().map(active_message).collect(),
        system: activation.system.into_iter().map(mount_message).collect(),
        labels: activation.labels.into(),
    }
}

fn active_message(active: ActiveMount) -> types::ActiveMount {
    let since = Duration::from_nanos(active.mounted_at_nanos.unsigned_abs());
    let device = active.device.map(|path| ("device".to_owned(), path));
    types::ActiveMount {
        mount: Some(mount_message(active.mount)),
        mounted_at: Some(timestamp(SystemTime::UNIX_EPOCH + since)),
        mount_point: active.mount_point,
        data: device.into_iter().collect(),
    }
}
