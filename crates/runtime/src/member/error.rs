//! What can go wrong with a container of a pod beyond what can with any container.

use std::path::PathBuf;
use std::time::Duration;

use orlop_types::ErrorKind;

use crate::CdiError;
use crate::pod::VolumeError;
use crate::spec::SpecError;

/// A failed operation on a container of a pod.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// No such container in any pod.
    #[error("no pod has a container {container:?}")]
    NotFound {
        /// The container.
        container: String,
    },
    /// Another container has that name in the pod.
    #[error(
        "name {name:?} (attempt {attempt}) is taken in the pod: container {container} is {step}"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The attempt.
        attempt: u32,
        /// Who has it.
        container: String,
        /// Where that container is; names the step of an earlier call that is still under way.
        step: String,
    },
    /// The request does not fit where the container is.
    #[error("cannot {attempt} container {container}: it is {state}")]
    Refused {
        /// The container.
        container: String,
        /// What was asked.
        attempt: &'static str,
        /// Where it is; names the earlier call that is still under way.
        state: String,
    },
    /// A part of the configuration that cannot be.
    #[error("container {name:?} cannot have {field} {value:?}: {fault}")]
    BadConfig {
        /// The container's name in the pod.
        name: String,
        /// Which part.
        field: &'static str,
        /// What was asked for.
        value: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// The configuration makes no OCI spec.
    #[error("container {name:?} cannot be specified")]
    Spec {
        /// The container's name in the pod.
        name: String,
        /// Why.
        #[source]
        source: SpecError,
    },
    /// This machine lacks what is asked for.
    #[error("container {name:?} asks for {feature}, which this machine lacks: {evidence}")]
    Unsupported {
        /// The container's name in the pod.
        name: String,
        /// What it asks for.
        feature: &'static str,
        /// How that is known.
        evidence: String,
    },
    /// A path of the host that is to be seen cannot be looked up or made.
    #[error("path {path:?} of the host cannot be mounted")]
    HostPath {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is mounted later cannot be passed on.
    #[error("{path:?} cannot pass mounts on: {mount:?}, which it is on, is not {wanted}")]
    NotShared {
        /// The path of the host.
        path: PathBuf,
        /// The mount it is on.
        mount: PathBuf,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// A profile of this machine that cannot be read.
    #[error("seccomp profile {path:?} cannot be read")]
    ProfileUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A profile of this machine that is none.
    #[error("{path:?} is no seccomp profile")]
    ProfileInvalid {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The file systems of the host's paths do not answer.
    #[error(
        "the paths of the host that container {name:?} mounts gave no answer within {limit:?}: {paths}"
    )]
    HostPathsHang {
        /// The container's name in the pod.
        name: String,
        /// The time they had.
        limit: Duration,
        /// The paths.
        paths: String,
    },
    /// A process that does not end.
    #[error("container {container} still runs {waited:?} after SIGKILL; process {pid} is {state}")]
    StillRunning {
        /// The container.
        container: String,
        /// How long it was waited for.
        waited: Duration,
        /// Its first process.
        pid: u32,
        /// What the kernel says of it.
        state: String,
    },
    /// A memory limit that is exceeded already.
    #[error("container {container} cannot be limited to {limit} bytes: it uses {used}")]
    MemoryInUse {
        /// The container.
        container: String,
        /// The limit asked for.
        limit: u64,
        /// What it uses.
        used: u64,
    },
    /// A record of another version, or a damaged one.
    #[error("the record of container {container} cannot be understood")]
    ForeignRecord {
        /// The container.
        container: String,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// The files of an image cannot be shown. The kubelet knows the first word.
    #[error("ImageVolumeMountFailed: container {name:?} cannot mount image {image}")]
    ImageVolume {
        /// The container's name in the pod.
        name: String,
        /// The image, as the pod names it.
        image: String,
        /// Why.
        #[source]
        source: Box<VolumeError>,
    },
    /// A device by name that cannot be found or applied.
    #[error("container {name:?} cannot have its CDI devices")]
    Cdi {
        /// The container's name in the pod.
        name: String,
        /// Why.
        #[source]
        source: CdiError,
    },
}

impl MemberError {
    /// The stable id of this kind of error; its page is `docs/errors/<id>.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ImageVolume { source, .. } => source.code(),
            Self::NotFound { .. } => "ORL-E6601",
            Self::NameTaken { .. } => "ORL-E6602",
            Self::Refused { .. } => "ORL-E6603",
            Self::BadConfig { .. } | Self::Spec { .. } => "ORL-E6604",
            Self::Unsupported { .. } => "ORL-E6605",
            Self::HostPath { .. } | Self::HostPathsHang { .. } => "ORL-E6606",
            Self::NotShared { .. } => "ORL-E6607",
            Self::ProfileUnreadable { .. } | Self::ProfileInvalid { .. } => "ORL-E6608",
            Self::StillRunning { .. } => "ORL-E6609",
            Self::MemoryInUse { .. } => "ORL-E6610",
            Self::ForeignRecord { .. } => "ORL-E6611",
            Self::Cdi { .. } => "ORL-E6612",
        }
    }

    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ImageVolume { source, .. } => source.kind(),
            Self::Cdi { source, .. } => source.kind(),
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NameTaken { .. } => ErrorKind::AlreadyExists,
            Self::Refused { .. } | Self::Unsupported { .. } => ErrorKind::FailedPrecondition,
            Self::BadConfig { .. }
            | Self::Spec { .. }
            | Self::HostPath { .. }
            | Self::NotShared { .. }
            | Self::ProfileUnreadable { .. }
            | Self::ProfileInvalid { .. }
            | Self::MemoryInUse { .. } => ErrorKind::InvalidArgument,
            Self::HostPathsHang { .. } | Self::StillRunning { .. } => ErrorKind::DeadlineExceeded,
            Self::ForeignRecord { .. } => ErrorKind::Internal,
        }
    }
}
