//! Imports, exports, and an archive sent straight back.

use std::sync::Arc;

use orlop_api::bytes::Bytes;
use orlop_api::containerd::types::transfer::{ImageExportStream, ImageImportStream, ImageStore};
use orlop_image::archive::Imported;
use orlop_image::images::{ExportRequest, ImportRequest, NoProgress};
use orlop_meta::Image;
use orlop_types::{Descriptor, ImageName, Labels, Platform};
use tokio::sync::mpsc;
use tonic::Status;

use super::progress::Teller;
use super::{TransferService, naming, platforms, unpacks};
use crate::request::Caller;
use crate::status;
use crate::streams;
use crate::transfers::{CHUNKS_WAITING_MAX, ChunkReader, ChunkWriter, scope};
use crate::translate::{labels, parse};

impl TransferService {
    /// From an archive into the store.
    pub(super) async fn import(
        &self,
        caller: Caller,
        source: ImageImportStream,
        target: ImageStore,
        teller: &Teller,
    ) -> Result<(), Status> {
        if source.force_compress {
            return Err(status::unimplemented(
                "layers of an archive are stored as they are, and not compressed",
            ));
        }
        let pipe = self.streams.take(&caller.namespace, &source.stream)?;
        let mut unpacks = unpacks(&target)?.into_iter();
        let unpack = unpacks.next();
        if unpacks.next().is_some() {
            return Err(status::unimplemented(
                "an archive is unpacked for one platform",
            ));
        }
        let request = ImportRequest {
            base_name: None,
            skip_unpack: unpack.is_none(),
            platform: unpack.as_ref().and_then(|unpack| unpack.platform.clone()),
            snapshotter: unpack.and_then(|unpack| unpack.snapshotter),
        };
        let own_labels = labels(target.labels.clone())?;
        let names = move |imported: &Imported, index: &Descriptor| {
            Ok(named(&target, &own_labels, imported, index)?)
        };
        teller.say("Importing");
        let (chunks, reader) = ChunkReader::new(CHUNKS_WAITING_MAX);
        let (scope, progress) = (scope(caller), Arc::new(NoProgress));
        let importing = self
            .images
            .import_as(&scope, request, reader, progress, names);
        let ((), imported) = tokio::join!(streams::receive(pipe, chunks), importing);
        for image in imported.map_err(|error| status::of_image(&error))? {
            teller.saved(&image);
        }
        teller.say("Completed import");
        Ok(())
    }

    /// From the store into an archive.
    pub(super) async fn export(
        &self,
        caller: Caller,
        source: ImageStore,
        target: ImageExportStream,
        teller: &Teller,
    ) -> Result<(), Status> {
        let mut pipe = self.streams.take(&caller.namespace, &target.stream)?;
        let request = ExportRequest {
            images: names_of(&source)?,
            platform: exported_platform(&target)?,
        };
        teller.say("Exporting");
        let (writer, chunks) = ChunkWriter::new(CHUNKS_WAITING_MAX);
        let scope = scope(caller);
        let writing = async {
            let written = self.images.export(&scope, request, writer).await;
            let writer = written.map_err(|error| status::of_image(&error))?;
            writer.finish().await;
            Ok::<(), Status>(())
        };
        let (written, sent) = tokio::join!(writing, streams::send(&mut pipe, chunks));
        written?;
        sent?;
        teller.say("Completed export");
        Ok(())
    }

    /// What comes in goes out: containerd's way to try streams.
    pub(super) async fn echo(
        &self,
        caller: &Caller,
        source: &ImageImportStream,
        target: &ImageExportStream,
    ) -> Result<(), Status> {
        let from = self.streams.take(&caller.namespace, &source.stream)?;
        let mut to = self.streams.take(&caller.namespace, &target.stream)?;
        let (received, mut pieces) = mpsc::channel::<std::io::Result<Bytes>>(CHUNKS_WAITING_MAX);
        let (passed, chunks) = mpsc::channel::<Bytes>(CHUNKS_WAITING_MAX);
        let passing = async move {
            while let Some(piece) = pieces.recv().await {
                let piece = piece.map_err(|error| Status::aborted(error.to_string()))?;
                if passed.send(piece).await.is_err() {
                    break;
                }
            }
            Ok::<(), Status>(())
        };
        let receiving = streams::receive(from, received);
        let ((), passed, sent) = tokio::join!(receiving, passing, streams::send(&mut to, chunks));
        passed.and(sent)
    }
}

/// What is called how after an import: first the archive as a whole, then its images.
fn named(
    target: &ImageStore,
    labels: &Labels,
    imported: &Imported,
    index: &Descriptor,
) -> Result<Vec<Image>, orlop_meta::Error> {
    let mut images = naming::of_target(target, labels, index)?;
    for image in &imported.images {
        let found = (image.name.as_deref(), &image.target);
        images.extend(naming::of_archived(target, labels, found)?);
    }
    Ok(images)
}

/// The images that a source names.
fn names_of(source: &ImageStore) -> Result<Vec<ImageName>, Status> {
    let mut names = Vec::new();
    if !source.name.is_empty() {
        names.push(parse(&source.name)?);
    }
    for reference in &source.extra_references {
        if reference.is_prefix {
            return Err(status::unimplemented(
                "images are exported by whole names, not by a prefix",
            ));
        }
        names.push(parse(&reference.name)?);
    }
    if names.is_empty() {
        return Err(status::missing("an image's name"));
    }
    Ok(names)
}

/// The platform to export for; nothing stands for all of them.
fn exported_platform(target: &ImageExportStream) -> Result<Option<Platform>, Status> {
    if target.all_platforms {
        return Ok(None);
    }
    let mut wanted = platforms(&target.platforms).into_iter();
    let first = wanted.next();
    if wanted.next().is_some() {
        return Err(status::unimplemented(
            "images are exported for one platform, or for all of them",
        ));
    }
    Ok(Some(first.unwrap_or_else(Platform::host)))
}

#[cfg(test)]
mod tests {
    use orlop_api::containerd::types::transfer::ImageReference;
    use orlop_image::archive::{ArchiveFormat, ImportedImage};
    use orlop_types::Digest;

    use super::*;

    fn descriptor(byte: u8) -> Descriptor {
        Descriptor::new("x/y", Digest::sha256([byte; 32]), 1)
    }

    fn prefix(name: &str, options: &str) -> ImageReference {
        ImageReference {
            name: name.to_owned(),
            is_prefix: true,
            allow_overwrite: options.contains('o'),
            add_digest: options.contains('d'),
            skip_named_digest: options.contains('s'),
        }
    }

    /// Names of an archive with one image, which is called `annotated` in it; `I` and `M` stand for the digests.
    fn names(own: &str, references: Vec<ImageReference>, annotated: Option<&str>) -> Vec<String> {
        let target = ImageStore {
            name: own.to_owned(),
            extra_references: references,
            ..ImageStore::default()
        };
        let imported = Imported {
            format: ArchiveFormat::Oci,
            images: vec![ImportedImage {
                name: annotated.map(str::to_owned),
                target: descriptor(2),
            }],
            index: None,
        };
        let images = named(&target, &Labels::new(), &imported, &descriptor(1)).unwrap();
        let short = |image: Image| {
            let name = image.name.to_string();
            name.replace(&descriptor(1).digest.to_string(), "I")
                .replace(&descriptor(2).digest.to_string(), "M")
        };
        images.into_iter().map(short).collect()
    }

    #[test]
    fn an_archive_is_named_as_containerd_names_it() {
        let full = Some("r.io/a:1");
        assert_eq!(names("", vec![prefix("x", "o")], full), ["r.io/a:1"]);
        assert_eq!(names("r.io/i:1", vec![], None), ["r.io/i:1"]);
        assert_eq!(
            names("r.io/a:i", vec![prefix("r.io/a", "")], full),
            ["r.io/a:i", "r.io/a:1"]
        );
        assert_eq!(
            names("", vec![prefix("r.io/a", "d")], full),
            ["r.io/a@I", "r.io/a:1", "r.io/a@M"]
        );
        assert_eq!(
            names("", vec![prefix("r.io/a", "ds")], full),
            ["r.io/a@I", "r.io/a:1"]
        );
        assert_eq!(names("", vec![prefix("p", "ds")], None), ["p@I", "p@M"]);
        assert_eq!(
            names("", vec![prefix("r.io/a", "")], Some("t")),
            ["r.io/a:t"]
        );
        // Another repository, and one whose name only begins the same.
        assert!(names("", vec![prefix("r.io/b", "")], full).is_empty());
        assert!(names("", vec![prefix("r.io", "")], Some("r.iox/a:1")).is_empty());
    }

    #[test]
    fn further_names_go_with_the_destinations_own() {
        let target = ImageStore {
            name: "own:1".to_owned(),
            extra_references: vec![prefix("own", "d")],
            ..ImageStore::default()
        };
        let images = naming::of_target(&target, &Labels::new(), &descriptor(1)).unwrap();
        assert!(images[0].labels.iter().next().is_none());
        let held = images[1].labels.value("containerd.io/gc.bref.image");
        assert_eq!(held.map(AsRef::as_ref), Some("own:1"));
    }

    #[test]
    fn an_export_needs_whole_names_and_one_platform() {
        assert!(names_of(&ImageStore::default()).is_err());
        let by_prefix = ImageStore {
            extra_references: vec![prefix("a", "")],
            ..ImageStore::default()
        };
        assert!(names_of(&by_prefix).is_err());
        let host = exported_platform(&ImageExportStream::default()).unwrap();
        assert_eq!(host, Some(Platform::host()));
    }
}
