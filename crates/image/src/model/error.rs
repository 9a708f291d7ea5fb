//! Why an image's documents cannot be used.

use orlop_types::Digest;

/// A document that is not what it should be. Retrying does not help: the image has to change.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Larger than any honest document.
    #[error("{what} has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Manifest, index or config.
        what: &'static str,
        /// Its length as stated or read.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Not JSON, or without a field it must have.
    #[error("{what} does not parse")]
    Json {
        /// Manifest, index or config.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The media type says one kind, the content another.
    #[error("document of type {media_type:?} {contradiction}: refused as ambiguous")]
    Confused {
        /// What the descriptor says.
        media_type: String,
        /// What the content says.
        contradiction: &'static str,
    },
    /// Docker's first manifest format.
    #[error(
        "image has a Docker schema 1 manifest, which is no longer supported: push it again with a current tool"
    )]
    SchemaOne,
    /// Something that is neither manifest nor index.
    #[error("media type {media_type:?} is neither a manifest nor an index")]
    NotAnImage {
        /// What the descriptor says.
        media_type: String,
    },
    /// Layers that live outside the registry.
    #[error(
        "layer {digest} is foreign ({media_type}): its bytes are not in the registry and are not fetched from elsewhere"
    )]
    ForeignLayer {
        /// The layer.
        digest: Box<Digest>,
        /// Its media type.
        media_type: String,
    },
    /// A layer of a type that cannot be unpacked.
    #[error("layer {digest} has type {media_type:?}, which cannot be unpacked")]
    LayerType {
        /// The layer.
        digest: Box<Digest>,
        /// Its media type.
        media_type: String,
    },
    /// Manifest and config do not fit together.
    #[error("manifest has {layers} layers, but its config {diff_ids} diff ids")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// A file of an artifact that cannot be called what it says.
    #[error("artifact has a file with the title {title:?}: {fault}")]
    ArtifactTitle {
        /// The first characters of the title.
        title: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// An index that leads back to itself.
    #[error("index {digest} leads back to itself")]
    Loop {
        /// Where the loop closes.
        digest: Box<Digest>,
    },
    /// Indexes in indexes in indexes.
    #[error("indexes are nested more than {limit} deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Nothing for this machine.
    #[error("image has nothing for {wanted}; it offers {offered}")]
    NoPlatform {
        /// The platform asked for.
        wanted: String,
        /// The platforms there are, or that there are none.
        offered: String,
    },
}

impl ModelError {
    /// The stable id operators look up.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "ORL-E5401",
            Self::Json { .. } => "ORL-E5402",
            Self::Confused { .. } => "ORL-E5403",
            Self::SchemaOne => "ORL-E5404",
            Self::NotAnImage { .. } => "ORL-E5405",
            Self::ForeignLayer { .. } => "ORL-E5406",
            Self::LayerType { .. } => "ORL-E5407",
            Self::LayerCount { .. } => "ORL-E5408",
            Self::Loop { .. } => "ORL-E5409",
            Self::TooDeep { .. } => "ORL-E5410",
            Self::NoPlatform { .. } => "ORL-E5411",
            Self::ArtifactTitle { .. } => "ORL-E5412",
        }
    }
}
