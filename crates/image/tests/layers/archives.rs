//! Archives of skopeo and of ours, good and bad.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use orlop_image::archive::{
    ArchiveError, ArchiveFormat, BlobSink, BlobSource, ExportImage, ExportOptions, Imported,
    NewBlob, read_archive, write_archive,
};
use orlop_image::layer::{EntryKind, LayerWriter};
use orlop_types::Digest;
use sha2::{Digest as _, Sha256};

use super::support::{entry, shell};

/// A store in memory that keeps what a real one promises.
#[derive(Default)]
struct Memory(HashMap<Digest, Vec<u8>>);

impl BlobSource for Memory {
    fn size_of(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(self.0.get(digest).map(|bytes| bytes.len() as u64))
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + '_>> {
        let bytes = self.0.get(digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(&bytes[..]))
    }
}

impl BlobSink for Memory {
    fn store(&mut self, blob: NewBlob<'_>) -> io::Result<Digest> {
        let mut bytes = Vec::new();
        blob.data.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, blob.size);
        let digest = Digest::sha256(Sha256::digest(&bytes).into());
        if blob.expected.is_some_and(|expected| expected != digest) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.0.insert(digest, bytes);
        Ok(digest)
    }
}

/// An image of two layers in an OCI layout, made by umoci.
fn make_image(folder: &Path) {
    shell(folder, "
        umoci init --layout image && umoci new --image image:one && echo hello > file
        umoci insert --image image:one file /file && umoci insert --image image:one image/oci-layout /second
        skopeo copy -q oci:image:one oci-archive:oci.tar:example.com/repo/name:one
        skopeo copy -q oci:image:one docker-archive:docker.tar:example.com/repo/name:one");
}

fn import(path: &Path) -> (Memory, Imported) {
    let mut store = Memory::default();
    let imported = read_archive(File::open(path).unwrap(), &mut store).unwrap();
    (store, imported)
}

#[test]
fn archives_of_skopeo_are_read_and_ours_are_read_by_skopeo() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_image(folder);
    for (file, format) in [
        ("oci.tar", ArchiveFormat::Oci),
        ("docker.tar", ArchiveFormat::Docker),
    ] {
        let (store, imported) = import(&folder.join(file));
        assert_eq!(imported.format, format);
        assert_eq!(imported.images.len(), 1);
        let image = &imported.images[0];
        assert_eq!(
            image.name.as_deref(),
            Some("example.com/repo/name:one"),
            "{file}"
        );
        let images = [ExportImage {
            name: image.name.clone(),
            target: image.target.clone(),
        }];
        let ours = write_archive(Vec::new(), &images, &store, &ExportOptions::default()).unwrap();
        fs::write(folder.join("ours.tar"), &ours).unwrap();
        shell(folder, "
            rm -rf one two back
            skopeo copy -q docker-archive:ours.tar dir:one && skopeo copy -q oci-archive:ours.tar dir:two
            skopeo copy -q oci-archive:ours.tar oci:back:one && umoci unpack --image back:one bundle-$RANDOM");
        let (_, again) = import(&folder.join("ours.tar"));
        assert_eq!(again.format, ArchiveFormat::Oci);
        assert_eq!(again.images[0].name, image.name);
        assert_eq!(again.images[0].target.digest, image.target.digest);
    }
}

/// The files of an archive, to be damaged.
fn unpack(folder: &Path, archive: &str) {
    shell(
        folder,
        &format!("rm -rf x && mkdir x && tar -C x -xf {archive}"),
    );
}

fn import_damaged(folder: &Path, script: &str) -> ArchiveError {
    shell(
        folder,
        &format!("cd x && {script} && tar -cf ../damaged.tar *"),
    );
    let file = File::open(folder.join("damaged.tar")).unwrap();
    read_archive(file, &mut Memory::default()).unwrap_err()
}

#[test]
fn damaged_archives_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_image(folder);
    for (archive, script, code) in [
        (
            "oci.tar",
            "rm $(ls -S -d blobs/sha256/* | tail -1)",
            "ORL-E5512",
        ),
        (
            "oci.tar",
            "for b in blobs/sha256/*; do chmod +w $b; echo >> $b; done",
            "ORL-E5514",
        ),
        ("oci.tar", "touch blobs/sha256/../evil", "ORL-E5508"),
        ("oci.tar", "rm index.json", "ORL-E5512"),
        ("oci.tar", "rm oci-layout", "ORL-E5503"),
        (
            "oci.tar",
            "echo '{\"imageLayoutVersion\":\"2.0.0\"}' > oci-layout",
            "ORL-E5504",
        ),
        ("oci.tar", "truncate -s 100M index.json", "ORL-E5505"),
        ("oci.tar", "echo x > index.json", "ORL-E5515"),
        ("docker.tar", "rm *.tar", "ORL-E5512"),
        (
            "docker.tar",
            "chmod +w manifest.json; sed -i 's|\"Config\":\"|&../|' manifest.json",
            "ORL-E5509",
        ),
        (
            "docker.tar",
            "chmod +w manifest.json; sed -i 's|example.com/repo|EXAMPLE//|' manifest.json",
            "ORL-E5510",
        ),
        (
            "docker.tar",
            "chmod +w manifest.json; echo '[{}' > manifest.json",
            "ORL-E5506",
        ),
    ] {
        unpack(folder, archive);
        let error = import_damaged(folder, script);
        assert_eq!(error.code(), code, "{archive} after {script}: {error}");
    }
}

#[test]
fn a_blob_that_changed_on_disk_is_not_exported() {
    let folder = tempfile::tempdir().unwrap();
    make_image(folder.path());
    let (mut store, imported) = import(&folder.path().join("oci.tar"));
    let target = imported.images[0].target.clone();
    let layer = *store
        .0
        .iter()
        .find(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b]))
        .unwrap()
        .0;
    store.0.get_mut(&layer).unwrap()[5] ^= 1;
    let images = [ExportImage { name: None, target }];
    let error = write_archive(Vec::new(), &images, &store, &ExportOptions::default()).unwrap_err();
    assert!(matches!(error, ArchiveError::WrongDigest { .. }), "{error}");
}

#[test]
fn what_is_no_archive_is_told() {
    let mut writer = LayerWriter::new(Vec::new());
    writer
        .append(&entry("etc", EntryKind::Directory), io::empty())
        .unwrap();
    let error = read_archive(&writer.finish().unwrap()[..], &mut Memory::default()).unwrap_err();
    assert_eq!(error.code(), "ORL-E5503");
    let error = read_archive(&[b'x'; 4096][..], &mut Memory::default()).unwrap_err();
    assert_eq!(error.code(), "ORL-E5501");
}
