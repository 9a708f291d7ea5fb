//! Artifacts in the store becoming folders of files.
//!
//! The blobs are verified by then, so nothing is checked again: each is cloned where the file system can share blocks, and
//! copied otherwise. It is never linked: a blob's inode has one owner, the store. The manifest keeps the snapshot, as a
//! config does for an image: many artifacts have the same, empty config.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orlop_base::task::CancellationToken;
use orlop_meta::View;
use orlop_sys::beneath::{self, FileTime};
use orlop_sys::fs::{Dir, Mode, Name, copy_contents};
use orlop_types::{ChainId, Descriptor, Digest, Labels, SnapshotterName};

use super::document::{add_labels, add_snapshot_label};
use super::error::Error;
use super::layers::flagged;
use super::rootfs::Rootfs;
use super::{Images, blocking, blocking_long};
use crate::model::{Manifest, chain_ids};

const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

impl Images {
    /// Makes the snapshot of an artifact under the view's lease; nothing for one without files.
    pub(crate) async fn unpack_artifact(
        &self,
        view: &View,
        snapshotter: &SnapshotterName,
        (digest, manifest): (&Digest, &Manifest),
        stop: &CancellationToken,
    ) -> Result<Option<ChainId>, Error> {
        let config = manifest.artifact_config().map_err(Error::model(*digest))?;
        let chain = chain_ids(&config.rootfs.diff_ids);
        let rootfs = Rootfs::new(view.clone(), snapshotter.clone(), chain)?;
        let Some(top) = rootfs.top().copied() else {
            return Ok(None);
        };
        let lock = self.unpack_lock(snapshotter, &top);
        let _locked = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::Cancelled),
            locked = lock.lock() => locked,
        };
        let mut labels = Labels::new();
        add_snapshot_label(&mut labels, snapshotter, &top)?;
        let (labelled, digest) = (view.clone(), *digest);
        blocking("artifact-label", move || {
            add_labels(&labelled, &digest, &labels)
        })
        .await?;
        let flag = Arc::new(AtomicBool::new(false));
        let writing = Writing {
            view: view.clone(),
            rootfs,
            manifest: manifest.clone(),
            stopped: Arc::clone(&flag),
        };
        let written = blocking_long("artifact-unpack", move || writing.run(&digest));
        flagged(stop, &flag, written).await?;
        Ok(Some(top))
    }
}

/// An artifact being written.
struct Writing {
    view: View,
    rootfs: Rootfs,
    manifest: Manifest,
    stopped: Arc<AtomicBool>,
}

impl Writing {
    fn run(self, digest: &Digest) -> Result<(), Error> {
        let written = self.write(digest);
        // Whatever was not committed.
        self.rootfs.discard_drafts();
        written
    }

    fn write(&self, digest: &Digest) -> Result<(), Error> {
        let Some(draft) = self.rootfs.find_base()?.first else {
            return Ok(());
        };
        let target = self.rootfs.folder(&draft)?;
        let root = Dir::from_parts(target, "/".into());
        let files = self.manifest.artifact_files();
        for (path, layer) in files.map_err(Error::model(*digest))? {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            self.write_file(&root, &path, layer)?;
        }
        self.rootfs.commit_draft(0, &draft)
    }

    fn write_file(&self, root: &Dir, path: &str, layer: &Descriptor) -> Result<(), Error> {
        let failed = |error: orlop_sys::fs::FsError| {
            Error::io("write file of artifact", path)(std::io::Error::other(error))
        };
        let mut names: Vec<Name> = path.split('/').map(name).collect::<Result<_, _>>()?;
        let Some(last) = names.pop() else {
            return Ok(());
        };
        let mut folders = vec![root.try_clone().map_err(failed)?];
        for name in &names {
            let mode = Mode::from_raw_mode(FOLDER_MODE);
            let above = folders.last().unwrap_or(root);
            let folder = above.ensure_dir(name, mode).map_err(failed)?;
            folders.push(folder);
        }
        let folder = folders.last().unwrap_or(root);
        let blob = self.view.content().open(&layer.digest)?.into_file();
        let mode = Mode::from_raw_mode(FILE_MODE);
        let file = folder.create_file(&last, mode).map_err(failed)?;
        copy_contents(&blob, &file, &folder.path_of(&last)).map_err(failed)?;
        finish(&file, FILE_MODE).map_err(Error::io("finish file of artifact", path))?;
        // A folder's time is that of the last entry made in it, so these come after.
        let mut folders = folders.iter();
        folders
            .try_for_each(|folder| finish(folder, FOLDER_MODE))
            .map_err(Error::io("finish folder of artifact", path))
    }
}

/// The same bits whatever the daemon's mask is, and the same time for the same artifact.
fn finish(made: impl std::os::fd::AsFd, mode: u32) -> std::io::Result<()> {
    beneath::set_mode_fd(&made, mode)?;
    beneath::set_times_fd(&made, FileTime::default(), FileTime::default())
}

fn name(part: &str) -> Result<Name, Error> {
    Name::new(part)
        .map_err(|error| Error::io("name file of artifact", part)(std::io::Error::other(error)))
}
