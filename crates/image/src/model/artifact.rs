//! Artifacts: manifests whose config is not an image's, so that their layers are files rather than layers of a root file
//! system (OCI image-spec, manifest.md "Guidelines for Artifact Usage").
//!
//! Each layer is one file, named by its title as ORAS has it, or by its digest. What the files are called and which bytes
//! they have is all there is to an artifact's tree, so a digest over both stands for it where an image has a diff id.

use std::collections::BTreeMap;

use orlop_types::{Descriptor, Digest};
use sha2::{Digest as _, Sha256};

use super::config::{ExecConfig, ImageConfig, RootFilesystem};
use super::document::Manifest;
use super::error::ModelError;
use super::media_type::{MediaKind, kind_of};

/// What a layer's file is called (OCI image-spec, annotations.md).
const TITLE: &str = "org.opencontainers.image.title";

/// The kernel's limits of a name and a path, in bytes.
const NAME_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 4095;

/// The version of how an artifact becomes a tree; part of the tree's digest.
const TREE_VERSION: &str = "orlop.dev/artifact/1\n";

impl Manifest {
    /// Whether this describes files rather than an image.
    #[must_use]
    pub fn is_artifact(&self) -> bool {
        kind_of(&self.config.media_type) != MediaKind::Config
    }

    /// The files of an artifact by their relative paths.
    ///
    /// # Errors
    /// A title that is no path below the artifact's folder, or that two layers have.
    pub fn artifact_files(&self) -> Result<BTreeMap<String, &Descriptor>, ModelError> {
        let mut files: BTreeMap<String, &Descriptor> = BTreeMap::new();
        for layer in &self.layers {
            let path = match layer.annotations.get(TITLE) {
                Some(title) => checked(title)?.to_owned(),
                None => layer.digest.to_string().replace(':', "-"),
            };
            if let Some(fault) = fault_among(&files, &path) {
                return Err(refused(&path, fault));
            }
            files.insert(path, layer);
        }
        Ok(files)
    }

    /// A config that says of an artifact what an image's says of the image: one layer, and nothing to run.
    ///
    /// # Errors
    /// As [`Manifest::artifact_files`].
    pub fn artifact_config(&self) -> Result<ImageConfig, ModelError> {
        let files = self.artifact_files()?;
        let mut hash = Sha256::new();
        hash.update(TREE_VERSION);
        for (path, layer) in &files {
            hash.update(format!("{path}\0{}\n", layer.digest));
        }
        let diff_ids = if files.is_empty() {
            Vec::new()
        } else {
            vec![Digest::sha256(hash.finalize().into())]
        };
        Ok(ImageConfig {
            architecture: String::new(),
            os: String::new(),
            variant: None,
            config: ExecConfig::default(),
            rootfs: RootFilesystem { diff_ids },
        })
    }
}

/// A file cannot lie below another file, and no two can have one name.
fn fault_among(files: &BTreeMap<String, &Descriptor>, path: &str) -> Option<&'static str> {
    if files.contains_key(path) {
        return Some("two of its files have it");
    }
    let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
    let below = format!("{path}/");
    let is_folder = files
        .range(below.clone()..)
        .next()
        .is_some_and(|(other, _)| other.starts_with(&below));
    let mut parents = parents;
    (is_folder || parents.any(|parent| files.contains_key(parent)))
        .then_some("one of its files would be a folder of another")
}

fn checked(title: &str) -> Result<&str, ModelError> {
    let is_name = |name: &str| {
        !matches!(name, "" | "." | "..")
            && name.len() <= NAME_BYTES_MAX
            && !name.chars().any(char::is_control)
    };
    if title.len() <= PATH_BYTES_MAX && title.split('/').all(is_name) {
        return Ok(title);
    }
    Err(refused(title, "it is no path below a folder"))
}

fn refused(title: &str, fault: &'static str) -> ModelError {
    ModelError::ArtifactTitle {
        title: title.chars().take(NAME_BYTES_MAX).collect(),
        fault,
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    fn layer(title: Option<&str>, byte: u8) -> Descriptor {
        let mut layer = Descriptor::new("text/plain", Digest::sha256([byte; 32]), 1);
        if let Some(title) = title {
            layer.annotations.insert(TITLE.to_owned(), title.to_owned());
        }
        layer
    }

    fn artifact(layers: Vec<Descriptor>) -> Manifest {
        let config = Descriptor::new(
            "application/vnd.oci.empty.v1+json",
            Digest::sha256([0; 32]),
            2,
        );
        Manifest {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: None,
        }
    }

    fn tree(layers: Vec<Descriptor>) -> Vec<Digest> {
        artifact(layers).artifact_config().unwrap().rootfs.diff_ids
    }

    #[test]
    fn what_has_no_image_config_is_an_artifact() {
        let mut manifest = artifact(vec![]);
        assert!(manifest.is_artifact() && !manifest.is_image());
        for media_type in [names::OCI_CONFIG, names::DOCKER_CONFIG] {
            manifest.config.media_type = media_type.to_owned();
            assert!(!manifest.is_artifact());
        }
    }

    #[test]
    fn files_are_named_by_title_or_digest() {
        let manifest = artifact(vec![
            layer(Some("a/b.txt"), 1),
            layer(None, 2),
            layer(Some("a/c"), 1),
        ]);
        let files = manifest.artifact_files().unwrap();
        let untitled = format!("sha256-{}", "02".repeat(32));
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["a/b.txt", "a/c", &untitled]);
    }

    #[test]
    fn titles_that_lead_out_or_collide_are_refused() {
        let long = "x".repeat(256);
        for title in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            ".",
            "a\0b",
            "a\nb",
            &long,
        ] {
            let error = artifact(vec![layer(Some(title), 1)])
                .artifact_files()
                .unwrap_err();
            assert_eq!(error.code(), "ORL-E5412", "{title:?}");
        }
        for titles in [["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"], ["a/b", "a"]] {
            let layers = titles.map(|title| layer(Some(title), 1)).to_vec();
            assert!(artifact(layers).artifact_files().is_err(), "{titles:?}");
        }
        let similar = ["a", "a-b", "a.c/d"]
            .map(|title| layer(Some(title), 1))
            .to_vec();
        assert!(artifact(similar).artifact_files().is_ok());
        assert!(
            artifact(vec![layer(None, 1), layer(None, 1)])
                .artifact_files()
                .is_err()
        );
    }

    #[test]
    fn a_tree_has_the_digest_of_its_names_and_bytes() {
        let one = tree(vec![layer(Some("a"), 1), layer(Some("b"), 2)]);
        assert_eq!(
            one,
            tree(vec![layer(Some("b"), 2), layer(Some("a"), 1)]),
            "in any order"
        );
        assert_ne!(one, tree(vec![layer(Some("a"), 2), layer(Some("b"), 1)]));
        assert!(tree(vec![]).is_empty());
    }
}
