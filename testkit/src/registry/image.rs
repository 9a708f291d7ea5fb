//! Small images, built in memory.

use std::io::Write;

use bytes::Bytes;
use orlop_types::Digest;
use sha2::{Digest as _, Sha256};

use super::FakeRegistry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The SHA-256 digest of `bytes`.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::sha256(Sha256::digest(bytes).into())
}

/// One layer, as it is stored.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its media type.
    pub media_type: String,
    /// The stored bytes.
    pub blob: Bytes,
    /// The digest of the unpacked tar.
    pub diff_id: Digest,
}

impl Layer {
    /// A layer stored as a plain tar.
    #[must_use]
    pub fn plain(tar: impl Into<Bytes>) -> Self {
        let blob = tar.into();
        Self {
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            diff_id: digest_of(&blob),
            blob,
        }
    }

    /// A layer stored as gzip.
    ///
    /// # Panics
    /// Never: memory takes every write.
    #[must_use]
    pub fn gzip(tar: &[u8]) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar).expect("memory takes every write");
        Self {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            diff_id: digest_of(tar),
            blob: encoder.finish().expect("memory takes every write").into(),
        }
    }

    /// A gzip layer with these files: path and content, mode 0755.
    ///
    /// # Panics
    /// A path does not fit a tar header.
    #[must_use]
    pub fn with_files(files: &[(&str, &[u8])]) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            header.set_mtime(1_700_000_000);
            builder
                .append_data(&mut header, path, *content)
                .expect("test paths fit a tar header");
        }
        Self::gzip(&builder.into_inner().expect("memory takes every write"))
    }
}

/// The digests of an image in a registry.
#[derive(Debug, Clone)]
pub struct ImageParts {
    /// The manifest's digest.
    pub manifest: Digest,
    /// The manifest's bytes.
    pub manifest_bytes: Bytes,
    /// The configuration's digest.
    pub config: Digest,
    /// The layers' digests, bottom first.
    pub layers: Vec<Digest>,
}

pub(super) fn put_image(
    registry: &FakeRegistry,
    repository: &str,
    tag: Option<&str>,
    layers: &[Layer],
) -> ImageParts {
    let config_bytes = config_of(layers);
    let config = registry.put_blob(repository, config_bytes.clone());
    let layer_digests: Vec<Digest> = layers
        .iter()
        .map(|layer| registry.put_blob(repository, layer.blob.clone()))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config.to_string(), "size": config_bytes.len()},
        "layers": layers.iter().zip(&layer_digests).map(|(layer, digest)| serde_json::json!({
            "mediaType": layer.media_type, "digest": digest.to_string(), "size": layer.blob.len(),
        })).collect::<Vec<_>>(),
    });
    let manifest_bytes = Bytes::from(manifest.to_string());
    ImageParts {
        manifest: registry.put_manifest(repository, tag, MANIFEST, manifest_bytes.clone()),
        manifest_bytes,
        config,
        layers: layer_digests,
    }
}

fn config_of(layers: &[Layer]) -> Bytes {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    Bytes::from(config.to_string())
}
