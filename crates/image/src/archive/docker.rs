//! `manifest.json`, the table of contents of docker archives.

use orlop_types::{Descriptor, Reference};
use serde::{Deserialize, Serialize};

use super::import::{ArchiveFormat, Contents, Imported, ImportedImage, StoredFile, as_source};
use super::{ArchiveError, BlobSink, NewBlob, read_small};
use crate::compression::Compression;
use crate::layer::{Limits, name};
use crate::model::{CONFIG_BYTES_MAX, ImageConfig, Manifest, names};

/// Links in old archives point at a layer, not at further links.
const LINKS_MAX: usize = 4;

/// One image of the table.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Option<Vec<String>>,
}

/// Makes schema 2 manifests for the images of the table, which come without.
pub(super) fn read_manifest(
    bytes: &[u8],
    contents: &Contents,
    sink: &mut dyn BlobSink,
) -> Result<Imported, ArchiveError> {
    let items: Vec<Item> = serde_json::from_slice(bytes).map_err(|source| ArchiveError::Json {
        name: "manifest.json",
        source,
    })?;
    let mut images = Vec::new();
    for item in items {
        let target = make_manifest(&item, contents, sink)?;
        let tags = item.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            images.push(ImportedImage {
                name: None,
                target: target.clone(),
            });
        }
        for tag in tags {
            let reference: Reference = tag.parse().map_err(|source| ArchiveError::Name {
                name: tag.clone(),
                source,
            })?;
            images.push(ImportedImage {
                name: Some(reference.to_string()),
                target: target.clone(),
            });
        }
    }
    Ok(Imported {
        format: ArchiveFormat::Docker,
        images,
        index: None,
    })
}

fn make_manifest(
    item: &Item,
    contents: &Contents,
    sink: &mut dyn BlobSink,
) -> Result<Descriptor, ArchiveError> {
    let config = contents.file(&item.config)?;
    let config = Descriptor::new(names::DOCKER_CONFIG, config.digest, config.size);
    let mut layers = Vec::new();
    for path in item.layers.iter().flatten() {
        let layer = contents.file(path)?;
        let media_type = match layer.compression {
            Compression::None => names::DOCKER_LAYER,
            Compression::Gzip => names::DOCKER_LAYER_GZIP,
            Compression::Zstd => names::DOCKER_LAYER_ZSTD,
        };
        layers.push(Descriptor::new(media_type, layer.digest, layer.size));
    }
    let bytes = read_small(as_source(sink), &config, CONFIG_BYTES_MAX)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(names::DOCKER_MANIFEST.to_owned()),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: None,
    };
    ImageConfig::parse(&bytes)
        .and_then(|config| manifest.check_unpackable(&config))
        .map_err(|error| ArchiveError::model(manifest.config.digest, error))?;
    let bytes = serde_json::to_vec(&manifest).map_err(|source| ArchiveError::Json {
        name: "manifest.json",
        source,
    })?;
    let size = bytes.len() as u64;
    let blob = NewBlob {
        size,
        expected: None,
        data: &mut &bytes[..],
    };
    let digest = sink.store(blob).map_err(|source| ArchiveError::Store {
        name: "manifest".to_owned(),
        source,
    })?;
    Ok(Descriptor::new(names::DOCKER_MANIFEST, digest, size))
}

impl Contents {
    /// The stored file at a path of the table, through links.
    fn file(&self, path: &str) -> Result<StoredFile, ArchiveError> {
        let climbs = path.split('/').any(|component| component == "..");
        if path.is_empty() || path.starts_with('/') || climbs {
            return Err(ArchiveError::Path {
                path: path.to_owned(),
            });
        }
        let mut at =
            name::normalise(path.as_bytes(), &Limits::default()).map_err(ArchiveError::Tar)?;
        for _ in 0..LINKS_MAX {
            if let Some(file) = self.files.get(&at) {
                return Ok(*file);
            }
            match self.links.get(&at) {
                Some(target) => at.clone_from(target),
                None => break,
            }
        }
        Err(ArchiveError::Missing {
            what: format!("{path:?}, which manifest.json refers to,"),
        })
    }
}
