//! What can go wrong with a network, by what the operator can do about it.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::ListFault;

/// An error of this crate. [`Error::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no configuration.
    #[error(
        "no CNI configuration in {folder:?}: install a network plugin, or run the pod on the host's network"
    )]
    NoNetwork {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The folder cannot be listed.
    #[error("cannot list CNI configurations in {folder:?}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A configuration is there but unusable.
    #[error("the CNI configuration cannot be used")]
    Config(#[source] ListFault),
    /// A plugin's executable is missing.
    #[error("CNI plugin {plugin:?} of network {network:?} is in none of {folders:?}")]
    PluginMissing {
        /// The plugin's type.
        plugin: String,
        /// The network that wants it.
        network: String,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// A plugin could not be run.
    #[error("cannot run CNI plugin {plugin:?}")]
    Spawn {
        /// The plugin's type.
        plugin: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A plugin did not end in time and was killed.
    #[error("CNI plugin {plugin:?} did not finish {command} within {limit:?} and was killed")]
    Deadline {
        /// The plugin's type.
        plugin: String,
        /// What it was asked.
        command: &'static str,
        /// The time it had.
        limit: Duration,
    },
    /// A plugin reported an error.
    #[error("CNI plugin {plugin:?} failed {command}: {message} (code {code})")]
    Plugin {
        /// The plugin's type.
        plugin: String,
        /// What it was asked.
        command: &'static str,
        /// CNI's error code; 999 if the plugin gave none.
        code: u32,
        /// Its message, with its details.
        message: String,
    },
    /// A plugin's answer is not a result.
    #[error("CNI plugin {plugin:?} answered {command} with something that is not a result")]
    Answer {
        /// The plugin's type.
        plugin: String,
        /// What it was asked.
        command: &'static str,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// The cached result cannot be read or written.
    #[error("cannot {operation} the cached result of container {container:?}")]
    Cache {
        /// `read`, `write` or `remove`.
        operation: &'static str,
        /// The container.
        container: String,
        /// Why.
        #[source]
        source: crate::cache::CacheFault,
    },
}

impl Error {
    /// The stable id of this kind of error; its page is `docs/errors/<id>.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoNetwork { .. } => "ORL-E6201",
            Self::Folder { .. } => "ORL-E6202",
            Self::Config(_) => "ORL-E6203",
            Self::PluginMissing { .. } => "ORL-E6204",
            Self::Spawn { .. } => "ORL-E6205",
            Self::Deadline { .. } => "ORL-E6206",
            Self::Plugin { .. } => "ORL-E6207",
            Self::Answer { .. } => "ORL-E6208",
            Self::Cache { .. } => "ORL-E6209",
        }
    }

    /// Whether the same call may succeed later: "try again later" of the specification (code 11), STATUS's 50, a deadline.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Deadline { .. }
                | Self::Plugin {
                    code: 11 | 50 | 51,
                    ..
                }
        )
    }
}
