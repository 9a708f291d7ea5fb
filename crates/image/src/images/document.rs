//! Manifests, indexes and configs in the store, each with the labels that keep its children.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use orlop_meta::{Expected, IngestOptions, Opened, View};
use orlop_types::SnapshotterName;
use orlop_types::{ChainId, Descriptor, Digest, IngestRef, Labels, Platform, Reference};

use super::error::Error;
use crate::apply::Hasher;
use crate::model::{
    CONFIG_BYTES_MAX, Document, ImageConfig, MANIFEST_BYTES_MAX, Manifest, Resolution,
    child_labels, children,
};

const SOURCE: &str = "containerd.io/distribution.source.";

/// Several writers of one document do not wait for each other: each has a reference of its own.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// The blob of at most `limit` bytes, if the namespace sees it. Blocks.
pub(crate) fn load(view: &View, digest: &Digest, limit: u64) -> Result<Option<Bytes>, Error> {
    let blob = match view.content().open(digest) {
        Ok(blob) => blob,
        Err(error) if error.kind() == orlop_meta::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    blob.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read blob", digest))?;
    Ok(Some(bytes.into()))
}

/// Stores a document whose digest was verified; one that is there gets the labels it lacks. Blocks.
pub(crate) fn store(
    view: &View,
    descriptor: &Descriptor,
    bytes: &[u8],
    labels: &Labels,
) -> Result<(), Error> {
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let text = format!("document-{number}-{}", descriptor.digest);
    let reference = IngestRef::new(&text).map_err(Error::name(&text))?;
    let options = IngestOptions {
        expected: Expected::exactly(bytes.len() as u64, descriptor.digest),
        media_type: Some(descriptor.media_type.clone()),
    };
    let content = view.content();
    match content.ingest(&reference, &options)? {
        Opened::Exists(_) => add_labels(view, &descriptor.digest, labels),
        Opened::Ingest(ingest) => {
            if let Some(writer) = ingest.writer() {
                let written = writer.write_at(0, bytes);
                written.map_err(|error| {
                    Error::io("write document", descriptor.digest)(std::io::Error::other(error))
                })?;
            }
            match ingest.commit(Expected::default(), labels) {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == orlop_meta::ErrorKind::AlreadyExists => {
                    add_labels(view, &descriptor.digest, labels)
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// Adds the labels that a blob lacks; sources of distribution are joined. Blocks.
pub(crate) fn add_labels(view: &View, digest: &Digest, labels: &Labels) -> Result<(), Error> {
    let present = view.content().info(digest)?.labels;
    let mut changed = Labels::new();
    let mut fields = Vec::new();
    for (key, value) in labels.iter() {
        let wanted = match present.value(key) {
            Some(old) if old == value => continue,
            Some(old) if key.starts_with(SOURCE) => match joined(old, value) {
                Some(joined) => joined,
                None => continue,
            },
            Some(_) | None => value.clone(),
        };
        match changed.insert(key.clone(), wanted) {
            // One more repository than a label can hold: it is a hint, and may be left out.
            Err(_) if key.starts_with(SOURCE) => continue,
            inserted => inserted?,
        }
        fields.push(format!("labels.{key}"));
    }
    if !fields.is_empty() {
        view.content().update(digest, &changed, &fields)?;
    }
    Ok(())
}

/// Repositories are listed with commas, in order.
fn joined(old: &str, new: &str) -> Option<String> {
    let mut all: Vec<&str> = old.split(',').collect();
    if all.contains(&new) {
        return None;
    }
    all.push(new);
    all.sort_unstable();
    Some(all.join(","))
}

/// The label that says where a blob came from, for mounting it across repositories later.
pub(crate) fn source_labels(reference: &Reference) -> Result<Labels, Error> {
    let mut labels = Labels::new();
    labels.insert(
        format!("{SOURCE}{}", reference.registry()),
        reference.repository(),
    )?;
    Ok(labels)
}

/// A repository of `registry` that a blob is known to be in, other than `repository`.
pub(crate) fn source_of(labels: &Labels, registry: &str, repository: &str) -> Option<String> {
    let all = labels.value(&format!("{SOURCE}{registry}"))?;
    let other = all.split(',').find(|name| *name != repository)?;
    Some(other.to_owned())
}

/// The labels of a manifest or index: its children, and where it came from.
pub(crate) fn document_labels(document: &Document, source: &Labels) -> Result<Labels, Error> {
    let mut labels = source.clone();
    for (key, digest) in child_labels(children(document)) {
        labels.insert(key, digest.to_string())?;
    }
    Ok(labels)
}

/// The label by which a config keeps the snapshot of its whole image.
pub(crate) fn add_snapshot_label(
    labels: &mut Labels,
    snapshotter: &SnapshotterName,
    top: &ChainId,
) -> Result<(), Error> {
    let key = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    labels.insert(key, top.digest().to_string())?;
    Ok(())
}

/// Whether `bytes` are what the descriptor says.
pub(crate) fn verify(descriptor: &Descriptor, bytes: &[u8]) -> Result<(), Error> {
    let actual = bytes.len() as u64;
    if actual != descriptor.size {
        return Err(Error::Size {
            digest: Box::new(descriptor.digest),
            expected: descriptor.size,
            actual,
        });
    }
    let mut hasher = Hasher::new(Some(&descriptor.digest));
    hasher.update(bytes);
    let found = hasher.finish();
    if found != descriptor.digest {
        return Err(Error::Digest {
            expected: Box::new(descriptor.digest),
            actual: Box::new(found),
        });
    }
    Ok(())
}

/// An image for one platform, as the store has it.
#[derive(Debug, Clone)]
pub(crate) struct StoredImage {
    /// The manifest's descriptor.
    pub(crate) target: Descriptor,
    pub(crate) manifest: Manifest,
    pub(crate) config: ImageConfig,
}

impl StoredImage {
    /// What CRI calls the image's id: the digest of its config; of an artifact that of its manifest, because many have the
    /// same config.
    pub(crate) fn id(&self) -> Digest {
        if self.manifest.is_artifact() {
            self.target.digest
        } else {
            self.manifest.config.digest
        }
    }
}

/// Reads the image for `platform` out of the store. An artifact is for every platform. Blocks.
pub(crate) fn load_image(
    view: &View,
    operation: &'static str,
    target: &Descriptor,
    platform: &Platform,
) -> Result<StoredImage, Error> {
    let missing = |digest: &Digest| Error::Missing {
        operation,
        subject: target.digest.to_string(),
        missing: format!("blob {digest}"),
    };
    let mut resolution =
        Resolution::new(target.clone(), platform.clone()).map_err(Error::model(target.digest))?;
    loop {
        let wanted = resolution.wanted().clone();
        let bytes = load(view, &wanted.digest, MANIFEST_BYTES_MAX)?
            .ok_or_else(|| missing(&wanted.digest))?;
        let Some(manifest) = resolution
            .step(&bytes)
            .map_err(Error::model(wanted.digest))?
        else {
            continue;
        };
        let config = if manifest.is_artifact() {
            let config = manifest.artifact_config();
            config.map_err(Error::model(wanted.digest))?
        } else {
            let digest = manifest.config.digest;
            let bytes = load(view, &digest, CONFIG_BYTES_MAX)?.ok_or_else(|| missing(&digest))?;
            ImageConfig::parse(&bytes).map_err(Error::model(digest))?
        };
        return Ok(StoredImage {
            target: wanted,
            manifest,
            config,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_joined_once_and_another_repository_is_found_to_mount_from() {
        assert_eq!(joined("a/b", "a/b"), None);
        assert_eq!(joined("b,d", "c").as_deref(), Some("b,c,d"));
        let mut labels = Labels::new();
        labels.insert(format!("{SOURCE}r.io"), "a,b").unwrap();
        assert_eq!(source_of(&labels, "r.io", "a").as_deref(), Some("b"));
        assert_eq!(source_of(&labels, "other.io", "a"), None);
    }

    fn digest_of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(None);
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn bytes_of_another_length_or_digest_are_refused() {
        let good = Descriptor::new("x/y", digest_of(b"hello"), 5);
        verify(&good, b"hello").unwrap();
        assert!(matches!(verify(&good, b"hell"), Err(Error::Size { .. })));
        assert!(matches!(verify(&good, b"hellO"), Err(Error::Digest { .. })));
    }
}
