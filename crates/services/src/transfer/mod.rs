//! `containerd.services.transfer.v1`: images between registries, archives and the store, as containerd 2 moves them.
//!
//! One call names two ends, and their kinds say what is done. Archives, progress and credentials travel beside the call,
//! over [streams](crate::streams) that the client opened before.
//!
//! Cancellation: a client that leaves ends its transfer, as in [`orlop_image::images`].

mod archive;
mod credentials;
mod naming;
mod progress;
mod registry;

use orlop_api::containerd::services::transfer::v1 as api;
use orlop_api::containerd::services::transfer::v1::transfer_server::Transfer;
use orlop_api::containerd::types::transfer::{
    ImageExportStream, ImageImportStream, ImageStore, OciRegistry,
};
use orlop_api::{Any, any};
use orlop_image::images::Images;
use orlop_types::{ImageName, Platform, SnapshotterName};
use tonic::{Request, Response, Status};

use self::progress::Teller;
use crate::request::{self, Caller};
use crate::status;
use crate::store::Store;
use crate::streams::Streams;
use crate::transfers::platform;
use crate::translate::{labels, parse, parse_optional, required};

/// Moves images between the ends of a request.
pub(crate) struct TransferService {
    pub(crate) images: Images,
    pub(crate) store: Store,
    pub(crate) streams: Streams,
}

/// Where an image comes from, or goes to.
enum End {
    Registry(OciRegistry),
    Store(ImageStore),
    Import(ImageImportStream),
    Export(ImageExportStream),
}

impl End {
    fn read(object: &Any) -> Result<Self, Status> {
        let end = if any::is::<OciRegistry>(object) {
            any::unpack(object).map(Self::Registry)
        } else if any::is::<ImageStore>(object) {
            any::unpack(object).map(Self::Store)
        } else if any::is::<ImageImportStream>(object) {
            any::unpack(object).map(Self::Import)
        } else if any::is::<ImageExportStream>(object) {
            any::unpack(object).map(Self::Export)
        } else {
            return Err(status::unimplemented(format!(
                "nothing is transferred to or from {:?}",
                object.type_url
            )));
        };
        end.map_err(|error| status::invalid(&error))
    }
}

#[tonic::async_trait]
impl Transfer for TransferService {
    async fn transfer(
        &self,
        request: Request<api::TransferRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, wanted) = request::open(request)?;
        let options = wanted.options.unwrap_or_default();
        let teller = Teller::new(&self.streams, &caller, &options.progress_stream)?;
        let source = required(wanted.source, "source")?;
        let destination = required(wanted.destination, "destination")?;
        match (End::read(&source)?, End::read(&destination)?) {
            (End::Registry(source), End::Store(target)) => {
                self.pull(caller, source, target, &teller).await?;
            }
            (End::Store(source), End::Registry(target)) => {
                self.push(caller, source, target, &teller).await?;
            }
            (End::Import(source), End::Store(target)) => {
                self.import(caller, source, target, &teller).await?;
            }
            (End::Store(source), End::Export(target)) => {
                self.export(caller, source, target, &teller).await?;
            }
            (End::Store(source), End::Store(target)) => self.tag(caller, source, target).await?,
            (End::Import(source), End::Export(target)) => {
                self.echo(&caller, &source, &target).await?;
            }
            (End::Registry(_), End::Registry(_) | End::Import(_) | End::Export(_))
            | (End::Store(_) | End::Import(_), End::Import(_))
            | (End::Import(_), End::Registry(_))
            | (End::Export(_), _) => {
                return Err(status::unimplemented(format!(
                    "nothing is transferred from {:?} to {:?}",
                    source.type_url, destination.type_url
                )));
            }
        }
        Ok(Response::new(()))
    }
}

impl TransferService {
    /// Gives what one name stands for further names.
    async fn tag(
        &self,
        caller: Caller,
        source: ImageStore,
        target: ImageStore,
    ) -> Result<(), Status> {
        let source: ImageName = parse(&source.name)?;
        let own_labels = labels(target.labels.clone())?;
        let tag = move |view: &orlop_meta::View| {
            let found = view.images().find(&source)?;
            for image in naming::of_target(&target, &own_labels, &found.target)? {
                naming::store(view, &image)?;
            }
            Ok(())
        };
        self.store.run(caller, tag).await
    }
}

/// What a destination wants unpacked: for which platform, and where.
struct Unpack {
    platform: Option<Platform>,
    snapshotter: Option<SnapshotterName>,
}

/// The unpackings that a destination asks for.
fn unpacks(target: &ImageStore) -> Result<Vec<Unpack>, Status> {
    let unpacks = target.unpacks.iter().map(|wanted| {
        Ok(Unpack {
            platform: platform(wanted.platform.clone()),
            snapshotter: parse_optional(&wanted.snapshotter)?,
        })
    });
    unpacks.collect()
}

fn platforms(messages: &[orlop_api::containerd::types::Platform]) -> Vec<Platform> {
    let messages = messages.iter();
    messages
        .filter_map(|message| platform(Some(message.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn ends_are_told_by_their_type_and_others_are_unimplemented() {
        let store = any::pack(&ImageStore {
            name: "a".to_owned(),
            ..ImageStore::default()
        });
        assert!(matches!(End::read(&store), Ok(End::Store(store)) if store.name == "a"));
        let other = Any {
            type_url: "containerd.types.transfer.ContainerPath".to_owned(),
            value: Vec::new(),
        };
        let refused = End::read(&other).map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        let broken = Any {
            value: vec![0xff],
            ..store
        };
        let refused = End::read(&broken).map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}
