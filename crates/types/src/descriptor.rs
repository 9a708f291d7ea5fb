//! Descriptors: what a blob is, how long and under which digest (OCI image-spec, descriptor.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, DigestError};

/// A content descriptor with a parsed digest.
///
/// The platform is kept as the OCI model has it; what Orlop matches against lives beside it in `platform`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type, such as `application/vnd.oci.image.manifest.v1+json`.
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content in bytes.
    pub size: u64,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where foreign layers say their bytes are; Orlop refuses to fetch those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// The type of artifact, where the descriptor stands for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The platform the content is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<oci_spec::image::Platform>,
}

/// Why a descriptor of the OCI model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// A digest of an unknown algorithm or form.
    #[error("descriptor has an unusable digest")]
    Digest(#[source] DigestError),
}

impl Descriptor {
    /// A descriptor without annotations or platform.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
            artifact_type: None,
            platform: None,
        }
    }
}

impl TryFrom<&oci_spec::image::Descriptor> for Descriptor {
    type Error = DescriptorError;

    fn try_from(model: &oci_spec::image::Descriptor) -> Result<Self, DescriptorError> {
        Ok(Self {
            media_type: model.media_type().to_string(),
            digest: model
                .digest()
                .to_string()
                .parse()
                .map_err(DescriptorError::Digest)?,
            size: model.size(),
            annotations: model
                .annotations()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            urls: model.urls().clone().unwrap_or_default(),
            artifact_type: model.artifact_type().as_ref().map(ToString::to_string),
            platform: model.platform().clone(),
        })
    }
}
