//! `containerd.services.images.v1`.

use std::collections::BTreeMap;

use orlop_api::containerd::services::images::v1 as api;
use orlop_api::containerd::services::images::v1::images_server::Images;
use orlop_meta::{Error, Image, View};
use orlop_types::{Descriptor, ImageName, Labels};
use tonic::{Request, Response, Status};

use crate::collection::Collection;
use crate::request;
use crate::store::Store;
use crate::translate::{descriptor, descriptor_message, labels, parse, paths, required, timestamp};

/// Keeps image records of the caller's namespace.
#[derive(Debug)]
pub(crate) struct ImagesService {
    pub(crate) store: Store,
    pub(crate) collection: Collection,
}

#[tonic::async_trait]
impl Images for ImagesService {
    async fn get(
        &self,
        request: Request<api::GetImageRequest>,
    ) -> Result<Response<api::GetImageResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let name = parse(&wanted.name)?;
        let found = self
            .store
            .run(caller, move |view| view.images().find(&name));
        Ok(Response::new(api::GetImageResponse {
            image: Some(message(found.await?)),
        }))
    }

    async fn list(
        &self,
        request: Request<api::ListImagesRequest>,
    ) -> Result<Response<api::ListImagesResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let found = self
            .store
            .run(caller, move |view| view.images().list(&wanted.filters));
        Ok(Response::new(api::ListImagesResponse {
            images: found.await?.into_iter().map(message).collect(),
        }))
    }

    async fn create(
        &self,
        request: Request<api::CreateImageRequest>,
    ) -> Result<Response<api::CreateImageResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let image = record(required(wanted.image, "image")?)?;
        let created = self
            .store
            .run(caller, move |view| view.images().create(&image));
        Ok(Response::new(api::CreateImageResponse {
            image: Some(message(created.await?)),
        }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateImageRequest>,
    ) -> Result<Response<api::UpdateImageResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let change = Change::new(required(wanted.image, "image")?, paths(wanted.update_mask))?;
        let updated = self.store.run(caller, move |view| change.apply(view));
        Ok(Response::new(api::UpdateImageResponse {
            image: Some(message(updated.await?)),
        }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteImageRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let name = parse(&wanted.name)?;
        let target = wanted
            .target
            .map(|target| parse(&target.digest))
            .transpose()?;
        self.store
            .run(caller, move |view| {
                view.images().delete(&name, target.as_ref())
            })
            .await?;
        self.collection.run_if(wanted.sync).await.map(Response::new)
    }
}

/// What an update brings. Clients that change labels alone send no target.
struct Change {
    name: ImageName,
    labels: Labels,
    /// Absent: the record's own stays.
    target: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
    fields: Vec<String>,
}

impl Change {
    fn new(message: api::Image, fields: Vec<String>) -> Result<Self, Status> {
        let target = message.target.unwrap_or_default();
        let brings_target = fields.is_empty() || fields.iter().any(|field| field == "target");
        Ok(Self {
            name: parse(&message.name)?,
            labels: labels(message.labels)?,
            annotations: target.annotations.clone(),
            target: brings_target.then(|| descriptor(target)).transpose()?,
            fields,
        })
    }

    fn apply(self, view: &View) -> Result<Image, Error> {
        let target = match self.target {
            Some(target) => target,
            None => {
                let mut kept = view.images().find(&self.name)?.target;
                kept.annotations = self.annotations;
                kept
            }
        };
        let image = Image::new(self.name, target, self.labels);
        view.images().update(&image, &self.fields)
    }
}

fn record(message: api::Image) -> Result<Image, Status> {
    let target = descriptor(required(message.target, "target")?)?;
    Ok(Image::new(
        parse(&message.name)?,
        target,
        labels(message.labels)?,
    ))
}

fn message(image: Image) -> api::Image {
    api::Image {
        name: image.name.into(),
        labels: image.labels.into(),
        target: Some(descriptor_message(image.target)),
        created_at: Some(timestamp(image.created_at)),
        updated_at: Some(timestamp(image.updated_at)),
    }
}
