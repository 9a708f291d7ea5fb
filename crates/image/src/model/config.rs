//! Image configs (OCI image-spec, config.md).

use std::collections::BTreeMap;

use orlop_types::{Digest, Platform};
use serde::{Deserialize, Deserializer, Serialize};

use super::CONFIG_BYTES_MAX;
use super::document::parse;
use super::error::ModelError;

/// The parts of an image config that Orlop acts on. The blob itself stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The processor, as `GOARCH` has it.
    #[serde(default)]
    pub architecture: String,
    /// The operating system, as `GOOS` has it.
    #[serde(default)]
    pub os: String,
    /// The processor's variant.
    #[serde(default)]
    pub variant: Option<String>,
    /// What to run, and how.
    #[serde(default, deserialize_with = "or_default")]
    pub config: ExecConfig,
    /// The layers' digests.
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootFilesystem,
}

/// How a container of the image is run. Docker writes `null` for what is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecConfig {
    /// `user[:group]`, by name or number.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// `KEY=value` each.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Where to start it.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// The signal that asks it to end.
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    /// Paths the image wants as volumes.
    #[serde(deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Free labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// What the root file system consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFilesystem {
    /// The digests of the uncompressed layers, bottom first.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses a config.
    ///
    /// # Errors
    /// Too large, or not JSON of this shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let size = bytes.len() as u64;
        if size > CONFIG_BYTES_MAX {
            return Err(ModelError::TooLarge {
                what: "config",
                size,
                limit: CONFIG_BYTES_MAX,
            });
        }
        parse(bytes, "config")
    }

    /// The platform the image is for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, self.variant.as_deref())
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_leaves_null_is_empty() {
        let text = br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Labels":null,"Volumes":{"/d":{}}},
            "rootfs":{"type":"layers","diff_ids":null},"history":[{"created_by":"x"}]}"#;
        let config = ImageConfig::parse(text).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(config.config.env.is_empty() && config.rootfs.diff_ids.is_empty());
        assert_eq!(config.platform().to_string(), "linux/amd64");
        assert!(ImageConfig::parse(br#"{"rootfs":{"diff_ids":["sha256:xx"]}}"#).is_err());
    }
}
