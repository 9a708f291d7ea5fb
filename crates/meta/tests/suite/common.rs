//! A database on a temporary folder, with a real blob store and a snapshot backend that can be told to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use orlop_base::clock::{ManualClock, SharedClock};
use orlop_meta::{Backends, Container, Db, Image, Runtime, TypedBytes, View};
use orlop_snapshot::{
    ApplyTarget, Cleaned, Error as SnapshotError, Found, Kind, RemoveFailure, SnapshotNumber,
    Snapshotter, Usage, Whiteouts,
};
use orlop_types::{
    ContainerId, Descriptor, Digest, ImageName, Labels, LeaseId, Mount, Namespace, SnapshotKey,
    SnapshotterName,
};

pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: ManualClock,
    pub(crate) fake: Arc<FakeSnapshotter>,
    pub(crate) store: Arc<orlop_content::Store>,
    pub(crate) db: Db,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new();
        let fake = Arc::new(FakeSnapshotter::default());
        let store = Arc::new(orlop_content::Store::open(&folder.path().join("content")).unwrap());
        let backends = Backends {
            content: Some(Arc::clone(&store)),
            snapshotters: BTreeMap::from([(
                fake.name.clone(),
                Arc::clone(&fake) as Arc<dyn Snapshotter>,
            )]),
            mounts: None,
        };
        let shared: SharedClock = Arc::new(clock.clone());
        let db = Db::open(&folder.path().join("meta.db"), shared, backends).unwrap();
        Self {
            folder,
            clock,
            fake,
            store,
            db,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("meta.db")
    }

    pub(crate) fn view(&self, name: &str) -> View {
        self.db.namespace(&Namespace::new(name).unwrap())
    }

    /// A view under a lease that is created for it.
    pub(crate) fn leased(&self, name: &str, lease: &str) -> View {
        let view = self.view(name);
        let id = LeaseId::new(lease).unwrap();
        view.leases().create(&id, &Labels::new()).unwrap();
        view.under(id)
    }

    /// One number that a query on the file gives.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

pub(crate) fn labels(entries: &[(&str, &str)]) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in entries {
        labels.insert(*key, *value).unwrap();
    }
    labels
}

pub(crate) fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A digest that nobody has computed.
pub(crate) fn digest(seed: u8) -> Digest {
    Digest::sha256([seed; 32])
}

pub(crate) fn image(name: &str, seed: u8, entries: &[(&str, &str)]) -> Image {
    let target = Descriptor::new(
        "application/vnd.oci.image.manifest.v1+json",
        digest(seed),
        7,
    );
    Image::new(ImageName::new(name).unwrap(), target, labels(entries))
}

pub(crate) fn container(id: &str) -> Container {
    let runtime = Runtime {
        name: "io.containerd.runc.v2".to_owned(),
        options: None,
    };
    let spec = TypedBytes {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
        value: b"{}".to_vec(),
    };
    Container::new(ContainerId::new(id).unwrap(), runtime, spec)
}

pub(crate) fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

/// Numbers and kinds in memory; the next call can be made to fail.
#[derive(Debug)]
pub(crate) struct FakeSnapshotter {
    pub(crate) name: SnapshotterName,
    pub(crate) kept: Mutex<BTreeMap<SnapshotNumber, Kind>>,
    pub(crate) fail_next: Mutex<bool>,
    /// What cannot be removed.
    pub(crate) stuck: Mutex<BTreeSet<SnapshotNumber>>,
}

impl Default for FakeSnapshotter {
    fn default() -> Self {
        Self {
            name: SnapshotterName::new("fake").unwrap(),
            kept: Mutex::default(),
            fail_next: Mutex::default(),
            stuck: Mutex::default(),
        }
    }
}

impl FakeSnapshotter {
    fn put(&self, number: SnapshotNumber, kind: Kind) -> Result<(), SnapshotError> {
        self.kept.lock().unwrap().insert(number, kind);
        if std::mem::take(&mut *self.fail_next.lock().unwrap()) {
            let root = PathBuf::from("/fake");
            return Err(SnapshotError::Missing { number, root });
        }
        Ok(())
    }
}

impl Snapshotter for FakeSnapshotter {
    fn name(&self) -> &SnapshotterName {
        &self.name
    }

    fn parents_needed_at_prepare(&self) -> bool {
        false
    }

    fn prepare(&self, number: SnapshotNumber, _: &[SnapshotNumber]) -> Result<(), SnapshotError> {
        self.put(number, Kind::Active)
    }

    fn view(&self, number: SnapshotNumber, _: &[SnapshotNumber]) -> Result<(), SnapshotError> {
        self.put(number, Kind::View)
    }

    fn commit(&self, number: SnapshotNumber) -> Result<Usage, SnapshotError> {
        self.put(number, Kind::Committed)?;
        Ok(Usage {
            bytes: 4096,
            inodes: 3,
        })
    }

    fn mounts(
        &self,
        number: SnapshotNumber,
        _: Kind,
        parents: &[SnapshotNumber],
    ) -> Result<Vec<Mount>, SnapshotError> {
        Ok(vec![Mount::bind(format!("{number} on {parents:?}"), true)])
    }

    fn apply_target(
        &self,
        number: SnapshotNumber,
        _: &[SnapshotNumber],
    ) -> Result<ApplyTarget, SnapshotError> {
        Ok(ApplyTarget {
            root: PathBuf::from(number.to_string()),
            lowers: Vec::new(),
            whiteouts: Whiteouts::Remove,
        })
    }

    fn usage(&self, number: SnapshotNumber) -> Result<Usage, SnapshotError> {
        if self.kept.lock().unwrap().contains_key(&number) {
            return Ok(Usage::default());
        }
        let root = PathBuf::from("/fake");
        Err(SnapshotError::Missing { number, root })
    }

    fn remove_many(&self, numbers: &[SnapshotNumber]) -> Vec<RemoveFailure> {
        let (mut kept, stuck) = (self.kept.lock().unwrap(), self.stuck.lock().unwrap());
        kept.retain(|number, _| !numbers.contains(number) || stuck.contains(number));
        let failed = numbers.iter().filter(|number| stuck.contains(number));
        failed
            .map(|number| RemoveFailure {
                number: *number,
                error: SnapshotError::InProgress {
                    operation: "remove",
                    number: *number,
                },
            })
            .collect()
    }

    fn walk(
        &self,
    ) -> Result<Box<dyn Iterator<Item = Result<Found, SnapshotError>> + '_>, SnapshotError> {
        let found: Vec<_> = self.kept.lock().unwrap().clone().into_iter().collect();
        let found = found.into_iter();
        Ok(Box::new(
            found.map(|(number, kind)| Ok(Found { number, kind })),
        ))
    }

    fn cleanup(&self, _: usize) -> Result<Cleaned, SnapshotError> {
        Ok(Cleaned::default())
    }
}
