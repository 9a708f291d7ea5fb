//! An engine on a temporary folder, and what tests ask of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use orlop_base::clock::SystemClock;
use orlop_base::retry::RetryPolicy;
use orlop_base::task::TaskTree;
use orlop_image::images::{
    Error, Images, ImagesOptions, NoProgress, NoRecorder, PullRequest, Pulled, Scope,
};
use orlop_meta::{Backends, Db, View};
use orlop_registry::{Client, ClientOptions, FetchOptions};
use orlop_testkit::registry::Layer;
use orlop_types::{ImageName, Namespace, SnapshotterName};

pub(crate) struct Engine {
    pub(crate) images: Images,
    pub(crate) db: Db,
    folder: PathBuf,
    /// Removed with the engine, unless the folder is somebody else's.
    _temporary: Option<tempfile::TempDir>,
}

impl Engine {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut engine = Self::at(temporary.path());
        engine._temporary = Some(temporary);
        engine
    }

    pub(crate) fn at(folder: &Path) -> Self {
        let clock = SystemClock::shared();
        let backends = Backends::open(folder).unwrap();
        let db = Db::open(&folder.join("meta.db"), Arc::clone(&clock), backends).unwrap();
        let options = ClientOptions {
            fetch: FetchOptions {
                threshold_bytes: 4 << 20,
                chunk_bytes: 1 << 20,
                no_progress: Duration::from_secs(5),
                ..FetchOptions::default()
            },
            retry: RetryPolicy {
                initial: Duration::from_millis(5),
                ceiling_max: Duration::from_millis(20),
                attempts_max: 2,
                ..RetryPolicy::default()
            },
            ..ClientOptions::default()
        };
        let tasks = TaskTree::root("test", clock);
        let images = Images::new(
            db.clone(),
            Client::new(options),
            &tasks,
            ImagesOptions::default(),
            Arc::new(NoRecorder),
        );
        Self {
            images,
            db,
            folder: folder.to_owned(),
            _temporary: None,
        }
    }

    /// Where everything is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn view(&self, namespace: &str) -> View {
        self.db.namespace(&Namespace::new(namespace).unwrap())
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<Pulled, Error> {
        let request = request(reference);
        let progress = Arc::new(NoProgress);
        self.images.pull(&scope("test"), request, progress).await
    }

    /// No image, no unfinished snapshot, no ingest, and no lease unless `leases` says so.
    pub(crate) fn assert_nothing_left(&self, leases: usize) {
        let view = self.view("test");
        assert_eq!(view.images().list(&[]).unwrap(), []);
        assert_eq!(view.leases().list(&[]).unwrap().len(), leases);
        for snapshotter in ["overlayfs", "native"] {
            let name = SnapshotterName::new(snapshotter).unwrap();
            let snapshots = view.snapshots(&name).list(&[]).unwrap();
            let drafts = snapshots
                .iter()
                .filter(|snapshot| snapshot.key.as_str().starts_with("extract"));
            assert_eq!(drafts.count(), 0, "{snapshots:?}");
        }
    }
}

pub(crate) fn request(reference: &str) -> PullRequest {
    PullRequest {
        reference: reference.to_owned(),
        ..PullRequest::default()
    }
}

pub(crate) fn scope(namespace: &str) -> Scope {
    Scope {
        namespace: Namespace::new(namespace).unwrap(),
        lease: None,
    }
}

pub(crate) fn overlayfs() -> SnapshotterName {
    SnapshotterName::new("overlayfs").unwrap()
}

pub(crate) fn name(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(next).collect()
}

/// Three small layers: the second changes a file of the first, the third deletes another and links to a third.
pub(crate) fn layers() -> Vec<Layer> {
    vec![
        Layer::with_files(&[("etc/a", b"one"), ("etc/b", b"two"), ("bin/c", b"three")]),
        Layer::with_files(&[("etc/a", b"changed")]),
        Layer::with_files(&[("etc/.wh.b", b""), ("usr/d", b"four")]),
    ]
}

/// Runs a shell script in a folder; it must succeed. Returns what it printed.
pub(crate) fn shell(folder: &Path, script: &str) -> String {
    let mut command = Command::new("bash");
    let output = command
        .arg("-euc")
        .arg(script)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
