//! Layers made from trees, and the way back.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use orlop_image::apply::WhiteoutStyle;
use orlop_image::compression::{Compression, LayerBlob};
use orlop_image::diff::{DiffOptions, DiffSource, write_diff};

use super::support::{apply, assert_same, shell};

const BEFORE: &str = "
    mkdir -p a/b gone kept/deep; echo 1 > a/b/changed; echo 2 > a/b/same; echo 3 > a/removed; echo 4 > gone/x; echo 5 > kept/deep/f
    echo 6 > turns; mkdir becomes; echo 7 > becomes/old; touch -d '2020-01-01 00:00:00 UTC' a/b/same";
const AFTER: &str = "
    echo one > a/b/changed; rm a/removed; rm -r gone; rm turns; mkdir turns; echo 8 > turns/new
    rm -r becomes; echo 9 > becomes; ln a/b/changed linked; ln -s nowhere dangling; mkfifo pipe; mknod dev c 1 3
    setfattr -n user.k -v v a/b/changed; cp /bin/true tool; setcap cap_net_raw+ep tool
    chown 3000000:7 pipe; chmod 4755 a/b/changed; find . -path ./kept -prune -o -exec touch -h -d '2021-01-01 00:00:00 UTC' {} +
    touch -d '2020-01-01 00:00:00 UTC' a/b/same";

fn write(source: &DiffSource<'_>, compression: Compression) -> (Vec<u8>, LayerBlob) {
    let mut blob = Vec::new();
    let options = DiffOptions {
        compression,
        ..DiffOptions::default()
    };
    let layer = write_diff(source, &mut blob, &options).unwrap();
    assert_eq!(layer.size, blob.len() as u64);
    (blob, layer)
}

/// Makes `before` and `after`, the second a changed copy of the first.
fn prepare(folder: &Path) -> (File, File) {
    shell(folder, "mkdir before");
    shell(&folder.join("before"), BEFORE);
    shell(folder, "cp -a before after");
    shell(&folder.join("after"), AFTER);
    (
        File::open(folder.join("before")).unwrap(),
        File::open(folder.join("after")).unwrap(),
    )
}

#[test]
fn a_difference_applied_to_the_lower_tree_gives_the_upper_one() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let folder = tempfile::tempdir().unwrap();
        let (lower, upper) = prepare(folder.path());
        let source = DiffSource::Trees {
            lower: Some(lower.as_fd()),
            upper: upper.as_fd(),
        };
        let (blob, layer) = write(&source, compression);
        let applied = apply(&blob, &folder.path().join("before"), WhiteoutStyle::Remove).unwrap();
        assert_eq!(
            (applied.diff_id, applied.uncompressed_size),
            (layer.diff_id, layer.uncompressed_size)
        );
        assert_same(&folder.path().join("before"), &folder.path().join("after"));
    }
}

#[test]
fn only_what_changed_is_in_the_layer_with_its_parents_sorted() {
    let folder = tempfile::tempdir().unwrap();
    let (lower, upper) = prepare(folder.path());
    let source = DiffSource::Trees {
        lower: Some(lower.as_fd()),
        upper: upper.as_fd(),
    };
    let (blob, first) = write(&source, Compression::None);
    fs::write(folder.path().join("layer.tar"), &blob).unwrap();
    shell(folder.path(), "tar -tf layer.tar > names");
    let names = fs::read_to_string(folder.path().join("names")).unwrap();
    let expected = "a/ a/b/ a/b/changed a/.wh.removed becomes dangling dev .wh.gone linked pipe tool turns/ turns/new";
    assert_eq!(
        names.split_whitespace().collect::<Vec<_>>().join(" "),
        expected
    );
    assert_eq!(
        write(&source, Compression::None).1,
        first,
        "the same trees give the same bytes"
    );
    let nothing = DiffSource::Trees {
        lower: Some(upper.as_fd()),
        upper: upper.as_fd(),
    };
    assert_eq!(
        write(&nothing, Compression::None).0.len(),
        1024,
        "equal trees give an empty layer"
    );
}

#[test]
fn a_source_date_bounds_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let (_, upper) = prepare(folder.path());
    let source = DiffSource::Trees {
        lower: None,
        upper: upper.as_fd(),
    };
    let options = DiffOptions {
        compression: Compression::None,
        source_date_seconds: Some(1000),
        cancel: None,
    };
    let mut blob = Vec::new();
    write_diff(&source, &mut blob, &options).unwrap();
    apply(&blob, &folder.path().join("out"), WhiteoutStyle::Overlay).unwrap();
    let time = fs::symlink_metadata(folder.path().join("out/a/b/same"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(
        time.duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
        1000
    );
}

#[test]
fn what_an_overlay_s_upper_directory_holds_gives_the_mounted_tree() {
    let folder = tempfile::tempdir().unwrap();
    shell(folder.path(), "mkdir before upper work merged");
    shell(&folder.path().join("before"), BEFORE);
    let script = "unshare -m bash -euc 'mount -t overlay overlay -o lowerdir=before,upperdir=upper,workdir=work,metacopy=off,redirect_dir=off merged
        cd merged; rm -r kept; mkdir kept; echo new > kept/new; touch -d @1600000000 kept/new kept";
    shell(
        folder.path(),
        &format!(
            "{script}\n{}\n cp -a . ../after'",
            AFTER.replace('\'', "\"")
        ),
    );
    let upper = File::open(folder.path().join("upper")).unwrap();
    let lower = File::open(folder.path().join("before")).unwrap();
    let source = DiffSource::Overlay {
        upper: upper.as_fd(),
        lowers: &[lower.as_fd()],
    };
    let (blob, _) = write(&source, Compression::Gzip);
    apply(&blob, &folder.path().join("before"), WhiteoutStyle::Remove).unwrap();
    assert_same(&folder.path().join("before"), &folder.path().join("after"));
}
