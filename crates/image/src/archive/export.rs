//! Writing archives: an OCI layout that also has the table `docker load` wants, as containerd writes it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use orlop_sys::beneath::FileTime;
use orlop_types::{Descriptor, Digest, Platform, Reference};

use super::complete::{Blobs, collect};
use super::docker::Item;
use super::{
    ArchiveError, BlobSource, IMAGE_NAME_ANNOTATION, REF_NAME_ANNOTATION, blob_path, read_small,
};
use crate::apply::Hasher;
use crate::layer::{Entry, EntryKind, LayerWriter};
use crate::model::{Index, MANIFEST_BYTES_MAX, Manifest, ModelError, Resolution, names};

/// An image to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportImage {
    /// Its full name, if it is to have one.
    pub name: Option<String>,
    /// Its manifest or index.
    pub target: Descriptor,
}

/// How to write.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The platform whose image `docker load` will see, out of an index.
    pub platform: Platform,
    /// Whether to write `manifest.json` for `docker load` and skopeo's docker-archive.
    pub docker_table: bool,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            docker_table: true,
        }
    }
}

/// Streams images into an archive. The same images give the same bytes; every blob is verified on its way.
///
/// Of an index, those images are written that are in the source.
///
/// # Errors
/// See [`ArchiveError`]; what was written by then is no archive.
pub fn write_archive<W: Write>(
    output: W,
    images: &[ExportImage],
    source: &dyn BlobSource,
    options: &ExportOptions,
) -> Result<W, ArchiveError> {
    let mut blobs = Blobs::new();
    for image in images {
        collect(source, &image.target, &mut blobs)?;
    }
    let mut writer = LayerWriter::new(output);
    write_blobs(&mut writer, &blobs, source)?;
    let to_json = |name, value: serde_json::Result<Vec<u8>>| {
        value.map_err(|source| ArchiveError::Json { name, source })
    };
    let index = to_json("index.json", serde_json::to_vec(&index(images)))?;
    write_file(&mut writer, "index.json", &index)?;
    if options.docker_table {
        let table = to_json(
            "manifest.json",
            serde_json::to_vec(&table(images, source, options)?),
        )?;
        write_file(&mut writer, "manifest.json", &table)?;
    }
    write_file(
        &mut writer,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    writer.finish().map_err(|source| ArchiveError::Stream {
        operation: "write",
        source,
    })
}

fn write_blobs<W: Write>(
    writer: &mut LayerWriter<W>,
    blobs: &Blobs,
    source: &dyn BlobSource,
) -> Result<(), ArchiveError> {
    let mut folders = vec!["blobs".to_owned()];
    for digest in blobs.keys() {
        let folder = format!("blobs/{}", digest.algorithm().as_str());
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    for folder in folders {
        let entry = entry(&folder, EntryKind::Directory, 0);
        let written = writer.append(&entry, io::empty());
        written.map_err(|source| ArchiveError::Stream {
            operation: "write",
            source,
        })?;
    }
    for (digest, size) in blobs {
        write_blob(writer, digest, *size, source)?;
    }
    Ok(())
}

fn write_blob<W: Write>(
    writer: &mut LayerWriter<W>,
    digest: &Digest,
    size: u64,
    source: &dyn BlobSource,
) -> Result<(), ArchiveError> {
    let fail = |source| ArchiveError::Blob {
        digest: Box::new(*digest),
        source,
    };
    let entry = entry(&blob_path(digest), EntryKind::File, size);
    let mut data = Hashed {
        inner: source.open(digest).map_err(fail)?,
        hasher: Hasher::new(Some(digest)),
    };
    writer.append(&entry, &mut data).map_err(fail)?;
    let actual = data.hasher.finish();
    if actual != *digest {
        let (expected, actual) = (Box::new(*digest), Box::new(actual));
        return Err(ArchiveError::WrongDigest { expected, actual });
    }
    Ok(())
}

struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn write_file<W: Write>(
    writer: &mut LayerWriter<W>,
    name: &str,
    bytes: &[u8],
) -> Result<(), ArchiveError> {
    let entry = entry(name, EntryKind::File, bytes.len() as u64);
    let written = writer.append(&entry, bytes);
    written.map_err(|source| ArchiveError::Stream {
        operation: "write",
        source,
    })
}

fn entry(path: &str, kind: EntryKind, size: u64) -> Entry {
    Entry {
        path: path.into(),
        mode: if kind == EntryKind::Directory {
            0o755
        } else {
            0o444
        },
        kind,
        uid: 0,
        gid: 0,
        size,
        mtime: FileTime::default(),
        atime: None,
        attributes: Vec::new(),
        sparse: None,
    }
}

/// `index.json`: one entry per name.
fn index(images: &[ExportImage]) -> Index {
    let manifests = images.iter().map(|image| {
        let mut target = image.target.clone();
        if let Some(name) = &image.name {
            target
                .annotations
                .insert(IMAGE_NAME_ANNOTATION.to_owned(), name.clone());
            target
                .annotations
                .insert(REF_NAME_ANNOTATION.to_owned(), ref_name(name));
        }
        target
    });
    Index {
        schema_version: 2,
        media_type: Some(names::OCI_INDEX.to_owned()),
        artifact_type: None,
        manifests: manifests.collect(),
        annotations: None,
    }
}

/// The specification suggests the tag alone; a name without one stands for itself.
fn ref_name(name: &str) -> String {
    let reference: Option<Reference> = name.parse().ok();
    let tag = reference.as_ref().and_then(Reference::tag);
    tag.map_or_else(|| name.to_owned(), str::to_owned)
}

/// `manifest.json`: one item per manifest, with all its names. Images without one for the platform are left out.
fn table(
    images: &[ExportImage],
    source: &dyn BlobSource,
    options: &ExportOptions,
) -> Result<Vec<Item>, ArchiveError> {
    let mut items: BTreeMap<Digest, Item> = BTreeMap::new();
    for image in images {
        let Some((digest, manifest)) = resolve(image, source, options)? else {
            continue;
        };
        let item = items.entry(digest).or_insert_with(|| Item {
            config: blob_path(&manifest.config.digest),
            repo_tags: Some(Vec::new()),
            layers: Some(
                manifest
                    .layers
                    .iter()
                    .map(|layer| blob_path(&layer.digest))
                    .collect(),
            ),
        });
        let familiar = image
            .name
            .as_ref()
            .and_then(|name| name.parse::<Reference>().ok());
        item.repo_tags
            .get_or_insert_default()
            .extend(familiar.map(|name| name.familiar()));
    }
    Ok(items.into_values().collect())
}

fn resolve(
    image: &ExportImage,
    source: &dyn BlobSource,
    options: &ExportOptions,
) -> Result<Option<(Digest, Manifest)>, ArchiveError> {
    let fail = |error| ArchiveError::model(image.target.digest, error);
    let mut resolution =
        Resolution::new(image.target.clone(), options.platform.clone()).map_err(fail)?;
    loop {
        let wanted = resolution.wanted().clone();
        let size = source.size_of(&wanted.digest);
        let size = size.map_err(|source| ArchiveError::Blob {
            digest: Box::new(wanted.digest),
            source,
        })?;
        if size.is_none() {
            return Ok(None);
        }
        match resolution.step(&read_small(source, &wanted, MANIFEST_BYTES_MAX)?) {
            Ok(Some(manifest)) => return Ok(Some((wanted.digest, manifest))),
            Ok(None) => {}
            Err(ModelError::NoPlatform { .. }) => return Ok(None),
            Err(error) => return Err(fail(error)),
        }
    }
}
