//! Images out of an archive into the store.

use std::io::Read;
use std::sync::Arc;

use orlop_base::task::{CancellationToken, TaskKind};
use orlop_meta::{Image, View};
use orlop_types::{Descriptor, ImageName, Labels, Platform, Reference, SnapshotterName};

use super::document::{add_labels, document_labels, store};
use super::error::Error;
use super::lease::OperationLease;
use super::progress::{Board, Progress};
use super::pull::{name_image, parse_reference};
use super::store::ContentStore;
use super::table::load_document;
use super::unpack::UnpackTarget;
use super::{Images, Scope, blocking, blocking_long};
use crate::apply::Hasher;
use crate::archive::{Imported, ImportedImage, read_archive};
use crate::model::{Document, INDEX_DEPTH_MAX, ModelError, names as media_types};

const IMPORT: TaskKind = TaskKind::cooperative("image-import");

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// A name for images that the archive does not name, with their tag or digest behind it. Without it such images
    /// are an error.
    pub base_name: Option<String>,
    /// The default one if absent.
    pub snapshotter: Option<SnapshotterName>,
    /// Store without unpacking.
    pub skip_unpack: bool,
    /// The machine's own if absent.
    pub platform: Option<Platform>,
}

impl Images {
    /// Stores the images of an archive (OCI layout or docker-archive as tar, also compressed), unpacks them and writes
    /// their names last.
    ///
    /// # Errors
    /// An archive that cannot be read; images without name or not whole; the store's. No image is named then.
    pub async fn import<R>(
        &self,
        scope: &Scope,
        request: ImportRequest,
        input: R,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Image>, Error>
    where
        R: Read + Send + 'static,
    {
        let base = request.base_name.clone();
        let names = move |imported: &Imported, _index: &Descriptor| {
            let named = imported.images.iter().map(|image| {
                let name = name_of(image, base.as_deref())?;
                Ok(Image::new(name, image.target.clone(), Labels::new()))
            });
            named.collect()
        };
        self.import_as(scope, request, input, progress, names).await
    }

    /// Like [`Self::import`], but `names` says how the images are called. It is told which the archive holds, and the
    /// index of all of them, which may be named too.
    ///
    /// # Errors
    /// As [`Self::import`], and what `names` says.
    pub async fn import_as<R, N>(
        &self,
        scope: &Scope,
        request: ImportRequest,
        input: R,
        progress: Arc<dyn Progress>,
        names: N,
    ) -> Result<Vec<Image>, Error>
    where
        R: Read + Send + 'static,
        N: FnOnce(&Imported, &Descriptor) -> Result<Vec<Image>, Error> + Send + 'static,
    {
        let (images, view) = (self.clone(), self.view(scope));
        self.run(IMPORT, |stop| async move {
            let active = images.inner.leases.clone();
            let lifetime = images.inner.options.lease_lifetime;
            let begin = move || OperationLease::begin(view, &active, "(import)", lifetime);
            let lease = blocking("import-lease", begin).await?;
            let board = Arc::new(Board::new(progress));
            let work = images.import_under(lease.view(), (&request, names), input, (&board, &stop));
            let result = board.while_doing(work).await;
            let ended = blocking("import-release", move || lease.end(false)).await;
            let named = result?;
            ended?;
            Ok(named)
        })
        .await
    }

    async fn import_under<R, N>(
        &self,
        view: &View,
        (request, names): (&ImportRequest, N),
        input: R,
        (board, stop): (&Arc<Board>, &CancellationToken),
    ) -> Result<Vec<Image>, Error>
    where
        R: Read + Send + 'static,
        N: FnOnce(&Imported, &Descriptor) -> Result<Vec<Image>, Error>,
    {
        let mut sink = ContentStore { view: view.clone() };
        let read = move || {
            read_archive(input, &mut sink).map_err(|source| Error::Archive {
                operation: "import",
                source,
            })
        };
        let imported = blocking_long("image-import", read).await?;
        let (index, bytes) = index_of(&imported);
        let named = names(&imported, &index)?;
        if named
            .iter()
            .any(|image| image.target.digest == index.digest)
        {
            let (view, index) = (view.clone(), index.clone());
            let keep = move || {
                store(&view, &index, &bytes, &Labels::new())?;
                label(&view, &index, 0)
            };
            blocking("document-store", keep).await?;
        }
        for image in &imported.images {
            let (labelled, target) = (view.clone(), image.target.clone());
            blocking("blob-label", move || label(&labelled, &target, 0)).await?;
            if request.skip_unpack {
                continue;
            }
            let target = UnpackTarget {
                target: image.target.clone(),
                platform: request.platform.clone().unwrap_or_else(Platform::host),
                snapshotter: self.snapshotter(request.snapshotter.clone()),
            };
            self.unpack_stored(view, &target, (board, stop)).await?;
        }
        if stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let view = view.clone();
        blocking("image-name", move || {
            named.iter().map(|image| name_image(&view, image)).collect()
        })
        .await
    }
}

/// The name an image of an archive gets. A word alone is a tag.
fn name_of(image: &ImportedImage, base: Option<&str>) -> Result<ImageName, Error> {
    let digest = image.target.digest;
    let reference: Reference = match (&image.name, base) {
        (Some(name), _) if name.contains(['/', ':', '@']) => parse_reference(name)?,
        (Some(tag), Some(base)) => {
            let base = parse_reference(base)?;
            base.with_tag(tag).map_err(|source| Error::Reference {
                text: format!("{base}:{tag}"),
                source,
            })?
        }
        (None, Some(base)) => parse_reference(base)?.with_digest(digest),
        (name, None) => {
            return Err(Error::Invalid {
                operation: "import",
                subject: name.clone().unwrap_or_else(|| digest.to_string()),
                reason: "the archive gives the image no full name: pass a base name".to_owned(),
            });
        }
    };
    let text = reference.to_string();
    ImageName::new(&text).map_err(Error::name(&text))
}

/// The index of an archive: its own, or for one that has none such as it would have.
fn index_of(imported: &Imported) -> (Descriptor, Vec<u8>) {
    let bytes = match &imported.index {
        Some(bytes) => bytes.clone(),
        None => {
            let manifests: Vec<&Descriptor> =
                imported.images.iter().map(|image| &image.target).collect();
            let index = serde_json::json!({
                "schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": manifests,
            });
            index.to_string().into_bytes()
        }
    };
    let mut hasher = Hasher::new(None);
    hasher.update(&bytes);
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let index = Descriptor::new(media_types::OCI_INDEX, hasher.finish(), size);
    (index, bytes)
}

/// Labels the documents below `target` that are there with what they refer to. Blocks.
fn label(view: &View, target: &Descriptor, depth: usize) -> Result<(), Error> {
    if depth > INDEX_DEPTH_MAX {
        let limit = INDEX_DEPTH_MAX;
        return Err(Error::model(target.digest)(ModelError::TooDeep { limit }));
    }
    let (_, document) = load_document(view, "import", target)?;
    add_labels(
        view,
        &target.digest,
        &document_labels(&document, &Labels::new())?,
    )?;
    let Document::Index(index) = document else {
        return Ok(());
    };
    for entry in &index.manifests {
        match label(view, entry, depth + 1) {
            // Images for other platforms may be missing.
            Err(Error::Missing { .. }) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use orlop_types::Digest;

    use super::*;

    fn named(name: Option<&str>, base: Option<&str>) -> Result<String, Error> {
        let image = ImportedImage {
            name: name.map(str::to_owned),
            target: Descriptor::new("x/y", Digest::sha256([1; 32]), 1),
        };
        name_of(&image, base).map(String::from)
    }

    #[test]
    fn an_image_is_named_by_the_archive_or_by_the_base_name_and_its_tag_or_digest() {
        let full = named(Some("docker.io/library/busybox:1"), None).unwrap();
        assert_eq!(full, "docker.io/library/busybox:1");
        assert_eq!(named(Some("v1"), Some("r.io/app")).unwrap(), "r.io/app:v1");
        let by_digest = named(None, Some("r.io/app")).unwrap();
        assert!(by_digest.starts_with("r.io/app"), "{by_digest}");
        assert!(by_digest.contains("@sha256:0101"), "{by_digest}");
        assert!(named(Some("v1"), None).is_err());
        assert!(named(None, None).is_err());
    }
}
