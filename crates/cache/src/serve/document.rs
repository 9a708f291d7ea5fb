//! What a manifest names. Pure.

use orlop_types::Digest;
use serde::Deserialize;

use crate::store::Child;

/// More than any image has; the rest of a longer list is asked for one by one.
const CHILDREN_MAX: usize = 4096;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    config: Option<Named>,
    #[serde(default)]
    layers: Vec<Named>,
    #[serde(default)]
    manifests: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    media_type: String,
}

/// The blobs and manifests that a manifest or index names; none for a document of another kind.
pub(super) fn children(bytes: &[u8]) -> Vec<Child> {
    let Ok(document) = serde_json::from_slice::<Document>(bytes) else {
        return Vec::new();
    };
    let named = document.config.into_iter();
    let named = named.chain(document.layers).chain(document.manifests);
    named
        .take(CHILDREN_MAX)
        .filter_map(|named| {
            Some(Child {
                digest: named.digest.parse::<Digest>().ok()?,
                size: named.size,
                media_type: named.media_type,
            })
        })
        .collect()
}

/// Whether a client that says `accept` takes a document of this type. One that says nothing takes everything.
pub(super) fn is_accepted<'a>(accept: impl Iterator<Item = &'a str>, media_type: &str) -> bool {
    let mut says_anything = false;
    for range in accept.flat_map(|line| line.split(',')) {
        let range = range.split(';').next().unwrap_or_default().trim();
        if range.is_empty() {
            continue;
        }
        says_anything = true;
        let takes_all = range == "*/*" || range == "application/*";
        if takes_all || range.eq_ignore_ascii_case(media_type) {
            return true;
        }
    }
    !says_anything
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_layers_and_manifests_are_named() {
        let digest = |n: u8| format!("sha256:{}", format!("{n:02x}").repeat(32));
        let text = serde_json::json!({
            "config": {"digest": digest(1), "size": 1, "mediaType": "c"},
            "layers": [{"digest": digest(2), "size": 2, "mediaType": "l"}, {"digest": "nonsense", "size": 3}],
        });
        let found = children(text.to_string().as_bytes());
        let sizes: Vec<u64> = found.iter().map(|child| child.size).collect();
        assert_eq!(sizes, [1, 2]);
        let index = serde_json::json!({"manifests": [{"digest": digest(3), "size": 9}]});
        assert_eq!(children(index.to_string().as_bytes()).len(), 1);
        for odd in [
            "",
            "[]",
            "{\"layers\": 7}",
            "{\"layers\": [{\"size\": -1}]}",
        ] {
            assert!(children(odd.as_bytes()).is_empty(), "{odd}");
        }
    }

    #[test]
    fn a_client_that_names_types_gets_only_those() {
        let index = "application/vnd.oci.image.index.v1+json";
        for (accept, expected) in [
            (vec![], true),
            (vec!["*/*"], true),
            (vec!["application/json, */*;q=0.8"], true),
            (vec!["a/b", index], true),
            (vec!["application/vnd.OCI.image.index.v1+json; q=1"], true),
            (vec!["application/vnd.oci.image.manifest.v1+json"], false),
        ] {
            assert_eq!(
                is_accepted(accept.iter().copied(), index),
                expected,
                "{accept:?}"
            );
        }
    }
}
