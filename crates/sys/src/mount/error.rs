//! What can go wrong while a mount is made.

use std::io;
use std::path::PathBuf;

/// A mount that could not be made. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// An option this kind of mount does not take, or two that exclude each other. Fix the input.
    #[error("mount of type {fs_type} cannot take option {key}: {reason}")]
    BadOption {
        /// The type of the mount.
        fs_type: String,
        /// The option at fault.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel refused one option.
    #[error(
        "the kernel refused option {key} of a mount of type {fs_type}{}",
        said(messages)
    )]
    Option {
        /// The type of the mount.
        fs_type: String,
        /// The option at fault, with its value.
        key: String,
        /// What the kernel logged about it.
        messages: Vec<String>,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// The kernel took the options one by one, but not together; or it does not know the type.
    #[error("the kernel refused a mount of type {fs_type}{}", said(messages))]
    Create {
        /// The type of the mount.
        fs_type: String,
        /// What the kernel logged about it.
        messages: Vec<String>,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// The source of a bind mount, or a layer, could not be opened.
    #[error("cannot open {} to mount it", path.display())]
    Source {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The flags, the propagation or the id map of a mount could not be changed.
    #[error("cannot {operation}")]
    Attributes {
        /// What was to be changed.
        operation: &'static str,
        /// Why it could not.
        #[source]
        source: io::Error,
    },
    /// The folder to mount at could not be opened, or nothing can be mounted there.
    #[error("cannot {operation} {}", target.display())]
    Target {
        /// What was tried.
        operation: &'static str,
        /// The folder.
        target: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl MountError {
    /// The stable id of this kind of error; each has a page in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadOption { .. } => "ORL-E2101",
            Self::Option { .. } => "ORL-E2102",
            Self::Create { .. } => "ORL-E2103",
            Self::Source { .. } => "ORL-E2104",
            Self::Attributes { .. } => "ORL-E2105",
            Self::Target { .. } => "ORL-E2106",
        }
    }
}

/// The kernel's own words, if it said any.
fn said(messages: &[String]) -> String {
    if messages.is_empty() {
        String::new()
    } else {
        format!(" ({})", messages.join("; "))
    }
}
