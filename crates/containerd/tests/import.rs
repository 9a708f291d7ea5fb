//! Both layouts of containerd's database, as its own code wrote them, are brought over; what cannot be is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test's file need not be atomic"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_base::clock::{ManualClock, SharedClock};
use orlop_containerd::bolt::{Bolt, Bucket, Entry};
use orlop_containerd::{Error, Method, Report, Source, Tally};
use orlop_content::Store;
use orlop_meta::{Backends, Db, LeaseResource, TypedBytes};
use orlop_types::{Digest, LeaseId, Namespace};
use proptest::prelude::*;

const LAYOUT_3: &[u8] = include_bytes!("fixtures/layout-3.db");
const LAYOUT_4: &[u8] = include_bytes!("fixtures/layout-4.db");
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// A root of containerd's, and one of ours beside it.
struct Roots {
    folder: tempfile::TempDir,
}

impl Roots {
    fn new(database: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = Self { folder };
        let blob = roots.blob();
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(blob, "hello").unwrap();
        fs::create_dir_all(roots.database().parent().unwrap()).unwrap();
        fs::write(roots.database(), database).unwrap();
        roots
    }

    fn theirs(&self) -> PathBuf {
        self.folder.path().join("containerd")
    }

    fn database(&self) -> PathBuf {
        self.theirs().join("io.containerd.metadata.v1.bolt/meta.db")
    }

    fn blob(&self) -> PathBuf {
        let folder = self
            .theirs()
            .join("io.containerd.content.v1.content/blobs/sha256");
        folder.join(HELLO)
    }

    fn our_blob(&self) -> PathBuf {
        self.folder.path().join("content/blobs/sha256").join(HELLO)
    }

    fn open(&self) -> Db {
        let content = Store::open(&self.folder.path().join("content")).unwrap();
        let backends = Backends {
            content: Some(Arc::new(content)),
            snapshotters: BTreeMap::new(),
            mounts: None,
        };
        let clock: SharedClock = Arc::new(ManualClock::new());
        Db::open(&self.folder.path().join("meta.db"), clock, backends).unwrap()
    }

    fn bring(&self) -> Report {
        let source = Source::open(&self.theirs()).unwrap();
        source.bring(&self.open(), Method::Link).unwrap()
    }
}

fn tally(brought: u64, present: u64) -> Tally {
    Tally { brought, present }
}

/// Names, bytes and times of a tree's files.
fn listing(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, (bytes, stat.mtime(), stat.mtime_nsec()));
        }
    }
    found
}

fn assert_everything_is_here(db: &Db) {
    let view = db.namespace(&Namespace::new("k8s.io").unwrap());
    let names = db.namespaces().list().unwrap();
    assert_eq!(names[0].labels.value("owner"), Some("kubelet"));
    let images = view.images().list(&[]).unwrap();
    assert_eq!(images[0].name.as_str(), "docker.io/library/hello:1");
    assert_eq!(images[0].target.media_type, "text/plain");
    let managed = images[0].labels.value("io.cri-containerd.image");
    assert_eq!(managed, Some("managed"));
    let blobs = view.content().list(&[]).unwrap();
    assert_eq!((blobs.len(), blobs[0].size), (1, 5));
    assert_eq!(blobs[0].labels.value("a"), Some("b"));
    let lease = LeaseId::new("lease-1").unwrap();
    let expires = view.leases().find(&lease).unwrap();
    let expires = expires.labels.value("containerd.io/gc.expire");
    assert_eq!(expires, Some("2126-01-01T00:00:00Z"));
    let digest: Digest = format!("sha256:{HELLO}").parse().unwrap();
    let held = view.leases().resources(&lease).unwrap();
    assert_eq!(held, [LeaseResource::Content(digest)]);
    let sandboxes = view.sandboxes().list(&[]).unwrap();
    let ids: Vec<&str> = sandboxes.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["pod-1", "pod-2"]);
    let typed = |url: &str, value: &str| TypedBytes {
        type_url: url.to_owned(),
        value: value.as_bytes().to_vec(),
    };
    let pod = &sandboxes[0];
    assert_eq!(pod.sandboxer, "podsandbox");
    assert_eq!(pod.runtime.name, "io.containerd.runc.v2");
    assert_eq!(pod.runtime.options, Some(typed("runc", "options")));
    assert_eq!(pod.spec, Some(typed("spec", "{}")));
    assert_eq!(pod.extensions["metadata"], typed("meta", "data"));
    assert_eq!(pod.labels.value("app"), Some("web"));
}

#[test]
fn both_layouts_are_brought_over_with_their_sandboxes() {
    for (version, database) in [(3, LAYOUT_3), (4, LAYOUT_4)] {
        let roots = Roots::new(database);
        let before = listing(&roots.theirs());
        let report = roots.bring();
        assert_eq!(report.version, version);
        assert_eq!(report.left, []);
        let one = &report.namespaces[0];
        assert_eq!((one.images, one.blobs), (tally(1, 0), tally(1, 0)));
        assert_eq!((one.leases, one.sandboxes), (tally(1, 0), tally(2, 0)));
        assert_eq!(one.bytes, 5);
        assert_everything_is_here(&roots.open());
        let (ours, theirs) = (roots.our_blob(), roots.blob());
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&ours), inode(&theirs), "linked, not copied");
        assert_eq!(
            listing(&roots.theirs()),
            before,
            "their files are as before"
        );

        let again = roots.bring();
        let one = &again.namespaces[0];
        assert_eq!((one.images, one.blobs), (tally(0, 1), tally(0, 1)));
        assert_eq!((one.leases, one.sandboxes), (tally(0, 1), tally(0, 2)));
        assert_everything_is_here(&roots.open());
    }
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() {
    let roots = Roots::new(LAYOUT_4);
    let plan = Source::open(&roots.theirs()).unwrap().plan();
    assert!(!roots.folder.path().join("meta.db").exists());
    assert_eq!(plan, roots.bring());
    let text = "k8s.io: images 1; blobs 1 (5 bytes); leases 1; sandboxes 2\n";
    assert_eq!(plan.to_string(), text);
}

#[test]
fn copies_have_files_of_their_own() {
    let roots = Roots::new(LAYOUT_4);
    let source = Source::open(&roots.theirs()).unwrap();
    source.bring(&roots.open(), Method::Copy).unwrap();
    assert_eq!(fs::metadata(roots.our_blob()).unwrap().nlink(), 1);
    assert_eq!(fs::read(roots.our_blob()).unwrap(), b"hello");
}

#[test]
fn damaged_and_missing_blobs_stay_with_the_names_that_need_them() {
    type Damage = fn(&Path);
    let table: [(Damage, &str); 3] = [
        (
            |blob| fs::write(blob, "hellO").unwrap(),
            "its file is damaged",
        ),
        (
            |blob| fs::write(blob, "hell").unwrap(),
            "4 bytes, the record says 5",
        ),
        (|blob| fs::remove_file(blob).unwrap(), "its file is missing"),
    ];
    for (damage, expected) in table {
        let roots = Roots::new(LAYOUT_4);
        damage(&roots.blob());
        let report = roots.bring();
        let text = report.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains("image docker.io/library/hello:1: its content is missing"),
            "{text}"
        );
        let db = roots.open();
        let view = db.namespace(&Namespace::new("k8s.io").unwrap());
        assert_eq!(view.images().list(&[]).unwrap(), []);
        assert_eq!(view.content().list(&[]).unwrap(), []);
        assert!(
            view.content().ingests(&[]).unwrap().is_empty(),
            "nothing half done"
        );
        assert!(!roots.our_blob().exists());
        assert_eq!(
            view.sandboxes().list(&[]).unwrap().len(),
            2,
            "the rest came"
        );
    }
}

#[test]
fn a_containerd_that_runs_is_refused() {
    let roots = Roots::new(LAYOUT_4);
    let held = fs::File::open(roots.database()).unwrap();
    held.lock().unwrap();
    let error = Source::open(&roots.theirs()).unwrap_err();
    assert_eq!(error.code(), "ORL-E4102", "{error}");
    drop(held);
    let source = Source::open(&roots.theirs()).unwrap();
    let starting = fs::File::open(roots.database()).unwrap();
    assert!(
        starting.try_lock().is_err(),
        "containerd cannot start meanwhile"
    );
    drop(source);
    starting.try_lock().unwrap();
}

#[test]
fn what_is_no_database_or_a_newer_one_is_refused() {
    let at = LAYOUT_4
        .windows(8)
        .position(|found| found == b"version\x08");
    let mut newer = LAYOUT_4.to_vec();
    newer[at.unwrap() + 7] = 10;
    let error = Source::open(&Roots::new(&newer).theirs()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NewerLayout {
                found: 5,
                known: 4,
                ..
            }
        ),
        "{error}"
    );
    for (bytes, code) in [
        (&b"nonsense"[..], "ORL-E4104"),
        (&LAYOUT_4[..9000], "ORL-E4104"),
    ] {
        let error = Source::open(&Roots::new(bytes).theirs()).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    let nowhere = Source::open(Path::new("/nonexistent")).unwrap_err();
    assert_eq!(nowhere.code(), "ORL-E4101");
}

#[test]
fn a_damaged_meta_page_leaves_the_other() {
    let mut bytes = LAYOUT_4.to_vec();
    bytes[16..80].fill(0);
    let second_only = walk(&bytes).unwrap();
    assert!(second_only > 20, "{second_only}");
}

/// Lists every bucket; how many keys there are.
fn walk(bytes: &[u8]) -> Option<usize> {
    let mut bolt = Bolt::open(bytes).ok()?;
    let mut pending: Vec<Bucket> = vec![bolt.root()];
    let mut keys = 0;
    while let Some(bucket) = pending.pop() {
        for (_, entry) in bolt.entries(bucket).ok()? {
            keys += 1;
            if let Entry::Bucket(bucket) = entry {
                pending.push(bucket);
            }
        }
    }
    Some(keys)
}

proptest! {
    #[test]
    fn a_damaged_file_is_read_to_an_end(damage in prop::collection::vec((0..LAYOUT_4.len(), any::<u8>()), 1..20), length in 0..LAYOUT_4.len() * 2) {
        let mut bytes = LAYOUT_4.to_vec();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        bytes.truncate(length);
        let keys = walk(&bytes);
        prop_assert!(keys.is_none_or(|keys| keys < 1000));
    }
}
