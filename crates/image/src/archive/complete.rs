//! Whether all of an image is there, and what all of it is.

use std::collections::BTreeMap;

use orlop_types::{Descriptor, Digest};

use super::{ArchiveError, BlobSource, read_small};
use crate::model::{
    Document, INDEX_DEPTH_MAX, MANIFEST_BYTES_MAX, MediaKind, ModelError, children, kind_of,
    parse_document,
};

/// The blobs of an image: digest to length.
pub(super) type Blobs = BTreeMap<Digest, u64>;

/// Collects a target's blobs. Images for other platforms may be missing from an index, but not all of them; an image
/// that is there has to be whole. Foreign layers are elsewhere by nature.
pub(super) fn collect(
    source: &dyn BlobSource,
    target: &Descriptor,
    blobs: &mut Blobs,
) -> Result<(), ArchiveError> {
    visit(source, target, blobs, 0)
}

fn visit(
    source: &dyn BlobSource,
    descriptor: &Descriptor,
    blobs: &mut Blobs,
    depth: usize,
) -> Result<(), ArchiveError> {
    if depth > INDEX_DEPTH_MAX {
        let limit = INDEX_DEPTH_MAX;
        return Err(ArchiveError::model(
            descriptor.digest,
            ModelError::TooDeep { limit },
        ));
    }
    let size = size_of(source, descriptor)?.ok_or_else(|| missing(descriptor))?;
    if blobs.insert(descriptor.digest, size).is_some() {
        return Ok(());
    }
    let bytes = read_small(source, descriptor, MANIFEST_BYTES_MAX)?;
    let document = parse_document(&descriptor.media_type, &bytes)
        .map_err(|error| ArchiveError::model(descriptor.digest, error))?;
    if matches!(document, Document::Index(_)) {
        return entries(source, &document, blobs, depth);
    }
    for child in children(&document) {
        match (size_of(source, child)?, kind_of(&child.media_type)) {
            (Some(size), _) => drop(blobs.insert(child.digest, size)),
            (None, MediaKind::ForeignLayer) => {}
            (
                None,
                MediaKind::Manifest
                | MediaKind::Index
                | MediaKind::Config
                | MediaKind::Layer(_)
                | MediaKind::OtherLayer
                | MediaKind::SchemaOne
                | MediaKind::Other,
            ) => return Err(missing(child)),
        }
    }
    Ok(())
}

fn entries(
    source: &dyn BlobSource,
    document: &Document,
    blobs: &mut Blobs,
    depth: usize,
) -> Result<(), ArchiveError> {
    let entries = children(document);
    let mut present = 0_usize;
    for entry in &entries {
        let is_image = matches!(
            kind_of(&entry.media_type),
            MediaKind::Manifest | MediaKind::Index
        );
        if is_image && size_of(source, entry)?.is_some() {
            visit(source, entry, blobs, depth + 1)?;
            present += 1;
        }
    }
    match entries.first() {
        Some(first) if present == 0 => Err(missing(first)),
        Some(_) | None => Ok(()),
    }
}

fn size_of(source: &dyn BlobSource, descriptor: &Descriptor) -> Result<Option<u64>, ArchiveError> {
    let digest = &descriptor.digest;
    source.size_of(digest).map_err(|source| ArchiveError::Blob {
        digest: Box::new(*digest),
        source,
    })
}

fn missing(descriptor: &Descriptor) -> ArchiveError {
    ArchiveError::Missing {
        what: format!("blob {} ({})", descriptor.digest, descriptor.media_type),
    }
}
