//! What can go wrong with an image's files in a container.

use orlop_types::ErrorKind;

/// A failed operation on the images that containers of a pod mount.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// What is asked for cannot be.
    #[error("{0}")]
    Refused(&'static str),
    /// The folder of the image that is asked for is none.
    #[error("sub path {sub_path:?} of the image {fault}")]
    SubPath {
        /// The sub path.
        sub_path: String,
        /// What is wrong with it.
        fault: &'static str,
        /// What the kernel says; absent if it was not asked.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The snapshot of the image's files was not made or removed.
    #[error("the read-only snapshot of the image's files is not as it should be")]
    Snapshot(#[source] orlop_meta::Error),
    /// The snapshotter shows a snapshot with other than one mount.
    #[error("the snapshot of the image's files has {0} mounts instead of one")]
    Mounts(usize),
    /// The folder that the files are mounted on.
    #[error("the folder of the mount cannot be made or removed")]
    Folder(#[source] orlop_sys::fs::FsError),
    /// The files were not mounted.
    #[error("the image's files cannot be mounted")]
    Mount(#[source] orlop_sys::mount::MountError),
    /// Which mounts there are is not known.
    #[error("the mount table cannot be read")]
    Table(#[source] orlop_sys::mount::TableError),
    /// The pod's user namespace cannot be used.
    #[error("the owners of the image's files cannot be mapped")]
    Users(#[source] orlop_sys::namespace::NamespaceError),
    /// The files were not unmounted.
    #[error("the image's files stay mounted")]
    Unmount(#[source] orlop_sys::mount::UnmountErrors),
    /// The database.
    #[error("the pod's record of mounted images cannot be read or written")]
    Record(#[source] orlop_meta::Error),
    /// A record of another version, or a damaged one.
    #[error("the pod's record of mounted images cannot be understood")]
    ForeignRecord(#[source] serde_json::Error),
}

impl VolumeError {
    /// The stable id of this kind of error; its page is `docs/errors/<id>.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) | Self::SubPath { .. } => "ORL-E6613",
            Self::Snapshot(_)
            | Self::Mounts(_)
            | Self::Folder(_)
            | Self::Mount(_)
            | Self::Table(_)
            | Self::Users(_) => "ORL-E6614",
            Self::Unmount(_) => "ORL-E6615",
            Self::Record(_) | Self::ForeignRecord(_) => "ORL-E6616",
        }
    }

    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(_) | Self::SubPath { .. } => ErrorKind::InvalidArgument,
            Self::Snapshot(source) | Self::Record(source) => source.kind(),
            Self::Mounts(_)
            | Self::Folder(_)
            | Self::Mount(_)
            | Self::Table(_)
            | Self::Users(_)
            | Self::Unmount(_)
            | Self::ForeignRecord(_) => ErrorKind::Internal,
        }
    }
}
