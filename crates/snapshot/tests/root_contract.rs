//! The contract of [`Snapshotter`], kept by both backends on the real kernel, also when they are killed.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test that calls them"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use orlop_snapshot::{
    Error, Found, Kind, Native, Overlayfs, SnapshotNumber, Snapshotter, Whiteouts,
};
use orlop_sys::beneath::{self, FileTime, NodeKind};
use orlop_sys::fs::Dir;
use orlop_sys::mount::{Unmount, mount_all, unmount_all};

const EVERYTHING: Unmount = Unmount {
    detach: true,
    recursive: true,
};

struct Bench {
    backend: Box<dyn Snapshotter>,
    folder: PathBuf,
    // Removed last, after everything in it has been unmounted.
    _scratch: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        unmount_all(&self.folder, EVERYTHING).ok();
    }
}

type Open = fn(&Path) -> Box<dyn Snapshotter>;

const BACKENDS: [(&str, Open); 2] = [
    ("overlayfs", |root| {
        Box::new(Overlayfs::open(root, &[]).unwrap())
    }),
    ("native", |root| Box::new(Native::open(root).unwrap())),
];

/// Runs `check` against a fresh folder of every backend.
fn with_each(check: impl Fn(&Bench)) {
    for (name, open) in BACKENDS {
        let bench = Bench::new(open);
        assert_eq!(bench.backend.name().as_str(), name);
        check(&bench);
    }
}

fn n(number: u64) -> SnapshotNumber {
    SnapshotNumber::new(number)
}

fn ns<const N: usize>(numbers: [u64; N]) -> Vec<SnapshotNumber> {
    numbers.map(SnapshotNumber::new).to_vec()
}

impl Bench {
    fn new(open: Open) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().canonicalize().unwrap();
        Self {
            backend: open(&folder.join("root")),
            folder,
            _scratch: scratch,
        }
    }

    fn target(&self) -> PathBuf {
        let target = self.folder.join("target");
        fs::create_dir_all(&target).unwrap();
        target
    }

    /// Runs `look` with the snapshot mounted.
    fn mounted<T>(
        &self,
        number: u64,
        kind: Kind,
        parents: &[SnapshotNumber],
        look: impl Fn(&Path) -> T,
    ) -> T {
        let mounts = self.backend.mounts(n(number), kind, parents).unwrap();
        let target = self.target();
        mount_all(&mounts, &target).unwrap();
        let seen = look(&target);
        unmount_all(&target, Unmount::default()).unwrap();
        seen
    }

    /// Prepares, fills through a mount, and commits.
    fn layer(&self, number: u64, parents: &[SnapshotNumber], fill: impl Fn(&Path)) {
        self.backend.prepare(n(number), parents).unwrap();
        self.mounted(number, Kind::Active, parents, fill);
        self.backend.commit(n(number)).unwrap();
    }

    fn on_disk(&self) -> BTreeMap<u64, Kind> {
        let found = self.backend.walk().unwrap().map(|found| {
            let Found { number, kind } = found.unwrap();
            (number.value(), kind)
        });
        found.collect()
    }

    fn raw(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("root").join(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn put(path: &Path, text: &str) {
    use std::io::Write;
    fs::File::create(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_chain_shows_what_its_layers_add_change_and_remove() {
    with_each(|bench| {
        bench.layer(1, &[], |at| {
            fs::create_dir(at.join("etc")).unwrap();
            put(&at.join("etc/keep"), "1");
            put(&at.join("etc/change"), "1");
            put(&at.join("etc/remove"), "1");
        });
        bench.layer(2, &ns([1]), |at| {
            put(&at.join("etc/change"), "2");
            fs::remove_file(at.join("etc/remove")).unwrap();
            put(&at.join("etc/add"), "2");
        });
        bench.backend.prepare(n(3), &ns([2, 1])).unwrap();
        bench.backend.view(n(4), &ns([2, 1])).unwrap();
        for (number, kind) in [(3, Kind::Active), (4, Kind::View)] {
            bench.mounted(number, kind, &ns([2, 1]), |at| {
                assert_eq!(read(&at.join("etc/keep")), "1");
                assert_eq!(read(&at.join("etc/change")), "2");
                assert_eq!(read(&at.join("etc/add")), "2");
                assert!(!at.join("etc/remove").exists());
                assert_eq!(fs::create_dir(at.join("new")).is_ok(), kind == Kind::Active);
            });
        }
        bench.mounted(1, Kind::Committed, &[], |at| {
            assert_eq!(read(&at.join("etc/change")), "1")
        });
    });
}

#[test]
fn a_committed_snapshot_has_the_same_mounts_and_files_for_ever() {
    with_each(|bench| {
        bench.layer(1, &[], |at| put(&at.join("a"), "1"));
        bench.layer(2, &ns([1]), |at| put(&at.join("b"), "1"));
        let before = bench
            .backend
            .mounts(n(2), Kind::Committed, &ns([1]))
            .unwrap();
        assert!(before.iter().all(orlop_types::Mount::is_read_only));
        bench.backend.prepare(n(3), &ns([2, 1])).unwrap();
        bench.mounted(3, Kind::Active, &ns([2, 1]), |at| {
            put(&at.join("a"), "changed")
        });
        bench.backend.commit(n(3)).unwrap();
        bench.backend.remove(n(3)).unwrap();
        bench
            .backend
            .commit(n(2))
            .expect("a repeated commit does nothing more");
        assert_eq!(
            bench
                .backend
                .mounts(n(2), Kind::Committed, &ns([1]))
                .unwrap(),
            before
        );
        bench.mounted(2, Kind::Committed, &ns([1]), |at| {
            assert_eq!(read(&at.join("a")), "1");
            assert!(fs::create_dir(at.join("x")).is_err());
        });
    });
}

#[test]
fn preparing_twice_keeps_what_was_written() {
    with_each(|bench| {
        bench.backend.prepare(n(1), &[]).unwrap();
        bench.mounted(1, Kind::Active, &[], |at| put(&at.join("a"), "1"));
        bench.backend.prepare(n(1), &[]).unwrap();
        bench.mounted(1, Kind::Active, &[], |at| {
            assert_eq!(read(&at.join("a")), "1")
        });
        bench.backend.view(n(2), &[]).unwrap();
        bench.backend.view(n(2), &[]).unwrap();
        bench.mounted(2, Kind::View, &[], |at| {
            assert_eq!(fs::read_dir(at).unwrap().count(), 0)
        });
    });
}

#[test]
fn what_is_missing_or_of_another_kind_is_named() {
    with_each(|bench| {
        let backend = &bench.backend;
        bench.layer(1, &[], |_| {});
        backend.view(n(2), &ns([1])).unwrap();
        let missing = |result: Result<(), Error>, wanted: u64| match result {
            Err(Error::Missing { number, .. }) => assert_eq!(number, n(wanted)),
            other => panic!("{other:?}"),
        };
        missing(backend.prepare(n(5), &ns([9])), 9);
        missing(backend.view(n(5), &ns([9])), 9);
        missing(backend.commit(n(9)).map(drop), 9);
        missing(backend.mounts(n(9), Kind::Active, &[]).map(drop), 9);
        missing(backend.usage(n(9)).map(drop), 9);
        missing(backend.mounts(n(2), Kind::View, &ns([8])).map(drop), 8);
        let wrong = |result: Result<(), Error>, wanted: Kind| match result {
            Err(error @ Error::WrongKind { .. }) => {
                assert!(error.to_string().contains(&wanted.to_string()), "{error}");
                assert!(!error.is_retryable());
            }
            other => panic!("{other:?}"),
        };
        wrong(backend.prepare(n(1), &[]), Kind::Committed);
        wrong(backend.prepare(n(2), &[]), Kind::View);
        wrong(backend.view(n(1), &[]), Kind::Committed);
        wrong(backend.commit(n(2)).map(drop), Kind::View);
        wrong(
            backend.mounts(n(1), Kind::Active, &[]).map(drop),
            Kind::Committed,
        );
        wrong(backend.apply_target(n(1), &[]).map(drop), Kind::Committed);
        assert_eq!(
            bench.on_disk(),
            BTreeMap::from([(1, Kind::Committed), (2, Kind::View)])
        );
        assert!(
            bench.raw("incoming").is_empty(),
            "failed calls leave nothing"
        );
    });
}

#[test]
fn a_snapshot_in_use_is_neither_removed_nor_committed_and_the_mount_is_named() {
    with_each(|bench| {
        let backend = &bench.backend;
        bench.layer(1, &[], |at| put(&at.join("a"), "1"));
        backend.view(n(2), &ns([1])).unwrap();
        backend.prepare(n(3), &ns([1])).unwrap();
        let target = bench.target();
        let refused = |result: Result<(), Error>| match result {
            Err(Error::Mounted { mountpoint, .. }) => assert_eq!(mountpoint, target),
            other => panic!("{other:?}"),
        };
        mount_all(
            &backend.mounts(n(2), Kind::View, &ns([1])).unwrap(),
            &target,
        )
        .unwrap();
        refused(backend.remove(n(1)));
        unmount_all(&target, Unmount::default()).unwrap();
        mount_all(
            &backend.mounts(n(3), Kind::Active, &ns([1])).unwrap(),
            &target,
        )
        .unwrap();
        refused(backend.remove(n(3)));
        refused(backend.commit(n(3)).map(drop));
        let failures = backend.remove_many(&ns([2, 3]));
        assert_eq!(failures.len(), 1, "one failure does not stop the others");
        assert_eq!(failures[0].number, n(3));
        unmount_all(&target, Unmount::default()).unwrap();
        assert!(backend.remove_many(&ns([3, 1])).is_empty());
        assert!(bench.on_disk().is_empty());
    });
}

#[test]
fn removal_is_idempotent_and_the_bytes_come_back_with_cleanup() {
    with_each(|bench| {
        for number in 1..=5 {
            bench.layer(number, &[], |at| put(&at.join("a"), &"x".repeat(10_000)));
        }
        assert!(
            bench
                .backend
                .remove_many(&ns([1, 2, 3, 4, 4, 77]))
                .is_empty()
        );
        bench.backend.remove(n(1)).unwrap();
        assert_eq!(bench.on_disk().into_keys().collect::<Vec<_>>(), [5]);
        assert_eq!(bench.raw("trash").len(), 4);
        let first = bench.backend.cleanup(3).unwrap();
        assert_eq!(
            (first.folders, first.more, first.failures.len()),
            (3, true, 0)
        );
        let second = bench.backend.cleanup(100).unwrap();
        assert_eq!((second.folders, second.more), (1, false));
        assert!(bench.raw("trash").is_empty());
        assert_eq!(bench.raw("snapshots"), ["5"]);
    });
}

#[test]
fn cleanup_takes_leftovers_and_never_what_is_mounted_in_them() {
    with_each(|bench| {
        let root = bench.folder.join("root");
        bench.layer(1, &[], |at| put(&at.join("precious"), "1"));
        fs::create_dir_all(root.join("incoming/7/fs")).unwrap();
        let inside = root.join("trash/8.0/fs/mnt");
        fs::create_dir_all(&inside).unwrap();
        mount_all(
            &[orlop_types::Mount::bind(
                root.join("snapshots/1/fs").to_str().unwrap(),
                false,
            )],
            &inside,
        )
        .unwrap();
        let cleaned = bench.backend.cleanup(100).unwrap();
        assert_eq!(
            (cleaned.folders, cleaned.failures.len()),
            (1, 1),
            "{cleaned:?}"
        );
        assert_eq!(read(&inside.join("precious")), "1");
        unmount_all(&inside, Unmount::default()).unwrap();
        assert!(bench.backend.cleanup(100).unwrap().failures.is_empty());
        assert_eq!(read(&root.join("snapshots/1/fs/precious")), "1");
    });
}

#[test]
fn strange_names_on_disk_are_neither_listed_nor_followed() {
    with_each(|bench| {
        let root = bench.folder.join("root");
        let outside = bench.folder.join("outside");
        fs::create_dir_all(outside.join("fs")).unwrap();
        fs::create_dir(root.join("snapshots/07")).unwrap();
        fs::create_dir(root.join("snapshots/lost+found")).unwrap();
        symlink(&outside, root.join("trash/9.0")).unwrap();
        symlink(&outside, root.join("snapshots/10")).unwrap();
        assert!(bench.backend.mounts(n(10), Kind::Committed, &[]).is_err());
        assert!(bench.backend.usage(n(10)).is_err());
        bench.backend.cleanup(100).unwrap();
        assert!(outside.join("fs").exists());
        assert!(!root.join("trash/9.0").exists());
    });
}

#[test]
fn usage_counts_blocks_and_inodes_and_commit_returns_it() {
    with_each(|bench| {
        bench.backend.prepare(n(1), &[]).unwrap();
        let empty = bench.backend.usage(n(1)).unwrap();
        bench.mounted(1, Kind::Active, &[], |at| {
            put(&at.join("a"), &"x".repeat(100_000));
            fs::hard_link(at.join("a"), at.join("b")).unwrap();
        });
        let committed = bench.backend.commit(n(1)).unwrap();
        assert_eq!(committed.inodes, empty.inodes + 1);
        assert!(
            (100_000..150_000).contains(&(committed.bytes - empty.bytes)),
            "{committed:?}"
        );
        assert_eq!(bench.backend.usage(n(1)).unwrap(), committed);
        bench.backend.view(n(2), &ns([1])).unwrap();
        assert_eq!(bench.backend.usage(n(2)).unwrap().bytes, 0);
    });
}

#[test]
fn a_layer_written_to_the_apply_target_shows_in_the_mount() {
    with_each(|bench| {
        bench.layer(1, &[], |at| {
            fs::create_dir(at.join("opaque")).unwrap();
            put(&at.join("opaque/below"), "1");
            put(&at.join("gone"), "1");
        });
        bench.backend.prepare(n(2), &ns([1])).unwrap();
        let target = bench.backend.apply_target(n(2), &ns([1])).unwrap();
        let root = Dir::open(&target.root).unwrap();
        match target.whiteouts {
            Whiteouts::Overlay { user_xattr } => {
                assert_eq!(read(&target.lowers[0].join("gone")), "1");
                beneath::make_node(&root, b"gone", NodeKind::CharDevice, (0, 0)).unwrap();
                fs::create_dir(target.root.join("opaque")).unwrap();
                let name: &[u8] = if user_xattr {
                    b"user.overlay.opaque"
                } else {
                    b"trusted.overlay.opaque"
                };
                beneath::set_attribute(&root, b"opaque", name, b"y").unwrap();
            }
            Whiteouts::Remove => {
                assert!(target.lowers.is_empty());
                fs::remove_file(target.root.join("gone")).unwrap();
                fs::remove_file(target.root.join("opaque/below")).unwrap();
            }
        }
        put(&target.root.join("opaque/above"), "2");
        bench.backend.commit(n(2)).unwrap();
        bench.mounted(2, Kind::Committed, &ns([1]), |at| {
            assert!(!at.join("gone").exists());
            assert!(!at.join("opaque/below").exists());
            assert_eq!(read(&at.join("opaque/above")), "2");
        });
    });
}

#[test]
fn a_child_keeps_owners_modes_times_links_attributes_and_devices_of_its_parent() {
    with_each(|bench| {
        bench.layer(1, &[], |at| {
            let dir = Dir::open(at).unwrap();
            put(&at.join("file"), "1");
            beneath::set_owner(&dir, b"file", 3_000_000, 3_000_001).unwrap();
            beneath::set_attribute(&dir, b"file", b"user.note", b"hello").unwrap();
            beneath::set_mode(&dir, b"file", 0o4711).unwrap();
            fs::hard_link(at.join("file"), at.join("again")).unwrap();
            symlink("nowhere", at.join("link")).unwrap();
            beneath::set_owner(&dir, b"link", 7, 8).unwrap();
            beneath::make_node(&dir, b"null", NodeKind::CharDevice, (1, 3)).unwrap();
            beneath::make_node(&dir, b"pipe", NodeKind::Fifo, (0, 0)).unwrap();
            fs::create_dir(at.join("sticky")).unwrap();
            beneath::set_mode(&dir, b"sticky", 0o1777).unwrap();
            let time = FileTime {
                seconds: 1_000_000_000,
                nanoseconds: 5,
            };
            for name in [&b"file"[..], b"link", b"sticky"] {
                beneath::set_times(&dir, name, time, time).unwrap();
            }
            fs::set_permissions(at, fs::Permissions::from_mode(0o711)).unwrap();
        });
        bench.backend.prepare(n(2), &ns([1])).unwrap();
        bench.mounted(2, Kind::Active, &ns([1]), |at| {
            let dir = Dir::open(at).unwrap();
            let stat = |name: &str| fs::symlink_metadata(at.join(name)).unwrap();
            let file = stat("file");
            assert_eq!(
                (file.uid(), file.gid(), file.mode() & 0o7777),
                (3_000_000, 3_000_001, 0o4711)
            );
            assert_eq!((file.mtime(), file.mtime_nsec()), (1_000_000_000, 5));
            assert_eq!((file.ino(), file.nlink()), (stat("again").ino(), 2));
            assert_eq!(
                beneath::attribute(&dir, b"file", b"user.note")
                    .unwrap()
                    .unwrap(),
                b"hello"
            );
            assert_eq!(
                (stat("link").uid(), stat("link").mtime()),
                (7, 1_000_000_000)
            );
            assert_eq!(
                fs::read_link(at.join("link")).unwrap(),
                Path::new("nowhere")
            );
            assert!(stat("null").file_type().is_char_device() && stat("null").rdev() == 0x103);
            assert!(stat("pipe").file_type().is_fifo());
            assert_eq!(
                (stat("sticky").mode() & 0o7777, stat("sticky").mtime()),
                (0o1777, 1_000_000_000)
            );
            assert_eq!(
                fs::metadata(at).unwrap().mode() & 0o7777,
                0o711,
                "the root's own mode"
            );
        });
    });
}

#[test]
fn layers_prepared_without_parents_get_them_when_they_are_mounted() {
    let bench = Bench::new(BACKENDS[0].1);
    assert!(!bench.backend.parents_needed_at_prepare());
    std::thread::scope(|scope| {
        for number in 1..=200_u64 {
            let bench = &bench;
            let layer = move || {
                bench.backend.prepare(n(number), &[]).unwrap();
                let target = bench.backend.apply_target(n(number), &[]).unwrap();
                put(&target.root.join(format!("file{number}")), "x");
                put(&target.root.join("top"), &number.to_string());
            };
            match number {
                1..=8 => drop(scope.spawn(layer)),
                _ => layer(),
            }
        }
    });
    let parents: Vec<_> = (1..=200).rev().map(n).collect();
    bench.backend.commit(n(1)).unwrap();
    for &number in &parents {
        bench.backend.commit(number).unwrap();
    }
    bench.backend.prepare(n(201), &parents).unwrap();
    bench.mounted(201, Kind::Active, &parents, |at| {
        assert_eq!(fs::read_dir(at).unwrap().count(), 201);
        assert_eq!(read(&at.join("top")), "200");
        fs::remove_file(at.join("file7")).unwrap();
        assert!(!at.join("file7").exists());
    });
}

#[test]
fn a_folder_that_overlay_cannot_use_is_refused_with_the_reason() {
    let bench = Bench::new(BACKENDS[0].1);
    bench.layer(1, &[], |_| {});
    bench.backend.prepare(n(2), &ns([1])).unwrap();
    let target = bench.target();
    mount_all(
        &bench.backend.mounts(n(2), Kind::Active, &ns([1])).unwrap(),
        &target,
    )
    .unwrap();
    let error = Overlayfs::open(&target.join("nested"), &[]).unwrap_err();
    assert!(
        error.to_string().contains("itself on an overlay"),
        "{error}"
    );
    assert_eq!(error.code(), "ORL-E2005");
}

#[test]
fn a_full_disk_or_a_read_only_root_is_a_clear_error_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().canonicalize().unwrap();
    let tmpfs = orlop_types::Mount {
        fs_type: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        options: vec!["size=1m".to_owned()],
        ..orlop_types::Mount::default()
    };
    let bench = Bench {
        backend: {
            mount_all(&[tmpfs], &folder).unwrap();
            BACKENDS[1].1(&folder.join("root"))
        },
        folder,
        _scratch: scratch,
    };
    bench.layer(1, &[], |at| put(&at.join("a"), &"x".repeat(700_000)));
    let error = bench.backend.prepare(n(2), &ns([1])).unwrap_err();
    assert!(error.is_out_of_space() && error.is_retryable(), "{error:?}");
    assert_eq!(error.code(), "ORL-E2008");
    assert!(bench.raw("incoming").is_empty());
    assert_eq!(bench.on_disk().len(), 1);

    let read_only = orlop_types::Mount::bind(bench.folder.to_str().unwrap(), true);
    mount_all(&[read_only], &bench.folder).unwrap();
    for root in ["root", "other"].map(|name| bench.folder.join(name)) {
        let error = Overlayfs::open(&root, &[]).unwrap_err();
        assert!(
            matches!(error.code(), "ORL-E2005" | "ORL-E2007"),
            "{error:?}"
        );
    }
}

#[test]
fn of_several_threads_with_one_number_each_succeeds_or_is_told_to_retry() {
    with_each(|bench| {
        bench.layer(1, &[], |at| put(&at.join("a"), &"x".repeat(1_000_000)));
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let prepare = || bench.backend.prepare(n(2), &ns([1]));
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(prepare)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(outcomes.iter().any(Result::is_ok));
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert!(
                matches!(error, Error::InProgress { .. }) && error.is_retryable(),
                "{error}"
            );
        }
        bench.mounted(2, Kind::Active, &ns([1]), |at| {
            assert_eq!(read(&at.join("a")).len(), 1_000_000)
        });
        assert!(bench.raw("incoming").is_empty());
    });
}

mod crash {
    #![allow(
        clippy::disallowed_methods,
        reason = "the child is this very test, with nothing to inherit"
    )]

    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    const ROOT: &str = "ORLOP_TEST_SNAPSHOT_ROOT";
    const KILLS: u64 = 40;

    /// Plays both parts: with the variable set it is the child that works until it is killed.
    #[test]
    fn a_killed_process_leaves_whole_snapshots_and_leftovers_that_cleanup_takes() {
        if let Some(root) = std::env::var_os(ROOT) {
            let root = PathBuf::from(root);
            let backend = (BACKENDS
                .iter()
                .find(|(name, _)| root.ends_with(name))
                .unwrap()
                .1)(&root);
            churn(backend.as_ref());
        }
        for (name, open) in BACKENDS {
            let scratch = tempfile::tempdir().unwrap();
            let root = scratch.path().canonicalize().unwrap().join(name);
            for round in 0..KILLS {
                kill_after(&root, Duration::from_micros(3_000 + round * 1_700));
                check(open(&root).as_ref(), &root);
            }
            let backend = open(&root);
            let mut found = backend.walk().unwrap().map(Result::unwrap);
            assert!(
                found.any(|found| found.kind == Kind::Committed),
                "{name}: every child was killed before it did anything"
            );
        }
    }

    fn kill_after(root: &Path, time: Duration) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::a_killed_process_leaves_whole_snapshots_and_leftovers_that_cleanup_takes",
            ])
            .env(ROOT, root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(time);
        assert!(
            child.try_wait().unwrap().is_none(),
            "the child ended by itself"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Layers of twenty files, each on the one before, half of them removed again.
    fn churn(backend: &dyn Snapshotter) -> ! {
        let mut last = backend
            .walk()
            .unwrap()
            .map(|found| found.unwrap().number.value())
            .max()
            .unwrap_or(0);
        loop {
            last += 1;
            backend.prepare(n(last), &[]).unwrap();
            let target = backend.apply_target(n(last), &[]).unwrap();
            for file in 0..20 {
                put(&target.root.join(file.to_string()), "whole");
            }
            backend.commit(n(last)).unwrap();
            backend.prepare(n(last + 1), &ns([last])).unwrap();
            backend.view(n(last + 2), &ns([last])).unwrap();
            backend.remove(n(last + 1)).unwrap();
            backend.cleanup(1).unwrap();
            last += 2;
        }
    }

    fn check(backend: &dyn Snapshotter, root: &Path) {
        while backend.cleanup(10).unwrap().more {}
        for aside in ["incoming", "trash"] {
            assert_eq!(
                fs::read_dir(root.join(aside)).unwrap().count(),
                0,
                "{aside}"
            );
        }
        let found: Vec<_> = backend.walk().unwrap().map(Result::unwrap).collect();
        assert_eq!(
            fs::read_dir(root.join("snapshots")).unwrap().count(),
            found.len()
        );
        for Found { number, kind } in found {
            let files = root.join(format!("snapshots/{number}/fs"));
            match kind {
                Kind::Committed => {
                    assert_eq!(fs::read_dir(&files).unwrap().count(), 20);
                    assert!((0..20).all(|file| read(&files.join(file.to_string())) == "whole"));
                }
                Kind::Active => assert!(files.exists()),
                Kind::View => assert!(!files.exists()),
            }
            backend.mounts(number, kind, &[]).unwrap();
        }
    }
}
