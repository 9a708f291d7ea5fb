//! Pulls and pushes.

use std::path::PathBuf;
use std::sync::Arc;

use orlop_api::containerd::types::transfer::{ImageStore, OciRegistry, RegistryResolver};
use orlop_image::images::{NoProgress, PullRequest, PushRequest, RegistryAccess, UnpackRequest};
use orlop_types::{ImageName, Platform};
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
        let access = self.access(&caller, &source)?;
        let name: ImageName = parse(&target.name)?;
        let own_labels = labels(target.labels.clone())?;
        let scope = scope(caller.clone());
        teller.say(&format!("Resolving from {from}"));
        let mut unpacks = unpacks(&target)?;
        let mut pulled = None;
        for wanted in each_platform(&target) {
            let unpack = take_matching(&mut unpacks, wanted.as_ref());
            let request = PullRequest {
                reference: source.reference.clone(),
                name: Some(name.clone()),
                all_platforms: wanted.is_none(),
                platform: wanted,
                skip_unpack: unpack.is_none(),
                snapshotter: unpack.and_then(|unpack| unpack.snapshotter),
                registry: access.clone(),
                labels: own_labels.clone(),
            };
            let progress = teller.listener(&name, Direction::Down(from.clone()));
            let done = self.images.pull(&scope, request, progress).await;
            pulled = Some(done.map_err(|error| status::of_image(&error))?.image);
        }
        for unpack in unpacks {
            self.unpack(&caller, &name, unpack).await?;
        }
        let Some(image) = pulled else { return Ok(()) };
        let found = image.target.clone();
        let store = move |view: &orlop_meta::View| {
            let named = naming::of_target(&target, &own_labels, &found)?;
            // The first is the image itself, which the pull has named.
            named
                .iter()
                .skip(1)
                .map(|image| naming::store(view, image))
                .collect::<Result<Vec<_>, _>>()
        };
        let further = self.store.run(caller, store).await?;
        teller.saved(&image);
        further.iter().for_each(|image| teller.saved(image));
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

/// The platforms to fetch, one after the other; nothing stands for all of them.
fn each_platform(target: &ImageStore) -> Vec<Option<Platform>> {
    let wanted = platforms(&target.platforms);
    if wanted.is_empty() {
        return vec![None];
    }
    wanted.into_iter().map(Some).collect()
}

/// Takes the unpacking that a pull for `platform` does on the way. A pull of everything does the first one for this
/// machine.
fn take_matching(unpacks: &mut Vec<Unpack>, platform: Option<&Platform>) -> Option<Unpack> {
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let is_it = |unpack: &Unpack| unpack.platform.as_ref().unwrap_or(&host) == wanted;
    let place = unpacks.iter().position(is_it)?;
    Some(unpacks.remove(place))
}

#[cfg(test)]
mod tests {
    use orlop_api::containerd::types;
    use tonic::Code;

    use super::*;

    fn unpack(architecture: Option<&str>) -> Unpack {
        Unpack {
            platform: architecture.map(|name| Platform::new("linux", name, None)),
            snapshotter: None,
        }
    }

    #[test]
    fn a_pull_unpacks_what_it_fetches_and_leaves_the_rest_for_later() {
        let other = Platform::new("linux", "s390x", None);
        let mut wanted = vec![unpack(Some("s390x")), unpack(None)];
        assert!(take_matching(&mut wanted, None).unwrap().platform.is_none());
        assert!(take_matching(&mut wanted, None).is_none());
        assert!(take_matching(&mut wanted, Some(&other)).is_some());
        assert!(wanted.is_empty());
    }

    #[test]
    fn no_platform_is_every_platform() {
        let mut target = ImageStore::default();
        assert_eq!(each_platform(&target), [None]);
        target.platforms = vec![types::Platform {
            os: "linux".to_owned(),
            architecture: "arm64".to_owned(),
            ..types::Platform::default()
        }];
        let arm = Platform::new("linux", "arm64", None);
        assert_eq!(each_platform(&target), [Some(arm)]);
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
