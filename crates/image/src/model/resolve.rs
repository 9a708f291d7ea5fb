//! From an image's descriptor to the manifest for one platform, through indexes.

use std::collections::HashSet;

use orlop_types::{Descriptor, Digest, Platform};

use super::document::{Document, Index, Manifest};
use super::error::ModelError;
use super::{INDEX_DEPTH_MAX, MANIFEST_BYTES_MAX, parse_document};

/// Resolving in steps: the caller brings the bytes of [`Resolution::wanted`] until a manifest comes out.
///
/// Only the best entry of an index is followed, so a loop or a deep nest costs a few documents at most.
#[derive(Debug)]
pub struct Resolution {
    platform: Platform,
    wanted: Descriptor,
    visited: HashSet<Digest>,
}

impl Resolution {
    /// Starts at an image's target.
    ///
    /// # Errors
    /// A target that states a size beyond any manifest's.
    pub fn new(target: Descriptor, platform: Platform) -> Result<Self, ModelError> {
        check_size(&target)?;
        Ok(Self {
            platform,
            wanted: target,
            visited: HashSet::new(),
        })
    }

    /// The document whose bytes are needed next.
    #[must_use]
    pub const fn wanted(&self) -> &Descriptor {
        &self.wanted
    }

    /// Takes the bytes of [`Self::wanted`], verified against its digest; the manifest when it is one.
    ///
    /// # Errors
    /// A document that does not parse; an index without an entry for the platform, in a loop, or nested too deep.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Option<Manifest>, ModelError> {
        if !self.visited.insert(self.wanted.digest) {
            return Err(ModelError::Loop {
                digest: Box::new(self.wanted.digest),
            });
        }
        if self.visited.len() > INDEX_DEPTH_MAX + 1 {
            return Err(ModelError::TooDeep {
                limit: INDEX_DEPTH_MAX,
            });
        }
        match parse_document(&self.wanted.media_type, bytes)? {
            Document::Manifest(manifest) => Ok(Some(*manifest)),
            Document::Index(index) => {
                self.wanted = self.choose(&index)?;
                check_size(&self.wanted)?;
                Ok(None)
            }
        }
    }

    fn choose(&self, index: &Index) -> Result<Descriptor, ModelError> {
        let chosen =
            self.platform
                .select(&index.manifests)
                .ok_or_else(|| ModelError::NoPlatform {
                    wanted: self.platform.to_string(),
                    offered: offered(index),
                })?;
        if self.visited.contains(&chosen.digest) {
            return Err(ModelError::Loop {
                digest: Box::new(chosen.digest),
            });
        }
        Ok(chosen.clone())
    }
}

fn check_size(descriptor: &Descriptor) -> Result<(), ModelError> {
    if descriptor.size > MANIFEST_BYTES_MAX {
        let (size, limit) = (descriptor.size, MANIFEST_BYTES_MAX);
        return Err(ModelError::TooLarge {
            what: "manifest",
            size,
            limit,
        });
    }
    Ok(())
}

/// The platforms of an index for a message, attestations left out.
pub(crate) fn offered(index: &Index) -> String {
    let mut platforms: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .map(|platform| Platform::from(platform).to_string())
        .filter(|platform| !platform.contains("unknown"))
        .take(20)
        .collect();
    platforms.dedup();
    if platforms.is_empty() {
        return "no platform".to_owned();
    }
    platforms.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn target(fill: u8) -> Descriptor {
        Descriptor::new(names::OCI_INDEX, Digest::sha256([fill; 32]), 100)
    }

    fn index(entries: &[(&str, Digest, &str)]) -> Vec<u8> {
        let entry = |(media_type, digest, platform): &(&str, Digest, &str)| {
            let (os, architecture) = platform.split_once('/').unwrap();
            serde_json::json!({"mediaType": media_type, "digest": digest, "size": 9, "platform": {"os": os, "architecture": architecture}})
        };
        let entries: Vec<_> = entries.iter().map(entry).collect();
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    }

    fn linux() -> Platform {
        "linux/amd64".parse().unwrap()
    }

    #[test]
    fn the_platform_s_manifest_is_chosen_and_attestations_are_not() {
        let wanted = Digest::sha256([7; 32]);
        let bytes = index(&[
            (
                names::OCI_MANIFEST,
                Digest::sha256([5; 32]),
                "unknown/unknown",
            ),
            (names::OCI_MANIFEST, Digest::sha256([6; 32]), "linux/arm64"),
            (names::OCI_MANIFEST, wanted, "linux/amd64"),
        ]);
        let mut resolution = Resolution::new(target(1), linux()).unwrap();
        assert_eq!(resolution.step(&bytes).unwrap(), None);
        assert_eq!(resolution.wanted().digest, wanted);
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x/y","digest":"{DIGEST}","size":1}},"layers":[]}}"#
        );
        assert!(resolution.step(manifest.as_bytes()).unwrap().is_some());
    }

    #[test]
    fn nothing_for_the_platform_says_what_there_is() {
        let bytes = index(&[(names::OCI_MANIFEST, Digest::sha256([6; 32]), "linux/arm64")]);
        let error = Resolution::new(target(1), linux())
            .unwrap()
            .step(&bytes)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "image has nothing for linux/amd64; it offers linux/arm64"
        );
    }

    #[test]
    fn loops_and_deep_nests_end() {
        let step = |resolution: &mut Resolution, next: u8| {
            resolution.step(&index(&[(
                names::OCI_INDEX,
                Digest::sha256([next; 32]),
                "linux/amd64",
            )]))
        };
        let mut resolution = Resolution::new(target(1), linux()).unwrap();
        step(&mut resolution, 2).unwrap();
        assert!(matches!(
            step(&mut resolution, 1),
            Err(ModelError::Loop { .. })
        ));
        let mut resolution = Resolution::new(target(1), linux()).unwrap();
        let error = (2..20).find_map(|next| step(&mut resolution, next).err());
        assert!(matches!(error, Some(ModelError::TooDeep { .. })));
    }

    #[test]
    fn a_stated_size_beyond_any_manifest_is_refused_before_it_is_fetched() {
        let huge = Descriptor::new(names::OCI_INDEX, Digest::sha256([1; 32]), 100 << 20);
        assert!(matches!(
            Resolution::new(huge, linux()),
            Err(ModelError::TooLarge { .. })
        ));
    }
}
