//! Manifests and indexes.

use std::collections::BTreeMap;
use std::io::Read;

use orlop_types::Descriptor;
use serde::{Deserialize, Serialize};

use super::error::ModelError;
use super::media_type::{MediaKind, kind_of, names};
use super::{ImageConfig, MANIFEST_BYTES_MAX};

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The media type, where the document repeats it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, if no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image's config.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest this one is about, for artifacts that refer to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A list of manifests, one for each platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The media type, where the document repeats it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, if no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The entries in their order.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What a descriptor of an image leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Images for several platforms.
    Index(Index),
}

/// Reads a document of at most [`MANIFEST_BYTES_MAX`] and parses it.
///
/// # Errors
/// Those of [`parse_document`]; a stream that fails to read counts as one that does not parse.
pub fn read_document(media_type: &str, stream: impl Read) -> Result<Document, ModelError> {
    let mut bytes = Vec::new();
    stream
        .take(MANIFEST_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ModelError::Json {
            what: "manifest",
            source: serde_json::Error::io(error),
        })?;
    parse_document(media_type, &bytes)
}

/// Parses a manifest or an index, whichever the media type says.
///
/// # Errors
/// Too large, not JSON, schema 1, or content that contradicts the media type.
pub fn parse_document(media_type: &str, bytes: &[u8]) -> Result<Document, ModelError> {
    match kind_of(media_type) {
        MediaKind::Manifest => {
            check(media_type, bytes, "manifest", MediaKind::Manifest)?;
            parse(bytes, "manifest").map(|manifest| Document::Manifest(Box::new(manifest)))
        }
        MediaKind::Index => {
            check(media_type, bytes, "index", MediaKind::Index)?;
            parse(bytes, "index").map(Document::Index)
        }
        MediaKind::SchemaOne => Err(ModelError::SchemaOne),
        MediaKind::Config
        | MediaKind::Layer(_)
        | MediaKind::ForeignLayer
        | MediaKind::OtherLayer
        | MediaKind::Other => Err(ModelError::NotAnImage {
            media_type: media_type.to_owned(),
        }),
    }
}

impl Manifest {
    /// Whether the image can be unpacked here: every layer in the registry, in a format Orlop reads, and as many of
    /// them as the config has diff ids.
    ///
    /// # Errors
    /// The first layer that cannot, or the counts.
    pub fn check_unpackable(&self, config: &ImageConfig) -> Result<(), ModelError> {
        for layer in &self.layers {
            check_layer(layer)?;
        }
        let (layers, diff_ids) = (self.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ModelError::LayerCount { layers, diff_ids });
        }
        Ok(())
    }

    /// Whether this describes an image rather than another artifact.
    #[must_use]
    pub fn is_image(&self) -> bool {
        [names::OCI_CONFIG, names::DOCKER_CONFIG].contains(&self.config.media_type.as_str())
    }
}

fn check_layer(layer: &Descriptor) -> Result<(), ModelError> {
    let (digest, media_type) = (Box::new(layer.digest), layer.media_type.clone());
    match kind_of(&layer.media_type) {
        MediaKind::Layer(_) => Ok(()),
        MediaKind::ForeignLayer => Err(ModelError::ForeignLayer { digest, media_type }),
        MediaKind::Manifest
        | MediaKind::Index
        | MediaKind::Config
        | MediaKind::OtherLayer
        | MediaKind::SchemaOne
        | MediaKind::Other => Err(ModelError::LayerType { digest, media_type }),
    }
}

/// The fields that tell the kinds apart, whatever they contain.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Refuses content that another reader could take for another kind.
fn check(
    media_type: &str,
    bytes: &[u8],
    what: &'static str,
    kind: MediaKind,
) -> Result<(), ModelError> {
    let size = bytes.len() as u64;
    if size > MANIFEST_BYTES_MAX {
        return Err(ModelError::TooLarge {
            what,
            size,
            limit: MANIFEST_BYTES_MAX,
        });
    }
    let shape: Shape = parse(bytes, what)?;
    if shape.fs_layers.is_some() {
        return Err(ModelError::SchemaOne);
    }
    let own = shape.media_type.as_deref().map(kind_of);
    let contradiction = match kind {
        MediaKind::Index if shape.config.is_some() || shape.layers.is_some() => {
            "has a manifest's fields"
        }
        MediaKind::Index if own == Some(MediaKind::Manifest) => "calls itself a manifest",
        MediaKind::Manifest if shape.manifests.is_some() => "has an index's fields",
        MediaKind::Manifest if own == Some(MediaKind::Index) => "calls itself an index",
        MediaKind::Manifest
        | MediaKind::Index
        | MediaKind::Config
        | MediaKind::Layer(_)
        | MediaKind::ForeignLayer
        | MediaKind::OtherLayer
        | MediaKind::SchemaOne
        | MediaKind::Other => return Ok(()),
    };
    Err(ModelError::Confused {
        media_type: media_type.to_owned(),
        contradiction,
    })
}

pub(super) fn parse<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<T, ModelError> {
    serde_json::from_slice(bytes).map_err(|source| ModelError::Json { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(extra: &str) -> String {
        let config = format!(
            r#"{{"mediaType":"{}","digest":"{DIGEST}","size":2}}"#,
            names::OCI_CONFIG
        );
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]{extra}}}"#)
    }

    #[test]
    fn manifests_and_indexes_are_read_by_their_media_type() {
        let read = parse_document(names::DOCKER_MANIFEST, manifest("").as_bytes());
        assert!(matches!(read, Ok(Document::Manifest(_))));
        let read = parse_document(names::OCI_INDEX, br#"{"schemaVersion":2,"manifests":[]}"#);
        assert!(matches!(read, Ok(Document::Index(_))));
    }

    #[test]
    fn what_could_be_taken_for_another_kind_is_refused() {
        let index = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        let both = manifest(r#","manifests":[]"#);
        let liar = manifest(&format!(r#","mediaType":"{}""#, names::OCI_INDEX));
        for (media_type, bytes) in [
            (names::OCI_INDEX, index),
            (names::OCI_MANIFEST, &both),
            (names::OCI_MANIFEST, &liar),
        ] {
            let error = parse_document(media_type, bytes.as_bytes()).unwrap_err();
            assert!(
                matches!(error, ModelError::Confused { .. }),
                "{bytes}: {error}"
            );
        }
        let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(matches!(
            parse_document(names::DOCKER_MANIFEST, old),
            Err(ModelError::SchemaOne)
        ));
        let prettyjws = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(matches!(
            parse_document(prettyjws, b"{}"),
            Err(ModelError::SchemaOne)
        ));
    }

    #[test]
    fn a_huge_manifest_is_refused_before_it_is_read() {
        let error =
            read_document(names::OCI_MANIFEST, std::io::repeat(b' ').take(100 << 20)).unwrap_err();
        assert!(
            matches!(error, ModelError::TooLarge { size, .. } if size == MANIFEST_BYTES_MAX + 1),
            "{error}"
        );
    }

    #[test]
    fn foreign_and_encrypted_layers_are_refused_with_the_reason() {
        for (media_type, text) in [
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "is foreign",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+encrypted",
                "cannot be unpacked",
            ),
        ] {
            let layer = Descriptor::new(media_type, DIGEST.parse().unwrap(), 1);
            assert!(check_layer(&layer).unwrap_err().to_string().contains(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _parsed = parse_document(names::OCI_MANIFEST, &bytes);
            let _parsed = parse_document(names::OCI_INDEX, &bytes);
        }
    }
}
