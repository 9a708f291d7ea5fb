//! Layers that GNU tar, umoci and skopeo made, against what they unpack themselves.

use std::fs;
use std::path::Path;

use orlop_image::apply::WhiteoutStyle;

use super::support::{apply, assert_same, shell};

/// One of everything, including names and owners that need extended headers.
const POPULATE: &str = r#"
    mkdir -p usr/bin etc var/empty long
    echo hello > etc/motd; chmod 0600 etc/motd; touch -d '2001-02-03 04:05:06.789012345 UTC' etc/motd
    head -c 300000 /dev/urandom > usr/bin/tool; chmod 4755 usr/bin/tool
    setcap cap_net_raw+ep usr/bin/tool; chmod u+s usr/bin/tool
    ln usr/bin/tool usr/bin/tool2
    ln -s ../../etc/motd usr/bin/link; ln -s /absolute etc/absolute
    setfattr -n user.color -v blue etc/motd
    setfattr -n user.dir -v yes var/empty
    setfattr -n trusted.secret -v 1 etc
    mkfifo -m 0640 var/fifo; mknod -m 0660 var/null c 1 3; mknod -m 0600 var/loop b 7 300
    chown 3000000:3000001 var/fifo; chown -h 1000:1000 usr/bin/link
    chmod 1777 var; chmod 2775 etc; chgrp 50 etc
    truncate -s 3M sparse; echo middle | dd of=sparse bs=1 seek=1500000 conv=notrunc status=none
    echo end | dd of=sparse bs=1 seek=3100000 conv=notrunc status=none
    truncate -s 5M hole
    for i in $(seq 0 40); do echo $i | dd of=many bs=1 seek=$((i*100000)) conv=notrunc status=none; done
    n=$(printf 'n%.0s' $(seq 150)); echo x > long/$n; ln -s $n long/l$n; mkdir -p long/$n.d/$n; echo y > long/$n.d/$n/$n
    ln long/$n long/h$n
    touch -d @-5 before
    setfacl -m u:1234:r etc/motd
    find . -depth -type d -exec touch -d '2010-01-01 00:00:00 UTC' {} +
"#;

const FORMATS: [&str; 7] = [
    "--format=gnu --sparse",
    "--format=gnu",
    "--format=posix",
    "--format=posix --sparse --sparse-version=0.0",
    "--format=posix --sparse --sparse-version=0.1",
    "--format=posix --sparse --sparse-version=1.0",
    "--format=oldgnu --sparse",
];

#[test]
fn layers_of_gnu_tar_unpack_as_gnu_tar_unpacks_them() {
    for (format, compress) in FORMATS
        .iter()
        .zip(["cat", "gzip", "zstd -q", "cat", "gzip", "cat", "cat"])
    {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join("source")).unwrap();
        shell(&folder.join("source"), POPULATE);
        let attributes = if format.contains("posix") {
            "--xattrs --xattrs-include=*"
        } else {
            ""
        };
        shell(folder, &format!(
            "tar {format} {attributes} --numeric-owner -C source -cf layer.tar . && {compress} < layer.tar > layer
             mkdir theirs && tar {attributes} --same-owner --numeric-owner -p -C theirs -xf layer.tar"
        ));
        let blob = fs::read(folder.join("layer")).unwrap();
        let applied = apply(&blob, &folder.join("ours"), WhiteoutStyle::Overlay).unwrap();
        assert!(applied.deferred.is_empty());
        assert_same(&folder.join("ours"), &folder.join("theirs"));
        assert!(
            allocated(&folder.join("ours/hole")) == 0 || !format.contains("sparse"),
            "a hole was filled"
        );
    }
}

#[test]
fn a_file_larger_than_eight_gibibytes_arrives_sparse() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        "mkdir source theirs; truncate -s 9G source/big; echo end >> source/big",
    );
    for format in ["--format=gnu", "--format=posix"] {
        shell(
            folder,
            &format!("tar {format} --sparse -C source -cf layer.tar ."),
        );
        let blob = fs::read(folder.join("layer.tar")).unwrap();
        apply(&blob, &folder.join("ours"), WhiteoutStyle::Overlay).unwrap();
        assert_eq!(
            fs::metadata(folder.join("ours/big")).unwrap().len(),
            (9 << 30) + 4
        );
        shell(folder, "tail -c 5 ours/big | cmp - <(printf '\\0end\\n')");
    }
}

#[test]
fn layers_of_umoci_and_skopeo_unpack_as_umoci_unpacks_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        "umoci init --layout image && umoci new --image image:one && umoci unpack --image image:one bundle",
    );
    shell(&folder.join("bundle/rootfs"), POPULATE);
    shell(folder, "
        umoci repack --image image:one bundle && umoci unpack --image image:one theirs
        skopeo copy -q oci:image:one dir:copied && skopeo copy -q --dest-compress-format zstd oci:image:one oci:packed:one
        ls copied > names");
    let mut compared = 0;
    for blob in layer_blobs(&folder.join("copied"))
        .into_iter()
        .chain(layer_blobs(&folder.join("packed/blobs/sha256")))
    {
        let ours = folder.join(format!("ours{compared}"));
        let applied = apply(&blob, &ours, WhiteoutStyle::Overlay).unwrap();
        assert!(applied.entries > 20);
        assert_same(&ours, &folder.join("theirs/rootfs"));
        compared += 1;
    }
    assert_eq!(compared, 2, "skopeo wrote one layer in each layout");
}

/// The files of a folder that are compressed layers.
fn layer_blobs(folder: &Path) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap());
    files
        .filter(|bytes| bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0x28, 0xb5]))
        .collect()
}

fn allocated(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap())
}
