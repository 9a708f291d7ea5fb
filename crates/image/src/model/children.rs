//! What a document refers to, and the labels with which containerd keeps that alive.

use std::collections::HashMap;

use orlop_types::{Descriptor, Digest};

use super::document::Document;
use super::media_type::{MediaKind, kind_of};

/// The descriptors a document refers to, in containerd's order: config, then layers; or an index's entries.
#[must_use]
pub fn children(document: &Document) -> Vec<&Descriptor> {
    match document {
        Document::Manifest(manifest) => std::iter::once(&manifest.config)
            .chain(&manifest.layers)
            .collect(),
        Document::Index(index) => index.manifests.iter().collect(),
    }
}

/// The labels a document's blob gets, so that its children are kept as long as it is (`containerd.io/gc.ref.content.…`).
///
/// containerd's names: `.config`, `.l.N` for layers, `.m.N` for manifests, `.N` for the rest, each counted from 0.
#[must_use]
pub fn child_labels<'a>(
    children: impl IntoIterator<Item = &'a Descriptor>,
) -> Vec<(String, Digest)> {
    let mut counts: HashMap<&'static str, usize> = HashMap::new();
    let mut labels = Vec::new();
    for child in children {
        let key = label_of(child);
        let count = counts.entry(key).or_default();
        let name = if *count > 0 || key.ends_with('.') {
            format!("containerd.io/gc.ref.content{key}{count}")
        } else {
            format!("containerd.io/gc.ref.content{key}")
        };
        *count += 1;
        labels.push((name, child.digest));
    }
    labels
}

fn label_of(child: &Descriptor) -> &'static str {
    match kind_of(&child.media_type) {
        MediaKind::Config => ".config",
        MediaKind::Manifest => ".m.",
        MediaKind::Layer(_) | MediaKind::ForeignLayer | MediaKind::OtherLayer => ".l.",
        MediaKind::Index | MediaKind::SchemaOne | MediaKind::Other => ".",
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    #[test]
    fn labels_are_named_as_containerd_names_them() {
        let digest = Digest::sha256([1; 32]);
        let types = [
            names::OCI_CONFIG,
            names::DOCKER_LAYER_GZIP,
            names::OCI_LAYER,
            names::OCI_MANIFEST,
            names::OCI_INDEX,
            names::IN_TOTO,
        ];
        let children = types.map(|media_type| Descriptor::new(media_type, digest, 1));
        let labels: Vec<String> = child_labels(&children)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let suffixes = [".config", ".l.0", ".l.1", ".m.0", ".0", ".1"];
        assert_eq!(
            labels,
            suffixes.map(|suffix| format!("containerd.io/gc.ref.content{suffix}"))
        );
    }
}
