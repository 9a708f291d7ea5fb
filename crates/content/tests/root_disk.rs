//! Full, read-only and suddenly dark disks, with real file systems.
#![allow(
    clippy::disallowed_methods,
    reason = "mounts by the programs an administrator uses"
)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use orlop_content::{ErrorKind, Expected, Store};
use orlop_types::IngestRef;

/// Cuts of power: each costs a copy of the disk.
const POWER_CUTS: u64 = 12;

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Unmounts however the test ends.
struct Mounted<'path>(&'path Path);

impl<'path> Mounted<'path> {
    fn new(arguments: &[&str], target: &'path Path) -> Self {
        std::fs::create_dir_all(target).expect("the mount point can be made");
        run("mount", &[arguments, &[text(target)]].concat());
        Self(target)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        run("umount", &["--lazy", text(self.0)]);
    }
}

#[test]
fn a_full_disk_is_said_so_and_the_ingest_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=1m", "none"], &root);
    let store = Store::open(&root).unwrap();
    let ballast = store
        .ingest(&IngestRef::new("ballast").unwrap(), Expected::default())
        .unwrap();
    ballast.append(&vec![1; 500_000]).unwrap();
    let bytes = vec![2; 800_000];
    let expected = Expected::exactly(800_000, support::digest_of(&bytes));
    let ingest = store
        .ingest(&IngestRef::new("layer").unwrap(), expected)
        .unwrap();
    let full = ingest.append(&bytes).unwrap_err();
    assert_eq!(
        (full.kind(), full.code()),
        (ErrorKind::OutOfSpace, "ORL-E1016")
    );
    assert_eq!(
        ingest.missing().first(),
        Some(&(0..800_000)),
        "nothing half-written is believed"
    );
    assert_eq!(store.walk().unwrap().count(), 0);
    ballast.abort().unwrap();
    drop(ballast);
    ingest.append(&bytes).unwrap();
    let committed = ingest.commit(Expected::default()).unwrap();
    store.verify(&committed.digest).unwrap();
}

#[test]
fn no_inode_for_a_new_ingest_is_a_full_disk_too_and_leaves_the_reference_free() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", "nr_inodes=8", "none"], &root);
    let store = Store::open(&root).unwrap();
    let reference = IngestRef::new("layer").unwrap();
    for _ in 0..2 {
        let full = store.ingest(&reference, Expected::default()).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::OutOfSpace, "{full:?}");
        assert_eq!(root.join("ingest").read_dir().unwrap().count(), 0);
    }
}

#[test]
fn a_read_only_disk_is_said_so_and_can_be_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let _mounted = Mounted::new(&["-t", "tmpfs", "none"], &root);
    drop(Store::open(&root).unwrap());
    run("mount", &["-o", "remount,ro", text(&root)]);
    let refused = Store::open(&root).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Io);
    let cause = std::error::Error::source(&refused)
        .and_then(std::error::Error::source)
        .expect("the kernel's answer is kept")
        .to_string();
    assert!(cause.contains("Read-only file system"), "{cause}");
    assert_eq!(
        Store::open_read_only(&root).unwrap().statuses().unwrap(),
        []
    );
}

/// A disk whose power can be cut.
///
/// What is not synced stays in the page cache, above the loop device. So a copy of the device's file is the disk as
/// a power cut would leave it, if nothing writes while it is copied.
struct Disk {
    folder: tempfile::TempDir,
    live: std::path::PathBuf,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = folder.path().join("disk");
        let live = folder.path().join("live");
        let file = std::fs::File::create(&disk).expect("the folder is writable");
        file.set_len(64 << 20).expect("a file may be sparse");
        run(
            "mkfs.ext4",
            &["-q", "-E", "lazy_itable_init=1", text(&disk)],
        );
        std::fs::create_dir(&live).expect("the folder is writable");
        // No journal commit by timer: it would write while the disk is copied.
        run(
            "mount",
            &["-o", "loop,commit=600", text(&disk), text(&live)],
        );
        Self { folder, live }
    }

    /// Runs `check` on the folder `root` as it is after a power cut at this moment.
    fn after_a_cut(&self, root: &str, check: impl FnOnce(Store)) {
        let (disk, dark) = (
            self.folder.path().join("disk"),
            self.folder.path().join("dark"),
        );
        let after = self.folder.path().join("after");
        run("cp", &["--sparse=always", text(&disk), text(&dark)]);
        let _after = Mounted::new(&["-o", "loop", text(&dark)], &after);
        check(Store::open(&after.join(root)).expect("the store opens after a power cut"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["--lazy", text(&self.live)]);
    }
}

#[test]
fn a_commit_is_on_disk_the_moment_it_is_acknowledged() {
    let disk = Disk::new();
    let store = Store::open(&disk.live.join("root")).unwrap();
    for number in [1, 2] {
        let bytes = support::blob_bytes(number);
        let reference = IngestRef::new("layer").unwrap();
        let ingest = store.ingest(&reference, Expected::default()).unwrap();
        ingest.append(&bytes).unwrap();
        ingest.commit(Expected::default()).unwrap();
        disk.after_a_cut("root", |store| support::check_blobs(&store, &[number]));
    }
}

#[test]
fn a_closed_ingest_and_a_removal_are_on_disk_the_moment_they_are_acknowledged() {
    let disk = Disk::new();
    let store = Store::open(&disk.live.join("root")).unwrap();
    let reference = IngestRef::new("layer").unwrap();
    let ingest = store.ingest(&reference, Expected::default()).unwrap();
    ingest.append(&[7; 50_000]).unwrap();
    ingest.close().unwrap();
    disk.after_a_cut("root", |store| {
        assert_eq!(store.status(&reference).unwrap().present_bytes, 50_000);
    });
    let ingest = store.ingest(&reference, Expected::default()).unwrap();
    let digest = ingest.commit(Expected::default()).unwrap().digest;
    store.remove(&digest).unwrap();
    disk.after_a_cut("root", |store| {
        assert_eq!(store.stat(&digest).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_unverified_appears_by_a_power_cut() {
    support::be_the_victim_if_asked();
    let name = "nothing_acknowledged_is_lost_and_nothing_unverified_appears_by_a_power_cut";
    let disk = Disk::new();
    let mut random = support::Random::new(7);
    let mut resumed_bytes = 0;
    for cut in 0..POWER_CUTS {
        let root = format!("root{cut}");
        let lifetime = Duration::from_micros(random.below(150_000));
        let live = disk.live.join(&root);
        let acknowledged = support::run_and_kill(name, &live, cut * 10_000, lifetime);
        disk.after_a_cut(&root, |store| {
            support::check_blobs(&store, &acknowledged);
            resumed_bytes += support::check_ingests(&store).1;
        });
        support::remove_root(&disk.live, &root);
    }
    assert!(resumed_bytes > 0, "no ingest survived a cut");
}
