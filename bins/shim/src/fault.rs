//! What goes wrong, with the code the caller gets and the id an operator can look up.

use std::fmt::Write;
use std::io;

use orlop_ttrpc::{Code, Status};

/// A failed operation. Kinds say what the caller can do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The request or the command line is wrong.
    #[error("{0}")]
    Invalid(String),
    /// No such container or process.
    #[error("{0}")]
    NotFound(String),
    /// The id is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// Not in this state.
    #[error("{0}")]
    State(String),
    /// This shim does not do that.
    #[error("{0}")]
    Unsupported(String),
    /// The OCI runtime could not be started.
    #[error("cannot start the OCI runtime")]
    RuntimeMissing(#[source] orlop_sys::process::SpawnError),
    /// The OCI runtime refused.
    #[error("OCI runtime {step} failed: {message}")]
    Runtime {
        /// The runtime's command.
        step: &'static str,
        /// Its own words.
        message: String,
    },
    /// The OCI runtime did not answer in time, and was ended.
    #[error("OCI runtime {step} did not end within {seconds} s")]
    RuntimeSilent {
        /// The runtime's command.
        step: &'static str,
        /// The time given.
        seconds: u64,
    },
    /// The root file system could not be mounted.
    #[error("cannot mount the root file system")]
    Rootfs(#[source] orlop_sys::mount::MountError),
    /// A file, socket or process call failed.
    #[error("cannot {operation} {subject}")]
    Io {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Fault {
    /// Wraps the kernel's answer.
    pub(crate) fn io(
        operation: &'static str,
        subject: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            operation,
            subject: subject.into(),
            source: source.into(),
        }
    }

    /// The stable id.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "ORL-E6401",
            Self::NotFound(_) => "ORL-E6402",
            Self::AlreadyExists(_) => "ORL-E6403",
            Self::State(_) => "ORL-E6404",
            Self::Unsupported(_) => "ORL-E6405",
            Self::RuntimeMissing(_) => "ORL-E6406",
            Self::Runtime { .. } => "ORL-E6407",
            Self::RuntimeSilent { .. } => "ORL-E6408",
            Self::Rootfs(source) => source.code(),
            Self::Io { .. } => "ORL-E6409",
        }
    }

    /// All causes in one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            // Writing to a string cannot fail.
            write!(text, ": {cause}").ok();
            source = cause.source();
        }
        text
    }

    /// What the caller gets. The id follows the text, because containerd and its clients look at how texts begin.
    pub(crate) fn status(&self) -> Status {
        let code = match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::State(_) | Self::RuntimeMissing(_) => Code::FailedPrecondition,
            Self::Unsupported(_) => Code::Unimplemented,
            Self::Runtime { .. } | Self::Rootfs(_) | Self::Io { .. } => Code::Unknown,
            Self::RuntimeSilent { .. } => Code::DeadlineExceeded,
        };
        Status::new(code, format!("{} [{}]", self.chain(), self.code()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_the_whole_chain_once_and_the_id() {
        let fault = Fault::io("open", "/x", io::Error::from_raw_os_error(2));
        let status = fault.status();
        assert_eq!(
            status.message,
            "cannot open /x: No such file or directory (os error 2) [ORL-E6409]"
        );
    }
}
