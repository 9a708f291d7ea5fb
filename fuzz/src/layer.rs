//! Layers, unpacked by the real applier into a real folder next to one that must not change.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use orlop_image::apply::{ApplyOptions, ApplyTarget, WhiteoutStyle, apply_layer, settle};
use orlop_image::compression::Bounds;
use orlop_image::layer::Limits;

const BLOCK_BYTES: usize = 512;
const CANARY: &str = "untouched";

/// A layer may fill its root with anything, or fail; beside the root nothing changes.
///
/// The input's first byte chooses how whiteouts are written, whether the root holds a lower layer's links and whether
/// checksums are mended: a fuzzer does not guess those, and an attacker need not.
pub fn layer(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    std::fs::create_dir(&root).expect("a new folder");
    std::fs::create_dir(&outside).expect("a new folder");
    std::fs::write(outside.join("canary"), CANARY).expect("a new file");
    if first & 2 != 0 {
        plant_links(&root, &outside);
    }
    let before = times(folder.path(), &outside);
    let mut bytes = rest.to_vec();
    if first & 4 == 0 {
        mend_checksums(&mut bytes);
    }
    unpack(&bytes, &root, first & 1 != 0);
    assert_eq!(before, times(folder.path(), &outside), "beside the root");
    let canary = std::fs::read_to_string(outside.join("canary")).expect("the canary lives");
    assert_eq!(canary, CANARY);
}

fn unpack(bytes: &[u8], root: &Path, overlay: bool) {
    let open = || File::open(root).expect("the root is there").into();
    let target = ApplyTarget {
        root: open(),
        whiteouts: if overlay {
            WhiteoutStyle::Overlay
        } else {
            WhiteoutStyle::Remove
        },
    };
    let options = ApplyOptions {
        is_blob_verified: true,
        bounds: Bounds {
            bytes_max: 1 << 20,
            ratio_free_bytes: 1 << 18,
            zstd_window_log_max: 20,
            ..Bounds::default()
        },
        limits: Limits {
            entries_max: 256,
            devices_max: 8,
            path_depth_max: 64,
            ..Limits::default()
        },
        ..ApplyOptions::default()
    };
    if let Ok(applied) = apply_layer(bytes, &target, &options) {
        assert!(applied.uncompressed_size <= options.bounds.bytes_max);
        assert!(applied.entries <= options.limits.entries_max);
        let _settled = settle(&applied.deferred, &target, &[]);
    }
}

/// What a lower layer could have left behind to lead a careless applier astray.
fn plant_links(root: &Path, outside: &Path) {
    symlink(outside, root.join("absolute")).expect("a new link");
    symlink("../outside", root.join("relative")).expect("a new link");
    symlink("../outside/canary", root.join("file")).expect("a new link");
    symlink("loop", root.join("loop")).expect("a new link");
    std::fs::create_dir(root.join("dir")).expect("a new folder");
    symlink("../../outside", root.join("dir/up")).expect("a new link");
}

/// Names, modes and times of everything that is not the root.
fn times(folder: &Path, outside: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for place in [folder, outside] {
        for entry in std::fs::read_dir(place).expect("it is there") {
            let path = entry.expect("an entry").path();
            let stat = path.symlink_metadata().expect("it is there");
            let what = if path.ends_with("root") {
                // Its content is the layer's affair, its owner and mode too.
                format!("{} {}", path.display(), stat.ino())
            } else {
                let (mode, links) = (stat.mode(), stat.nlink());
                let (changed, nanos) = (stat.ctime(), stat.ctime_nsec());
                format!("{} {mode:o} {links} {changed}.{nanos}", path.display())
            };
            found.push(what);
        }
    }
    found.sort();
    found
}

/// Writes the right checksum into every block that looks like a header.
fn mend_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK_BYTES) {
        if &block[257..262] != b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let digits = format!("{sum:06o}\0 ");
        block[148..156].copy_from_slice(digits.as_bytes());
    }
}
