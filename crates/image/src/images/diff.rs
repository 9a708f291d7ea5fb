//! The primitives behind containerd's diff service: a layer onto mounts, and mounts into a layer.
//!
//! Mounts of an overlay or a folder are written and read where their files are, without mounting anything. Everything
//! else is mounted detached: such a mount is on no path and goes away with its descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orlop_base::task::{CancellationToken, TaskKind};
use orlop_meta::{Expected, Opened, View};
use orlop_sys::beneath::open_directory_beneath;
use orlop_sys::mount::{Detached, split_layers};
use orlop_types::{Descriptor, Labels, Mount};

use super::error::Error;
use super::rootfs::open_folder;
use super::store::{IngestWriter, abandon, begin, finish};
use super::{Images, Scope, blocking_long};
use crate::apply::{ApplyOptions, ApplyTarget, WhiteoutStyle, apply_layer, settle};
use crate::compression::{Compression, LayerBlob};
use crate::diff::{DiffOptions, DiffSource, write_diff};
use crate::model::{MediaKind, kind_of, names};

const APPLY: TaskKind = TaskKind::cooperative("diff-apply");
const CREATE: TaskKind = TaskKind::cooperative("diff-create");
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Overlay's options that change nothing about what its folders hold.
const PLAIN_OPTIONS: [&str; 6] = [
    "index=off",
    "redirect_dir=off",
    "metacopy=off",
    "xino=off",
    "volatile",
    "rw",
];

/// A layer and where to unpack it.
#[derive(Debug, Clone)]
pub struct ApplyDiffRequest {
    /// The layer's blob, in the store.
    pub layer: Descriptor,
    /// An active snapshot.
    pub mounts: Vec<Mount>,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedDiff {
    /// The uncompressed stream: its digest is the layer's diff id.
    pub applied: Descriptor,
}

/// Two states of a tree to make a layer of.
#[derive(Debug, Clone, Default)]
pub struct CreateDiffRequest {
    /// The state before; empty for nothing.
    pub lower: Vec<Mount>,
    /// The state after.
    pub upper: Vec<Mount>,
    /// An OCI or Docker layer type; OCI gzip if absent.
    pub media_type: Option<String>,
    /// Labels of the blob.
    pub labels: Labels,
    /// The latest time a file may have, in seconds since 1970.
    pub source_date_seconds: Option<i64>,
}

impl Images {
    /// Unpacks a layer onto mounts.
    ///
    /// # Errors
    /// `NotFound` for the blob; a layer that cannot be unpacked; mounts that cannot be made. The tree is then partial.
    pub async fn apply_diff(
        &self,
        scope: &Scope,
        request: ApplyDiffRequest,
    ) -> Result<AppliedDiff, Error> {
        let view = self.view(scope);
        self.run(APPLY, |stop| {
            interruptible(stop, "diff-apply", move |cancel| {
                apply(&view, &request, cancel)
            })
        })
        .await
    }

    /// Makes a layer of what is different, and stores it.
    ///
    /// # Errors
    /// A media type that is no layer's; mounts that cannot be made; the store's.
    pub async fn create_diff(
        &self,
        scope: &Scope,
        request: CreateDiffRequest,
    ) -> Result<Descriptor, Error> {
        let view = self.view(scope);
        self.run(CREATE, |stop| {
            interruptible(stop, "diff-create", move |cancel| {
                create(&view, &request, cancel)
            })
        })
        .await
    }
}

/// Runs a blocking job to its end, telling it when it is no longer wanted.
async fn interruptible<T: Send + 'static>(
    stop: CancellationToken,
    kind: &'static str,
    job: impl FnOnce(Arc<AtomicBool>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancel);
    let work = blocking_long(kind, move || job(flag));
    tokio::pin!(work);
    tokio::select! {
        biased;
        result = &mut work => return result,
        () = stop.cancelled() => cancel.store(true, Ordering::Relaxed),
    }
    work.await
}

fn apply(
    view: &View,
    request: &ApplyDiffRequest,
    cancel: Arc<AtomicBool>,
) -> Result<AppliedDiff, Error> {
    let layer = &request.layer;
    if matches!(
        kind_of(&layer.media_type),
        MediaKind::OtherLayer | MediaKind::ForeignLayer
    ) {
        return Err(invalid("apply", &layer.media_type, "it cannot be unpacked"));
    }
    let blob = view.content().open(&layer.digest)?;
    let tree = Tree::open("apply a layer", &request.mounts)?;
    let (target, lowers) = match &tree {
        Tree::Overlay { upper, lowers } => {
            (apply_target(upper, WhiteoutStyle::Overlay)?, &lowers[..])
        }
        Tree::Folder(root) | Tree::Mounted { root, .. } => {
            (apply_target(root, WhiteoutStyle::Remove)?, &[][..])
        }
    };
    let options = ApplyOptions {
        cancel: Some(cancel),
        // Only verified blobs are in the store.
        is_blob_verified: true,
        ..ApplyOptions::default()
    };
    let applied = apply_layer(blob, &target, &options).map_err(Error::unpack(layer.digest))?;
    let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
    settle(&applied.deferred, &target, &lowers).map_err(Error::unpack(layer.digest))?;
    let size = applied.uncompressed_size;
    Ok(AppliedDiff {
        applied: Descriptor::new(names::OCI_LAYER, applied.diff_id, size),
    })
}

fn apply_target(root: &OwnedFd, whiteouts: WhiteoutStyle) -> Result<ApplyTarget, Error> {
    let root = root
        .try_clone()
        .map_err(Error::io("open", "the snapshot's folder"))?;
    Ok(ApplyTarget { root, whiteouts })
}

fn create(
    view: &View,
    request: &CreateDiffRequest,
    cancel: Arc<AtomicBool>,
) -> Result<Descriptor, Error> {
    let asked = request
        .media_type
        .as_deref()
        .filter(|asked| !asked.is_empty());
    let compression = compression_of(asked)?;
    let media_type = asked.unwrap_or("application/vnd.oci.image.layer.v1.tar+gzip");
    let opened = begin(
        view,
        "diff",
        Expected::default(),
        Some(media_type.to_owned()),
    )?;
    let Opened::Ingest(ingest) = opened else {
        return Err(invalid(
            "create",
            media_type,
            "a blob without digest exists",
        ));
    };
    let options = DiffOptions {
        compression,
        source_date_seconds: request.source_date_seconds,
        cancel: Some(cancel),
    };
    let written = write(request, IngestWriter { ingest: &ingest }, &options);
    let blob = match written {
        Ok(blob) => blob,
        Err(error) => {
            abandon(ingest);
            return Err(error);
        }
    };
    let mut labels = request.labels.clone();
    labels.insert(UNCOMPRESSED, blob.diff_id.to_string())?;
    finish(&ingest, &labels)?;
    Ok(Descriptor::new(media_type, blob.digest, blob.size))
}

fn write(
    request: &CreateDiffRequest,
    output: IngestWriter<'_>,
    options: &DiffOptions,
) -> Result<LayerBlob, Error> {
    let buffered = std::io::BufWriter::with_capacity(256 << 10, output);
    if let Some((upper, lowers)) = overlay_over(&request.lower, &request.upper) {
        let upper = open_folder(&upper)?;
        let lowers: Result<Vec<OwnedFd>, Error> = lowers.iter().map(open_folder).collect();
        let lowers = lowers?;
        let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
        let source = DiffSource::Overlay {
            upper: upper.as_fd(),
            lowers: &lowers,
        };
        return write_diff(&source, buffered, options).map_err(Error::Diff);
    }
    let upper = Whole::open("compare trees", &request.upper)?;
    let lower = match request.lower.as_slice() {
        [] => None,
        mounts => Some(Whole::open("compare trees", mounts)?),
    };
    let source = DiffSource::Trees {
        lower: lower.as_ref().map(|lower| lower.root.as_fd()),
        upper: upper.root.as_fd(),
    };
    write_diff(&source, buffered, options).map_err(Error::Diff)
}

/// The upper folder and its lowers, if `upper` is an overlay over exactly `lower`.
fn overlay_over(lower: &[Mount], upper: &[Mount]) -> Option<(PathBuf, Vec<PathBuf>)> {
    let [mount] = upper else {
        return None;
    };
    let (folder, lowers) = plain_overlay(mount)?;
    let below = match lower {
        [below] if below.fs_type == "overlay" && below.option("upperdir").is_none() => {
            split_layers(below.option("lowerdir")?)
        }
        [below] if is_bind(below) => vec![below.source.clone()],
        _ => return None,
    };
    let below: Vec<PathBuf> = below.into_iter().map(PathBuf::from).collect();
    (below == lowers).then_some((folder, lowers))
}

/// Upper and lower folders of an overlay whose upper folder holds nothing but the layer.
fn plain_overlay(mount: &Mount) -> Option<(PathBuf, Vec<PathBuf>)> {
    let is_plain = |option: &String| {
        let folders = ["lowerdir=", "upperdir=", "workdir="];
        PLAIN_OPTIONS.contains(&option.as_str())
            || folders.iter().any(|key| option.starts_with(key))
    };
    if mount.fs_type != "overlay" || !mount.options.iter().all(is_plain) {
        return None;
    }
    let upper = split_layers(mount.option("upperdir")?).concat();
    let lowers = split_layers(mount.option("lowerdir")?);
    Some((
        upper.into(),
        lowers.into_iter().map(PathBuf::from).collect(),
    ))
}

fn is_bind(mount: &Mount) -> bool {
    let asks = mount
        .options
        .iter()
        .any(|option| option == "bind" || option == "rbind");
    asks || mount.fs_type == "bind"
}

/// Where a layer is written.
enum Tree {
    /// An overlay's upper folder.
    Overlay {
        upper: OwnedFd,
        lowers: Vec<OwnedFd>,
    },
    /// A folder that holds everything.
    Folder(OwnedFd),
    /// Whatever a mount shows.
    Mounted { root: OwnedFd, _mount: Detached },
}

impl Tree {
    fn open(operation: &'static str, mounts: &[Mount]) -> Result<Self, Error> {
        let mount = only(operation, mounts)?;
        if mount.is_read_only() {
            return Err(invalid(operation, &mount.source, "the mount is read-only"));
        }
        if let Some((upper, lowers)) = plain_overlay(mount) {
            let lowers: Result<Vec<OwnedFd>, Error> = lowers.iter().map(open_folder).collect();
            return Ok(Self::Overlay {
                upper: open_folder(&upper)?,
                lowers: lowers?,
            });
        }
        if is_bind(mount) {
            return open_folder(&PathBuf::from(&mount.source)).map(Self::Folder);
        }
        let (root, mount) = mounted(operation, mount)?;
        Ok(Self::Mounted {
            root,
            _mount: mount,
        })
    }
}

/// A complete tree to read.
struct Whole {
    root: OwnedFd,
    _mount: Option<Detached>,
}

impl Whole {
    fn open(operation: &'static str, mounts: &[Mount]) -> Result<Self, Error> {
        let mount = only(operation, mounts)?;
        if is_bind(mount) {
            let root = open_folder(&PathBuf::from(&mount.source))?;
            return Ok(Self { root, _mount: None });
        }
        let (root, mount) = mounted(operation, mount)?;
        Ok(Self {
            root,
            _mount: Some(mount),
        })
    }
}

fn mounted(operation: &'static str, mount: &Mount) -> Result<(OwnedFd, Detached), Error> {
    let mount = Detached::new(mount).map_err(|source| Error::Mount { operation, source })?;
    let root = open_directory_beneath(&mount, b".").map_err(Error::io("open", "a mounted tree"))?;
    Ok((root, mount))
}

fn only<'a>(operation: &'static str, mounts: &'a [Mount]) -> Result<&'a Mount, Error> {
    match mounts {
        [mount] if mount.target.is_empty() => Ok(mount),
        _ => Err(invalid(
            operation,
            &format!("{} mounts", mounts.len()),
            "exactly one mount, of a whole tree, is supported",
        )),
    }
}

fn compression_of(media_type: Option<&str>) -> Result<Compression, Error> {
    let Some(media_type) = media_type else {
        return Ok(Compression::Gzip);
    };
    match kind_of(media_type) {
        MediaKind::Layer(Some(compression)) => Ok(compression),
        MediaKind::Layer(None) => Ok(Compression::None),
        MediaKind::Manifest
        | MediaKind::Index
        | MediaKind::Config
        | MediaKind::ForeignLayer
        | MediaKind::OtherLayer
        | MediaKind::SchemaOne
        | MediaKind::Other => Err(invalid("create", media_type, "it is not a layer's type")),
    }
}

fn invalid(operation: &'static str, subject: &str, reason: &str) -> Error {
    Error::Invalid {
        operation,
        subject: subject.to_owned(),
        reason: reason.to_owned(),
    }
}
