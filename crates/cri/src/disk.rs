//! What images and containers take on disk, as the kubelet asks for every ten seconds.
//!
//! Committed layers have their figures in the database. Writable layers have to be walked, so their figures are kept for
//! a while, and one walk serves everybody who asks meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use orlop_api::runtime::v1 as api;
use orlop_base::blocking;
use orlop_meta::{SnapshotKind, SnapshotUsage, View};
use orlop_types::{SnapshotKey, SnapshotterName};
use tokio::sync::Mutex;
use tonic::Status;

use crate::{Cri, status, translate};

/// How long figures are good for: the kubelet's own interval.
const FRESH: Duration = Duration::from_secs(10);

/// Bytes and inodes, and when they were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) counted_at: SystemTime,
}

/// What one snapshotter holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holdings {
    /// Committed layers.
    pub(crate) images: DiskUsage,
    /// Writable layers.
    pub(crate) containers: DiskUsage,
}

/// Figures of every snapshotter that somebody asked about.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    counts: Mutex<HashMap<SnapshotterName, Count>>,
}

/// One count of a snapshotter.
#[derive(Debug, Clone)]
struct Count {
    holdings: Holdings,
    writable: HashMap<SnapshotKey, SnapshotUsage>,
    taken: Instant,
}

impl Disk {
    /// What a snapshotter holds.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn holdings(
        &self,
        cri: &Cri,
        snapshotter: &SnapshotterName,
    ) -> Result<Holdings, Status> {
        self.count(cri, snapshotter, |count| count.holdings).await
    }

    /// What a container's writable layer takes; `None` for one that was made after the last count.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn writable(
        &self,
        cri: &Cri,
        snapshotter: &SnapshotterName,
        key: &SnapshotKey,
    ) -> Result<Option<DiskUsage>, Status> {
        self.count(cri, snapshotter, |count| {
            let counted_at = count.holdings.containers.counted_at;
            let usage = count.writable.get(key)?;
            Some(DiskUsage {
                bytes: usage.bytes,
                inodes: usage.inodes,
                counted_at,
            })
        })
        .await
    }

    /// Reads a fresh count, after counting if need be: who comes meanwhile waits for it.
    async fn count<T>(
        &self,
        cri: &Cri,
        snapshotter: &SnapshotterName,
        read: impl FnOnce(&Count) -> T,
    ) -> Result<T, Status> {
        let mut counts = self.counts.lock().await;
        if let Some(count) = counts
            .get(snapshotter)
            .filter(|count| count.taken.elapsed() < FRESH)
        {
            return Ok(read(count));
        }
        let view = cri.db().namespace(cri.namespace());
        let (name, now) = (snapshotter.clone(), cri.db().clock().wall());
        let counted = blocking::run_long("count snapshots", move || count(&view, &name, now)).await;
        let counted = counted
            .map_err(|error| status::of_blocking(&error))?
            .map_err(|error| status::of_meta(&error))?;
        let read = read(&counted);
        counts.insert(snapshotter.clone(), counted);
        Ok(read)
    }
}

fn count(
    view: &View,
    snapshotter: &SnapshotterName,
    now: SystemTime,
) -> Result<Count, orlop_meta::Error> {
    let snapshots = view.snapshots(snapshotter);
    let mut images = SnapshotUsage::default();
    let mut containers = SnapshotUsage::default();
    let mut writable = HashMap::new();
    for snapshot in snapshots.list(&[])? {
        match snapshot.kind {
            SnapshotKind::Committed => add(&mut images, snapshot.usage.unwrap_or_default()),
            // One that goes away meanwhile takes nothing.
            SnapshotKind::Active => {
                let usage = snapshots.usage(&snapshot.key).unwrap_or_default();
                add(&mut containers, usage);
                writable.insert(snapshot.key, usage);
            }
            SnapshotKind::View => {}
        }
    }
    let at = |usage: SnapshotUsage| DiskUsage {
        bytes: usage.bytes,
        inodes: usage.inodes,
        counted_at: now,
    };
    Ok(Count {
        holdings: Holdings {
            images: at(images),
            containers: at(containers),
        },
        writable,
        taken: Instant::now(),
    })
}

fn add(sum: &mut SnapshotUsage, usage: SnapshotUsage) {
    sum.bytes = sum.bytes.saturating_add(usage.bytes);
    sum.inodes = sum.inodes.saturating_add(usage.inodes);
}

/// A count as a message.
pub(crate) fn message(folder: &str, usage: DiskUsage) -> api::FilesystemUsage {
    let value = |value| Some(api::UInt64Value { value });
    api::FilesystemUsage {
        timestamp: translate::nanos(Some(usage.counted_at)),
        fs_id: Some(api::FilesystemIdentifier {
            mountpoint: folder.to_owned(),
        }),
        used_bytes: value(usage.bytes),
        inodes_used: value(usage.inodes),
    }
}
