//! What can go wrong with a container or its task, and what the caller can do about it.

use std::path::PathBuf;
use std::time::Duration;

use orlop_base::blocking::BlockingError;
use orlop_ttrpc::Code;
use orlop_ttrpc::client::ClientError;
use orlop_types::ErrorKind;

use crate::machine::{Refused, Step};
use crate::spec::{SpecError, UserError};

/// A failed operation of this crate. [`Error::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No task for this container.
    #[error("container {container:?} has no task")]
    NoTask {
        /// The container.
        container: String,
    },
    /// A task is there already.
    #[error("container {container:?} has a task already; it is {phase}")]
    TaskExists {
        /// The container.
        container: String,
        /// Where the task is; names the step if it is still being created.
        phase: String,
    },
    /// The name is taken.
    #[error("container {container:?} already exists")]
    ContainerExists {
        /// The container.
        container: String,
    },
    /// The request does not fit where the task is.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The options and the image make no runnable container.
    #[error("container {container:?} cannot be specified")]
    Spec {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: SpecError,
    },
    /// The user does not exist in the image.
    #[error("container {container:?} cannot run as that user")]
    User {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: UserError,
    },
    /// The image's account files cannot be read.
    #[error("the users of container {container:?}'s image cannot be read")]
    Accounts {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel's figures cannot be read.
    #[error("cannot read cgroups")]
    Figures {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A log or the folder for logs cannot be made or removed.
    #[error("cannot keep logs in {path:?}")]
    Logs {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: orlop_sys::fs::FsError,
    },
    /// A label is too long.
    #[error("a label of container {container:?} cannot be stored")]
    Label {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: orlop_types::LabelError,
    },
    /// A runtime name that is not configured and stands for no installed shim.
    #[error("runtime {runtime:?} is not known: no shim {binary:?} in {folders:?}")]
    UnknownRuntime {
        /// The name asked for.
        runtime: String,
        /// The executable it stands for.
        binary: String,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// The bundle cannot be written or removed.
    #[error("cannot {operation} the bundle {path:?}")]
    Bundle {
        /// What was tried.
        operation: &'static str,
        /// The bundle's folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: orlop_sys::fs::FsError,
    },
    /// A mount of a container with a user namespace could not be prepared.
    #[error("the mounts of container {container:?} cannot be prepared for its user namespace")]
    Mapping {
        /// The container.
        container: String,
        /// Which mount, and why.
        #[source]
        source: Box<crate::mapping::MappingError>,
    },
    /// The network could not be attached or detached.
    #[error("cannot {attempt} the network of container {container:?}")]
    Network {
        /// The container.
        container: String,
        /// `attach` or `detach`.
        attempt: &'static str,
        /// Why.
        #[source]
        source: Box<orlop_cni::Error>,
    },
    /// The network namespace could not be made or unpinned.
    #[error("container {container:?} has no network namespace of its own")]
    NetworkNamespace {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: orlop_sys::namespace::NamespaceError,
    },
    /// The shim did not start.
    #[error("shim {binary:?} did not start: {reason}")]
    ShimStart {
        /// The executable.
        binary: PathBuf,
        /// What it said, or what it did instead of answering.
        reason: String,
    },
    /// The shim answered with a refusal, or not at all.
    #[error("the shim of container {container:?} failed {attempt}")]
    Shim {
        /// The container.
        container: String,
        /// What was asked.
        attempt: &'static str,
        /// Its answer.
        #[source]
        source: ClientError,
    },
    /// The root file system cannot be mounted, and this is why.
    #[error("the root file system of container {container:?} cannot be mounted: {faults}")]
    Rootfs {
        /// The container.
        container: String,
        /// Every bad argument, by name.
        faults: String,
        /// What the shim said.
        #[source]
        source: Box<ClientError>,
    },
    /// A step took too long and was undone.
    #[error("{step} of container {container:?} was given up after {limit:?}")]
    Deadline {
        /// The container.
        container: String,
        /// Which step.
        step: Step,
        /// The time it had.
        limit: Duration,
    },
    /// A pod.
    #[error(transparent)]
    Pod(#[from] crate::pod::PodError),
    /// The database.
    #[error("the record of container {container:?} cannot be {attempt}")]
    Record {
        /// The container.
        container: String,
        /// `read` or `written`.
        attempt: &'static str,
        /// Why.
        #[source]
        source: orlop_meta::Error,
    },
    /// The stored record is not one that this version wrote.
    #[error("the record of container {container:?} cannot be understood")]
    ForeignRecord {
        /// The container.
        container: String,
        /// Where it stops making sense.
        #[source]
        source: crate::record::RecordFault,
    },
    /// The container does not run, and has to.
    #[error("container {container:?} is {phase}, not running")]
    NotRunning {
        /// The container.
        container: String,
        /// Where it is.
        phase: String,
    },
    /// A command makes no process, or the container's spec is not one to take over.
    #[error("no process can be specified in container {container:?}")]
    ExecSpec {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: crate::exec::ExecSpecError,
    },
    /// The FIFOs of a process cannot be made or opened.
    #[error("a process in container {container:?} has no streams")]
    Fifo {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A process ran for longer than it may, and was killed.
    #[error("the process in container {container:?} was killed: it did not end within {limit:?}")]
    ExecTimeout {
        /// The container.
        container: String,
        /// The time it had.
        limit: Duration,
    },
    /// The shim offers no streams to attach to.
    #[error("cannot attach to container {container:?}")]
    Attach {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A log that was rotated cannot be made anew.
    #[error("the log of container {container:?} cannot be made at {}", path.display())]
    LogFile {
        /// The container.
        container: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answers at a port.
    #[error("cannot connect to port {port}")]
    Forward {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel gave no random number.
    #[error("there are no random numbers")]
    Random(#[source] std::io::Error),
    /// A device by name that cannot be found or applied.
    #[error("container {container:?} cannot have its CDI devices")]
    Cdi {
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: crate::CdiError,
    },
    /// An operation on a container of a pod.
    #[error(transparent)]
    Member(#[from] crate::member::MemberError),
    /// The daemon is shutting down, or a job of it failed.
    #[error("the daemon cannot finish this now")]
    Daemon(#[source] BlockingError),
    /// The task's actor has ended, because the daemon is shutting down or the task is gone.
    #[error("the task of container {container:?} is going away")]
    Gone {
        /// The container.
        container: String,
    },
}

impl Error {
    /// The stable id of this kind of error; its page is `docs/errors/<id>.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoTask { .. } => "ORL-E6001",
            Self::TaskExists { .. } => "ORL-E6002",
            Self::ContainerExists { .. } => "ORL-E6018",
            Self::Refused(_) => "ORL-E6003",
            Self::Spec { .. } => "ORL-E6004",
            Self::User { .. } => "ORL-E6005",
            Self::Accounts { .. } => "ORL-E6014",
            Self::Label { .. } => "ORL-E6015",
            Self::Logs { .. } | Self::LogFile { .. } => "ORL-E6016",
            Self::Figures { .. } => "ORL-E6050",
            Self::UnknownRuntime { .. } => "ORL-E6006",
            Self::Bundle { .. } => "ORL-E6007",
            Self::Network { source, .. } => source.code(),
            Self::NetworkNamespace { source, .. } => source.code(),
            Self::ShimStart { .. } => "ORL-E6008",
            Self::Shim { source, .. } => source.code(),
            Self::Rootfs { .. } => "ORL-E6017",
            Self::Mapping { .. } => "ORL-E6019",
            Self::Deadline { .. } => "ORL-E6009",
            Self::Pod(error) => error.code(),
            Self::Record { .. } => "ORL-E6010",
            Self::ForeignRecord { .. } => "ORL-E6011",
            Self::NotRunning { .. } => "ORL-E6031",
            Self::ExecSpec { .. } => "ORL-E6032",
            Self::Fifo { .. } | Self::Random(_) => "ORL-E6033",
            Self::ExecTimeout { .. } => "ORL-E6034",
            Self::Attach { .. } => "ORL-E6035",
            Self::Forward { .. } => "ORL-E6036",
            Self::Cdi { .. } => "ORL-E6612",
            Self::Member(source) => source.code(),
            Self::Daemon(_) => "ORL-E6012",
            Self::Gone { .. } => "ORL-E6013",
        }
    }

    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoTask { .. } => ErrorKind::NotFound,
            Self::TaskExists { .. } | Self::ContainerExists { .. } => ErrorKind::AlreadyExists,
            Self::Refused(_) | Self::NotRunning { .. } | Self::Attach { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::Spec { .. }
            | Self::User { .. }
            | Self::Label { .. }
            | Self::ExecSpec { .. }
            | Self::UnknownRuntime { .. } => ErrorKind::InvalidArgument,
            Self::Accounts { .. }
            | Self::NetworkNamespace { .. }
            | Self::Logs { .. }
            | Self::LogFile { .. }
            | Self::Fifo { .. }
            | Self::Random(_)
            | Self::Figures { .. }
            | Self::Bundle { .. }
            | Self::ShimStart { .. }
            | Self::ForeignRecord { .. } => ErrorKind::Internal,
            Self::Network { source, .. } if source.is_transient() => ErrorKind::Unavailable,
            Self::Network { .. } => ErrorKind::Internal,
            Self::Shim { source, .. } => shim_kind(source),
            Self::Rootfs { .. } | Self::Mapping { .. } => ErrorKind::FailedPrecondition,
            Self::Deadline { .. } | Self::ExecTimeout { .. } => ErrorKind::DeadlineExceeded,
            Self::Pod(error) => error.kind(),
            Self::Record { source, .. } => source.kind(),
            Self::Cdi { source, .. } => source.kind(),
            Self::Member(source) => source.kind(),
            Self::Daemon(_) | Self::Gone { .. } | Self::Forward { .. } => ErrorKind::Unavailable,
        }
    }
}

/// A shim's refusal keeps its meaning; its silence is the shim's failure, not the caller's.
fn shim_kind(error: &ClientError) -> ErrorKind {
    match error {
        ClientError::Remote { status, .. } => status_kind(status.code),
        ClientError::TimedOut { .. } => ErrorKind::DeadlineExceeded,
        ClientError::ConnectionLost { .. } | ClientError::Connect { .. } => ErrorKind::Unavailable,
        ClientError::Unsendable { .. } => ErrorKind::InvalidArgument,
    }
}

const fn status_kind(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::FailedPrecondition | Code::Aborted => ErrorKind::FailedPrecondition,
        Code::Unavailable | Code::Cancelled | Code::ResourceExhausted => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::Ok
        | Code::Unknown
        | Code::PermissionDenied
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => ErrorKind::Internal,
    }
}
