//! Reading archives.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Read};

use orlop_types::{Descriptor, Digest};
use serde::Deserialize;

use super::complete::{Blobs, collect};
use super::{ArchiveError, BlobSink, IMAGE_NAME_ANNOTATION, NewBlob, REF_NAME_ANNOTATION, docker};
use crate::compression::{Bounds, Compression, Decompressor};
use crate::layer::{Entry, EntryKind, LayerReader, Limits, name};
use crate::model::{Document, MANIFEST_BYTES_MAX, names, parse_document};

/// What an archive was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI layout; preferred when an archive is both.
    Oci,
    /// What `docker save` wrote before it wrote OCI layouts too.
    Docker,
}

/// One image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedImage {
    /// The name the archive gives it. In an OCI layout that may be a mere tag.
    pub name: Option<String>,
    /// Its manifest or index, which is in the sink with all it needs.
    pub target: Descriptor,
}

/// What came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// How it was written.
    pub format: ArchiveFormat,
    /// Its images, in its order.
    pub images: Vec<ImportedImage>,
    /// The `index.json` of an OCI layout, as it was written.
    pub index: Option<Vec<u8>>,
}

/// A file of the archive that was stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredFile {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) compression: Compression,
}

/// What the stream held.
#[derive(Default)]
pub(super) struct Contents {
    layout: Option<Vec<u8>>,
    index: Option<Vec<u8>>,
    pub(super) manifest: Option<Vec<u8>>,
    has_repositories: bool,
    pub(super) files: HashMap<Vec<u8>, StoredFile>,
    /// Old docker archives keep equal layers once.
    pub(super) links: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Streams an archive, compressed or not, into a sink. Blocks.
///
/// # Errors
/// See [`ArchiveError`]. Blobs stored by then stay, unreferenced.
pub fn read_archive(input: impl Read, sink: &mut dyn BlobSink) -> Result<Imported, ArchiveError> {
    let input =
        Decompressor::new(input, Bounds::default()).map_err(|source| ArchiveError::Stream {
            operation: "read",
            source,
        })?;
    let input = BufReader::with_capacity(128 << 10, input);
    let mut reader = LayerReader::new(input, Limits::default());
    let mut contents = Contents::default();
    while let Some(entry) = reader.next_entry().map_err(ArchiveError::Tar)? {
        contents.take(&entry, &mut reader, sink)?;
    }
    match (&contents.layout, &contents.index, &contents.manifest) {
        (Some(layout), Some(index), _) => read_layout(layout, index, sink),
        (_, _, Some(manifest)) => docker::read_manifest(manifest, &contents, sink),
        (Some(_), None, None) => Err(ArchiveError::Missing {
            what: "index.json".to_owned(),
        }),
        (None, _, None) if contents.has_repositories => Err(ArchiveError::NotAnArchive {
            hint: "it was written by Docker before 1.10; load and save it with a later one",
        }),
        (None, _, None) => Err(ArchiveError::NotAnArchive {
            hint: "it is some other tar file",
        }),
    }
}

impl Contents {
    fn take<R: BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut LayerReader<R>,
        sink: &mut dyn BlobSink,
    ) -> Result<(), ArchiveError> {
        match &entry.kind {
            EntryKind::File => {}
            EntryKind::Symlink { target } | EntryKind::HardLink { target } => {
                self.link(entry, target);
                return Ok(());
            }
            EntryKind::Directory
            | EntryKind::CharDevice { .. }
            | EntryKind::BlockDevice { .. }
            | EntryKind::Fifo => return Ok(()),
        }
        match entry.path.as_slice() {
            b"oci-layout" => self.layout = Some(small(entry, reader)?),
            b"index.json" => self.index = Some(small(entry, reader)?),
            b"manifest.json" => self.manifest = Some(small(entry, reader)?),
            b"repositories" => self.has_repositories = true,
            // Each old layer's folder has these two beside its layer.tar.
            path if path.ends_with(b"/VERSION") || path.ends_with(b"/json") => {}
            path => {
                let stored = store(entry, reader, sink)?;
                self.files.insert(path.to_vec(), stored);
            }
        }
        Ok(())
    }

    /// A symbolic link is relative to its folder; a hard link's text already is a path of the archive.
    fn link(&mut self, entry: &Entry, target: &[u8]) {
        let target = if matches!(entry.kind, EntryKind::Symlink { .. }) {
            let (folder, _) = name::split(&entry.path);
            name::normalise(&name::join(folder, target), &Limits::default()).unwrap_or_default()
        } else {
            target.to_vec()
        };
        self.links.insert(entry.path.clone(), target);
    }
}

fn small<R: BufRead>(entry: &Entry, reader: &mut LayerReader<R>) -> Result<Vec<u8>, ArchiveError> {
    let (size, limit) = (entry.size, MANIFEST_BYTES_MAX);
    if size > limit {
        return Err(ArchiveError::TooLarge {
            name: shown(&entry.path),
            size,
            limit,
        });
    }
    let mut bytes = Vec::new();
    let read = EntryData { reader }.read_to_end(&mut bytes);
    read.map_err(|source| ArchiveError::Stream {
        operation: "read",
        source,
    })?;
    Ok(bytes)
}

fn store<R: BufRead>(
    entry: &Entry,
    reader: &mut LayerReader<R>,
    sink: &mut dyn BlobSink,
) -> Result<StoredFile, ArchiveError> {
    let expected = promised_digest(&entry.path)?;
    let start = reader.chunk().map_err(ArchiveError::Tar)?;
    let compression = Compression::detect(start);
    let size = entry.size;
    let blob = NewBlob {
        size,
        expected,
        data: &mut EntryData { reader },
    };
    let digest = sink.store(blob).map_err(|source| ArchiveError::Store {
        name: shown(&entry.path),
        source,
    })?;
    match expected {
        Some(expected) if expected != digest => {
            let (expected, actual) = (Box::new(expected), Box::new(digest));
            Err(ArchiveError::WrongDigest { expected, actual })
        }
        Some(_) | None => Ok(StoredFile {
            digest,
            size,
            compression,
        }),
    }
}

/// The digest in a path `blobs/<algorithm>/<hex>`.
fn promised_digest(path: &[u8]) -> Result<Option<Digest>, ArchiveError> {
    let Some(rest) = path.strip_prefix(b"blobs/") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(rest).replacen('/', ":", 1);
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(_) => Err(ArchiveError::BlobName { name: shown(path) }),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

fn read_layout(layout: &[u8], index: &[u8], sink: &dyn BlobSink) -> Result<Imported, ArchiveError> {
    let layout: Layout = serde_json::from_slice(layout).map_err(|source| ArchiveError::Json {
        name: "oci-layout",
        source,
    })?;
    if layout.image_layout_version != "1.0.0" {
        return Err(ArchiveError::Version {
            version: layout.image_layout_version,
        });
    }
    let document = parse_document(names::OCI_INDEX, index).map_err(ArchiveError::Index)?;
    let targets = match document {
        Document::Index(index) => index.manifests,
        Document::Manifest(_) => Vec::new(),
    };
    let mut images = Vec::new();
    for target in targets {
        collect(as_source(sink), &target, &mut Blobs::new())?;
        let annotation = |key: &str| target.annotations.get(key).cloned();
        let name = annotation(IMAGE_NAME_ANNOTATION).or_else(|| annotation(REF_NAME_ANNOTATION));
        images.push(ImportedImage { name, target });
    }
    Ok(Imported {
        format: ArchiveFormat::Oci,
        images,
        index: Some(index.to_vec()),
    })
}

pub(super) fn as_source(sink: &dyn BlobSink) -> &dyn super::BlobSource {
    sink
}

/// The data of the entry a reader stands at.
struct EntryData<'a, R> {
    reader: &'a mut LayerReader<R>,
}

impl<R: BufRead> Read for EntryData<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.reader.chunk().map_err(io::Error::other)?;
        let count = chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        self.reader.consume(count);
        Ok(count)
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
