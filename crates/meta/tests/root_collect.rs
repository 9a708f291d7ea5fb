//! Collection on the real kernel: what cannot be deleted, what is mounted, and what mounts were left behind.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and runs chattr"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::{Clock, ManualClock, SharedClock};
use orlop_meta::fsck::{Check, FsckOptions, Outcome};
use orlop_meta::gc::Collector;
use orlop_meta::{Backends, CommitOptions, Db, SnapshotOptions, View};
use orlop_snapshot::{Overlayfs, Snapshotter};
use orlop_sys::mount::{Unmount, mount_all, unmount_all};
use orlop_types::{Namespace, SnapshotKey, SnapshotterName};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Node {
    clock: ManualClock,
    db: Db,
    collector: Collector,
    folder: PathBuf,
    // Removed last, after everything in it has been unmounted and may be deleted again.
    _scratch: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        unmount_all(
            &self.folder,
            Unmount {
                detach: true,
                recursive: true,
            },
        )
        .ok();
        Command::new("chattr")
            .args(["-R", "-i"])
            .arg(&self.folder)
            .status()
            .ok();
    }
}

impl Node {
    fn new() -> Self {
        // Not on a tmpfs: it has no immutable files.
        let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
        let folder = scratch.path().canonicalize().unwrap();
        let backend = Overlayfs::open(&folder.join("overlayfs"), &[]).unwrap();
        let backends = Backends {
            content: None,
            snapshotters: BTreeMap::from([(name(), Arc::new(backend) as Arc<dyn Snapshotter>)]),
            mounts: None,
        };
        let clock = ManualClock::new();
        let shared: SharedClock = Arc::new(clock.clone());
        let db = Db::open(&folder.join("meta.db"), shared, backends).unwrap();
        Self {
            clock,
            collector: Collector::new(db.clone()),
            db,
            folder,
            _scratch: scratch,
        }
    }

    fn view(&self) -> View {
        self.db.namespace(&Namespace::new("n").unwrap())
    }

    /// A committed snapshot of one file; the file's path.
    fn layer(&self, text: &str) -> PathBuf {
        let view = self.view();
        let snapshots = view.snapshots(&name());
        snapshots
            .prepare(&key("active"), &SnapshotOptions::default())
            .unwrap();
        let root = snapshots.apply_target(&key("active")).unwrap().root;
        fs::write(root.join("file"), vec![7; 100_000]).unwrap();
        snapshots
            .commit(&key(text), &key("active"), &CommitOptions::default())
            .unwrap();
        root.join("file")
    }

    fn bytes_on_disk(&self) -> u64 {
        let output = Command::new("du")
            .args(["-s", "--block-size=1"])
            .arg(self.folder.join("overlayfs"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}

fn name() -> SnapshotterName {
    SnapshotterName::new("overlayfs").unwrap()
}

fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

fn chattr(flag: &str, path: &Path) {
    let status = Command::new("chattr").arg(flag).arg(path).status().unwrap();
    assert!(status.success(), "chattr {flag} {}", path.display());
}

#[test]
fn a_file_that_cannot_be_deleted_keeps_nothing_else_and_goes_when_it_can() {
    let node = Node::new();
    let empty = node.bytes_on_disk();
    let files = ["s1", "s2", "s3"].map(|text| node.layer(text));
    chattr("+i", &files[1]);
    node.clock.advance(DAY * 2);
    let report = node.collector.run_once(node.clock.wall()).unwrap();
    assert_eq!((report.removed.snapshots, report.swept.snapshots), (3, 3));
    // Its folder was put aside with the others, and is what is left of them.
    assert_eq!(report.failures.len(), 1, "{report:?}");
    assert_eq!(
        (report.failures[0].kind, report.failures[0].key.as_str()),
        ("leftovers", "overlayfs")
    );
    let left = node.bytes_on_disk() - empty;
    assert!((100_000..200_000).contains(&left), "{left} bytes are left");
    let queue = node.collector.queue(9).unwrap();
    assert_eq!((queue.items, queue.failing), (1, 1));
    assert!(
        queue.first[0]
            .last_error
            .as_ref()
            .unwrap()
            .contains("not permitted"),
        "{queue:?}"
    );
    let next = node.collector.timers().unwrap().next_retry.unwrap();
    assert!(next > node.clock.wall());
    // What comes later is not kept waiting by it.
    node.layer("s4");
    node.clock.advance(DAY * 2);
    let report = node.collector.run_once(node.clock.wall()).unwrap();
    assert_eq!(
        (report.swept.snapshots, report.failures[0].attempts),
        (1, 2)
    );
    assert!(node.bytes_on_disk() - empty < 200_000);
    let trash = node.folder.join("overlayfs/trash");
    Command::new("chattr")
        .args(["-R", "-i"])
        .arg(&trash)
        .status()
        .unwrap();
    node.clock.advance(Duration::from_secs(3600));
    let report = node.collector.sweep(node.clock.wall()).unwrap();
    assert_eq!(report.failures, []);
    assert_eq!(node.collector.queue(9).unwrap().items, 0);
    assert_eq!(node.bytes_on_disk(), empty);
}

#[test]
fn a_mounted_snapshot_waits_for_its_mount_and_then_goes() {
    let node = Node::new();
    node.layer("s1");
    node.layer("s2");
    let mounts = node.view().snapshots(&name()).mounts(&key("s1")).unwrap();
    let target = node.folder.join("target");
    fs::create_dir(&target).unwrap();
    mount_all(&mounts, &target).unwrap();
    node.clock.advance(DAY * 2);
    let report = node.collector.run_once(node.clock.wall()).unwrap();
    assert_eq!(
        (report.swept.snapshots, report.failures.len()),
        (1, 1),
        "{report:?}"
    );
    assert!(
        report.failures[0].error.contains(target.to_str().unwrap()),
        "{report:?}"
    );
    assert!(target.join("file").exists());
    unmount_all(&target, Unmount::default()).unwrap();
    node.clock.advance(Duration::from_secs(10));
    let report = node.collector.sweep(node.clock.wall()).unwrap();
    assert_eq!(
        (report.swept.snapshots, report.failures.len()),
        (1, 0),
        "{report:?}"
    );
}

#[test]
fn a_mount_that_nobody_owns_is_taken_down_at_the_start_and_its_folder_goes() {
    let node = Node::new();
    node.layer("lost");
    let view = node.view();
    let snapshots = view.snapshots(&name());
    let options = SnapshotOptions {
        parent: Some(key("lost")),
        ..SnapshotOptions::default()
    };
    let mounts = snapshots.prepare(&key("run"), &options).unwrap();
    let target = node.folder.join("rootfs");
    fs::create_dir(&target).unwrap();
    mount_all(&mounts, &target).unwrap();
    let connection = rusqlite::Connection::open(node.db.path()).unwrap();
    connection
        .execute_batch(
            "PRAGMA foreign_keys = OFF; DELETE FROM refs; DELETE FROM snapshots; DELETE FROM nodes",
        )
        .unwrap();
    let mut options = FsckOptions {
        repair: true,
        snapshot_roots: BTreeMap::from([(name(), node.folder.join("overlayfs"))]),
        ..FsckOptions::default()
    };
    let run = |options: &FsckOptions| {
        let mut findings = Vec::new();
        node.db
            .fsck(options, &mut |finding| findings.push(finding.clone()))
            .unwrap();
        findings
    };
    // While others are at work it is only told.
    let findings = run(&options);
    let mount = findings
        .iter()
        .find(|finding| finding.check == Check::MountUnknown)
        .unwrap();
    assert!(matches!(mount.outcome, Outcome::Left(_)));
    assert_eq!(
        findings
            .iter()
            .filter(|finding| finding.check == Check::SnapshotUnknown)
            .count(),
        2
    );
    let report = node.collector.sweep(node.clock.wall()).unwrap();
    assert_eq!(
        (report.swept.snapshots, report.failures.len()),
        (0, 2),
        "the mount uses both: {report:?}"
    );
    options.at_start = true;
    let findings = run(&options);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        matches!(findings[0].outcome, Outcome::Repaired(_)),
        "{findings:?}"
    );
    node.clock.advance(Duration::from_secs(10));
    let report = node.collector.sweep(node.clock.wall()).unwrap();
    assert_eq!(
        (report.swept.snapshots, report.failures.len()),
        (2, 0),
        "{report:?}"
    );
    assert!(run(&options).is_empty());
}
