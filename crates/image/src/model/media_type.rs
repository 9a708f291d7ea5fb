//! The media types images are made of.

use crate::compression::Compression;

/// The names as they stand in descriptors.
pub mod names {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer without compression; `+gzip` and `+zstd` follow it.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer without compression.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer with gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer with zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// Statements about how an image was built.
    pub const IN_TOTO: &str = "application/vnd.in-toto+json";
}

const DOCKER_SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
const CHECKPOINT_CONFIGS: [&str; 2] = [
    "application/vnd.containerd.container.criu.checkpoint.criu.tar",
    "application/vnd.containerd.container.checkpoint.config.v1+proto",
];

/// What a media type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// A manifest of one image.
    Manifest,
    /// An index of manifests.
    Index,
    /// An image config, or one that containerd treats as such.
    Config,
    /// A layer, with the compression its type claims; `None` when the type does not tell (Docker's plain one).
    Layer(Option<Compression>),
    /// A layer whose bytes are not in the registry.
    ForeignLayer,
    /// A layer that is encrypted or in a format of its own.
    OtherLayer,
    /// Docker's first manifest format.
    SchemaOne,
    /// Anything else.
    Other,
}

/// Tells what a media type stands for.
#[must_use]
pub fn kind_of(media_type: &str) -> MediaKind {
    match media_type {
        names::OCI_MANIFEST | names::DOCKER_MANIFEST => MediaKind::Manifest,
        names::OCI_INDEX | names::DOCKER_LIST => MediaKind::Index,
        names::OCI_CONFIG | names::DOCKER_CONFIG => MediaKind::Config,
        names::OCI_LAYER => MediaKind::Layer(Some(Compression::None)),
        names::DOCKER_LAYER => MediaKind::Layer(None),
        names::DOCKER_LAYER_GZIP => MediaKind::Layer(Some(Compression::Gzip)),
        names::DOCKER_LAYER_ZSTD => MediaKind::Layer(Some(Compression::Zstd)),
        other if DOCKER_SCHEMA_1.contains(&other) => MediaKind::SchemaOne,
        other if CHECKPOINT_CONFIGS.contains(&other) => MediaKind::Config,
        other => layer_kind(other),
    }
}

fn layer_kind(media_type: &str) -> MediaKind {
    let foreign = [
        "application/vnd.oci.image.layer.nondistributable.",
        "application/vnd.docker.image.rootfs.foreign.",
    ];
    if foreign.iter().any(|prefix| media_type.starts_with(prefix)) {
        return MediaKind::ForeignLayer;
    }
    match media_type.strip_prefix(names::OCI_LAYER) {
        Some("+gzip") => MediaKind::Layer(Some(Compression::Gzip)),
        Some("+zstd") => MediaKind::Layer(Some(Compression::Zstd)),
        Some(_) => MediaKind::OtherLayer,
        None if media_type.starts_with("application/vnd.oci.image.layer.")
            || media_type.starts_with(names::DOCKER_LAYER)
            || media_type == "application/vnd.erofs.layer.v1" =>
        {
            MediaKind::OtherLayer
        }
        None => MediaKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_told_apart() {
        for (media_type, kind) in [
            (names::OCI_INDEX, MediaKind::Index),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                MediaKind::Layer(Some(Compression::Zstd)),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                MediaKind::OtherLayer,
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                MediaKind::ForeignLayer,
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                MediaKind::ForeignLayer,
            ),
            (
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                MediaKind::SchemaOne,
            ),
            (names::IN_TOTO, MediaKind::Other),
            ("text/plain", MediaKind::Other),
        ] {
            assert_eq!(kind_of(media_type), kind, "for {media_type}");
        }
    }
}
