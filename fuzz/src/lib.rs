//! What reads untrusted input, fed with any bytes at all.
//!
//! Purpose: one function per fuzz target. It calls a public interface of the engine and asserts what that promises
//! beyond not to panic. The binaries in `targets/` only hand bytes over, so that the test at the end can replay
//! `seeds/` on any toolchain.
//!
//! Non-goals: finding what ordinary tests find. Every find becomes a test next to the code it was in.
//!
//! How to run: `docs/guide/fuzzing.md`.

mod frames;
mod layer;

use std::path::Path;

use orlop_cni::ConfigList;
use orlop_containerd::bolt::{Bolt, Entry};
use orlop_image::model::{Document, ImageConfig, children, parse_document};
use orlop_registry::{Challenge, ContentRange, parse_hosts_file};
use orlop_types::Reference;

pub use frames::ttrpc;
pub use layer::layer;

/// The first media type is chosen by the input's first byte.
const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A reference that was read is written so that it reads as the same, and its parts stay what they are.
pub fn reference(input: &[u8]) {
    let Some(parsed) = text(input).and_then(|text| text.parse::<Reference>().ok()) else {
        return;
    };
    for written in [parsed.to_string(), parsed.familiar()] {
        let again: Reference = written.parse().expect("what is written can be read");
        assert_eq!(again, parsed, "{written:?}");
    }
    let repository = parsed.repository();
    assert!(
        !repository
            .split('/')
            .any(|part| matches!(part, "" | "." | ".."))
    );
    let registry = parsed.registry();
    assert!(!registry.is_empty() && !registry.contains('/') && registry != "..");
}

/// Manifests, indexes and configs: whatever they say, walking them ends.
pub fn document(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let media_type = MEDIA_TYPES[usize::from(*first) % MEDIA_TYPES.len()];
    let config = ImageConfig::parse(rest);
    if let Ok(config) = &config {
        let _platform = config.platform();
    }
    let Ok(document) = parse_document(media_type, rest) else {
        return;
    };
    for child in children(&document) {
        let _text = child.digest.to_string();
    }
    if let (Document::Manifest(manifest), Ok(config)) = (&document, &config) {
        let _verdict = manifest.check_unpackable(config);
    }
}

/// A `hosts.toml` gives hosts that can be asked, or every one of its problems.
pub fn hosts(input: &[u8]) {
    let Some(text) = text(input) else { return };
    match parse_hosts_file(text, Path::new("/etc/orlop/hosts.toml"), "registry.example") {
        Ok(endpoints) => {
            let upstreams = endpoints.iter().filter(|endpoint| endpoint.is_upstream);
            assert_eq!(upstreams.count(), 1);
            for endpoint in &endpoints {
                assert!(!endpoint.authority.is_empty());
                assert!(!endpoint.path.ends_with('/'), "{endpoint:?}");
                assert!(!endpoint.authority.contains(['/', '@']), "{endpoint:?}");
            }
        }
        Err(error) => assert!(!error.problems.is_empty()),
    }
}

/// A `WWW-Authenticate` line.
pub fn challenge(input: &[u8]) {
    let Some(Challenge::Bearer { realm, .. }) = text(input).and_then(Challenge::parse) else {
        return;
    };
    assert!(!realm.is_empty());
}

/// A `Content-Range` that was read means what it says.
pub fn content_range(input: &[u8]) {
    let Some((text, found)) =
        text(input).and_then(|text| ContentRange::parse(text).map(|found| (text, found)))
    else {
        return;
    };
    let (first, last) = (found.range.start, found.range.end - 1);
    assert!(first <= last && found.total.is_none_or(|total| last < total));
    let total = found
        .total
        .map_or("*".to_owned(), |total| total.to_string());
    let written = format!("bytes {first}-{last}/{total}");
    assert_eq!(ContentRange::parse(&written), Some(found), "{text:?}");
}

/// A network configuration, as a list and as a single plugin.
pub fn conflist(input: &[u8]) {
    let Some(text) = text(input) else { return };
    for path in ["/etc/cni/net.d/10.conflist", "/etc/cni/net.d/10.conf"] {
        match ConfigList::parse(text, Path::new(path)) {
            Ok(list) => {
                let _newer = list.is_at_least(1, 0);
            }
            Err(fault) => assert!(fault.to_string().contains(path), "{fault}"),
        }
    }
}

/// A bolt file as containerd keeps its metadata in: listing all of it ends, and gives no more than is in the file.
pub fn bolt(input: &[u8]) {
    let Ok(mut bolt) = Bolt::open(input) else {
        return;
    };
    let mut pending = vec![bolt.root()];
    let mut bytes = 0;
    while let Some(bucket) = pending.pop() {
        let Ok(entries) = bolt.entries(bucket) else {
            continue;
        };
        for (key, entry) in entries {
            bytes += key.len();
            match entry {
                Entry::Value(value) => bytes += value.len(),
                Entry::Bucket(bucket) => pending.push(bucket),
            }
        }
    }
    // What is inside a bucket inside its parent's page was counted with neither.
    assert!(bytes <= input.len());
}

/// What a client of exec, attach or port-forward sends, over SPDY and over a WebSocket.
pub fn streaming(input: &[u8]) {
    orlop_cri::fuzz_streaming(input);
}

fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_survived() {
        let targets: [(&str, fn(&[u8])); 10] = [
            ("bolt", bolt),
            ("challenge", challenge),
            ("conflist", conflist),
            ("content_range", content_range),
            ("document", document),
            ("hosts", hosts),
            ("layer", layer),
            ("reference", reference),
            ("streaming", streaming),
            ("ttrpc", ttrpc),
        ];
        for (name, target) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("seeds")
                .join(name);
            let mut seeds = 0;
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                target(&std::fs::read(&path).unwrap());
                seeds += 1;
            }
            assert!(seeds > 0, "{}", folder.display());
        }
    }
}
