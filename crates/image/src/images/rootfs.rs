//! The chain of snapshots that an image's layers become.
//!
//! A layer is written into a *draft*, an active snapshot with a key of its own, and committed under its chain id.
//! Whoever commits a chain id first wins; the draft of the other is removed.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use orlop_meta::{CommitOptions, ErrorKind, SnapshotOptions, SnapshotTarget, View, Whiteouts};
use orlop_sys::mount::split_layers;
use orlop_types::{ChainId, Descriptor, Labels, Mount, SnapshotKey, SnapshotterName};

use super::error::Error;
use crate::apply::{Applied, ApplyOptions, ApplyTarget, WhiteoutStyle, apply_layer, settle};

/// Names what a draft becomes, so that another namespace's snapshot can be shared.
const TARGET_LABEL: &str = "containerd.io/snapshot.ref";
const DRAFT_PREFIX: &str = "extract-";
/// How often looking for what is there begins anew because a collection took some of it.
const LOOKS_MAX: usize = 3;

static DRAFTS: AtomicU64 = AtomicU64::new(0);

/// Whether a key is that of an unfinished layer.
pub(crate) fn is_draft(key: &SnapshotKey) -> bool {
    key.as_str().starts_with(DRAFT_PREFIX)
}

/// One image's chain on one snapshotter. Clones share the list of drafts. All methods block.
#[derive(Debug, Clone)]
pub(crate) struct Rootfs {
    view: View,
    pub(crate) snapshotter: SnapshotterName,
    chain: Arc<[ChainId]>,
    drafts: Arc<Mutex<Vec<SnapshotKey>>>,
}

/// What of a chain is there.
#[derive(Debug, Default)]
pub(crate) struct Base {
    /// So many layers from the bottom have their snapshots.
    pub(crate) present: usize,
    /// Those of them that another namespace had made.
    pub(crate) shared: Vec<usize>,
    /// The draft for the first layer that has none.
    pub(crate) first: Option<SnapshotKey>,
}

/// A layer that was unpacked, not yet committed.
#[derive(Debug)]
pub(crate) struct Draft {
    key: SnapshotKey,
    target: SnapshotTarget,
    pub(crate) applied: Applied,
}

impl Rootfs {
    /// # Errors
    /// `InvalidArgument` for a snapshotter that is not configured.
    pub(crate) fn new(
        view: View,
        snapshotter: SnapshotterName,
        chain: Vec<ChainId>,
    ) -> Result<Self, Error> {
        if !view.db().backends().snapshotters.contains_key(&snapshotter) {
            return Err(Error::Invalid {
                operation: "unpack with snapshotter",
                subject: snapshotter.to_string(),
                reason: "it is not configured".to_owned(),
            });
        }
        Ok(Self {
            view,
            snapshotter,
            chain: chain.into(),
            drafts: Arc::default(),
        })
    }

    /// The chain id of the whole image; none without layers.
    pub(crate) fn top(&self) -> Option<&ChainId> {
        self.chain.last()
    }

    /// Whether layers can be written side by side.
    pub(crate) fn is_side_by_side(&self) -> bool {
        let backends = &self.view.db().backends().snapshotters;
        backends
            .get(&self.snapshotter)
            .is_some_and(|backend| !backend.parents_needed_at_prepare())
    }

    /// Looks what is there, sharing what other namespaces have, and begins the draft of the first missing layer: it
    /// keeps those below.
    pub(crate) fn find_base(&self) -> Result<Base, Error> {
        for _ in 1..LOOKS_MAX {
            match self.look() {
                Err(Error::Store(error)) if error.kind() == ErrorKind::NotFound => {}
                other => return other,
            }
        }
        self.look()
    }

    fn look(&self) -> Result<Base, Error> {
        let snapshots = self.view.snapshots(&self.snapshotter);
        let mut base = Base::default();
        for (index, id) in self.chain.iter().enumerate() {
            match snapshots.stat(&name_of(id)?) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if let Some(draft) = self.begin(index, self.below(index)?)? {
                        base.first = Some(draft);
                        return Ok(base);
                    }
                    base.shared.push(index);
                }
                Err(error) => return Err(error.into()),
            }
            base.present = index + 1;
        }
        Ok(base)
    }

    /// Begins a draft. Nothing if the layer's snapshot is there by now.
    fn begin(
        &self,
        index: usize,
        parent: Option<SnapshotKey>,
    ) -> Result<Option<SnapshotKey>, Error> {
        let id = &self.chain[index];
        let key = self.new_key(id)?;
        let mut labels = Labels::new();
        labels.insert(TARGET_LABEL, id.digest().to_string())?;
        self.drafts().push(key.clone());
        let snapshots = self.view.snapshots(&self.snapshotter);
        match snapshots.prepare(&key, &SnapshotOptions { parent, labels }) {
            Ok(_) => Ok(Some(key)),
            Err(error) => {
                self.drafts().retain(|draft| *draft != key);
                if error.kind() == ErrorKind::AlreadyExists {
                    return Ok(None);
                }
                Err(error.into())
            }
        }
    }

    /// Unpacks a layer into a draft; nothing if its snapshot is there by now. Without `draft` a new one is begun, with
    /// its parent where the backend needs that.
    pub(crate) fn apply(
        &self,
        index: usize,
        draft: Option<SnapshotKey>,
        layer: &Descriptor,
        (blob, options): (Box<dyn Read + Send>, &ApplyOptions),
    ) -> Result<Option<Draft>, Error> {
        let begun = match draft {
            Some(draft) => Some(draft),
            None if self.is_side_by_side() => self.begin(index, None)?,
            None => self.begin(index, self.below(index)?)?,
        };
        let Some(key) = begun else {
            return Ok(None);
        };
        let target = self.view.snapshots(&self.snapshotter).apply_target(&key)?;
        let applied = apply_layer(blob, &open_target(&target)?, options);
        match applied.map_err(Error::unpack(layer.digest)) {
            Ok(applied) => Ok(Some(Draft {
                key,
                target,
                applied,
            })),
            Err(error) => {
                self.discard(&key);
                Err(error)
            }
        }
    }

    /// Finishes a draft with what lies below it and commits it. The layer below must be committed.
    pub(crate) fn commit(
        &self,
        index: usize,
        layer: &Descriptor,
        draft: &Draft,
    ) -> Result<(), Error> {
        self.settle(index, layer, draft)?;
        self.commit_draft(index, &draft.key)
    }

    /// The folder of a draft, to be written.
    pub(crate) fn folder(&self, draft: &SnapshotKey) -> Result<OwnedFd, Error> {
        let target = self.view.snapshots(&self.snapshotter).apply_target(draft)?;
        open_folder(&target.root)
    }

    /// Commits a draft that is whole as it is. What lies below must be committed.
    pub(crate) fn commit_draft(&self, index: usize, draft: &SnapshotKey) -> Result<(), Error> {
        let name = name_of(&self.chain[index])?;
        let mut labels = Labels::new();
        labels.insert(TARGET_LABEL, name.as_str())?;
        let parent = self.below(index)?;
        let snapshots = self.view.snapshots(&self.snapshotter);
        match snapshots.commit(&name, draft, &CommitOptions { parent, labels }) {
            Ok(()) => self.drafts().retain(|key| key != draft),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.discard(draft),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn settle(&self, index: usize, layer: &Descriptor, draft: &Draft) -> Result<(), Error> {
        if draft.applied.deferred.is_empty() {
            return Ok(());
        }
        let lowers = match draft.target.whiteouts {
            Whiteouts::Overlay { .. } => self.lowers(index)?,
            Whiteouts::Remove => Vec::new(),
        };
        let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
        settle(
            &draft.applied.deferred,
            &open_target(&draft.target)?,
            &lowers,
        )
        .map_err(Error::unpack(layer.digest))?;
        Ok(())
    }

    /// The folders of the layers below, topmost first.
    fn lowers(&self, index: usize) -> Result<Vec<OwnedFd>, Error> {
        let Some(below) = self.below(index)? else {
            return Ok(Vec::new());
        };
        let mounts = self.view.snapshots(&self.snapshotter).mounts(&below)?;
        layer_folders(&mounts).iter().map(open_folder).collect()
    }

    /// Removes what was not committed; repeated calls do no harm.
    pub(crate) fn discard_drafts(&self) {
        let drafts = self.drafts().clone();
        for key in drafts {
            self.discard(&key);
        }
    }

    fn discard(&self, key: &SnapshotKey) {
        let removed = self.view.snapshots(&self.snapshotter).remove(key);
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                // Its lease ends, and collection takes it.
                tracing::warn!(%key, %error, "an unfinished snapshot was not removed");
            }
            Ok(()) | Err(_) => self.drafts().retain(|draft| draft != key),
        }
    }

    fn below(&self, index: usize) -> Result<Option<SnapshotKey>, Error> {
        match index.checked_sub(1) {
            Some(below) => name_of(&self.chain[below]).map(Some),
            None => Ok(None),
        }
    }

    /// A key nobody else has, also not one who was killed.
    fn new_key(&self, id: &ChainId) -> Result<SnapshotKey, Error> {
        let now = self.view.db().clock().wall();
        let nanos = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
        let text = format!("{DRAFT_PREFIX}{nanos}-{number} {}", id.digest());
        SnapshotKey::new(&text).map_err(Error::name(&text))
    }

    fn drafts(&self) -> MutexGuard<'_, Vec<SnapshotKey>> {
        self.drafts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a committed layer.
pub(crate) fn name_of(id: &ChainId) -> Result<SnapshotKey, Error> {
    let text = id.digest().to_string();
    SnapshotKey::new(&text).map_err(Error::name(&text))
}

/// The folders that a snapshot's mounts show, topmost first.
pub(crate) fn layer_folders(mounts: &[Mount]) -> Vec<PathBuf> {
    let Some(mount) = mounts.first() else {
        return Vec::new();
    };
    match mount.option("lowerdir") {
        Some(lowers) => split_layers(lowers)
            .into_iter()
            .map(PathBuf::from)
            .collect(),
        None => vec![PathBuf::from(&mount.source)],
    }
}

pub(crate) fn open_folder(path: &PathBuf) -> Result<OwnedFd, Error> {
    let folder = File::open(path).map_err(Error::io("open layer folder", path.display()))?;
    Ok(folder.into())
}

fn open_target(target: &SnapshotTarget) -> Result<ApplyTarget, Error> {
    Ok(ApplyTarget {
        root: open_folder(&target.root)?,
        whiteouts: match target.whiteouts {
            Whiteouts::Overlay { .. } => WhiteoutStyle::Overlay,
            Whiteouts::Remove => WhiteoutStyle::Remove,
        },
    })
}
