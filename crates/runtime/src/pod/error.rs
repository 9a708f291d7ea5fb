//! What can go wrong with a pod, and what the caller can do about it.

use std::path::PathBuf;
use std::time::Duration;

use orlop_base::blocking::BlockingError;
use orlop_types::ErrorKind;

use super::machine::{PodRefused, PodStep};
use crate::record::RecordFault;

/// A failed operation on a pod. [`PodError::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// There is no such pod.
    #[error("there is no pod {pod:?}")]
    Unknown {
        /// The id, or what was taken for one.
        pod: String,
    },
    /// Name, namespace, UID and attempt are taken.
    #[error("pod {name} exists already as {pod}, which is {phase}")]
    Exists {
        /// Name, Kubernetes namespace, UID and attempt.
        name: String,
        /// The pod that has it.
        pod: String,
        /// Where that one is; names the step if an earlier call is still under way.
        phase: String,
    },
    /// The request does not fit where the pod is.
    #[error("pod {pod}")]
    Refused {
        /// The pod.
        pod: String,
        /// Where it is.
        #[source]
        source: PodRefused,
    },
    /// Something that was asked for cannot be.
    #[error("the pod's {field} cannot be used: {fault}")]
    Config {
        /// Which part of the request.
        field: &'static str,
        /// What is wrong with it.
        fault: String,
    },
    /// A file or folder of the pod.
    #[error("cannot {operation} {path:?} of a pod")]
    Files {
        /// What was tried.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: orlop_sys::fs::FsError,
    },
    /// The file system behind `/dev/shm` was not mounted.
    #[error("the pod has no shared memory")]
    Mount(#[source] orlop_sys::mount::MountError),
    /// The file system behind `/dev/shm` was not unmounted.
    #[error("the pod's shared memory stays mounted")]
    Unmount(#[source] orlop_sys::mount::UnmountErrors),
    /// A namespace was not made, set up or unpinned.
    #[error("the namespaces of pod {pod} are not as they should be")]
    Namespace {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: orlop_sys::namespace::NamespaceError,
    },
    /// The first process of the pod's process namespace did not start or end.
    #[error("the first process of pod {pod} {fault}")]
    Init {
        /// The pod.
        pod: String,
        /// What it did instead.
        fault: String,
    },
    /// The network was not attached or detached.
    #[error("cannot {attempt} the network of pod {pod}")]
    Network {
        /// The pod.
        pod: String,
        /// `attach` or `detach`.
        attempt: &'static str,
        /// Why.
        #[source]
        source: Box<orlop_cni::Error>,
    },
    /// Pods cannot be attached now.
    #[error("the node's network is not ready")]
    NetworkStatus(#[source] Box<orlop_cni::Error>),
    /// The plugins were content, and yet the pod has no address.
    #[error("the network's plugins gave pod {pod} no address on its interface")]
    NoAddress {
        /// The pod.
        pod: String,
    },
    /// A cgroup of the engine's own.
    #[error("cannot {operation} the cgroup {path:?} of a pod")]
    Cgroup {
        /// What was tried.
        operation: &'static str,
        /// Its folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A step took too long and was undone.
    #[error("{step} of pod {pod} was given up after {limit:?}")]
    Deadline {
        /// The pod.
        pod: String,
        /// Which step.
        step: PodStep,
        /// The time it had.
        limit: Duration,
    },
    /// The database.
    #[error("the record of pod {pod} cannot be {attempt}")]
    Record {
        /// The pod.
        pod: String,
        /// `read` or `written`.
        attempt: &'static str,
        /// Why.
        #[source]
        source: orlop_meta::Error,
    },
    /// The stored record is not one that this version wrote.
    #[error("the record of pod {pod} cannot be understood")]
    ForeignRecord {
        /// The pod.
        pod: String,
        /// Where it stops making sense.
        #[source]
        source: RecordFault,
    },
    /// The files of an image stay mounted.
    #[error("the images that containers of pod {pod} mount are not released")]
    Volumes {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: Box<super::VolumeError>,
    },
    /// A container of the pod could not be stopped or removed.
    #[error("cannot {attempt} the containers of pod {pod}")]
    Members {
        /// The pod.
        pod: String,
        /// `stop` or `remove`.
        attempt: &'static str,
        /// Why.
        #[source]
        source: Box<crate::Error>,
    },
    /// Several things went wrong while the pod was taken down; the same call tries again.
    #[error("pod {pod} is not gone in full; besides: {others}")]
    Several {
        /// The pod.
        pod: String,
        /// All but the first, with their causes.
        others: String,
        /// The first.
        #[source]
        first: Box<PodError>,
    },
    /// The daemon is shutting down, or a job of it failed.
    #[error("the daemon cannot finish this now")]
    Daemon(#[source] BlockingError),
    /// The daemon is shutting down.
    #[error("pod {pod} is left as it is: the daemon is going away")]
    Ending {
        /// The pod.
        pod: String,
    },
}

impl PodError {
    /// The stable id of this kind of error; its page is `docs/errors/<id>.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "ORL-E6501",
            Self::Exists { .. } => "ORL-E6502",
            Self::Refused { .. } => "ORL-E6503",
            Self::Config { .. } => "ORL-E6504",
            Self::Files { .. } => "ORL-E6505",
            Self::Mount(source) => source.code(),
            Self::Unmount(source) => source.code(),
            Self::Namespace { source, .. } => source.code(),
            Self::Init { .. } => "ORL-E6506",
            Self::Network { source, .. } => source.code(),
            Self::NetworkStatus(source) => source.code(),
            Self::NoAddress { .. } => "ORL-E6507",
            Self::Cgroup { .. } => "ORL-E6508",
            Self::Deadline { .. } => "ORL-E6509",
            Self::Record { .. } => "ORL-E6510",
            Self::ForeignRecord { .. } => "ORL-E6511",
            Self::Volumes { source, .. } => source.code(),
            Self::Members { source, .. } => source.code(),
            Self::Several { first, .. } => first.code(),
            Self::Daemon(_) | Self::Ending { .. } => "ORL-E6012",
        }
    }

    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::AlreadyExists,
            Self::Refused { .. } => ErrorKind::FailedPrecondition,
            Self::Config { .. } => ErrorKind::InvalidArgument,
            Self::Namespace { source, .. } if is_bad_parameter(source) => {
                ErrorKind::InvalidArgument
            }
            Self::Network { source, .. } if source.is_transient() => ErrorKind::Unavailable,
            Self::Files { .. }
            | Self::Mount(_)
            | Self::Unmount(_)
            | Self::Namespace { .. }
            | Self::Init { .. }
            | Self::Network { .. }
            | Self::NoAddress { .. }
            | Self::Cgroup { .. }
            | Self::ForeignRecord { .. } => ErrorKind::Internal,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::Record { source, .. } => source.kind(),
            Self::Volumes { source, .. } => source.kind(),
            Self::Members { source, .. } => source.kind(),
            Self::Several { first, .. } => first.kind(),
            Self::NetworkStatus(_) | Self::Daemon(_) | Self::Ending { .. } => {
                ErrorKind::Unavailable
            }
        }
    }
}

/// Whether the kernel refused a parameter for what it is, rather than for a fault of the node.
fn is_bad_parameter(error: &orlop_sys::namespace::NamespaceError) -> bool {
    use std::io::ErrorKind::{InvalidInput, NotFound};
    error.operation == "set the kernel parameter"
        && matches!(error.source.kind(), NotFound | InvalidInput)
}
