//! Pulls and pushes.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use orlop_api::containerd::types::transfer::{ImageStore, OciRegistry, RegistryResolver};
use orlop_image::images::{
    Beside, NoProgress, PullRequest, PushRequest, RegistryAccess, Selection, UnpackRequest,
};
use orlop_types::{Descriptor, ImageName};
use tonic::Status;

use super::credentials::StreamCredentials;
use super::progress::{Direction, Teller};
use super::{TransferService, Unpack, naming, platforms, unpacks};
use crate::request::Caller;
use crate::status;
use crate::transfers::scope;
use crate::translate::{labels, parse};

impl TransferService {
    /// From a registry into the store, unpacked as the destination says.
    pub(super) async fn pull(
        &self,
        caller: Caller,
        source: OciRegistry,
        target: ImageStore,
        teller: &Teller,
    ) -> Result<(), Status> {
        let from = format!("OCI Registry ({})", source.reference);
        let name = naming::first(&target)?;
        let mut unpacks = unpacks(&target)?.into_iter();
        let unpack = unpacks.next();
        let request = PullRequest {
            reference: source.reference.clone(),
            name: Some(name.clone()),
            platform: unpack.as_ref().and_then(|unpack| unpack.platform.clone()),
            beside: Beside::Selected(selection(&target)),
            skip_unpack: unpack.is_none(),
            snapshotter: unpack.and_then(|unpack| unpack.snapshotter),
            registry: self.access(&caller, &source)?,
            labels: labels(target.labels.clone())?,
        };
        teller.say(&format!("Resolving from {from}"));
        let (scope, own_labels) = (scope(caller.clone()), request.labels.clone());
        let names = move |found: &Descriptor| Ok(naming::of_target(&target, &own_labels, found)?);
        let progress = teller.listener(&name, Direction::Down(from.clone()));
        let pulling = self
            .images
            .pull_as(&scope, request, progress, Box::new(names));
        let pulled = pulling.await.map_err(|error| status::of_image(&error))?;
        for unpack in unpacks {
            self.unpack(&caller, &pulled.image.name, unpack).await?;
        }
        teller.saved(&pulled.image);
        pulled.further.iter().for_each(|image| teller.saved(image));
        teller.say(&format!("Completed pull from {from}"));
        Ok(())
    }

    async fn unpack(
        &self,
        caller: &Caller,
        image: &ImageName,
        unpack: Unpack,
    ) -> Result<(), Status> {
        let request = UnpackRequest {
            image: image.clone(),
            platform: unpack.platform,
            snapshotter: unpack.snapshotter,
        };
        let scope = scope(caller.clone());
        let unpacked = self.images.unpack(&scope, request, Arc::new(NoProgress));
        let unpacked = unpacked.await.map(drop);
        unpacked.map_err(|error| status::of_image(&error))
    }

    /// From the store to a registry.
    pub(super) async fn push(
        &self,
        caller: Caller,
        source: ImageStore,
        target: OciRegistry,
        teller: &Teller,
    ) -> Result<(), Status> {
        let to = format!("OCI Registry ({})", target.reference);
        let mut wanted = platforms(&source.platforms);
        let platform = wanted.pop();
        if !wanted.is_empty() {
            return Err(status::unimplemented(
                "an image is pushed for one platform, or for all of them",
            ));
        }
        let image: ImageName = parse(&source.name)?;
        let request = PushRequest {
            image: image.clone(),
            registry: self.access(&caller, &target)?,
            reference: Some(target.reference),
            platform,
        };
        teller.say(&format!("Pushing to {to}"));
        let progress = teller.listener(&image, Direction::Up);
        let pushed = self.images.push(&scope(caller), request, progress).await;
        let pushed = pushed.map_err(|error| status::of_image(&error))?;
        teller.pushed(&image, pushed.target);
        teller.say(&format!("Completed push to {to}"));
        Ok(())
    }

    /// How to reach a registry; takes the stream of credentials, if there is one.
    fn access(&self, caller: &Caller, registry: &OciRegistry) -> Result<RegistryAccess, Status> {
        let resolver = registry.resolver.clone().unwrap_or_default();
        check(&resolver)?;
        let mut access = RegistryAccess {
            plain_http: resolver.default_scheme == "http",
            hosts_folder: Some(resolver.host_dir)
                .filter(|folder| !folder.is_empty())
                .map(PathBuf::from),
            ..RegistryAccess::default()
        };
        if !resolver.auth_stream.is_empty() {
            let pipe = self
                .streams
                .take(&caller.namespace, &resolver.auth_stream)?;
            let source = StreamCredentials::new(pipe, &registry.reference)?;
            access.credentials = Some(Arc::new(source));
        }
        if !resolver.logs_stream.is_empty() {
            // Nothing is logged into it: it ends at once.
            drop(
                self.streams
                    .take(&caller.namespace, &resolver.logs_stream)?,
            );
        }
        Ok(access)
    }
}

/// Refuses what would silently be left out.
fn check(resolver: &RegistryResolver) -> Result<(), Status> {
    if !resolver.headers.is_empty() {
        return Err(status::unimplemented(
            "headers of a registry are set in its hosts.toml",
        ));
    }
    match resolver.default_scheme.as_str() {
        "" | "http" | "https" => Ok(()),
        other => Err(status::invalid_text(format!(
            "a registry is not reached by {other:?}"
        ))),
    }
}

/// What is fetched. The platforms that are unpacked are among it in any case.
fn selection(target: &ImageStore) -> Selection {
    Selection {
        platforms: platforms(&target.platforms),
        metadata: target.all_metadata,
        manifests_max: usize::try_from(target.manifest_limit)
            .ok()
            .and_then(NonZeroUsize::new),
    }
}

#[cfg(test)]
mod tests {
    use orlop_api::containerd::types;
    use orlop_types::Platform;
    use tonic::Code;

    use super::*;

    #[test]
    fn a_destination_selects_what_is_fetched() {
        let mut target = ImageStore::default();
        assert_eq!(selection(&target), Selection::default());
        target.platforms = vec![types::Platform {
            os: "linux".to_owned(),
            architecture: "arm64".to_owned(),
            ..types::Platform::default()
        }];
        target.all_metadata = true;
        target.manifest_limit = 2;
        let expected = Selection {
            platforms: vec![Platform::new("linux", "arm64", None)],
            metadata: true,
            manifests_max: NonZeroUsize::new(2),
        };
        assert_eq!(selection(&target), expected);
    }

    #[test]
    fn what_a_registry_is_not_reached_with_is_refused() {
        let scheme = |text: &str| RegistryResolver {
            default_scheme: text.to_owned(),
            ..RegistryResolver::default()
        };
        for good in ["", "http", "https"] {
            assert!(check(&scheme(good)).is_ok(), "{good}");
        }
        assert_eq!(
            check(&scheme("ftp")).unwrap_err().code(),
            Code::InvalidArgument
        );
        let headers = [("a".to_owned(), "b".to_owned())].into();
        let resolver = RegistryResolver {
            headers,
            ..RegistryResolver::default()
        };
        assert_eq!(check(&resolver).unwrap_err().code(), Code::Unimplemented);
    }
}
